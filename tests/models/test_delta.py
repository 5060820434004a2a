"""A vehicle takes the short way where that leads to the signed file; any doubt means the whole one, an outage not."""

import asyncio
import hashlib
import logging
import os
import shutil
from collections import namedtuple
from collections.abc import AsyncIterator, Callable, Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path
from random import Random
from threading import Event

import pytest
from blockbuster import blockbuster_ctx

from sentinel_sync.backend.deltas import make_delta
from sentinel_sync.base.errors import HeldError, UnreachableError, VerificationError
from sentinel_sync.base.payloads import DeltaOffer
from sentinel_sync.cloud.client import CloudAPIClient
from sentinel_sync.cloud.download import StaleAddressError, Target
from sentinel_sync.models import fetch as delta_module
from sentinel_sync.models.fetch import PATIENCE, DeltaFiles, fetch_by_delta
from sentinel_sync.models.rules.delta import Method, restored
from tests.fakes.clock import FakeClock
from tests.fakes.cloud import Answer, FakeCloud, settings_for
from tests.fakes.weights import all_moved, weights
from tests.fakes.wire_rules import Seen

OLD = weights(700_000, 1)
NEW = all_moved(OLD, 2)
SIGNED = hashlib.sha256(NEW).hexdigest()


@pytest.fixture(autouse=True)
def _no_blocking_call_on_the_loop() -> Iterator[None]:
    with blockbuster_ctx("sentinel_sync"):
        yield


