"""The models folder after a cut at any step: whole old or whole new, and set right at the next start."""

import asyncio
import errno
import hashlib
import json
import os
import threading
from dataclasses import replace
from functools import partial
from pathlib import Path

import pytest

from sentinel_sync.base.errors import ConfigurationError, FileError, StoreFullError
from sentinel_sync.models.files import ModelFiles
from sentinel_sync.models.installed import InstalledModels
from sentinel_sync.models.releases import read_trust
from sentinel_sync.models.rules.installed import KeptVersion
from sentinel_sync.store.store import Store
from tests.fakes.clock import FakeClock

OLD, NEW = b"old" * 1000, b"new" * 1000
NAME, LIVE = "gaze", "gaze.onnx"


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return tmp_path / "models"


@pytest.fixture
def files(folder: Path) -> ModelFiles:
    return ModelFiles(folder)


def version(name: str, content: bytes) -> KeptVersion:
    return KeptVersion(name, LIVE, 1.0, len(content), hashlib.sha256(content).hexdigest())


def put(files: ModelFiles, name: str, content: bytes) -> None:
    """Lay a whole version down, as a download does."""
    staging = files.staging(NAME, name, LIVE)
    staging.parent.mkdir(parents=True, exist_ok=True)
    staging.write_bytes(content)
    files.keep(staging, files.version(NAME, name, LIVE))


async def started(folder: Path, store: Store, clock: FakeClock) -> InstalledModels:
    installed = InstalledModels(folder, store.documents, clock)
    await installed.open()
    await installed.clean([])
    return installed


@pytest.fixture
async def installed(folder: Path, files: ModelFiles, store: Store, clock: FakeClock) -> InstalledModels:
    """One on which v1 is installed, and v2 lies whole beside it."""
    installed = await started(folder, store, clock)
    put(files, "v1", OLD)
    await installed.install(NAME, version("v1", OLD))
    put(files, "v2", NEW)
    return installed


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def registered(folder: Path) -> str:
    return str(json.loads((folder / "registry.json").read_text())[NAME]["version"])


