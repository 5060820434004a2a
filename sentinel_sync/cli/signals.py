"""Signals for a command that runs until it is told to stop."""

import asyncio
import os
import signal
from collections.abc import Callable, Iterator
from contextlib import contextmanager

_STOPPING = (signal.SIGTERM, signal.SIGINT)


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
