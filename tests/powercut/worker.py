"""A process that has everything imported, and forks a child for each operation: `python -m tests.powercut.worker`.

A line of its input is JSON: `{"operation", "folder", "acks", "stop_at_thread"}`. The child stops itself before it
begins, so that strace can be attached, and once more where the store's thread begins; their ids are said, and how it
ended.
"""

import asyncio
import itertools
import json
import os
import secrets
import signal
import sys
import threading
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any, TextIO

from sentinel_sync.base.errors import SentinelSyncError
from tests.powercut.scenarios import CONTROLS, OPERATIONS

#: The operation said, by one of our own errors, that it could not be done.
REFUSED = 3


class _Inline(ThreadPoolExecutor):
    """Blocking calls on the loop's own thread: strace counts calls by thread, and a pool takes any of its threads."""

    def submit(self, fn: Callable[..., Any], /, *args: Any, **kwargs: Any) -> "Future[Any]":
        future: Future[Any] = Future()
        try:
            future.set_result(fn(*args, **kwargs))
        except BaseException as error:  # whoever waits for it gets it
            future.set_exception(error)
        return future


async def _act(operation: str, folder: Path, acks: Path) -> None:
    asyncio.get_running_loop().set_default_executor(_Inline())

    def acknowledge(word: str) -> None:
        with acks.open("a") as file:
            file.write(f"{word}\n")

    await (OPERATIONS | CONTROLS)[operation].act(folder, acknowledge)


def _stop_at_thread(notice: int) -> None:
    """Have the store's thread write its id to a pipe, and stop the process."""
    run = threading.Thread.run

    def stopped(thread: threading.Thread) -> None:
        if "store" in thread.name:
            os.write(notice, f"{threading.get_native_id()}\n".encode())
            os.kill(os.getpid(), signal.SIGSTOP)
        run(thread)

    threading.Thread.run = stopped  # type: ignore[method-assign,assignment]


def _child(operation: str, folder: Path, acks: Path) -> int:
    # The names of temporary files, by which calls are told apart, are the same in each run.
    numbers = itertools.count()
    secrets.token_hex = lambda nbytes=None: f"{next(numbers):0{2 * (nbytes or 4)}x}"
    os.kill(os.getpid(), signal.SIGSTOP)
    try:
        asyncio.run(_act(operation, folder, acks))
    except SentinelSyncError as error:
        _say(sys.stderr, f"{type(error).__name__}: {error}")
        return REFUSED
    return 0


def _say(where: TextIO, what: object) -> None:
    where.write(f"{what}\n")
    where.flush()


def main() -> None:
    for line in sys.stdin:
        order = json.loads(line)
        noticed, notice = os.pipe()
        process = os.fork()
        if process == 0:
            code = 70
            try:
                if order["stop_at_thread"]:
                    _stop_at_thread(notice)
                code = _child(order["operation"], Path(order["folder"]), Path(order["acks"]))
            except BaseException as error:  # whatever it is, the judge is told
                _say(sys.stderr, f"{type(error).__name__}: {error}")
            finally:
                os._exit(code)
        os.waitpid(process, os.WUNTRACED)
        _say(sys.stdout, process)
        if order["stop_at_thread"]:
            # Said once it has stopped: what comes to go on before that would be lost on it.
            if not os.WIFSTOPPED(os.waitpid(process, os.WUNTRACED)[1]):
                raise RuntimeError(f"{order['operation']} ended before its store's thread began")
            _say(sys.stdout, os.read(noticed, 64).decode().strip())
        os.close(noticed)
        os.close(notice)
        _say(sys.stdout, os.waitstatus_to_exitcode(os.waitpid(process, 0)[1]))


if __name__ == "__main__":
    main()
