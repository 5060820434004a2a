"""ffmpeg as a child process: found, asked what it can do, run at the lowest priority, and never left behind.

No `preexec_fn`: it runs Python between fork and exec, which deadlocks where another thread of the host holds a lock,
and it keeps CPython from using vfork, so that the loop would stand still while a large host is copied. What must
happen in the child is done by small programs of the system instead, each of which becomes the next by exec: the
process that was started is the one that is ffmpeg in the end.
"""

import asyncio
import contextlib
import logging
import os
import shutil
import signal
import subprocess
from asyncio.subprocess import DEVNULL, PIPE, Process
from collections.abc import Callable, Coroutine, Sequence
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from typing import Any

from sentinel_sync.base.clock import Clock
from sentinel_sync.base.tasks import run_to_end
from sentinel_sync.scenarios.rules.compression import StderrText, processor_limit, video_encoders

logger: logging.Logger = logging.getLogger(__name__)

#: What is put before ffmpeg where the machine has it and lets it be used. `nice` and `ionice` give the processor and
#: the disk to everybody else first. `setpriv` has the kernel kill ffmpeg when the thread of our loop is gone, so not
#: even a SIGKILL of the agent leaves it running (util-linux 2.33; busybox's has no such option).
_WRAPPERS = (
    ("nice", "-n", "19"),
    ("ionice", "-c", "3"),
    ("setpriv", "--pdeathsig", "KILL"),
)
#: Put last, as a shell's: had the agent died before `setpriv` was there to notice, the parent is another by now; and
#: where memory runs short, the kernel is to take ffmpeg before anything that drives.
_LAST_WRAPPER = (
    "sh",
    "-c",
    'test "$PPID" -eq "$0" || exit 1; { echo 1000 >/proc/self/oom_score_adj; } 2>/dev/null; exec "$@"',
)
#: Of the host's environment, only this is for ffmpeg: the rest may hold a credential, or change what it does.
_PASSED_ON = ("PATH", "LD_LIBRARY_PATH")
_ENVIRONMENT = {"LC_ALL": "C", "AV_LOG_FORCE_NOCOLOR": "1", "SVT_LOG": "1"}

#: Seconds that ffmpeg has to end by itself once it is told to; its result is not wanted any more.
_TERMINATE_PATIENCE = 0.5
#: Seconds that a killed process may take to be gone; more takes one whose disk does not answer.
_KILL_PATIENCE = 5.0
#: Seconds for saying which encoders there are.
_ASKING_LIMIT = 30.0
#: Seconds without any news of progress after which ffmpeg hangs. Encoders have been seen to, after an error.
QUIET_LIMIT = 300.0
_READ_BYTES = 64 << 10


class TranscodeError(Exception):
    """A video is not made, for the reason said. Does not leave `Transcoder`.

    Attributes:
        is_recordings_fault: Whether it would be the same another time.
    """

    def __init__(self, reason: str, *, is_recordings_fault: bool = False) -> None:
        super().__init__(reason)
        self.is_recordings_fault = is_recordings_fault


@dataclass(frozen=True, slots=True)
class FfmpegBinary:
    """An ffmpeg that can be run.

    Attributes:
        path: Absolute.
        encoders: Names of its video encoders.
        wrappers: Command line to put before it.
    """

    path: str
    encoders: frozenset[str]
    wrappers: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class RunResult:
    """How a run of ffmpeg ended.

    Attributes:
        exit_code: Negative for the signal that killed it.
        words: What it said to people: the beginning and the end.
    """

    exit_code: int
    words: str


