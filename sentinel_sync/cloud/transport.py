"""The transport of the shared client: a lane for what is small and urgent, and one for videos and models beside it.

Each lane has its own connections, so that a video never stands before a trip or a probe, and so that only what is bulk
carries the mark of a background transfer.
"""

import httpx

from sentinel_sync.cloud.bulk_connection import BulkBackend

#: A request's extension (httpx.Request.extensions) that sends it down the second lane; any other transport ignores it.
BULK = "sentinel_sync.bulk"


class PriorityTransport(httpx.AsyncBaseTransport):
    """Sends each request down its lane.

    Args:
        quick: For all that is small.
        bulk: For the rest; its connections are marked as background and listened to while they send.
        marked: Whether they carry DSCP CS1.
    """

    def __init__(self, quick: httpx.AsyncHTTPTransport, bulk: httpx.AsyncHTTPTransport, *, marked: bool) -> None:
        self.quick = quick
        self.bulk = bulk
        # httpx has no argument for it, httpcore has (`network_backend`); what goes through a proxy passes it as well.
        pool = bulk._pool  # noqa: SLF001
        pool._network_backend = BulkBackend(pool._network_backend, marked=marked)  # noqa: SLF001

    async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
        """Send one."""
        lane = self.bulk if request.extensions.get(BULK) else self.quick
        return await lane.handle_async_request(request)

    async def aclose(self) -> None:
        """Close all connections."""
        try:
            await self.quick.aclose()
        finally:
            await self.bulk.aclose()
