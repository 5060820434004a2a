"""Vehicles with `models.source: tuf`, whole from the settings on: what the tests of `ModelDownloader` with it share."""

import asyncio
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from random import Random

from sentinel_sync import ModelDownloader
from tests.fakes.tuf_repository import TufRepository

NAME = "yolov8m_automotive"


def content_of(version: str) -> bytes:
    return Random(version).randbytes(300_000)


def offer(repository: TufRepository, version: str, **custom: str) -> None:
    repository.add(f"{NAME}/{version}/{NAME}.pt", content_of(version), {"name": NAME, "version": version, **custom})
    repository.publish()


class Trips:
    """Whether a trip is under way."""

    def __init__(self) -> None:
        self.under_way = False

    def __call__(self) -> bool:
        return self.under_way


@dataclass
class Vehicle:
    """One whose models come from the repository; v9 is installed."""

    downloader: ModelDownloader
    models: Path
    build: Callable[..., ModelDownloader]

    def live(self) -> bytes:
        return (self.models / f"{NAME}.pt").read_bytes()

    async def untouched(self) -> None:
        """The runtime opens v9, and nothing half done lies beside it."""
        assert await asyncio.to_thread(self.live) == content_of("v9")
        assert (await self.downloader.get_installed_models())[NAME]["version"] == "v9"
        parts = await asyncio.to_thread(lambda: [path for path in self.models.rglob("*") if ".part" in path.name])
        assert parts == []
