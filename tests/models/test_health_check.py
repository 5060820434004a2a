"""A model is tried before it is used and while it is on probation; what fails is taken back, for good."""

import asyncio
import errno
import json
import os
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from sentinel_sync import VerificationError
from sentinel_sync.models.installer import HealthCheck
from sentinel_sync.models.rules.installed import Failed, Passed, Untried
from sentinel_sync.network.policy import TransferPolicy
from sentinel_sync.settings import CloudSettings
from sentinel_sync.store.store import Store
from tests.fakes.clock import FakeClock
from tests.fakes.cloud import FakeCloud
from tests.fakes.patience import until
from tests.models.vehicle import (
    NAME,
    OLD,
    TRUSTED,
    Build,
    ModelHost,
    content_of,
    fetched,
    leftovers,
    listed,
    live,
    registry,
)

pytestmark = pytest.mark.usefixtures("off_the_loop")


class Examiner:
    """A validator that finds good what it was not told to find bad."""

    def __init__(self) -> None:
        self.bad: set[bytes] = set()
        self.seen: list[tuple[Path, str, str]] = []

    async def __call__(self, path: Path, name: str, version: str) -> bool:
        self.seen.append((path, name, version))
        return await asyncio.to_thread(path.read_bytes) not in self.bad


@pytest.fixture
def examiner() -> Examiner:
    return Examiner()


def bad_names(models: Path) -> list[str]:
    """What the models folder knows of bad versions."""
    known = json.loads((models / ".bad_versions.json").read_text())
    return [bad["version"] for bad in known.get(NAME, [])]


