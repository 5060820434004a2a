"""What all requests of one client share: the open httpx client, the key, who asks, what is under way, what it cost."""

import asyncio
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass
from http import HTTPMethod

import httpx

from sentinel_sync.base.clock import Clock
from sentinel_sync.base.errors import UnreachableError
from sentinel_sync.cloud.credential import Credential, credential_of
from sentinel_sync.cloud.deadlines import Deadline, InFlight
from sentinel_sync.cloud.download_stream import open_download
from sentinel_sync.cloud.exchange import Response, exchange
from sentinel_sync.cloud.http import build_http_client, warm_up
from sentinel_sync.cloud.request import Caller, Request, Timeouts
from sentinel_sync.cloud.traffic_meter import TrafficListener, TrafficMeter
from sentinel_sync.cloud.transport_logs import mute
from sentinel_sync.settings import CloudSettings


@dataclass(frozen=True, slots=True)
class Download:
    """An answer whose body is still to be read, and the deadline to be moved while it is."""

    response: httpx.Response
    deadline: Deadline


class Connection:
    """Sends what it is given; whether it may be sent, and what an answer means, is said above it.

    Args:
        settings: Where to, as whom.
        http: A client to share, used as it is: with the connections that it makes, unmarked; it is not closed.
        credential: Where the key comes from, if not from the settings.
        clock: The seam for time.

    Raises:
        ConfigurationError: `api_url` is no URL.
    """

    def __init__(
        self, settings: CloudSettings, *, http: httpx.AsyncClient | None, credential: Credential | None, clock: Clock
    ) -> None:
        self.settings = settings
        self._clock = clock
        self._http = http
        self._owns_http = http is None
        self._ready = False
        self._opening = asyncio.Lock()
        self._credential = credential or credential_of(settings)
        self._caller = Caller(settings)
        self._in_flight = InFlight()
        self._meter = TrafficMeter()
        mute()

    def on_traffic(self, listener: TrafficListener) -> None:
        """Have `listener(sent_bytes, received_bytes)` called as bytes go out and come in, to and from whatever host.

        Heads and bodies of HTTP, without what TLS and TCP add. A plain function that returns at once.
        """
        self._meter.follow(listener)

    async def _open(self) -> httpx.AsyncClient:
        if self._http is not None and self._ready:
            return self._http
        async with self._opening:
            if self._http is None:
                # Reading certificates blocks.
                self._http = await asyncio.to_thread(build_http_client, self.settings)
            if not self._ready:
                await asyncio.to_thread(warm_up)
                await self._credential.refresh()
                self._ready = True
            return self._http

    async def _close_http(self) -> None:
        http = self._http
        if http is not None and self._owns_http:
            self._http, self._ready = None, False
            await http.aclose()

    async def _exchange(
        self, http: httpx.AsyncClient, key: str, request_id: str, asked: Request, patience: Timeouts
    ) -> Response:
        """Send one request and read its answer, within its deadline.

        Raises:
            UnreachableError: No usable answer.
            HeldError: It was cut off.
        """
        try:
            async with self._in_flight.within(patience.deadline, asked.what) as deadline:
                outgoing = self._caller.outgoing(asked, request_id, key, asked.body(deadline, self._meter))
                return await exchange(http, outgoing, meter=self._meter, clock=self._clock, timeout=patience.phases)
        except TimeoutError:
            why = f"{asked.what}: no whole answer within {patience.deadline:g} s"
            raise UnreachableError(why, request_id=request_id) from None

    @asynccontextmanager
    async def _downloading(
        self, request_id: str, address: str, headers: Mapping[str, str], patience: Timeouts
    ) -> AsyncIterator[Download]:
        """Open a file, perhaps on another host.

        Raises:
            UnreachableError: No answer, or it broke off; or the address is not to be followed.
            HeldError: It was cut off.
        """
        asked = Request(HTTPMethod.GET, "", "GET a file", headers={"Accept": "*/*", **headers})
        http = await self._open()
        key = self._credential.key()
        try:
            async with (
                self._in_flight.within(patience.deadline, asked.what) as deadline,
                open_download(
                    http,
                    self._caller.base,
                    address,
                    headers=self._caller.headers(request_id, asked),
                    secret_headers={"Authorization": f"Bearer {key}"} if key else {},
                    meter=self._meter,
                    timeout=patience.phases,
                ) as response,
            ):
                yield Download(response, deadline)
        except TimeoutError:
            why = f"{asked.what}: nothing came for {patience.deadline:g} s"
            raise UnreachableError(why, request_id=request_id) from None
