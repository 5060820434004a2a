"""An agent of a process of its own: signals, log, display and systemd around it."""

import argparse
import asyncio
import logging
import os
import sys
from collections.abc import Awaitable, Callable
from functools import partial

from sentinel_sync.agent import SyncAgent
from sentinel_sync.base.errors import SentinelSyncError
from sentinel_sync.cli.logs import JsonFormatter, WriterHandler, formatter_for, logging_to
from sentinel_sync.cli.progress import View, choose_view
from sentinel_sync.cli.signals import stopping_signals
from sentinel_sync.cli.systemd import ServiceNotifier
from sentinel_sync.cli.writer import Writer
from sentinel_sync.settings import Settings

logger = logging.getLogger(__name__)

#: A display does without a status that takes longer, seconds: it must not hold up the end.
_LOOK_TIMEOUT = 0.5

#: What a command does with its agent; the event is set when it should come to an end.
Work = Callable[[SyncAgent, asyncio.Event], Awaitable[int]]


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
    hung_up = asyncio.Event()
    with stopping_signals(hung_up.set) as stop:
        async with agent:
            notifier.tell(READY="1", STATUS="running")
            company = [
                asyncio.create_task(_show(agent, view, writer), name="cli.show"),
                asyncio.create_task(notifier.keep_watchdog(), name="cli.watchdog"),
                asyncio.create_task(_on_hangup(agent, hung_up), name="cli.hangup"),
            ]
            try:
                return await work(agent, stop)
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
    sys.stderr.write(line + "\n")
    sys.stderr.flush()