class TestBeforeTheSwitch:
    async def test_the_new_model_is_tried_before_anybody_opens_it(
        self, host: ModelHost, models: Path, build: Build, examiner: Examiner
    ) -> None:
        host.entries = [listed("v2.1.0")]
        in_use: list[bytes] = []

        async def look(path: Path, name: str, version: str) -> bool:
            in_use.append(await asyncio.to_thread(live, models))
            return await examiner(path, name, version)

        assert await build(validator=look).download_and_install_model(NAME, "v2.1.0")
        assert in_use == [OLD]
        assert examiner.seen == [(models / "versions" / NAME / "v2.1.0.pt", NAME, "v2.1.0")]
        assert live(models) == content_of("v2.1.0")

    async def test_one_that_fails_is_never_used_and_never_tried_again(
        self,
        cloud: FakeCloud,
        host: ModelHost,
        models: Path,
        build: Build,
        examiner: Examiner,
        caplog: pytest.LogCaptureFixture,
    ) -> None:
        host.entries = [listed("v2.1.0")]
        examiner.bad = {content_of("v2.1.0")}
        downloader = build(auto_install=True, validator=examiner)
        assert await downloader.sync_now() == 0
        assert live(models) == OLD
        assert registry(models)[NAME]["version"] == "v2.0.0"
        assert leftovers(models) == [".bad_versions.json"]
        assert list((models / "versions").iterdir()) == []
        status = await downloader.get_download_status(NAME)
        assert status["bad_versions"] == {"v2.1.0": "the validator says no"}
        assert [(shown.name, shown.status) for shown in downloader.snapshot()] == [(NAME, "failed")]
        assert any(record.levelname == "ERROR" and "model.bad" in record.message for record in caplog.records)
        count = len(fetched(cloud))
        # Neither by itself, nor when asked for, nor after a restart, nor where it is listed anew.
        for again in (downloader, build(auto_install=True, validator=examiner)):
            assert await again.check_for_updates() == []
            result = await again.download_and_install_model(NAME, "v2.1.0")
            assert isinstance(result.error, VerificationError)
            assert "found bad on this vehicle" in str(result.reason)
        host.entries = [listed("v2.1.0", released_at="2026-11-23T12:00:00Z"), listed("v2.0.5")]
        await downloader.check_for_updates()
        assert len(fetched(cloud)) == count
        assert len(examiner.seen) == 1

    async def test_the_same_bytes_under_another_version_are_as_bad(
        self, host: ModelHost, models: Path, build: Build, examiner: Examiner, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr("tests.models.vehicle.content_of", lambda _: b"the same" * 100)
        host.entries = [listed("v2.1.0")]
        examiner.bad = {b"the same" * 100}
        downloader = build(auto_install=True, validator=examiner)
        await downloader.sync_now()
        host.entries = [listed("v2.2.0")]
        assert await downloader.check_for_updates() == []
        assert live(models) == OLD

    @pytest.mark.parametrize("asked_of", ["pin", "forgive"])
    async def test_only_the_operators_forgiveness_lets_it_be_tried_again(
        self, host: ModelHost, models: Path, build: Build, examiner: Examiner, asked_of: str
    ) -> None:
        host.entries = [listed("v2.1.0")]
        examiner.bad = {content_of("v2.1.0")}
        downloader = build(validator=examiner)
        assert not await downloader.download_and_install_model(NAME, "v2.1.0")
        examiner.bad = set()
        if asked_of == "pin":
            with pytest.raises(VerificationError, match="found bad"):
                await downloader.pin(NAME, "v2.1.0")
            assert not await downloader.download_and_install_model(NAME, "v2.1.0")
            assert bad_names(models) == ["v2.1.0"]
        else:
            assert await downloader.clear_bad(NAME, "v2.1.0")
            assert not await downloader.forgive(NAME, "v2.1.0")
            assert bad_names(models) == []
            assert await downloader.download_and_install_model(NAME, "v2.1.0")

    async def test_a_pin_to_a_version_that_was_published_anew_with_other_bytes(
        self, host: ModelHost, models: Path, build: Build, examiner: Examiner, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        host.entries = [listed("v2.1.0")]
        examiner.bad = {content_of("v2.1.0")}
        downloader = build(validator=examiner)
        assert not await downloader.download_and_install_model(NAME, "v2.1.0")
        monkeypatch.setattr("tests.models.vehicle.content_of", lambda _: b"mended" * 100)
        host.entries = [listed("v2.1.0")]
        await downloader.check_for_updates()
        await downloader.pin(NAME, "v2.1.0")
        assert await downloader.download_and_install_model(NAME, "v2.1.0")
        assert live(models) == b"mended" * 100

    async def test_a_lost_store_does_not_make_it_good(
        self, host: ModelHost, models: Path, build: Build, examiner: Examiner
    ) -> None:
        host.entries = [listed("v2.1.0")]
        examiner.bad = {content_of("v2.1.0")}
        downloader = build(auto_install=True, validator=examiner)
        await downloader.sync_now()
        await downloader._store.documents.delete("model", NAME)
        again = build(auto_install=True)
        assert await again.check_for_updates() == []
        assert live(models) == OLD

    @pytest.mark.parametrize("fault", [RuntimeError("no such operator"), TimeoutError("its own"), ValueError()])
    async def test_a_validator_that_raises_says_no(
        self, host: ModelHost, models: Path, build: Build, fault: Exception
    ) -> None:
        async def raising(path: Path, name: str, version: str) -> bool:
            raise fault

        host.entries = [listed("v2.1.0")]
        result = await build(validator=raising).download_and_install_model(NAME, "v2.1.0")
        assert type(fault).__name__ in str(result.reason)
        assert live(models) == OLD

    async def test_a_validator_that_never_answers_has_its_time(
        self, host: ModelHost, models: Path, build: Build
    ) -> None:
        async def hanging(path: Path, name: str, version: str) -> bool:
            await asyncio.Event().wait()
            return True

        host.entries = [listed("v2.1.0")]
        downloader = build(validator=hanging, model_validator_timeout=0.05)
        result = await downloader.download_and_install_model(NAME, "v2.1.0")
        assert "longer than 0.05 s" in str(result.reason)
        assert live(models) == OLD

    async def test_a_trial_that_was_cut_off_is_made_again(
        self, cloud: FakeCloud, host: ModelHost, models: Path, build: Build, examiner: Examiner
    ) -> None:
        host.entries = [listed("v2.1.0")]
        begun = asyncio.Event()

        async def hanging(path: Path, name: str, version: str) -> bool:
            begun.set()
            await asyncio.Event().wait()
            return False

        first = build(validator=hanging)
        installing = asyncio.create_task(first.download_and_install_model(NAME, "v2.1.0"))
        await begun.wait()
        installing.cancel()
        with pytest.raises(asyncio.CancelledError):
            await installing
        count = len(fetched(cloud))
        again = build(validator=examiner)
        await again.upkeep_step()
        assert live(models) == content_of("v2.1.0")
        assert len(fetched(cloud)) == count
        assert len(examiner.seen) == 1


class TestProbation:
    async def test_a_model_that_holds_out_is_proven(
        self, host: ModelHost, build: Build, examiner: Examiner, clock: FakeClock
    ) -> None:
        host.entries = [listed("v2.1.0")]
        downloader = build(validator=examiner, model_probation=100.0)
        assert await downloader.download_and_install_model(NAME, "v2.1.0")
        left = [100.0]
        while left[-1] > 0.0:
            clock.tick(await downloader.upkeep_step())
            left.append((await downloader.get_installed_models())[NAME]["probation_left"])
        # At once, and then ten times.
        assert left == pytest.approx([100.0, *range(100, -1, -10)])
        assert len(examiner.seen) == 1 + 11
        assert examiner.seen[-1][0].name == f"{NAME}.pt"
        await downloader.upkeep_step()
        assert len(examiner.seen) == 1 + 11

    async def test_one_that_fails_is_taken_back_by_itself(
        self,
        cloud: FakeCloud,
        host: ModelHost,
        models: Path,
        build: Build,
        examiner: Examiner,
        clock: FakeClock,
        caplog: pytest.LogCaptureFixture,
    ) -> None:
        host.entries = [listed("v2.1.0")]
        downloader = build(auto_install=True, validator=examiner, model_probation=100.0)
        assert await downloader.sync_now() == 1
        clock.tick(await downloader.upkeep_step())
        examiner.bad = {content_of("v2.1.0")}
        await downloader.upkeep_step()
        assert live(models) == OLD
        assert registry(models)[NAME]["version"] == "v2.0.0"
        status = await downloader.get_download_status(NAME)
        assert status["bad_versions"] == {"v2.1.0": "the validator says no"}
        assert (status["status"], status["reason"]) == ("failed", "the validator says no")
        assert any("taken back to v2.0.0" in record.message for record in caplog.records)
        count = len(fetched(cloud))
        again = build(auto_install=True, validator=examiner)
        assert await again.sync_now() == 0
        assert not await again.rollback(NAME)
        assert len(fetched(cloud)) == count
        assert leftovers(models) == [".bad_versions.json"]
        assert [path.name for path in (models / "versions" / NAME).iterdir()] == ["v2.0.0.pt"]
        host.entries.append(listed("v2.2.0"))
        assert [update["version"] for update in await again.check_for_updates()] == ["v2.2.0"]

    async def test_it_goes_on_where_keys_cannot_be_read_and_the_next_release_waits_for_them(
        self, host: ModelHost, models: Path, build: Build, examiner: Examiner, tmp_path: Path, store: Store
    ) -> None:
        keys = tmp_path / "keys"
        keys.mkdir()
        (keys / "fleet.pub").write_text(TRUSTED)
        trip = [False]
        policy = TransferPolicy(store.documents, CloudSettings(network="unmetered"), clock=FakeClock(), supervised=True)
        policy.follow_trips(lambda: trip[0])
        host.entries = [listed("v2.1.0"), listed("v2.2.0")]
        downloader = build(
            validator=examiner,
            traffic=policy,
            model_probation=100.0,
            model_trusted_keys=(),
            model_trusted_keys_dir=keys,
        )
        assert await downloader.download_and_install_model(NAME, "v2.1.0")
        trip[0] = True
        assert (await downloader.download_and_install_model(NAME, "v2.2.0")).waiting
        keys.rename(tmp_path / "lost")
        trip[0] = False
        examiner.bad = {content_of("v2.1.0")}
        await downloader.upkeep_step()
        assert live(models) == OLD
        status = await downloader.get_download_status(NAME)
        assert (status["status"], "cannot read the trusted keys" in str(status["reason"])) == ("held", True)
        (tmp_path / "lost").rename(keys)
        await downloader.upkeep_step()
        assert live(models) == content_of("v2.2.0")

    async def test_it_goes_on_after_a_restart_and_only_time_on_duty_counts(
        self, host: ModelHost, models: Path, build: Build, examiner: Examiner, clock: FakeClock
    ) -> None:
        host.entries = [listed("v2.1.0")]
        first = build(validator=examiner, model_probation=100.0)
        assert await first.download_and_install_model(NAME, "v2.1.0")
        clock.tick(await first.upkeep_step())
        await first.upkeep_step()
        clock.reboot("boot-2")
        clock.set_wall(clock.now() + 1e6)
        again = build(validator=examiner, model_probation=100.0)
        assert (await again.get_installed_models())[NAME]["probation_left"] == pytest.approx(90.0)
        trials = len(examiner.seen)
        await again.upkeep_step()
        assert len(examiner.seen) == trials + 1
        assert (await again.get_installed_models())[NAME]["probation_left"] == pytest.approx(90.0)
        clock.reboot("boot-3")
        examiner.bad = {content_of("v2.1.0")}
        await build(validator=examiner).upkeep_step()
        assert live(models) == OLD

    async def test_what_is_not_proven_is_nothing_to_go_back_to(
        self, host: ModelHost, models: Path, build: Build, examiner: Examiner
    ) -> None:
        host.entries = [listed("v2.1.0"), listed("v2.2.0")]
        downloader = build(validator=examiner, model_probation=100.0)
        assert await downloader.download_and_install_model(NAME, "v2.1.0")
        assert await downloader.download_and_install_model(NAME, "v2.2.0")
        examiner.bad = {content_of("v2.2.0")}
        await downloader.upkeep_step()
        assert live(models) == OLD

    async def test_with_nothing_to_go_back_to_it_stays_and_is_told(
        self, host: ModelHost, build: Build, examiner: Examiner, tmp_path: Path, caplog: pytest.LogCaptureFixture
    ) -> None:
        host.entries = [listed("v1", name="gaze", filename=None)]
        downloader = build(validator=examiner, model_probation=100.0, folder=tmp_path / "new")
        assert await downloader.download_and_install_model("gaze", "v1")
        examiner.bad = {content_of("v1")}
        await downloader.upkeep_step()
        assert (tmp_path / "new" / "gaze.pth").read_bytes() == content_of("v1")
        status = await downloader.get_download_status("gaze")
        assert (status["status"], list(status["bad_versions"])) == ("failed", ["v1"])
        assert any("it stays in use" in record.message for record in caplog.records)

    async def test_the_operator_is_free_to_go_back_meanwhile(
        self, host: ModelHost, models: Path, build: Build, examiner: Examiner
    ) -> None:
        host.entries = [listed("v2.1.0")]
        downloader = build(validator=examiner, model_probation=100.0)
        assert await downloader.download_and_install_model(NAME, "v2.1.0")
        assert await downloader.rollback(NAME)
        trials = len(examiner.seen)
        await downloader.upkeep_step()
        assert (live(models), len(examiner.seen)) == (OLD, trials)

    async def test_what_cannot_be_taken_back_now_is_so_later(
        self, host: ModelHost, models: Path, build: Build, examiner: Examiner, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        host.entries = [listed("v2.1.0")]
        downloader = build(validator=examiner, model_probation=100.0)
        assert await downloader.download_and_install_model(NAME, "v2.1.0")
        examiner.bad = {content_of("v2.1.0")}

        def fails(*_: object) -> None:
            raise OSError(errno.EROFS, os.strerror(errno.EROFS))

        with monkeypatch.context() as patched:
            patched.setattr("sentinel_sync.models.files._link_or_copy", fails)
            assert await downloader.upkeep_step() <= 60.0
        assert live(models) == content_of("v2.1.0")
        # The intent is on disk, as after a kill at this instant: the next start follows it, and so does the next step.
        await downloader.upkeep_step()
        assert live(models) == OLD
        assert registry(models)[NAME]["version"] == "v2.0.0"
        status = await build().get_download_status(NAME)
        assert (status["installed_version"], list(status["bad_versions"])) == ("v2.0.0", ["v2.1.0"])


SCRIPT = """
import os, pathlib, signal, sys, time
path, name, version = sys.argv[-3:]
pathlib.Path(sys.argv[1]).write_text(f"{os.getpid()} {name} {version} {len(pathlib.Path(path).read_bytes())}"
    f" {sorted(key for key in os.environ if key.startswith('SENTINEL_'))}")
match sys.argv[2]:
    case "sleep":
        time.sleep(60)
    case "signal":
        os.kill(os.getpid(), int(sys.argv[3]))
    case code:
        sys.exit(int(code))
"""


@pytest.fixture
def command(tmp_path: Path) -> Callable[..., list[str]]:
    """A validator's command that writes down what it was given, and then does as it is told."""

    def make(*what: str) -> list[str]:
        return [sys.executable, "-c", SCRIPT, str(tmp_path / "given"), *what]

    return make


def alive(process_id: int) -> bool:
    try:
        os.kill(process_id, 0)
    except ProcessLookupError:
        return False
    return True


class TestTheCommand:
    async def test_it_is_given_file_name_and_version_and_none_of_our_secrets(
        self,
        host: ModelHost,
        models: Path,
        build: Build,
        command: Callable[..., list[str]],
        tmp_path: Path,
        monkeypatch: pytest.MonkeyPatch,
    ) -> None:
        monkeypatch.setenv("SENTINEL_CLOUD__API_KEY", "secret")
        host.entries = [listed("v2.1.0")]
        downloader = build(model_validator_command=command("0"))
        assert await downloader.download_and_install_model(NAME, "v2.1.0")
        assert (tmp_path / "given").read_text().split(" ", 1)[1] == f"{NAME} v2.1.0 300000 []"
        assert live(models) == content_of("v2.1.0")

    async def test_its_no_is_a_no(
        self, host: ModelHost, models: Path, build: Build, command: Callable[..., list[str]]
    ) -> None:
        host.entries = [listed("v2.1.0")]
        downloader = build(model_validator_command=command("3"))
        result = await downloader.download_and_install_model(NAME, "v2.1.0")
        assert "ended with exit code 3" in str(result.reason)
        assert live(models) == OLD
        assert bad_names(models) == ["v2.1.0"]

    async def test_one_that_cannot_be_run_says_nothing_about_the_model(
        self, cloud: FakeCloud, host: ModelHost, models: Path, build: Build, command: Callable[..., list[str]]
    ) -> None:
        host.entries = [listed("v2.1.0")]
        downloader = build(model_validator_command=["/nowhere/validator"])
        result = await downloader.download_and_install_model(NAME, "v2.1.0")
        assert (bool(result), result.waiting) == (False, True)
        assert "could not be run" in str(result.reason)
        assert live(models) == OLD
        status = await downloader.get_download_status(NAME)
        assert (status["status"], status["bad_versions"]) == ("held", {})
        count = len(fetched(cloud))
        assert await downloader.upkeep_step() == 60.0
        # Somebody installs the validator: then it goes on, with the file that is there.
        again = build(model_validator_command=command("0"))
        await again.upkeep_step()
        assert live(models) == content_of("v2.1.0")
        assert len(fetched(cloud)) == count

    @pytest.mark.parametrize(
        ("number", "verdict"), [("15", Untried), ("9", Untried), ("2", Untried), ("11", Failed), ("6", Failed)]
    )
    async def test_a_crash_is_a_no_and_being_ended_from_outside_is_not(
        self, tmp_path: Path, command: Callable[..., list[str]], number: str, verdict: type
    ) -> None:
        (tmp_path / "model").write_bytes(b"model")
        health_check = HealthCheck(None, command("signal", number), 20.0)
        assert isinstance(await health_check.of(tmp_path / "model", NAME, "v1"), verdict)

    async def test_one_that_takes_too_long_is_ended_with_all_that_it_started(
        self, tmp_path: Path, command: Callable[..., list[str]]
    ) -> None:
        (tmp_path / "model").write_bytes(b"model")
        inner = command("sleep")
        starter = [sys.executable, "-c", "import subprocess, sys; subprocess.run(sys.argv[1:])", *inner]
        health_check = HealthCheck(None, starter, 1.0)
        verdict = await health_check.of(tmp_path / "model", NAME, "v1")
        assert verdict == Failed(f"the validator ({Path(sys.executable).name}) took longer than 1 s")
        if (tmp_path / "given").exists():  # it had come so far
            process_id = int((tmp_path / "given").read_text().split()[0])
            await until(lambda: not alive(process_id), "the end of the command's child")

    async def test_whoever_is_cancelled_leaves_no_process_behind(
        self, tmp_path: Path, command: Callable[..., list[str]]
    ) -> None:
        (tmp_path / "model").write_bytes(b"model")
        health_check = HealthCheck(None, command("sleep"), 60.0)
        trial = asyncio.create_task(health_check.of(tmp_path / "model", NAME, "v1"))
        given = tmp_path / "given"
        await until(lambda: given.exists() and "v1" in given.read_text(), "the command")
        trial.cancel()
        with pytest.raises(asyncio.CancelledError):
            await trial
        assert not alive(int(given.read_text().split()[0]))

    async def test_both_must_agree(self, tmp_path: Path, command: Callable[..., list[str]], examiner: Examiner) -> None:
        (tmp_path / "model").write_bytes(b"model")
        path = tmp_path / "model"
        assert await HealthCheck(examiner, command("0"), 20.0).of(path, NAME, "v1") == Passed()
        assert isinstance(await HealthCheck(examiner, command("1"), 20.0).of(path, NAME, "v1"), Failed)
        examiner.bad = {b"model"}
        assert isinstance(await HealthCheck(examiner, command("0"), 20.0).of(path, NAME, "v1"), Failed)


class TestWhatTheValidatorLeaves:
    @pytest.mark.parametrize("how", ["appends", "overwrites a byte", "cuts off", "deletes"])
    async def test_a_model_that_it_changed_is_not_switched_to(
        self, host: ModelHost, models: Path, build: Build, how: str
    ) -> None:
        """E4: it says yes, and leaves bytes that nobody signed."""
        host.entries = [listed("v2.1.0")]

        def change(path: Path) -> None:
            match how:
                case "appends":
                    with path.open("ab") as file:
                        file.write(b"calibrated")
                case "overwrites a byte":
                    with path.open("r+b") as file:
                        file.write(bytes([content_of("v2.1.0")[0] ^ 1]))
                case "cuts off":
                    os.truncate(path, 10)
                case "deletes":
                    path.unlink()

        async def meddler(path: Path, name: str, version: str) -> bool:
            await asyncio.to_thread(change, path)
            return True

        result = await build(validator=meddler).download_and_install_model(NAME, "v2.1.0")
        assert isinstance(result.error, VerificationError)
        assert "missing or damaged" in str(result.reason)
        assert live(models) == OLD
        assert await build().download_and_install_model(NAME, "v2.1.0"), "fetched again, and whole"
        assert live(models) == content_of("v2.1.0")
