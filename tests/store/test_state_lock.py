"""One agent per state folder; a dead one's lock is no obstacle, and looking at it takes it from nobody."""

import asyncio
import fcntl
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from sentinel_sync.base.errors import StateLockedError
from sentinel_sync.store.store import LOCK_NAME, StateLock, Store, is_locked

HOLD = """
import sys, time
from pathlib import Path
from sentinel_sync.store.store import StateLock
lock = StateLock(Path(sys.argv[1]))
lock.acquire()
print("held", flush=True)
time.sleep(60)
"""


@contextmanager
def held_elsewhere(folder: Path) -> Iterator[int]:
    """Another process holds the lock; yields its id."""
    with subprocess.Popen([sys.executable, "-c", HOLD, str(folder)], stdout=subprocess.PIPE, text=True) as holder:
        assert holder.stdout is not None
        assert holder.stdout.readline() == "held\n"
        try:
            yield holder.pid
        finally:
            holder.kill()


def test_a_second_agent_in_another_process_is_refused_by_name(tmp_path: Path) -> None:
    with held_elsewhere(tmp_path) as owner:
        assert is_locked(tmp_path)
        with pytest.raises(StateLockedError, match=rf"process {owner}\).*state_dir of its own"):
            StateLock(tmp_path).acquire()


def test_a_killed_agents_lock_is_no_obstacle(tmp_path: Path) -> None:
    with held_elsewhere(tmp_path) as owner:
        os.kill(owner, signal.SIGKILL)
        os.waitpid(owner, 0)
        assert (tmp_path / LOCK_NAME).read_text() == str(owner)
        assert not is_locked(tmp_path)
        lock = StateLock(tmp_path)
        lock.acquire()
        assert (tmp_path / LOCK_NAME).read_text() == str(os.getpid())
        lock.release()


async def test_a_second_agent_in_the_same_process_is_refused_and_the_first_goes_on(tmp_path: Path) -> None:
    async with Store(tmp_path) as first:
        with pytest.raises(StateLockedError, match=f"process {os.getpid()}"):
            await Store(tmp_path).open()
        assert (await first.outbox.counts()).unsent == 0
        assert is_locked(tmp_path)
    assert not is_locked(tmp_path)
    async with Store(tmp_path):
        assert is_locked(tmp_path)


def test_looking_whether_an_agent_runs_writes_nothing(tmp_path: Path) -> None:
    assert not is_locked(tmp_path)
    assert not is_locked(tmp_path / "nowhere")
    assert list(tmp_path.iterdir()) == []


def test_an_agent_that_starts_while_somebody_looks_is_not_refused(tmp_path: Path) -> None:
    """`is_locked` holds the lock itself for an instant."""
    path = tmp_path / LOCK_NAME
    path.touch()
    looking, looked = threading.Event(), threading.Event()

    def look() -> None:
        with path.open() as file:
            fcntl.flock(file, fcntl.LOCK_SH)
            looking.set()
            looked.wait(0.03)

    looker = threading.Thread(target=look)
    looker.start()
    looking.wait()
    lock = StateLock(tmp_path)
    lock.acquire()
    lock.release()
    looker.join()


def test_a_child_that_the_host_forked_does_not_keep_the_lock(tmp_path: Path) -> None:
    lock = StateLock(tmp_path)
    lock.acquire()
    child = os.fork()
    if child == 0:
        signal.pause()
        os._exit(0)
    try:
        lock.release()
        assert not is_locked(tmp_path)
    finally:
        os.kill(child, signal.SIGKILL)
        os.waitpid(child, 0)


async def test_an_opening_that_was_cancelled_gives_the_lock_back(tmp_path: Path) -> None:
    store = Store(tmp_path)
    opening = asyncio.create_task(store.open())
    await asyncio.sleep(0)  # it has begun: its thread takes the lock, whatever becomes of who waits
    opening.cancel()
    with pytest.raises(asyncio.CancelledError):
        await opening
    assert not is_locked(tmp_path)
    await store.open()
    assert is_locked(tmp_path)
    await store.close()


def test_a_lock_file_of_garbage_is_no_obstacle(tmp_path: Path) -> None:
    (tmp_path / LOCK_NAME).write_bytes(b"\xff\xfe not a number")
    lock = StateLock(tmp_path)
    lock.acquire()
    lock.release()
