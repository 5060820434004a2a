"""What NetworkManager sees, over D-Bus (the extra `network`): asked once, then told by its signals."""

import asyncio
import logging
import os
from collections.abc import Callable
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from sentinel_sync.base.clock import Clock
from sentinel_sync.network.rules.traffic import Metered, ObservedNetwork, link_of

logger: logging.Logger = logging.getLogger(__name__)

_NAME = "org.freedesktop.NetworkManager"
_PATH = "/org/freedesktop/NetworkManager"
_PROPERTIES = "org.freedesktop.DBus.Properties"
_BUS = "org.freedesktop.DBus"
#: Signals of NetworkManager's own object, and its coming and going.
_MATCHES = (
    f"type='signal',sender='{_NAME}',path='{_PATH}',interface='{_PROPERTIES}',member='PropertiesChanged'",
    f"type='signal',sender='{_BUS}',interface='{_BUS}',member='NameOwnerChanged',arg0='{_NAME}'",
)
_TOLD = frozenset({"Metered", "PrimaryConnectionType"})
#: Where the system bus is if the environment does not say (the D-Bus specification).
_SYSTEM_BUS = "unix:path=/var/run/dbus/system_bus_socket"
#: Seconds that a bus or NetworkManager may take for an answer.
_PATIENCE = 2.0
#: Seconds between two tries to connect to a bus that was not there.
_RETRY = 60.0
#: Seconds for which its last word counts when it has gone: while it is updated, a metered network stays metered.
WORD_COUNTS_FOR = 300.0
#: For the next look, where nothing but a signal brings news (seconds).
_NOTHING_TO_DO = 3600.0


