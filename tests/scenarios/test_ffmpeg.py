"""ffmpeg as a child: found, kept out of everybody's way, and gone whatever happens, to it or to the agent."""

import asyncio
import contextlib
import logging
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator
from importlib import import_module
from pathlib import Path

import pytest
from blockbuster import blockbuster_ctx

from sentinel_sync.scenarios import ffmpeg as ffmpeg_module
from sentinel_sync.scenarios.ffmpeg import QUIET_LIMIT, Ffmpeg, RunResult, TranscodeError
from sentinel_sync.scenarios.rules.compression import EncodingProgress, ProgressReader
from tests.fakes.clock import FakeClock
from tests.fakes.ffmpeg import FOR_EVER, stand_in
from tests.fakes.patience import until
from tests.fakes.processes import children_of, disk_class_of, memory_score_of, niceness_of, state_of
from tests.fakes.videos import SOURCES, ffmpeg_of

REPOSITORY = Path(__file__).parents[2]
REPORT = "printf 'frame=1\\nprogress=continue\\n'"


@pytest.fixture(autouse=True)
def _no_blocking_call_on_the_loop() -> Iterator[None]:
    with blockbuster_ctx("sentinel_sync"):
        yield


@pytest.fixture(autouse=True)
def _nothing_is_left_running() -> Iterator[None]:
    before = set(children_of())
    yield
    assert {process: line for process, line in children_of().items() if process not in before} == {}


def heard(_piece: bytes) -> bool:
    """Somebody who does not care."""
    return True


class Runs:
    """A run of a stand-in, watched from outside."""

    def __init__(self, program: Path, clock: FakeClock) -> None:
        self.ffmpeg = Ffmpeg(program, clock)
        self.reader = ProgressReader()
        self.pieces = 0

    async def begin(self, limit: float = 60.0) -> "asyncio.Task[RunResult]":
        """Start it, and wait until it has said something."""
        task = asyncio.create_task(self.ffmpeg.run(["-encode"], limit, self._on_output))
        await until(lambda: self.reader.last != EncodingProgress(), "the first report")
        return task

    def _on_output(self, piece: bytes) -> bool:
        self.pieces += 1
        return bool(self.reader.feed(piece))

    def process(self) -> int:
        (process,) = [process for process, line in children_of().items() if "-encode" in line or "tail" in line]
        return process


@pytest.fixture(name="endless")
def endless_fixture(tmp_path: Path, clock: FakeClock) -> Runs:
    """One that reports once and then hangs."""
    return Runs(stand_in(tmp_path, f"{REPORT}; {FOR_EVER}"), clock)


# --- which one ---


@pytest.mark.parametrize("source", SOURCES)
async def test_it_is_asked_once_what_it_can_do(source: str, clock: FakeClock) -> None:
    ffmpeg = Ffmpeg(Path(ffmpeg_of(source)), clock)
    program = await ffmpeg.program()
    assert "libx264" in program.encoders
    assert await ffmpeg.program() is program


async def test_the_one_on_path_comes_before_the_wheels(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, clock: FakeClock
) -> None:
    stand_in(tmp_path)
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
    program = await Ffmpeg(None, clock).program()
    assert program.path == str(tmp_path / "ffmpeg")
    assert program.encoders == {"libx264"}


async def test_where_there_is_none_on_path_the_wheels_is_taken(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, clock: FakeClock
) -> None:
    bundled = ffmpeg_of("wheel")
    monkeypatch.setenv("PATH", str(tmp_path))
    program = await Ffmpeg(None, clock).program()
    assert program.path == bundled
    assert "libx264" in program.encoders
    assert program.wrappers == ()  # nothing of the system is on that PATH either


