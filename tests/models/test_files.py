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

from sentinel_sync.base.errors import ConfigurationError, FileError, StoreFullError, VerificationError
from sentinel_sync.models.files import ModelFiles
from sentinel_sync.models.installed import InstalledModels
from sentinel_sync.models.releases import read_trust
from sentinel_sync.models.rules.installed import KeptVersion
from sentinel_sync.store.store import Store
from tests.fakes.clock import FakeClock
from tests.fakes.disk_journal import keep_journal

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

    async def test_what_a_kill_left_half_written_goes_and_nobody_elses_files(
        self, folder: Path, installed: InstalledModels, store: Store, clock: FakeClock
    ) -> None:
        for name in (".registry.json.0123abcd.new", "..bad_versions.json.0123abcd.new", ".another.new"):
            (folder / name).write_text("{")
        await started(folder, store, clock)
        assert [name for name in names(folder) if name.endswith(".new")] == [".another.new"]

    async def test_a_live_file_of_a_former_name_goes_at_the_next_start(
        self, folder: Path, installed: InstalledModels, store: Store, clock: FakeClock
    ) -> None:
        (folder / "former.onnx").write_bytes(OLD)
        await installed.change(NAME, partial(replace, superseded=("former.onnx",)))
        again = await started(folder, store, clock)
        assert not (folder / "former.onnx").exists()
        assert (folder / LIVE).read_bytes() == OLD
        assert again.record(NAME).superseded == ()

    async def test_a_switch_does_not_need_the_file_that_it_replaces(
        self, folder: Path, installed: InstalledModels
    ) -> None:
        (folder / LIVE).unlink()
        await installed.install(NAME, version("v2", NEW))
        assert (folder / LIVE).read_bytes() == NEW
        assert registered(folder) == "v2"

    async def test_what_is_neither_installed_nor_staged_cannot_be_bad(self, installed: InstalledModels) -> None:
        assert await installed.mark_bad("unknown", "it crashed") is None
        await installed.mark_staged_bad(NAME, "it crashed")
        assert (installed.record("unknown").bad, installed.record(NAME).bad) == ((), ())

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


