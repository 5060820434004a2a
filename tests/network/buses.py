"""A D-Bus daemon of the test's own, and python-dbusmock's NetworkManager on it: neither is ours."""

import asyncio
import contextlib
import shutil
import subprocess
from collections.abc import AsyncIterator, Awaitable
from contextlib import asynccontextmanager
from functools import cache
from pathlib import Path
from typing import Any

import pytest
from dbus_fast import Message, MessageType, Variant
from dbus_fast.aio import MessageBus

NAME = "org.freedesktop.NetworkManager"
PATH = "/org/freedesktop/NetworkManager"
#: python-dbusmock comes with the system's Python (Debian: python3-dbusmock).
SYSTEM_PYTHON = "/usr/bin/python3"
PATIENCE = 15.0


@cache
def missing() -> str | None:
    """What these tests would need and this machine has not."""
    if shutil.which("dbus-daemon") is None:
        return "dbus-daemon is not installed (Debian: apt-get install dbus)"
    try:
        done = subprocess.run([SYSTEM_PYTHON, "-c", "import dbusmock"], check=False, capture_output=True)
    except FileNotFoundError:
        return f"there is no {SYSTEM_PYTHON}"
    return "python-dbusmock is not installed (Debian: apt-get install python3-dbusmock)" if done.returncode else None


def skip_without() -> None:
    """Skip the test, visibly."""
    why = missing()
    if why is not None:
        pytest.skip(why)


class Daemon:
    """A bus at an address, until it is stopped; it can be started again at the same one."""

    def __init__(self, folder: Path) -> None:
        self._socket = folder / "bus"
        self._process: asyncio.subprocess.Process | None = None
        self.address = f"unix:path={self._socket}"

    async def start(self) -> None:
        self._socket.unlink(missing_ok=True)
        self._process = await asyncio.create_subprocess_exec(
            "dbus-daemon",
            "--session",
            "--nofork",
            "--nopidfile",
            "--nosyslog",
            f"--address={self.address}",
            "--print-address",
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.DEVNULL,
        )
        assert self._process.stdout is not None
        async with asyncio.timeout(PATIENCE):
            assert await self._process.stdout.readline()

    async def stop(self) -> None:
        if self._process is not None:
            self._process.kill()
            await self._process.wait()
            self._process = None


class NetworkManager:
    """Somebody else's NetworkManager: python-dbusmock's template, with what the real one says of price and link."""

    def __init__(self, address: str) -> None:
        self._address = address
        self._process: asyncio.subprocess.Process | None = None
        self._bus: MessageBus | None = None

    async def start(self, metered: int, connection_type: str) -> None:
        """Appear on the bus and say this."""
        self._bus = await MessageBus(bus_address=self._address).connect()
        self._process = await asyncio.create_subprocess_exec(
            SYSTEM_PYTHON,
            "-m",
            "dbusmock",
            "--system",
            "--template",
            "networkmanager",
            env={"DBUS_SYSTEM_BUS_ADDRESS": self._address, "PATH": "/usr/bin:/bin"},
            stdout=asyncio.subprocess.DEVNULL,
        )
        async with asyncio.timeout(PATIENCE):
            while not await self._has_name():  # noqa: ASYNC110 - another process sets no event
                await asyncio.sleep(0.02)
        await self._mock("AddProperties", NAME, self._words(metered, connection_type))
        await self.say(metered, connection_type)

    async def say(self, metered: int, connection_type: str) -> None:
        """Change the properties as NetworkManager does: with a signal."""
        await self._mock("UpdateProperties", NAME, self._words(metered, connection_type))

    async def say_something_else(self) -> None:
        """A signal that is about neither price nor link."""
        await self._mock("UpdateProperties", NAME, {"WirelessEnabled": Variant("b", False)})

    async def stop(self) -> None:
        """Vanish, as in a crash."""
        if self._process is not None:
            with contextlib.suppress(ProcessLookupError):  # it ends by itself when its bus does
                self._process.kill()
            await self._process.wait()
            self._process = None
        if self._bus is not None:
            self._bus.disconnect()
            gone: Awaitable[None] = self._bus.wait_for_disconnect()  # type: ignore[no-untyped-call]
            await asyncio.gather(gone, return_exceptions=True)
            self._bus = None

    @staticmethod
    def _words(metered: int, connection_type: str) -> dict[str, Variant]:
        return {"Metered": Variant("u", metered), "PrimaryConnectionType": Variant("s", connection_type)}

    async def _has_name(self) -> bool:
        (has,) = await self._call(
            "org.freedesktop.DBus", "/org/freedesktop/DBus", "org.freedesktop.DBus", "NameHasOwner", "s", [NAME]
        )
        return bool(has)

    async def _mock(self, member: str, *body: Any) -> None:
        await self._call(NAME, PATH, "org.freedesktop.DBus.Mock", member, "sa{sv}", list(body))

    async def _call(self, to: str, path: str, interface: str, member: str, signature: str, body: list[Any]) -> Any:
        assert self._bus is not None
        reply = await self._bus.call(
            Message(destination=to, path=path, interface=interface, member=member, signature=signature, body=body)
        )
        assert reply is not None
        assert reply.message_type is not MessageType.ERROR, reply.body
        return reply.body


@asynccontextmanager
async def running_bus(folder: Path) -> AsyncIterator[tuple[Daemon, NetworkManager]]:
    """A bus, and a NetworkManager that is not on it yet."""
    daemon = Daemon(folder)
    await daemon.start()
    manager = NetworkManager(daemon.address)
    try:
        yield daemon, manager
    finally:
        await manager.stop()
        await daemon.stop()