class NetworkManagerWatch:
    """Listens to NetworkManager. That it, the bus or the extra is not there is normal, and said once.

    Args:
        on_news: Called in the loop when there is a reason to `look`.
        bus_address: Of the system bus; by default as the environment says.
    """

    def __init__(self, on_news: Callable[[], None], *, clock: Clock, bus_address: str | None = None) -> None:
        self._on_change = on_news
        self._clock = clock
        self._bus_address = bus_address
        self._bus: Any = None
        self._gone: asyncio.Task[None] | None = None
        self._stale = True
        self._tried_at: float | None = None
        self._observed: ObservedNetwork | None = None
        self._lost_at: float | None = None
        self._looking = asyncio.Lock()
        self._said = ""

    @property
    def observed(self) -> ObservedNetwork | None:
        """What it sees, or saw a moment before it went; None where it has nothing to say."""
        if self._lost_at is not None and self._clock.monotonic() - self._lost_at >= WORD_COUNTS_FOR:
            return None
        return self._observed

    async def look(self) -> float:
        """Connect where that is due, and ask where there is news; returns the seconds until the next look is due."""
        async with self._looking:
            now = self._clock.monotonic()
            if self._bus is None and (self._tried_at is None or now - self._tried_at >= _RETRY):
                self._tried_at = now
                await self._connect()
            if self._bus is not None and self._stale:
                await self._ask()
        waits = [_NOTHING_TO_DO]
        if self._bus is None and self._tried_at is not None:
            waits.append(self._tried_at + _RETRY - now)
        if self._lost_at is not None:
            waits.append(self._lost_at + WORD_COUNTS_FOR - now)
        return min(wait for wait in waits if wait > 0.0)

    async def close(self) -> None:
        """Leave the bus."""
        async with self._looking:
            await self._leave()
            self._tried_at = None

    async def _connect(self) -> None:
        address = self._bus_address or os.environ.get("DBUS_SYSTEM_BUS_ADDRESS") or _SYSTEM_BUS
        lacking = await asyncio.to_thread(_lacking, address)
        if lacking is not None:
            self._say(lacking)
            return
        # Takes tens of milliseconds, and memory that a machine without a bus need not spend.
        dbus = await asyncio.to_thread(import_module, "dbus_fast.aio")
        try:
            async with asyncio.timeout(_PATIENCE):
                bus = dbus.MessageBus(bus_address=address)
                await bus.connect()
                self._bus = bus
                self._gone = asyncio.create_task(_until_gone(bus), name="sync.network.bus")
                self._gone.add_done_callback(self._on_gone)
                bus.add_message_handler(self._on_message)
                for match in _MATCHES:
                    await self._call(_BUS, "/org/freedesktop/DBus", _BUS, "AddMatch", "s", [match])
        except BaseException as error:
            await self._leave()
            # Whatever a bus or its library does wrong, it only means that nothing is known from there.
            if not isinstance(error, Exception):
                raise
            self._say(f"the system bus cannot be used ({str(error) or type(error).__name__})")
        self._stale = True

    async def _ask(self) -> None:
        # News that comes while it answers is a reason to ask again.
        self._stale = False
        try:
            async with asyncio.timeout(_PATIENCE):
                (values,) = await self._call(_NAME, _PATH, _PROPERTIES, "GetAll", "s", [_NAME])
        except Exception as error:  # absent, starting, hanging, or another program under its name: all normal
            self._lose(f"NetworkManager does not answer ({str(error) or type(error).__name__})")
            return
        self._observed, self._lost_at = _sight_of(values), None
        self._say("NetworkManager is there")

    async def _call(self, to: str, path: str, interface: str, member: str, signature: str, body: list[Any]) -> Any:
        dbus = import_module("dbus_fast")
        message = dbus.Message(
            destination=to,
            path=path,
            interface=interface,
            member=member,
            signature=signature,
            body=body,
            # Whoever runs a vehicle without NetworkManager does not want it started by a question.
            flags=dbus.MessageFlag.NO_AUTOSTART,
        )
        reply = await self._bus.call(message)
        if reply.message_type is dbus.MessageType.ERROR:
            raise dbus.DBusError(reply.error_name, str(reply.body[0]) if reply.body else "no reason given", reply)
        return reply.body

    def _on_message(self, message: Any) -> None:
        match (message.sender, message.member, message.signature):
            case (_, "PropertiesChanged", "sa{sv}as") if message.path == _PATH:
                _, changed, invalidated = message.body
                if not _TOLD & {*changed, *invalidated}:
                    return
                self._stale = True
            case (sender, "NameOwnerChanged", "sss") if sender == _BUS and message.body[0] == _NAME:
                self._stale = bool(message.body[2])
                if not self._stale:
                    self._lose("NetworkManager has gone")
            case _:
                return
        self._on_change()

    def _on_gone(self, gone: "asyncio.Task[None]") -> None:
        if gone is not self._gone:  # we left
            return
        self._bus, self._gone = None, None
        self._lose("the system bus has gone")
        self._on_change()

    async def _leave(self) -> None:
        bus, gone, self._bus, self._gone = self._bus, self._gone, None, None
        if bus is None or gone is None:
            return
        bus.disconnect()
        # Its socket is closed in the loop.
        await asyncio.wait({gone}, timeout=_PATIENCE)
        gone.cancel()

    def _lose(self, why: str) -> None:
        if self._observed is not None and self._lost_at is None:
            self._lost_at = self._clock.monotonic()
        self._say(why)

    def _say(self, what: str) -> None:
        if what != self._said:
            self._said = what
            logger.info("network.manager: %s", what)


async def _until_gone(bus: Any) -> None:
    # How it ended is of no interest: a bus goes when its machine or its daemon does.
    await asyncio.gather(bus.wait_for_disconnect(), return_exceptions=True)


def _lacking(address: str) -> str | None:
    """What there would have to be to connect to a bus; where that is no plain socket, only connecting tells. Blocks."""
    kind, _, rest = address.partition(":")
    options = dict(option.partition("=")[::2] for option in rest.split(";")[0].split(","))
    if kind == "unix" and "path" in options and not Path(options["path"]).exists():
        return "there is no system bus"
    return None if find_spec("dbus_fast") else "the extra `network` (dbus-fast) is not installed"


def _sight_of(values: dict[str, Any]) -> ObservedNetwork:
    metered = values["Metered"].value if "Metered" in values else Metered.UNKNOWN
    kind = values["PrimaryConnectionType"].value if "PrimaryConnectionType" in values else ""
    known = metered in set(Metered)
    return ObservedNetwork(Metered(metered) if known else Metered.UNKNOWN, link_of(str(kind)))
