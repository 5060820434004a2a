"""Models out of a TUF repository: what is offered, where it lies, what becomes of a refresh that fails or is cut."""

import asyncio
import hashlib
import sys
import threading
from pathlib import Path
from typing import Any

import pytest

from sentinel_sync.base.errors import (
    ConfigurationError,
    HeldError,
    NotNowError,
    RejectedError,
    SentinelSyncError,
    StoreError,
    UnreachableError,
    VerificationError,
)
from sentinel_sync.base.payloads import ModelRelease
from sentinel_sync.models.tuf.source import TufReleases
from sentinel_sync.settings import ModelSource
from tests.fakes.cloud import Answer, FakeCloud, portal, redirect
from tests.fakes.patience import until
from tests.fakes.tuf_repository import DAY, TufRepository
from tests.fakes.wire_rules import Seen
from tests.models.tuf.vehicle import NAME, Vehicle, content_of, offer

pytestmark = pytest.mark.usefixtures("off_the_loop")


class TestOffers:
    @pytest.mark.parametrize("consistent", [True, False], ids=["consistent", "not consistent"])
    async def test_a_file_may_be_known_by_its_sha512_alone(
        self, vehicle: Vehicle, stranger: FakeCloud, tmp_path: Path, consistent: bool
    ) -> None:
        stranger.handler = repository = TufRepository(vehicle.clock.now(), consistent=consistent)
        (tmp_path / "root.json").write_bytes(repository.anchor)
        checksum = hashlib.sha512(content_of("v3")).hexdigest()
        repository.add(f"{NAME}/v3/m.pt", content_of("v3"), hashes={"sha512": checksum})
        repository.publish()
        offers = await vehicle.start()
        (release,) = (await offers.ask()).releases
        assert release.checksum == checksum
        assert await vehicle.fetch(offers, release) == content_of("v3")
        (kept,) = (await vehicle.start()).last.releases  # type: ignore[union-attr]
        assert kept == release, "also as it is read again"
        for path in [path for path in repository.files if path.startswith("/targets/")]:
            repository.files[path] = bytes(10_000)
        await asyncio.to_thread(vehicle.staging.unlink)
        with pytest.raises(VerificationError, match="not those that were signed"):
            await vehicle.fetch(offers, release)

    @pytest.mark.parametrize("pinned", [True, False], ids=["hashes in snapshot", "versions only"])
    @pytest.mark.parametrize("consistent", [True, False], ids=["consistent", "not consistent"])
    async def test_a_release_is_offered_with_its_numbers_and_its_address(
        self, vehicle: Vehicle, stranger: FakeCloud, tmp_path: Path, consistent: bool, pinned: bool
    ) -> None:
        stranger.handler = repository = TufRepository(vehicle.clock.now(), consistent=consistent, pinned=pinned)
        (tmp_path / "root.json").write_bytes(repository.anchor)
        custom = {"name": NAME, "version": "v2.1.0", "filename": "yolo.onnx", "rollout": "0.5", "owner": "perception"}
        repository.add("any/where.bin", content_of("v2.1.0"), custom)
        repository.publish()
        offers = await vehicle.start()
        (release,) = (await offers.ask()).releases
        assert release == ModelRelease(
            name=NAME,
            version="v2.1.0",
            size=10_000,
            checksum=hashlib.sha256(content_of("v2.1.0")).hexdigest(),
            filename="yolo.onnx",
            rollout=0.5,
        )
        address = await offers.address(release, have="0" * 64)
        prefix = f"{release.checksum}." if consistent else ""
        assert address.url == f"{stranger.url}/targets/any/{prefix}where.bin"
        assert address.delta is None
        assert await vehicle.fetch(offers, release) == content_of("v2.1.0")

    async def test_a_new_release_is_offered_although_the_root_was_rotated_twice_meanwhile(
        self, vehicle: Vehicle, repository: TufRepository
    ) -> None:
        assert await vehicle.versions() == ["v1"]
        for role in ("root", "targets", "snapshot", "timestamp"):
            repository.set_keys(role, 3, threshold=2)
        repository.publish_root()
        repository.set_keys("root", 2, threshold=2)
        repository.publish_root()
        offer(repository, "v2")
        offers = await vehicle.start()
        assert [release.version for release in (await offers.ask()).releases] == ["v1", "v2"]
        assert await vehicle.fetch(offers, (await offers.ask()).releases[1]) == content_of("v2")

    async def test_a_release_that_was_withdrawn_is_offered_no_more(
        self, vehicle: Vehicle, repository: TufRepository
    ) -> None:
        offers = await vehicle.start()
        (release,) = (await offers.ask()).releases
        repository.targets.targets.clear()
        repository.publish()
        assert (await offers.ask()).releases == ()
        with pytest.raises(VerificationError, match="not among the repository's targets"):
            await offers.address(release)

    async def test_targets_in_a_place_of_their_own(
        self, vehicle: Vehicle, stranger: FakeCloud, repository: TufRepository
    ) -> None:
        vehicle.source = vehicle.source.model_copy(update={"targets_url": "https://cdn.example.com/m/"})
        offers = await vehicle.start()
        (release,) = (await offers.ask()).releases
        url = (await offers.address(release)).url
        assert url == f"https://cdn.example.com/m/{NAME}/v1/{release.checksum}.{NAME}.pt"

    async def test_what_was_offered_is_remembered_across_a_restart(
        self, vehicle: Vehicle, repository: TufRepository, stranger: FakeCloud
    ) -> None:
        first = await vehicle.start()
        assert first.last is None
        seen = await first.ask()
        again = await vehicle.start()
        assert again.last == seen == first.last
        assert seen.checked_at == vehicle.clock.now()
        asked = len(stranger.requests)
        assert (await again.address(seen.releases[0])).url.startswith(stranger.url)
        assert len(stranger.requests) == asked

    async def test_what_did_not_change_does_not_travel_again(
        self, vehicle: Vehicle, repository: TufRepository, stranger: FakeCloud
    ) -> None:
        await vehicle.versions()
        stranger.requests.clear()
        await vehicle.versions()
        assert [seen.path for seen in stranger.requests] == ["/metadata/2.root.json", "/metadata/timestamp.json"]

    async def test_two_checks_at_once_are_one_after_the_other(
        self, vehicle: Vehicle, repository: TufRepository, stranger: FakeCloud
    ) -> None:
        offers = await vehicle.start()
        first, second = await asyncio.gather(offers.ask(), offers.ask())
        assert first.releases == second.releases
        assert stranger.most_open == 1

    async def test_only_what_is_needed_lies_in_the_folder(self, vehicle: Vehicle, repository: TufRepository) -> None:
        await vehicle.versions()
        (cache,) = vehicle.folder.iterdir()
        (cache / "tmpabcdefgh").write_bytes(b"of a process that was killed")
        (vehicle.folder / ("0" * 16)).mkdir()
        await vehicle.versions()
        assert [path.name for path in vehicle.folder.iterdir()] == [cache.name]
        assert sorted(path.name for path in cache.iterdir()) == [
            "root.json",
            "root_history",
            "snapshot.json",
            "targets.json",
            "timestamp.json",
        ]