@pytest.fixture(scope="module")
def delta(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    """What the reference backend makes of the two."""
    folder = tmp_path_factory.mktemp("publisher")
    (folder / "old").write_bytes(OLD)
    (folder / "new").write_bytes(NEW)
    make_delta(folder / "old", folder / "new", folder / "delta", Event())
    return (folder / "delta").read_bytes()


@dataclass
class Vehicle:
    """One that has the old file and wants the new one."""

    client: CloudAPIClient
    clock: FakeClock
    old: Path
    target: Target
    progress: list[int] = field(default_factory=list)

    async def fetch(self, offer: DeltaOffer | None, *, old_checksum: str | None = None) -> bool:
        return await fetch_by_delta(
            self.client,
            offer,
            self.old,
            hashlib.sha256(OLD).hexdigest() if old_checksum is None else old_checksum,
            self.target,
            clock=self.clock,
            on_progress=self.progress.append,
        )

    @property
    def files(self) -> DeltaFiles:
        return DeltaFiles.beside(self.target.staging)

    def lying_about(self) -> set[str]:
        return {path.name for path in self.target.staging.parent.iterdir()} - {self.old.name}


@pytest.fixture
async def vehicle(cloud: FakeCloud, tmp_path: Path, clock: FakeClock) -> AsyncIterator[Vehicle]:
    folder = tmp_path / "versions"
    folder.mkdir()
    old = folder / "v1.0.0.pt"
    old.write_bytes(OLD)
    target = Target(folder / ".v2.0.0.pt.part", len(NEW), SIGNED)
    settings = settings_for(cloud, timeout=2.0, state_dir=tmp_path / "state")
    async with CloudAPIClient(settings=settings, clock=clock, rng=Random(1)) as client:
        yield Vehicle(client, clock, old, target)


def offer_of(delta: bytes, **changed: object) -> DeltaOffer:
    checksum = hashlib.sha256(delta).hexdigest()
    usual = {"download_url": "/d", "format": "zstd-blocks", "size": len(delta), "checksum": checksum}
    return DeltaOffer.model_validate(usual | changed)


def serving(content: bytes) -> Callable[[Seen], Answer]:
    def answer(seen: Seen) -> Answer:
        start = int(seen.headers.get("range", "bytes=0-").removeprefix("bytes=").removesuffix("-"))
        if not start:
            return Answer(200, content, {"ETag": '"d"'})
        where = f"bytes {start}-{len(content) - 1}/{len(content)}"
        return Answer(206, content[start:], {"ETag": '"d"', "Content-Range": where})

    return answer


def cut(content: bytes, at: int) -> Answer:
    """Sends the head for all of it, and breaks off."""
    head = f'HTTP/1.1 200 OK\r\nETag: "d"\r\nContent-Length: {len(content)}\r\n\r\n'
    return Answer(raw=head.encode() + content[:at])


class TestTheShortWay:
    async def test_it_leads_to_the_signed_file(self, cloud: FakeCloud, vehicle: Vehicle, delta: bytes) -> None:
        cloud.handler = serving(delta)
        assert await vehicle.fetch(offer_of(delta))
        assert vehicle.target.staging.read_bytes() == NEW
        assert vehicle.old.read_bytes() == OLD
        assert vehicle.lying_about() == {".v2.0.0.pt.part"}
        assert len(delta) < len(NEW) / 2
        assert vehicle.progress[-1] == len(NEW)

    async def test_another_host_may_have_it_and_sees_no_credential(
        self, stranger: FakeCloud, vehicle: Vehicle, delta: bytes
    ) -> None:
        stranger.handler = serving(delta)
        assert await vehicle.fetch(offer_of(delta, download_url=f"{stranger.url}/d"))
        assert "authorization" not in stranger.requests[0].headers

    async def test_a_part_of_the_whole_file_that_is_here_does_not_spoil_it(
        self, cloud: FakeCloud, vehicle: Vehicle, delta: bytes
    ) -> None:
        cloud.handler = serving(delta)
        vehicle.target.staging.write_bytes(NEW[:1000])
        vehicle.target.staging.with_name(".v2.0.0.pt.part.etag").write_text('"whole"')
        assert await vehicle.fetch(offer_of(delta))
        assert vehicle.target.staging.read_bytes() == NEW
        assert vehicle.lying_about() == {".v2.0.0.pt.part"}

    async def test_an_outage_is_no_doubt_what_came_is_gone_on_from(
        self, cloud: FakeCloud, vehicle: Vehicle, delta: bytes
    ) -> None:
        cloud.handler = serving(delta)
        cloud.script("GET", "/d", cut(delta, 100_000))
        with pytest.raises(UnreachableError):
            await vehicle.fetch(offer_of(delta))
        assert vehicle.files.delta.stat().st_size == 100_000
        assert await vehicle.fetch(offer_of(delta, download_url="/d?fresh"))
        assert vehicle.target.staging.read_bytes() == NEW
        assert [seen.headers.get("range") for seen in cloud.requests] == [None, "bytes=100000-"]

    async def test_so_is_a_closed_gate(self, cloud: FakeCloud, vehicle: Vehicle, delta: bytes) -> None:
        vehicle.client.halt("power", "the battery is low")
        with pytest.raises(HeldError):
            await vehicle.fetch(offer_of(delta))
        assert not cloud.requests

    async def test_an_address_that_expires_half_way_is_asked_for_again(
        self, cloud: FakeCloud, vehicle: Vehicle, delta: bytes
    ) -> None:
        half = len(delta) // 2
        part = Answer(206, delta[:half], {"Content-Range": f"bytes 0-{half - 1}/{len(delta)}", "ETag": '"d"'})
        cloud.script("GET", "/d", part, Answer(403))
        with pytest.raises(StaleAddressError):
            await vehicle.fetch(offer_of(delta))
        cloud.handler = serving(delta)
        assert await vehicle.fetch(offer_of(delta))
        assert vehicle.target.staging.read_bytes() == NEW

    async def test_whoever_is_cancelled_while_it_is_applied_finds_nothing_going_on(
        self, cloud: FakeCloud, vehicle: Vehicle, delta: bytes, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        cloud.handler = serving(delta)
        loop, begun, blocks = asyncio.get_running_loop(), asyncio.Event(), 0

        def counted(method: Method, planes: bytes, width: int, source: bytes) -> bytes:
            nonlocal blocks
            blocks += 1
            loop.call_soon_threadsafe(begun.set)
            gone_on.wait(10.0)
            return restored(method, planes, width, source)

        gone_on = Event()
        monkeypatch.setattr("sentinel_sync.models.delta_file.restored", counted)
        task = asyncio.create_task(vehicle.fetch(offer_of(delta)))
        async with asyncio.timeout(10.0):
            await begun.wait()
            task.cancel()
            await asyncio.sleep(0)
            gone_on.set()
            with pytest.raises(asyncio.CancelledError):
                await task
        assert blocks == 1
        assert vehicle.lying_about() == {".v2.0.0.pt.delta.part", ".v2.0.0.pt.delta.part.etag"}
        monkeypatch.undo()
        assert await vehicle.fetch(offer_of(delta))
        assert len(cloud.requests) == 1  # the delta was there


class TestAnyDoubt:
    @pytest.mark.parametrize(
        "changed",
        [
            {"format": "bsdiff"},
            {"size": int(0.95 * len(NEW))},
            {"size": 1_000},
            {"size": 1_300_000},
            {"checksum": "0" * 64},
        ],
        ids=["format", "no gain", "too long", "too short", "checksum"],
    )
    async def test_in_the_offer(
        self,
        cloud: FakeCloud,
        vehicle: Vehicle,
        delta: bytes,
        changed: dict[str, object],
        caplog: pytest.LogCaptureFixture,
    ) -> None:
        cloud.handler = serving(delta)
        with caplog.at_level(logging.WARNING):
            assert not await vehicle.fetch(offer_of(delta, **changed))
        assert [record.getMessage().partition(":")[0] for record in caplog.records] == ["model.delta"]
        assert str(vehicle.old.parent) not in caplog.text
        assert not vehicle.lying_about()

    @pytest.mark.parametrize("answer", [Answer(404), Answer(403), Answer(410), Answer(200, b"", {})])
    async def test_in_the_host(self, cloud: FakeCloud, vehicle: Vehicle, delta: bytes, answer: Answer) -> None:
        cloud.handler = lambda _: answer
        assert not await vehicle.fetch(offer_of(delta))
        assert not vehicle.lying_about()

    async def test_in_what_it_makes(self, cloud: FakeCloud, vehicle: Vehicle, delta: bytes) -> None:
        spoilt = delta[:-1000] + bytes(1000)
        cloud.handler = serving(spoilt)
        assert not await vehicle.fetch(offer_of(spoilt))
        assert not vehicle.lying_about()

    async def test_in_the_signed_checksum(self, cloud: FakeCloud, vehicle: Vehicle, delta: bytes) -> None:
        cloud.handler = serving(delta)
        vehicle.target = replace(vehicle.target, checksum="0" * 64)
        assert not await vehicle.fetch(offer_of(delta))
        assert not vehicle.lying_about()

    async def test_in_the_old_file(self, cloud: FakeCloud, vehicle: Vehicle, delta: bytes) -> None:
        assert not await vehicle.fetch(offer_of(delta), old_checksum="0" * 64)
        vehicle.old.write_bytes(OLD[:-1])
        assert not await vehicle.fetch(offer_of(delta))
        vehicle.old.unlink()
        assert not await vehicle.fetch(offer_of(delta))
        assert not cloud.requests
        assert not vehicle.lying_about()

    async def test_in_the_disk(
        self, cloud: FakeCloud, vehicle: Vehicle, delta: bytes, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        usage = namedtuple("usage", "total used free")  # noqa: PYI024 - as shutil's own
        monkeypatch.setattr(shutil, "disk_usage", lambda _: usage(10**9, 0, len(NEW) + len(delta)))
        assert not await vehicle.fetch(offer_of(delta))
        assert not cloud.requests

    async def test_in_the_library(
        self, cloud: FakeCloud, vehicle: Vehicle, delta: bytes, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        def missing() -> None:
            raise VerificationError("deltas need their extra")

        monkeypatch.setattr(delta_module, "load_zstd", missing)
        assert not await vehicle.fetch(offer_of(delta))
        assert not cloud.requests

    async def test_in_its_use_where_most_of_the_whole_file_is_here(
        self, cloud: FakeCloud, vehicle: Vehicle, delta: bytes
    ) -> None:
        vehicle.target.staging.write_bytes(NEW[:-1000])
        assert not await vehicle.fetch(offer_of(delta))
        assert vehicle.target.staging.read_bytes() == NEW[:-1000]
        assert not cloud.requests

    async def test_without_an_offer_what_an_earlier_one_left_goes(self, vehicle: Vehicle) -> None:
        vehicle.files.delta.write_bytes(b"half")
        vehicle.files.result.write_bytes(b"half")
        assert not await vehicle.fetch(None)
        assert not vehicle.lying_about()

    async def test_in_a_host_that_gives_nothing_for_long(
        self, cloud: FakeCloud, vehicle: Vehicle, delta: bytes
    ) -> None:
        cloud.handler = lambda _: Answer(503)
        with pytest.raises(UnreachableError):
            await vehicle.fetch(offer_of(delta))
        os.utime(vehicle.files.delta, (vehicle.clock.now(),) * 2)
        vehicle.clock.tick(PATIENCE - 1.0)
        with pytest.raises(UnreachableError):
            await vehicle.fetch(offer_of(delta))
        vehicle.clock.tick(2.0)
        assert not await vehicle.fetch(offer_of(delta))
