"""An agent of a process of its own: signals, log, display and systemd around it."""

import argparse
import asyncio
import logging
import os
import signal
import socket
import sys
from collections.abc import Awaitable, Callable, Iterator, Mapping
from contextlib import contextmanager
from functools import partial

from sentinel_sync.agent import SyncAgent
from sentinel_sync.base.errors import SentinelSyncError
from sentinel_sync.cli.ui.logs import JsonFormatter, WriterHandler, formatter_for, logging_to
from sentinel_sync.cli.ui.progress import View, choose_view
from sentinel_sync.cli.ui.text import err
from sentinel_sync.cli.ui.writer import Writer
from sentinel_sync.settings import Settings

logger: logging.Logger = logging.getLogger(__name__)

#: So much time to start in is asked for at a time, seconds.
_START_SECONDS = 30.0

_STOPPING = (signal.SIGTERM, signal.SIGINT)
#: A display does without a status that takes longer, seconds: it must not hold up the end.
_LOOK_TIMEOUT = 0.5

#: Shows a line to whoever watches, above a display that redraws itself.
Say = Callable[[str], None]
#: What a command does with its agent; the event is set when it should come to an end.
Work = Callable[[SyncAgent, asyncio.Event, Say], Awaitable[int]]


@contextmanager
def stopping_signals(on_hangup: Callable[[], None] | None = None) -> Iterator[asyncio.Event]:
    """Give an event that the first SIGTERM or SIGINT sets; a second one ends the process at once.

    What matters is on disk before it is said to be done, so ending at once loses nothing that was acknowledged.

    Args:
        on_hangup: Called at SIGHUP, where given.
    """
    loop = asyncio.get_running_loop()
    stop = asyncio.Event()

    def on_signal(number: signal.Signals) -> None:
        if stop.is_set():
            # As the default would have done it, so that whoever waits for this process sees why it ended.
            signal.signal(number, signal.SIG_DFL)
            os.kill(os.getpid(), number)
        stop.set()

    handled: list[signal.Signals] = []
    before = {number: signal.getsignal(number) for number in (*_STOPPING, signal.SIGHUP)}
    try:
        for number in _STOPPING:
            loop.add_signal_handler(number, on_signal, number)
            handled.append(number)
        if on_hangup is not None:
            loop.add_signal_handler(signal.SIGHUP, on_hangup)
            handled.append(signal.SIGHUP)
        yield stop
    finally:
        for number in handled:
            loop.remove_signal_handler(number)
            signal.signal(number, before[number])


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

    async def ask_for_time(self) -> None:
        """Ask for more time to start in, again and again: what is damaged may take minutes to be saved."""
        while self._address:
            self.tell(EXTEND_TIMEOUT_USEC=str(round(_START_SECONDS * 1e6)), STATUS="starting")
            await asyncio.sleep(_START_SECONDS / 3)

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


def run_agent(settings: Settings, arguments: argparse.Namespace, work: Work, *, lines: bool) -> int:
    """Run an agent, do `work` with it, stop it; returns what `work` returned.

    Args:
        settings: For the agent.
        arguments: The command line.
        work: Done while the agent runs.
        lines: Whether its state is shown as lines where it cannot be drawn.

    Raises:
        SentinelSyncError: The agent cannot be started.
    """
    level = arguments.log_level or arguments.default_log_level
    formatter = formatter_for(level, arguments.log_format)
    view = choose_view(as_json=arguments.json, json_log=isinstance(formatter, JsonFormatter), lines=lines)
    writer = Writer()
    handler = WriterHandler(writer, view.log if view.takes_log and sys.stderr.isatty() else _to_stderr)
    handler.setFormatter(formatter)
    written = False
    try:
        with logging_to(handler, level):
            code = asyncio.run(_session(settings, work, view, writer))
    finally:
        writer.submit(view.close)
        written = writer.close()
    if not written:
        # A terminal on hold keeps the writing thread, and would keep the interpreter's exit too. The agent has stopped
        # with everything on disk: there is nothing left to wait for.
        os._exit(code)
    if writer.left_out:
        logger.warning("output.left_out: %d lines found no reader", writer.left_out)
    return code


async def _session(settings: Settings, work: Work, view: View, writer: Writer) -> int:
    agent = SyncAgent(settings)
    notifier = ServiceNotifier()
    say = view.log if view.takes_log and sys.stderr.isatty() else _to_stderr
    hung_up = asyncio.Event()
    with stopping_signals(hung_up.set) as stop:
        starting = asyncio.create_task(notifier.ask_for_time(), name="cli.starting")
        async with agent:
            starting.cancel()
            notifier.tell(READY="1", STATUS="running")
            company = [
                asyncio.create_task(_show(agent, view, writer), name="cli.show"),
                asyncio.create_task(notifier.keep_watchdog(), name="cli.watchdog"),
                asyncio.create_task(_on_hangup(agent, hung_up), name="cli.hangup"),
            ]
            try:
                return await work(agent, stop, lambda line: writer.submit(partial(say, line)))
            finally:
                logger.info("agent.stopping: within %g s", settings.cloud.shutdown_timeout)
                notifier.tell(STOPPING="1")
                for task in company:
                    task.cancel()
                await asyncio.gather(*company, return_exceptions=True)
                await _show_once(agent, view, writer)


async def _show(agent: SyncAgent, view: View, writer: Writer) -> None:
    while view.interval is not None:
        await _show_once(agent, view, writer)
        await asyncio.sleep(view.interval)


async def _show_once(agent: SyncAgent, view: View, writer: Writer) -> None:
    if view.interval is None:
        return
    try:
        async with asyncio.timeout(_LOOK_TIMEOUT):
            said = await agent.status()
    except (SentinelSyncError, TimeoutError) as error:
        # A store that is busy or damaged concerns the agent, which reports it; the display tries again.
        logger.debug("output.status: %s", error)
        return
    writer.submit(partial(view.show, said, asyncio.get_running_loop().time()))


async def _on_hangup(agent: SyncAgent, hung_up: asyncio.Event) -> None:
    """SIGHUP: read a rotated key, probe, and send what waits, now instead of when it is due."""
    while True:
        await hung_up.wait()
        hung_up.clear()
        logger.info("agent.hangup: looking at the key and the network now")
        try:
            await agent.client.refresh_credential()
            if await agent.connectivity.probe_now():
                await agent.connectivity.force_sync()
        except SentinelSyncError as error:
            logger.error("agent.hangup: %s", error)


def _to_stderr(line: str) -> None:
    err(line + "\n")
    sys.stderr.flush()
