"""A vehicle that takes its models from a TUF repository on a real socket of another host than the backend's."""

import asyncio
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from random import Random

import pytest

from sentinel_sync.base.clock import Clock
from sentinel_sync.base.errors import VerificationError
from sentinel_sync.base.payloads import ModelRelease
from sentinel_sync.cloud.client import CloudAPIClient
from sentinel_sync.cloud.download import FileDownload, Target
from sentinel_sync.models.tuf.source import TufReleases
from sentinel_sync.settings import ModelSource
from sentinel_sync.store.store import Store
from sentinel_sync.store.timekeeper import Timekeeper
from tests.fakes.clock import FakeClock
from tests.fakes.cloud import Answer
from tests.fakes.tuf_repository import TufRepository
from tests.fakes.wire_rules import Seen

NAME = "yolov8m_automotive"
#: Seconds that a request may take before the client gives it up.
TIMEOUT = 2.0


def content_of(version: str) -> bytes:
    return Random(version).randbytes(10_000)


def offer(repository: TufRepository, version: str, name: str = NAME) -> None:
    """Publish a release."""
    repository.add(f"{name}/{version}/{name}.pt", content_of(version), {"name": name, "version": version})
    repository.publish()


@dataclass
class Vehicle:
    """What the tests need of one."""

    client: CloudAPIClient
    store: Store
    clock: FakeClock
    source: ModelSource
    folder: Path

    async def start(self, *, clock: Clock | None = None, timekeeper: Timekeeper | None = None) -> TufReleases:
        """The source as a process that starts now has it."""
        offers = TufReleases(
            self.client,
            self.store.documents,
            clock or self.clock,
            source=self.source,
            folder=self.folder,
            timekeeper=timekeeper,
        )
        await offers.open()
        return offers

    async def versions(self) -> list[str]:
        """What a process that starts now is offered."""
        return [release.version for release in (await (await self.start()).ask()).releases]

    async def fetch(self, offers: TufReleases, release: ModelRelease, clock: Clock | None = None) -> bytes:
        """A release's file, by the download that all models come with."""
        address = await offers.address(release)
        target = Target(self.staging, release.size, release.checksum)
        download = FileDownload(self.client, target, clock=clock or self.clock, on_progress=lambda _: None)
        await download.fetch(address.url)
        return await asyncio.to_thread(self.staging.read_bytes)

    def lose_cache(self) -> None:
        """What a power cut may do to files that were not yet on disk."""
        shutil.rmtree(self.folder)

    @property
    def staging(self) -> Path:
        """Where a file is put together."""
        return self.folder.parent / "staging"


async def refused(vehicle: Vehicle, match: str) -> None:
    """A process that starts now refuses the repository, says why, and keeps what it knew."""
    offers = await vehicle.start()
    before = offers.last
    with pytest.raises(VerificationError, match=match):
        await offers.ask()
    assert offers.last == before
    assert (await vehicle.start()).last == before


def newest(repository: TufRepository, role: str) -> str:
    """Where a role's newest metadata is served."""
    signed = {"timestamp": repository.timestamp, "snapshot": repository.snapshot, "targets": repository.targets}[role]
    return f"/metadata/{'' if role == 'timestamp' else f'{signed.version}.'}{role}.json"


def serve(path: str, content: bytes) -> Callable[[Seen], Answer | None]:
    """An attack: other content at one path."""
    return lambda seen: Answer(200, content) if seen.path == path else None