async def test_where_there_is_none_at_all_it_is_looked_for_again_later(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, clock: FakeClock
) -> None:
    def nowhere() -> str:
        raise RuntimeError("No ffmpeg exe could be found")

    monkeypatch.setattr(import_module("imageio_ffmpeg"), "get_ffmpeg_exe", nowhere)
    path = os.environ["PATH"]
    monkeypatch.setenv("PATH", str(tmp_path))
    ffmpeg = Ffmpeg(None, clock)
    with pytest.raises(TranscodeError, match="there is no ffmpeg: install it"):
        await ffmpeg.program()
    stand_in(tmp_path)
    monkeypatch.setenv("PATH", f"{tmp_path}:{path}")
    assert (await ffmpeg.program()).path == str(tmp_path / "ffmpeg")


async def test_one_that_is_asked_for_and_not_there_is_not_replaced_by_another(tmp_path: Path, clock: FakeClock) -> None:
    (tmp_path / "ffmpeg").write_text("not executable")
    for wanted in (tmp_path / "ffmpeg", tmp_path / "none"):
        with pytest.raises(TranscodeError, match="ffmpeg_path names no program"):
            await Ffmpeg(wanted, clock).program()


@pytest.mark.parametrize("text", ["not a program at all", "#!/no/such/interpreter\n", "#!/bin/sh\nexit 3\n"])
async def test_one_that_does_not_work_is_none(tmp_path: Path, clock: FakeClock, text: str) -> None:
    (tmp_path / "ffmpeg").write_text(text)
    (tmp_path / "ffmpeg").chmod(0o755)
    with pytest.raises(TranscodeError, match="ffmpeg does not say its encoders"):
        await Ffmpeg(tmp_path / "ffmpeg", clock).program()


# --- how it runs ---


async def test_it_comes_last_for_the_processor_the_disk_and_the_memory(endless: Runs) -> None:
    task = await endless.begin()
    process = endless.process()
    assert niceness_of(process) == 19
    assert disk_class_of(process) == "idle"
    assert memory_score_of(process) == 1000
    assert os.getsid(process) == process  # a terminal's Ctrl-C does not reach it
    await cancelled(task)


async def test_nothing_of_the_hosts_environment_is_handed_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, clock: FakeClock
) -> None:
    monkeypatch.setenv("SENTINEL_CLOUD__API_KEY", "a-credential")
    monkeypatch.setenv("FFREPORT", f"file={tmp_path}/report")
    run = Runs(stand_in(tmp_path, f"env >{tmp_path}/seen; {REPORT}"), clock)
    assert (await (await run.begin())).exit_code == 0
    seen = {line.partition("=")[0] for line in (tmp_path / "seen").read_text().splitlines()}
    # What the shell adds by itself aside.
    assert seen - {"PWD", "OLDPWD", "_", "SHLVL"} <= {
        "PATH",
        "LD_LIBRARY_PATH",
        "LC_ALL",
        "AV_LOG_FORCE_NOCOLOR",
        "SVT_LOG",
    }


async def test_it_gets_the_file_it_is_given_and_no_other(tmp_path: Path, clock: FakeClock) -> None:
    (tmp_path / "given").write_text("the recording")
    run = Runs(stand_in(tmp_path, f"ls /proc/self/fd >{tmp_path}/open; cat $3 >{tmp_path}/read; {REPORT}"), clock)
    with (tmp_path / "given").open("rb") as given, (tmp_path / "given").open("rb") as other:
        arguments = [f"/proc/self/fd/{given.fileno()}", "-encode"]
        ending = await run.ffmpeg.run(arguments, 60.0, heard, given.fileno())
        # 3 is the folder that `ls` reads.
        opened = {int(number) for number in (tmp_path / "open").read_text().split()}
        assert opened - {0, 1, 2, 3} == {given.fileno()} - {3}
        assert other.fileno() not in opened
    assert ending.exit_code == 0
    assert (tmp_path / "read").read_text() == "the recording"


async def test_reports_come_as_they_are_written(tmp_path: Path, clock: FakeClock) -> None:
    run = Runs(stand_in(tmp_path, f"{REPORT}; printf 'frame=9\\nprogress=end\\n'; echo so it goes >&2; exit 3"), clock)
    ending = await (await run.begin())
    assert run.reader.last == EncodingProgress(9, ended=True)
    assert ending == RunResult(3, "so it goes\n")


