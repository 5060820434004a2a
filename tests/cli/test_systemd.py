"""sd_notify."""

import asyncio
import os
import socket
from collections.abc import Iterator
from pathlib import Path

import pytest

from sentinel_sync.cli.session import ServiceNotifier


@pytest.fixture
def manager(tmp_path: Path) -> Iterator[socket.socket]:
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as receiver:
        receiver.settimeout(10.0)
        receiver.bind(str(tmp_path / "notify"))
        yield receiver


def test_facts_arrive_as_one_datagram(manager: socket.socket) -> None:
    ServiceNotifier({"NOTIFY_SOCKET": str(manager.getsockname())}).tell(READY="1", STATUS="running")
    assert manager.recv(1000) == b"READY=1\nSTATUS=running"


def test_an_abstract_socket_is_reached() -> None:
    name = f"sentinel-sync-test-{os.getpid()}"
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as receiver:
        receiver.settimeout(10.0)
        receiver.bind(f"\0{name}")
        ServiceNotifier({"NOTIFY_SOCKET": f"@{name}"}).tell(STOPPING="1")
        assert receiver.recv(1000) == b"STOPPING=1"


def test_without_a_manager_or_with_a_dead_one_nothing_happens(tmp_path: Path) -> None:
    ServiceNotifier({}).tell(READY="1")
    ServiceNotifier({"NOTIFY_SOCKET": str(tmp_path / "gone")}).tell(READY="1")


async def test_the_watchdog_is_told_while_the_loop_lives(manager: socket.socket) -> None:
    environment = {"NOTIFY_SOCKET": str(manager.getsockname()), "WATCHDOG_USEC": "20000"}
    task = asyncio.create_task(ServiceNotifier(environment).keep_watchdog())
    heard = [await asyncio.to_thread(manager.recv, 1000) for _ in range(3)]
    task.cancel()
    assert heard == [b"WATCHDOG=1"] * 3


@pytest.mark.parametrize("watchdog", [{}, {"WATCHDOG_USEC": "20000", "WATCHDOG_PID": "1"}, {"WATCHDOG_USEC": "soon"}])
async def test_no_watchdog_is_kept_that_is_not_asked_of_this_process(
    manager: socket.socket, watchdog: dict[str, str]
) -> None:
    async with asyncio.timeout(10.0):
        await ServiceNotifier({"NOTIFY_SOCKET": str(manager.getsockname()), **watchdog}).keep_watchdog()