class Ffmpeg:
    """Finds ffmpeg and runs it.

    Args:
        wanted: The one to use (`ffmpeg_path`); None for the one on PATH, else the wheel's.
        clock: For time limits.
    """

    def __init__(self, wanted: Path | None, clock: Clock) -> None:
        self._wanted = wanted
        self._clock = clock
        self._program: FfmpegBinary | None = None

    async def program(self) -> FfmpegBinary:
        """The ffmpeg of this machine, asked once which encoders it has. One that is missing is looked for each time.

        Raises:
            TranscodeError: There is none that works.
        """
        if self._program is None:
            path = await run_to_end(_locate, self._wanted)
            asked = FfmpegBinary(path, frozenset(), await run_to_end(_working_wrappers))
            listing: list[bytes] = []

            def on_output(piece: bytes) -> bool:
                listing.append(piece)
                return True

            ending = await self._run(asked, ["-hide_banner", "-encoders"], _ASKING_LIMIT, on_output)
            if ending.exit_code != 0:
                raise TranscodeError(f"ffmpeg does not say its encoders (exit code {ending.exit_code})")
            encoders = video_encoders(b"".join(listing).decode("utf-8", "replace"))
            self._program = FfmpegBinary(path, encoders, asked.wrappers)
            logger.info("ffmpeg.found: %d video encoders, %d wrappers", len(encoders), len(asked.wrappers))
            if "setpriv" not in {Path(word).name for word in asked.wrappers}:
                logger.warning(
                    "ffmpeg.unguarded: there is no setpriv with --pdeathsig (util-linux): an ffmpeg whose agent is"
                    " killed goes on until it has used up its processor time"
                )
        return self._program

    async def run(
        self,
        arguments: Sequence[str],
        limit: float,
        on_output: Callable[[bytes], bool],
        pass_file: int | None = None,
    ) -> RunResult:
        """Run ffmpeg to its end; when this returns or raises, it is gone.

        Args:
            arguments: With what goes to `pipe:1`.
            limit: Seconds after which it is ended.
            on_output: Takes that as it comes, and says whether it got any further; what it raises ends ffmpeg, and
                comes out here.
            pass_file: A file descriptor that it gets, by the same number.

        Raises:
            TranscodeError: It cannot be started, took too long, or hangs.
        """
        bounded = [*processor_limit(limit, os.cpu_count() or 1), *arguments]
        return await self._run(await self.program(), bounded, limit, on_output, pass_file)

    async def _run(
        self,
        program: FfmpegBinary,
        arguments: Sequence[str],
        limit: float,
        on_output: Callable[[bytes], bool],
        pass_file: int | None = None,
    ) -> RunResult:
        try:
            # Spawned on the loop (vfork: well below a millisecond), not in a thread: the kernel's signal comes when
            # the thread that spawned is gone, and a pool's thread may go at any time.
            process = await asyncio.create_subprocess_exec(
                *program.wrappers,
                program.path,
                *arguments,
                stdin=DEVNULL,
                stdout=PIPE,
                stderr=PIPE,
                pass_fds=() if pass_file is None else (pass_file,),
                start_new_session=True,  # a terminal's Ctrl-C is the agent's to handle; and all of it can be killed
                env={name: os.environ[name] for name in _PASSED_ON if name in os.environ} | _ENVIRONMENT,
            )
        except OSError as error:
            raise TranscodeError(f"ffmpeg cannot be started ({error.strerror})") from None
        run = _Run(process, on_output)
        talking = asyncio.create_task(run.listen())
        watching = asyncio.create_task(run.watch(limit, self._clock))
        try:
            await asyncio.wait({talking, watching}, return_when=asyncio.FIRST_COMPLETED)
            if not talking.done():
                raise TranscodeError(watching.result())
            return talking.result()
        finally:
            await _to_its_end(run.reap(talking, watching))