async def test_a_flood_of_words_stops_nothing_and_takes_no_memory(tmp_path: Path, clock: FakeClock) -> None:
    flood = "head -c 20000000 /dev/zero | tr '\\0' x >&2"
    run = Runs(stand_in(tmp_path, f"echo first >&2; {flood}; head -c 3000000 /dev/zero; {REPORT}; exit 1"), clock)
    ending = await run.ffmpeg.run(["-encode"], 60.0, heard)
    assert ending.exit_code == 1
    assert ending.words.startswith("first\nxxx")
    assert len(ending.words) <= 72 << 10


# --- how it ends ---


async def cancelled(task: "asyncio.Task[RunResult]") -> None:
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM, signal.SIGSEGV])
async def test_a_killed_one_is_no_success(endless: Runs, number: signal.Signals) -> None:
    task = await endless.begin()
    os.kill(endless.process(), number)
    assert (await task).exit_code == -number


async def test_a_cancelled_run_is_over_when_its_caller_hears_of_it(endless: Runs) -> None:
    task = await endless.begin()
    process = endless.process()
    await cancelled(task)
    assert state_of(process) is None


async def test_one_that_does_not_listen_is_killed(tmp_path: Path, clock: FakeClock) -> None:
    # The shell stays, and so do its deaf child and what both of them write without end.
    deaf = f"trap '' TERM; {REPORT}; yes & yes >&2 & while :; do wait; done"
    run = Runs(stand_in(tmp_path, deaf), clock)
    task = await run.begin()
    (process,) = [process for process, line in children_of().items() if "-encode" in line]
    below = set(children_of(process))
    assert len(below) == 2
    await cancelled(task)
    assert state_of(process) is None
    await until(lambda: not any(state_of(child) for child in below), "the end of what it had started")


async def test_a_second_cancellation_does_not_leave_it_behind(tmp_path: Path, clock: FakeClock) -> None:
    run = Runs(stand_in(tmp_path, f"trap '' TERM; {REPORT}; while :; do tail -f /dev/null; done"), clock)
    task = await run.begin()
    (process,) = [process for process, line in children_of().items() if "-encode" in line]
    for _ in range(3):
        task.cancel()
        await asyncio.sleep(0)
    with pytest.raises(asyncio.CancelledError):
        await task
    assert state_of(process) is None


async def test_a_cancellation_while_it_is_reaped_is_the_callers(tmp_path: Path, clock: FakeClock) -> None:
    """It took too long and is being ended, deaf as it is, when its caller is cancelled: no error takes that away."""
    run = Runs(stand_in(tmp_path, f"trap '' TERM; {REPORT}; while :; do tail -f /dev/null; done"), clock)
    task = await run.begin(limit=60.0)
    await clock.advance(60.5)
    await asyncio.sleep(0)
    assert not task.done(), "it is being reaped"
    await cancelled(task)


async def test_one_that_takes_too_long_is_ended(endless: Runs, clock: FakeClock) -> None:
    task = await endless.begin(limit=60.0)
    await clock.advance(59.9)
    assert not task.done()
    await clock.advance(0.2)
    with pytest.raises(TranscodeError, match="ffmpeg took longer than 60 s"):
        await task


async def test_one_that_gets_no_further_is_ended_before_its_time(endless: Runs, clock: FakeClock) -> None:
    task = await endless.begin(limit=100_000.0)
    await clock.advance(QUIET_LIMIT - 1.0)  # the first report came in this while
    assert not task.done()
    await clock.advance(QUIET_LIMIT + 1.0)
    with pytest.raises(TranscodeError, match="ffmpeg hung: it got no further for 300 s"):
        await task


async def test_the_same_report_again_is_no_progress(tmp_path: Path, clock: FakeClock) -> None:
    run = Runs(stand_in(tmp_path, f"while {REPORT}; do :; done"), clock)
    task = await run.begin(limit=100_000.0)
    await until(lambda: run.pieces > 10)
    await clock.advance(2 * QUIET_LIMIT)
    with pytest.raises(TranscodeError, match="ffmpeg hung"):
        await task


