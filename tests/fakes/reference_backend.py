"""The reference backend in a thread with a loop of its own: for tests that run many loops against one server."""

import asyncio
import threading
from collections.abc import Iterator
from contextlib import contextmanager

from sentinel_sync.backend import BackendSettings, running_server

#: Seconds that it may take to start: far more than it needs.
_PATIENCE = 30.0


@contextmanager
def reference_backend(settings: BackendSettings) -> Iterator[str]:
    """Run it; gives its URL."""
    ready, urls = threading.Event(), list[str]()
    loop, over = asyncio.new_event_loop(), asyncio.Event()

    async def serve() -> None:
        async with running_server(settings) as url:
            urls.append(url)
            ready.set()
            await over.wait()

    thread = threading.Thread(target=loop.run_until_complete, args=(serve(),))
    thread.start()
    assert ready.wait(_PATIENCE)
    try:
        yield urls[0]
    finally:
        loop.call_soon_threadsafe(over.set)
        thread.join()
        loop.close()