class _Run:
    """One child process, from its start until it is gone.

    Args:
        process: With pipes for what it writes.
        on_output: Takes what it writes to the first, and says whether it got any further.
    """

    def __init__(self, process: Process, on_output: Callable[[bytes], bool]) -> None:
        self._process = process
        self._on_output = on_output
        self._words = StderrText()
        self._events = 0

    async def listen(self) -> RunResult:
        """Take what it says until it has ended. Both pipes are emptied all the time: a full one would stop it."""
        errors = asyncio.create_task(_read(self._process.stderr, self._words.feed))
        try:
            await _read(self._process.stdout, self._heard)
            await errors
            return RunResult(await self._process.wait(), self._words.text)
        finally:  # two may not read one pipe, and `reap` will
            errors.cancel()
            await asyncio.gather(errors, return_exceptions=True)

    def _heard(self, piece: bytes) -> None:
        self._events += self._on_output(piece)

    async def watch(self, limit: float, clock: Clock) -> str:
        """Wait until it has taken too long; return what is wrong.

        Time in which the machine sleeps does not count: it is slept away here too.
        """
        left = limit
        while left > 0.0:
            events, nap = self._events, min(left, QUIET_LIMIT)
            await clock.sleep(nap)
            left -= nap
            if nap == QUIET_LIMIT and self._events == events:
                return f"ffmpeg hung: it got no further for {QUIET_LIMIT:.0f} s"
        return f"ffmpeg took longer than {limit:.0f} s"

    async def reap(self, talking: asyncio.Task[RunResult], watching: asyncio.Task[str]) -> None:
        """End what is still going on, the process and all that it started."""
        ended = talking.done() and not talking.cancelled() and talking.exception() is None
        talking.cancel()
        watching.cancel()
        await asyncio.gather(talking, watching, return_exceptions=True)
        if ended:
            return
        emptying = asyncio.gather(
            _read(self._process.stdout, _ignore),
            _read(self._process.stderr, _ignore),
            self._process.wait(),
            return_exceptions=True,
        )
        for wanted, patience in ((signal.SIGTERM, _TERMINATE_PATIENCE), (signal.SIGKILL, _KILL_PATIENCE)):
            with contextlib.suppress(ProcessLookupError):
                os.killpg(self._process.pid, wanted)
            await asyncio.wait({emptying}, timeout=patience)
            if emptying.done():
                return
        logger.warning("ffmpeg.left: process %d was killed but does not end", self._process.pid)
        emptying.cancel()
        await asyncio.gather(emptying, return_exceptions=True)


async def _read(pipe: asyncio.StreamReader | None, take: Callable[[bytes], None]) -> None:
    while pipe is not None and (piece := await pipe.read(_READ_BYTES)):
        take(piece)


def _ignore(_piece: bytes) -> None:
    """Take what nobody wants any more."""


async def _to_its_end(work: Coroutine[Any, Any, None]) -> None:
    """Do something that a cancellation, or a second one, must not keep from being done."""
    task = asyncio.ensure_future(work)
    cancelled: asyncio.CancelledError | None = None
    while not task.done():
        try:
            await asyncio.wait({task})
        except asyncio.CancelledError as error:
            cancelled = error
    task.result()
    if cancelled is not None:
        raise cancelled


def _locate(wanted: Path | None) -> str:
    """Absolute path of the ffmpeg to use. Blocks."""
    if wanted is not None:
        found = _which(str(wanted))
        if found is None:
            raise TranscodeError("cloud.ffmpeg_path names no program that can be run")
    else:
        found = _which("ffmpeg") or _of_the_wheel()
        if found is None:
            raise TranscodeError("there is no ffmpeg: install it, or the extra sentinel-sync[video]")
    return found


def _which(name: str) -> str | None:
    found = shutil.which(name)
    return None if found is None else str(Path(found).absolute())


def _of_the_wheel() -> str | None:
    try:
        return str(import_module("imageio_ffmpeg").get_ffmpeg_exe())
    except (ImportError, RuntimeError, OSError):
        return None


def _working_wrappers() -> tuple[str, ...]:
    """Those of the wrappers that this machine has, and lets be used. Blocks."""
    wrappers: list[str] = []
    for name, *options in _WRAPPERS:
        if (path := _which(name)) is not None and _works(trial := [path, *options]):
            wrappers += trial
    if (shell := _which(_LAST_WRAPPER[0])) is not None:
        wrappers += [shell, *_LAST_WRAPPER[1:], str(os.getpid())]
    return tuple(wrappers)


def _works(wrapper: Sequence[str]) -> bool:
    """Whether it runs a program that does nothing, within the time that asking may take."""
    try:
        tried = subprocess.run([*wrapper, "true"], check=False, capture_output=True, timeout=_ASKING_LIMIT)  # noqa: S603
    except (OSError, subprocess.TimeoutExpired):
        return False
    return tried.returncode == 0