async def test_one_that_gets_further_has_all_its_time(tmp_path: Path, clock: FakeClock) -> None:
    os.mkfifo(tmp_path / "more")
    more = f'exec 3<>{tmp_path}/more; while read n <&3; do printf "frame=$n\\nprogress=continue\\n"; done'
    run = Runs(stand_in(tmp_path, f"{REPORT}; {more}"), clock)
    task = await run.begin(limit=100_000.0)
    for number in range(2, 6):
        await asyncio.to_thread((tmp_path / "more").write_text, f"{number}\n")
        await until(lambda: run.reader.last.frames == number)  # noqa: B023 - waited for at once
        await clock.advance(QUIET_LIMIT)
        assert not task.done()
    await cancelled(task)


async def test_what_the_listener_raises_ends_it_and_comes_out(tmp_path: Path, clock: FakeClock) -> None:
    ffmpeg = Ffmpeg(stand_in(tmp_path, f"while {REPORT}; do echo words >&2; done"), clock)

    def no_more(_piece: bytes) -> bool:
        raise TranscodeError("compressing does not make it smaller")

    with pytest.raises(TranscodeError, match="not make it smaller"):
        await ffmpeg.run(["-encode"], 60.0, no_more)


# --- when the agent itself is killed ---

AGENT = """
import asyncio, sys
from pathlib import Path
from sentinel_sync.scenarios.ffmpeg import Ffmpeg
from sentinel_sync.base.clock import SystemClock

async def main():
    def heard(piece):
        print("runs", flush=True)
        return True
    await Ffmpeg(Path(sys.argv[1]), SystemClock()).run(sys.argv[2:], 1000.0, heard)

asyncio.run(main())
"""
#: A picture without end, at its own pace.
ENDLESS = ("-nostdin", "-progress", "pipe:1", "-re", "-f", "lavfi", "-i", "testsrc2=s=64x48", "-f", "null", "-")


@pytest.mark.parametrize("source", SOURCES)
def test_ffmpeg_does_not_outlive_an_agent_that_is_killed(source: str) -> None:
    if shutil.which("setpriv") is None:
        pytest.skip("no setpriv: apt install util-linux")
    with subprocess.Popen(
        [sys.executable, "-c", AGENT, ffmpeg_of(source), *ENDLESS], cwd=REPOSITORY, stdout=subprocess.PIPE, text=True
    ) as agent:
        try:
            assert agent.stdout is not None
            assert agent.stdout.readline() == "runs\n"
            ((child, line),) = children_of(agent.pid).items()
            assert "testsrc2" in line
            assert state_of(child) is not None
        finally:
            agent.kill()
    try:
        asyncio.run(until(lambda: state_of(child) is None, "the end of the child"))
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.kill(child, signal.SIGKILL)


def test_one_whose_agent_died_while_it_was_started_does_not_begin() -> None:
    shell, *words = ffmpeg_module._LAST_WRAPPER
    for parent, begins in ((os.getpid(), True), (os.getppid(), False)):
        command = [shell, *words, str(parent), "echo", "begun"]
        tried = subprocess.run(command, check=False, capture_output=True, text=True)
        assert (tried.returncode == 0, tried.stdout) == (begins, "begun\n" if begins else "")


async def test_a_machine_without_the_guard_says_so(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, clock: FakeClock, caplog: pytest.LogCaptureFixture
) -> None:
    """As busybox has it: a `setpriv` that does not know the option, and no `ionice`."""
    for name in ("sh", "nice", "true", "tail"):
        (tmp_path / name).symlink_to(shutil.which(name) or pytest.skip(f"no {name}"))
    (tmp_path / "setpriv").write_text("#!/bin/sh\nexit 1\n")
    (tmp_path / "setpriv").chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path))
    run = Runs(stand_in(tmp_path, f"{REPORT}; {FOR_EVER}"), clock)
    with caplog.at_level(logging.WARNING):
        task = await run.begin()
    assert "ffmpeg.unguarded" in caplog.text
    assert niceness_of(run.process()) == 19
    await cancelled(task)