class TestOnDisk:
    """What the power cut of the next instant would leave."""

    def test_a_version_is_on_disk_before_it_has_its_name(self, files: ModelFiles) -> None:
        with keep_journal() as journal:
            put(files, "v1", OLD)
        assert journal.steps == ["sync .v1.onnx.part", "rename v1.onnx", f"sync {NAME}"]

    async def test_a_switch_is_on_disk_before_the_records_know_of_it(
        self, folder: Path, installed: InstalledModels
    ) -> None:
        with keep_journal() as journal:
            await installed.install(NAME, version("v2", NEW))
        wanted = journal.order(f"rename {LIVE}", f"sync {folder.name}", "rename registry.json")
        assert wanted == [
            f"rename {LIVE}",
            f"sync {folder.name}",
            "rename registry.json",
            f"sync {folder.name}",
        ]

    async def test_without_hard_links_the_copy_is_on_disk_before_its_name(
        self, folder: Path, installed: InstalledModels, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        def no_links(*_: object) -> None:
            raise OSError(errno.EXDEV, os.strerror(errno.EXDEV))

        monkeypatch.setattr(os, "link", no_links)
        with keep_journal() as journal:
            await installed.install(NAME, version("v2", NEW))
        wanted = (f"sync .{LIVE}.switch", f"rename {LIVE}", f"sync {folder.name}")
        assert journal.order(*wanted)[:3] == list(wanted)

    @pytest.mark.parametrize("at", [0, 1, len(NEW) // 2, len(NEW) - 2, len(NEW) - 1])
    def test_one_flipped_bit_anywhere_is_another_file(self, files: ModelFiles, at: int) -> None:
        flipped = bytearray(NEW)
        flipped[at] ^= 1
        put(files, "v2", bytes(flipped))
        whole = version("v2", NEW)
        assert not files.holds(files.version(NAME, "v2", LIVE), whole.size, whole.checksum or "")
        put(files, "v2", NEW)
        assert files.holds(files.version(NAME, "v2", LIVE), whole.size, whole.checksum or "")

    @pytest.mark.parametrize("other", ["0" * 64, "first half", "last half"])
    def test_a_checksum_counts_with_all_of_its_digits(self, files: ModelFiles, other: str) -> None:
        put(files, "v2", NEW)
        right = version("v2", NEW).checksum or ""
        other = {"first half": right[:32] + "0" * 32, "last half": "0" * 32 + right[32:]}.get(other, other)
        assert not files.holds(files.version(NAME, "v2", LIVE), len(NEW), other)


class TestDamage:
    """E3: only whole bytes are switched to, the last whole version stays, and damage is found."""

    @staticmethod
    def damage(path: Path, how: str) -> None:
        match how:
            case "cut off":
                os.truncate(path, 1000)
            case "one bit":
                with path.open("r+b") as file:
                    file.write(b"O")
            case "longer":
                with path.open("ab") as file:
                    file.write(b"!")
            case "another file":
                path.unlink()
                path.write_bytes(b"x" * len(NEW))
            case "empty":
                os.truncate(path, 0)

    @pytest.mark.parametrize("how", ["cut off", "one bit", "longer", "empty"])
    async def test_a_rollback_leads_to_the_last_whole_version(
        self, folder: Path, files: ModelFiles, installed: InstalledModels, how: str
    ) -> None:
        await installed.install(NAME, version("v2", NEW))
        self.damage(folder / LIVE, how)  # and with it the version that is kept: they are one file
        third = b"third" * 700
        put(files, "v3", third)
        await installed.install(NAME, version("v3", third))
        await installed.clean([])
        assert (await installed.roll_back(NAME)).version == "v1"
        assert (folder / LIVE).read_bytes() == OLD

    async def test_back_from_a_damaged_one_there_is_nothing_further_to_go_back_to(
        self, folder: Path, installed: InstalledModels
    ) -> None:
        await installed.install(NAME, version("v2", NEW))
        self.damage(folder / LIVE, "one bit")
        assert (await installed.roll_back(NAME)).version == "v1"
        assert installed.record(NAME).previous is None
        with pytest.raises(VerificationError):
            await installed.roll_back(NAME)

    @pytest.mark.parametrize("how", ["cut off", "one bit", "longer", "empty", "another file"])
    async def test_it_is_found_and_said(
        self, folder: Path, files: ModelFiles, installed: InstalledModels, how: str
    ) -> None:
        await installed.install(NAME, version("v2", NEW))
        assert await installed.inspect(is_idle=True) == set()
        self.damage(folder / LIVE, how)
        if how == "another file":
            files.version(NAME, "v2", LIVE).write_bytes(b"rotten as well")
        assert await installed.inspect(is_idle=True) == {NAME}
        assert "v2 was changed on this vehicle" in str(installed.record(NAME).damage)
        assert await installed.inspect(is_idle=True) == set(), "said once"
        (folder / LIVE).write_bytes(NEW)
        assert await installed.inspect(is_idle=True) == set()
        assert installed.record(NAME).damage is None, "somebody has put it right"

    async def test_a_whole_copy_is_put_back(self, folder: Path, files: ModelFiles, installed: InstalledModels) -> None:
        (folder / LIVE).unlink()
        (folder / LIVE).write_bytes(b"x" * len(OLD))
        assert await installed.inspect(is_idle=True) == set()
        assert (folder / LIVE).read_bytes() == OLD
        assert installed.record(NAME).damage is None

    async def test_a_file_that_is_gone_is_put_back_too(self, folder: Path, installed: InstalledModels) -> None:
        (folder / LIVE).unlink()
        assert await installed.inspect(is_idle=False) == set()
        assert (folder / LIVE).read_bytes() == OLD

    async def test_what_has_the_right_size_is_read_only_at_idle_and_once(
        self, folder: Path, installed: InstalledModels, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        read: list[Path] = []
        holds = ModelFiles.holds

        def noted(files: ModelFiles, path: Path, size: int, checksum: str) -> bool:
            read.append(path)
            return holds(files, path, size, checksum)

        monkeypatch.setattr(ModelFiles, "holds", noted)
        await installed.inspect(is_idle=False)
        assert read == []
        for _ in range(3):
            await installed.inspect(is_idle=True)
        assert read == [folder / LIVE]
        os.utime(folder / LIVE, (1.0, 1.0))
        for _ in range(3):
            await installed.inspect(is_idle=True)
        assert read == [folder / LIVE] * 2

    async def test_one_odd_file_costs_only_itself(
        self, folder: Path, files: ModelFiles, store: Store, clock: FakeClock, installed: InstalledModels
    ) -> None:
        """A folder and a pipe where models belong: neither is waited for, and the others are served."""
        (folder / LIVE).unlink()
        (folder / LIVE).mkdir()
        os.mkfifo(folder / "pipe.onnx")
        registry = json.loads((folder / "registry.json").read_text())
        registry["pipe"] = {"version": "v9", "installed_at": 1.0, "path": str(folder / "pipe.onnx")}
        registry["good"] = {"version": "v1", "installed_at": 1.0, "path": str(folder / "good.onnx")}
        (folder / "good.onnx").write_bytes(NEW)
        (folder / "registry.json").write_text(json.dumps(registry))
        again = await started(folder, store, clock)
        assert again.record("good").standing.installed == "v1"
        assert again.record("pipe").installed is None
        assert await again.inspect(is_idle=True) == set()