class TestWhatIsNoModel:
    async def test_it_is_left_aside(
        self, vehicle: Vehicle, repository: TufRepository, caplog: pytest.LogCaptureFixture
    ) -> None:
        repository.add("README.md", b"read me")
        repository.add("maps/v3/berlin.zip", b"streets")
        repository.add("bad/version.pt", b"x", {"name": "bad", "version": "latest"})
        repository.add("bad/rollout.pt", b"x", {"name": "bad", "version": "v1", "rollout": 7})
        repository.add("bad/nameless.pt", b"x", {"version": "v1"})
        repository.add("bad/climbs.pt", b"x", {"name": "../../etc/passwd", "version": "v1"})
        repository.add("bad/../../climbs.pt", b"x", {"name": "bad", "version": "v1"})
        repository.add("bad/empty.pt", b"", {"name": "bad", "version": "v1"})
        repository.add("bad/md5.pt", b"x", {"name": "bad", "version": "v1"}, hashes={"md5": "ab" * 16})
        repository.add("twice/a.pt", b"one", {"name": "twice", "version": "v1"})
        repository.add("twice/b.pt", b"other", {"name": "twice", "version": "v1"})
        repository.publish()
        assert await vehicle.versions() == ["v1"]
        said = [record.getMessage() for record in caplog.records if record.levelname == "WARNING"]
        assert len(said) == 8
        assert not any("README" in line or "maps" in line for line in said)
        assert any("bad/md5.pt: it has neither sha256 nor sha512" in line for line in said)
        assert any("twice/a.pt and twice/b.pt: both are twice v1, and not the same file" in line for line in said)

    async def test_the_path_names_the_model_where_nothing_else_does(
        self, vehicle: Vehicle, repository: TufRepository
    ) -> None:
        repository.add("gaze/v1.2.0/gaze.onnx", b"x")
        repository.publish()
        release = (await (await vehicle.start()).ask()).releases[0]
        assert (release.name, release.version, release.filename) == ("gaze", "v1.2.0", "gaze.onnx")