class TestCutOff:
    @pytest.mark.parametrize("step", ["intent", "previous kept", "renamed", "registered"])
    async def test_a_switch_is_finished_at_the_next_start(
        self, folder: Path, files: ModelFiles, installed: InstalledModels, store: Store, clock: FakeClock, step: str
    ) -> None:
        await installed.change(NAME, partial(replace, switching_to=version("v2", NEW)))
        if step != "intent":
            files.keep_live(files.live(LIVE), files.version(NAME, "v1", LIVE))
        if step in {"renamed", "registered"}:
            files.switch(files.version(NAME, "v2", LIVE), files.live(LIVE))
        if step == "registered":
            registry = json.loads((folder / "registry.json").read_text())
            registry[NAME]["version"] = "v2"
            (folder / "registry.json").write_text(json.dumps(registry))
        again = await started(folder, store, clock)
        record = again.record(NAME)
        assert (folder / LIVE).read_bytes() == NEW
        assert registered(folder) == record.standing.installed == "v2"
        assert record.switching_to is None
        assert (await again.roll_back(NAME)).version == "v1"
        assert (folder / LIVE).read_bytes() == OLD

    @pytest.mark.parametrize("damage", ["missing", "damaged"])
    async def test_without_a_whole_new_version_the_old_one_stays(
        self, folder: Path, files: ModelFiles, installed: InstalledModels, store: Store, clock: FakeClock, damage: str
    ) -> None:
        await installed.change(NAME, partial(replace, switching_to=version("v2", NEW)))
        kept = files.version(NAME, "v2", LIVE)
        kept.unlink()
        if damage == "damaged":
            kept.write_bytes(b"x" * len(NEW))
        record = (await started(folder, store, clock)).record(NAME)
        assert (folder / LIVE).read_bytes() == OLD
        assert registered(folder) == record.standing.installed == "v1"
        assert not kept.exists()

    async def test_a_live_file_that_is_gone_comes_back(
        self, folder: Path, installed: InstalledModels, store: Store, clock: FakeClock
    ) -> None:
        (folder / LIVE).unlink()
        await started(folder, store, clock)
        assert (folder / LIVE).read_bytes() == OLD

    async def test_one_that_nothing_is_left_of_counts_as_not_installed(
        self, folder: Path, files: ModelFiles, installed: InstalledModels, store: Store, clock: FakeClock
    ) -> None:
        (folder / LIVE).unlink()
        files.version(NAME, "v1", LIVE).unlink()
        assert (await started(folder, store, clock)).record(NAME).installed is None

    async def test_what_an_older_module_installed_meanwhile_is_believed(
        self, folder: Path, installed: InstalledModels, store: Store, clock: FakeClock
    ) -> None:
        registry = json.loads((folder / "registry.json").read_text())
        registry[NAME]["version"] = "v1.5"
        (folder / "registry.json").write_text(json.dumps(registry))
        (folder / LIVE).unlink()
        (folder / LIVE).write_bytes(b"by the older module")
        record = (await started(folder, store, clock)).record(NAME)
        assert record.installed is not None
        assert record.installed.version == "v1.5"
        assert record.installed.checksum == hashlib.sha256(b"by the older module").hexdigest()

    async def test_a_switch_under_way_is_not_cancelled_in_the_middle(
        self, folder: Path, installed: InstalledModels, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        reached, go_on, link = asyncio.Event(), threading.Event(), os.link
        loop = asyncio.get_running_loop()

        def held_up(source: Path, target: Path) -> None:
            loop.call_soon_threadsafe(reached.set)
            go_on.wait(10.0)
            link(source, target)

        monkeypatch.setattr(os, "link", held_up)
        installing = asyncio.create_task(installed.install(NAME, version("v2", NEW)))
        await reached.wait()
        installing.cancel()
        go_on.set()
        with pytest.raises(asyncio.CancelledError):
            await installing
        assert (folder / LIVE).read_bytes() == NEW
        assert registered(folder) == installed.record(NAME).standing.installed == "v2"


class TestTheFolder:
    async def test_a_file_system_without_hard_links(
        self, folder: Path, installed: InstalledModels, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        def no_links(*_: object, **__: object) -> None:
            raise OSError(errno.EPERM, os.strerror(errno.EPERM))

        monkeypatch.setattr(os, "link", no_links)
        await installed.install(NAME, version("v2", NEW))
        assert (folder / LIVE).read_bytes() == NEW
        assert (await installed.roll_back(NAME)).version == "v1"
        assert (folder / LIVE).read_bytes() == OLD
        assert names(folder) == [LIVE, "registry.json", "versions"]

    async def test_the_same_version_again_leaves_nothing_behind(self, folder: Path, installed: InstalledModels) -> None:
        await installed.install(NAME, version("v1", OLD))
        assert names(folder) == [LIVE, "registry.json", "versions"]
        assert installed.record(NAME).previous is None

    async def test_a_version_is_the_same_file_and_takes_no_space_twice(
        self, files: ModelFiles, installed: InstalledModels
    ) -> None:
        assert files.version(NAME, "v1", LIVE).samefile(files.live(LIVE))

    async def test_a_full_disk_and_a_broken_folder_are_told_apart(
        self, files: ModelFiles, installed: InstalledModels, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        for number, error in ((errno.ENOSPC, StoreFullError), (errno.EROFS, FileError)):

            def fails(*_: object, number: int = number, **__: object) -> None:
                raise OSError(number, os.strerror(number))

            with monkeypatch.context() as patched:
                patched.setattr(os, "link", fails)
                with pytest.raises(error):
                    await installed.install(NAME, version("v2", NEW))
            assert files.live(LIVE).read_bytes() == OLD


class TestKeys:
    @pytest.mark.parametrize("text", ["", "abc", "A" * 44, "=" * 44])
    def test_what_is_no_key_is_an_error_and_not_a_key_less(self, text: str) -> None:
        with pytest.raises(ConfigurationError, match="32 bytes"):
            read_trust([text], None, ())

    def test_a_missing_folder_is_an_error(self, tmp_path: Path) -> None:
        with pytest.raises(ConfigurationError, match="cannot read"):
            read_trust([], tmp_path / "none", ())

    def test_other_pems_are_an_error(self, tmp_path: Path) -> None:
        (tmp_path / "key.pem").write_text("-----BEGIN PUBLIC KEY-----\nAAAA\n-----END PUBLIC KEY-----\n")
        with pytest.raises(ConfigurationError, match="PEM"):
            read_trust([], tmp_path, ())
