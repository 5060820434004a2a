"""Tells systemd how the service is (sd_notify(3)); does nothing where nobody asked."""

import asyncio
import os
import socket
from collections.abc import Mapping


class ServiceNotifier:
    """Sends datagrams to NOTIFY_SOCKET; without it every call is nothing.

    Args:
        environment: Where NOTIFY_SOCKET, WATCHDOG_USEC and WATCHDOG_PID are.
    """

    def __init__(self, environment: Mapping[str, str] = os.environ) -> None:
        address = environment.get("NOTIFY_SOCKET", "")
        # A leading @ stands for the abstract name space.
        self._address = "\0" + address[1:] if address.startswith("@") else address
        self._watchdog = _watchdog_seconds(environment) if address else None

    def tell(self, **facts: str) -> None:
        """Send facts, such as READY="1": one datagram, never waited for."""
        if not self._address:
            return
        message = "\n".join(f"{name}={value}" for name, value in facts.items())
        with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC) as sender:
            sender.setblocking(False)
            try:
                sender.sendto(message.encode(), self._address)
            except OSError:
                # The service manager is gone or its queue is full: the agent's work does not depend on it.
                return

    async def keep_watchdog(self) -> None:
        """Say twice per watchdog interval that this event loop is alive; returns at once where none is set."""
        while self._watchdog is not None:
            self.tell(WATCHDOG="1")
            await asyncio.sleep(self._watchdog / 2)


def _watchdog_seconds(environment: Mapping[str, str]) -> float | None:
    interval = environment.get("WATCHDOG_USEC", "")
    if not interval.isdigit() or environment.get("WATCHDOG_PID", str(os.getpid())) != str(os.getpid()):
        return None
    return int(interval) / 1e6 or None