class TestFailures:
    @pytest.mark.parametrize(
        ("answer", "error"),
        [
            (Answer(503, headers={"Retry-After": "5"}), NotNowError),
            (Answer(404), RejectedError),
            (Answer(401), RejectedError),
            (Answer(204), UnreachableError),
            (Answer(cut=60), UnreachableError),
            (Answer(raw=b"what?"), UnreachableError),
            (portal(), UnreachableError),
            (Answer(200, b"<html>"), UnreachableError),
            (Answer(200, b"{}", {"Content-Encoding": "gzip"}), UnreachableError),
            (redirect("file:///etc/passwd"), UnreachableError),
        ],
        ids=["503", "404", "401", "204", "cut", "garbled", "portal", "no json", "packed", "file:"],
    )
    async def test_a_network_that_gives_no_metadata_is_no_attack(
        self, vehicle: Vehicle, repository: TufRepository, answer: Answer, error: type[SentinelSyncError]
    ) -> None:
        offers = await vehicle.start()
        before = await offers.ask()
        repository.attack = lambda seen: answer if seen.path.endswith("timestamp.json") else None
        with pytest.raises(error):
            await offers.ask()
        assert offers.last == before
        repository.attack = lambda _: None
        offer(repository, "v2")
        assert await vehicle.versions() == ["v1", "v2"]

    async def test_a_silent_host(self, vehicle: Vehicle, repository: TufRepository) -> None:
        repository.attack = lambda _: Answer(silent=True)
        with pytest.raises(UnreachableError):
            await (await vehicle.start()).ask()

    async def test_nothing_is_sent_while_the_gate_is_closed(
        self, vehicle: Vehicle, repository: TufRepository, stranger: FakeCloud
    ) -> None:
        vehicle.client.halt("test", "the battery is low")
        with pytest.raises(HeldError):
            await (await vehicle.start()).ask()
        assert not stranger.requests

    async def test_without_python_tuf_it_says_what_to_install(
        self, vehicle: Vehicle, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.delitem(sys.modules, "sentinel_sync.models.tuf.refresh", raising=False)
        monkeypatch.setitem(sys.modules, "tuf.api.exceptions", None)
        with pytest.raises(ConfigurationError, match=r"install sentinel-sync\[tuf\]"):
            await (await vehicle.start()).ask()

    @pytest.mark.parametrize("spoil", ["missing", "no json", "not signed"])
    async def test_a_root_file_that_is_none(
        self, vehicle: Vehicle, repository: TufRepository, tmp_path: Path, spoil: str
    ) -> None:
        root_file = tmp_path / "root.json"
        match spoil:
            case "missing":
                root_file.unlink()
            case "no json":
                root_file.write_bytes(b"root")
            case _:
                root_file.write_bytes(repository.anchor.replace(b'"version":1', b'"version":2'))
        with pytest.raises(ConfigurationError, match="root_file"):
            await (await vehicle.start()).ask()

    async def test_a_folder_that_cannot_be_written(self, vehicle: Vehicle, tmp_path: Path) -> None:
        vehicle.folder.write_bytes(b"a file is in the way")
        with pytest.raises(StoreError, match="cache of TUF metadata"):
            await (await vehicle.start()).ask()

    def test_a_source_without_its_root(self) -> None:
        source: Any = ModelSource.model_construct(source="tuf", metadata_url="https://a/", root_file=None)
        missing: Any = None
        with pytest.raises(ConfigurationError, match="root_file"):
            TufReleases(missing, missing, missing, source=source, folder=Path())


class TestCancelled:
    async def test_the_thread_comes_to_its_end_with_the_fetch(
        self, vehicle: Vehicle, repository: TufRepository, stranger: FakeCloud
    ) -> None:
        reached = asyncio.Event()

        def silent(_: Seen) -> Answer:
            reached.set()
            return Answer(silent=True)

        repository.attack = silent
        offers = await vehicle.start()
        asking = asyncio.create_task(offers.ask())
        async with asyncio.timeout(10.0):
            await reached.wait()
            asking.cancel()
            with pytest.raises(asyncio.CancelledError):
                await asking
        # One request, and none after it: the thread did not go on to the next file.
        assert len(stranger.requests) == 1
        await until(lambda: stranger.open_now == 0, "the connection's end")
        repository.attack = lambda _: None
        assert [release.version for release in (await offers.ask()).releases] == ["v1"]

    async def test_the_loop_is_not_asked_by_a_thread_that_comes_too_late(
        self, vehicle: Vehicle, repository: TufRepository, stranger: FakeCloud
    ) -> None:
        """Cancelled while python-tuf works between two fetches: the next one fails, and nothing is sent."""
        held, go_on, loop = asyncio.Event(), threading.Event(), asyncio.get_running_loop()
        offers = await vehicle.start()
        await offers.ask()
        stranger.requests.clear()
        from sentinel_sync.models.tuf import refresh as tuf_refresh  # noqa: PLC0415 - after the first check, as the code does

        prepare = tuf_refresh._prepare

        def slow(folder: Path, name: str) -> Path:
            loop.call_soon_threadsafe(held.set)
            go_on.wait(10.0)
            return prepare(folder, name)

        with pytest.MonkeyPatch.context() as patched:
            patched.setattr(tuf_refresh, "_prepare", slow)
            asking = asyncio.create_task(offers.ask())
            async with asyncio.timeout(10.0):
                await held.wait()
                asking.cancel()
                await asyncio.sleep(0)
                go_on.set()
                with pytest.raises(asyncio.CancelledError):
                    await asking
        assert not stranger.requests


async def test_an_address_whose_metadata_has_expired_is_asked_for_anew(
    vehicle: Vehicle, repository: TufRepository, stranger: FakeCloud
) -> None:
    offers = await vehicle.start()
    (release,) = (await offers.ask()).releases
    await vehicle.clock.advance(2 * DAY)
    with pytest.raises(VerificationError, match="expired"):
        await offers.address(release)
    repository.now = vehicle.clock.now()
    repository.publish("timestamp")
    assert (await offers.address(release)).url.startswith(stranger.url)
