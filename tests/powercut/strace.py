"""Runs an operation under strace: which calls it makes, and what becomes of it when one fails or is its last."""

import json
import os
import re
import shutil
import signal
import subprocess
import sys
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import IO

from tests.powercut.disk import OPTIONS, RecordedRun

#: Calls that change what is on disk, or make it durable.
CALLS = ("write", "pwrite64", "fsync", "fdatasync", "rename", "unlink", "ftruncate")
#: What happens at a call: the process is killed before it is made, or the call fails.
FAULTS = {"SIGKILL": "signal=SIGKILL", "EIO": "error=EIO", "ENOSPC": "error=ENOSPC"}
_LINE = re.compile(r"(\d+)\s+(\w+)\((?:\d+<([^>]*)>|\"([^\"]*)\")")


@dataclass(frozen=True, slots=True)
class Point:
    """One call of an operation: the `number`th (from 1) of its name that concerns `path`, on one of two threads."""

    call: str
    path: str
    is_stores: bool
    number: int


@dataclass(frozen=True, slots=True)
class Ended:
    """How an operation ended: its exit code, negative for a signal, and what it had acknowledged."""

    process: int
    code: int
    acknowledged: set[str]


class Bench:
    """Forks the operation, attaches strace, lets it go.

    Args:
        folder: An empty one for everything.
    """

    def __init__(self, folder: Path) -> None:
        self._template = folder / "template"
        self.work: Path = folder / "work"
        self._acks = folder / "acks"
        self._log = folder / "strace.log"
        self._worker: subprocess.Popen[str] | None = None

    @property
    def template(self) -> Path:
        """What the operation finds."""
        return self._template

    @contextmanager
    def running(self) -> Iterator["Bench"]:
        environment = os.environ | {"PYTHONDONTWRITEBYTECODE": "1"}
        command = [sys.executable, "-m", "tests.powercut.worker"]
        with subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=environment
        ) as self._worker:
            try:
                yield self
            finally:
                _pipe(self._worker.stdin).close()

    def points(self, operation: str) -> list[Point]:
        """Every call that the operation makes, in the order in which each was first made."""
        ended = self._run(operation, ["-f", "-y", "-s", "0", "-e", f"trace={','.join(CALLS)}", "-o", str(self._log)])
        assert ended.code == 0, "undisturbed it works"
        assert ended.acknowledged, "and says so"
        counts: Counter[tuple[str, str, str]] = Counter()
        for line in self._log.read_text().splitlines():
            if (found := _LINE.match(line)) is None:
                continue
            thread, call, by_descriptor, by_name = found.groups()
            path = by_descriptor or by_name
            if path.startswith(str(self.work)):
                counts[call, path, thread] += 1
        main = str(ended.process)
        assert len({thread for *_, thread in counts} - {main}) <= 1, "the loop's thread, and the store's"
        return [
            Point(call, path, thread != main, number)
            for (call, path, thread), calls in counts.items()
            for number in range(1, calls + 1)
        ]

    def record(self, operation: str) -> RecordedRun:
        """All that the operation does to the disk."""
        ended = self._run(operation, [*OPTIONS, "-o", str(self._log)])
        assert ended.code == 0, "undisturbed it works"
        run = RecordedRun(self._template, self.work, self._acks, self._log.read_text())
        assert {word for _, word in run.acknowledged} == ended.acknowledged, "and the log says all of it"
        return run

    def fail(self, operation: str, point: Point, fault: str) -> Ended:
        """The operation, disturbed at one point."""
        injection = f"inject={point.call}:{FAULTS[fault]}:when={point.number}"
        # strace counts calls by thread, so it is given only the one.
        options = ["-P", point.path, "-e", f"trace={point.call}", "-e", injection, "-o", "/dev/null"]
        return self._run(operation, options, is_stores=point.is_stores)

    def _run(self, operation: str, options: list[str], *, is_stores: bool = False) -> Ended:
        if self._worker is None:
            raise RuntimeError("the bench is not running")
        shutil.rmtree(self.work, ignore_errors=True)
        shutil.copytree(self._template, self.work)
        self._acks.write_text("")
        order = {"operation": operation, "folder": str(self.work), "acks": str(self._acks), "stop_at_thread": is_stores}
        worker_in, worker_out = _pipe(self._worker.stdin), _pipe(self._worker.stdout)
        worker_in.write(json.dumps(order) + "\n")
        worker_in.flush()
        traced = child = int(worker_out.readline())
        if is_stores:
            os.kill(child, signal.SIGCONT)
            traced = int(worker_out.readline())
        with subprocess.Popen(["strace", "-p", str(traced), *options], stderr=subprocess.PIPE, text=True) as tracer:
            assert "attached" in _pipe(tracer.stderr).readline()
            os.kill(child, signal.SIGCONT)
            code = int(worker_out.readline())
            tracer.wait()
        return Ended(child, code, set(self._acks.read_text().splitlines()))


def _pipe(stream: IO[str] | None) -> IO[str]:
    if stream is None:
        raise RuntimeError("there is no pipe")
    return stream
