"""What a parked vehicle that is online sends and receives in a day over TLS: counted below TLS, packets by rule."""

import asyncio
import ssl
import tempfile
from collections.abc import Awaitable, Callable
from contextlib import suppress
from functools import partial
from pathlib import Path

import trustme
from pydantic import SecretStr

from benchmarks.report import Figure
from sentinel_sync.cloud.client import CloudAPIClient
from sentinel_sync.settings import CloudSettings

#: Ten minutes between requests once a vehicle is parked (`cloud/rules/connectivity.py`), a report each hour among them.
REQUESTS_A_DAY, REPORTS_A_DAY = 144, 24
#: IPv4 and TCP with time stamps, bytes a packet; of a connection of its own: three to open, four to close, and an
#: acknowledgement for each two segments.
HEADERS = 52
PACKETS_OF_A_CONNECTION = 7
_HEALTH = b'{"status":"ok","time":"2026-11-29T00:00:00Z","extensions":["trips-batch","vehicle-report"]}'
_ANSWER = b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nDate: Sun, 29 Nov 2026 00:00:00 GMT\r\n"
#: As long as what the demo's vehicle says of itself.
_REPORT = {"text": "x" * 800}

Ask = Callable[[CloudAPIClient], Awaitable[object]]


async def measure() -> list[Figure]:
    """Each request on a connection of its own, which is what ten minutes between them come to."""
    probe = await _bytes_of(lambda client: client.probe())
    report = await _bytes_of(lambda client: client.put("/vehicles/vehicle/status", _REPORT))
    kept = await _bytes_of(lambda client: client.probe(), own=False)
    day = probe * (REQUESTS_A_DAY - REPORTS_A_DAY) + report * REPORTS_A_DAY
    return [
        Figure(
            "idle, online, over TLS: a day",
            day / 1e6,
            "MB",
            0.6,
            at_least=False,
            how=f"{probe:.0f} B a probe, {report:.0f} B a report, each on a connection that resumes its TLS session; "
            f"on one that is kept {kept:.0f} B a probe",
        )
    ]


async def _bytes_of(ask: Ask, *, own: bool = True) -> float:
    """Of a request that is not the first, in both directions, all layers; `own`: the server ends idle connections."""
    ca = trustme.CA()
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    ca.create_child_ca().issue_cert("127.0.0.1").configure_cert(context)
    counted = [0, 0]

    async def pump(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while piece := await reader.read(1 << 16):
            counted[0] += len(piece)
            counted[1] += 1
            writer.write(piece)
        writer.close()

    with tempfile.TemporaryDirectory() as name:
        authority = Path(name) / "ca.pem"
        ca.cert_pem.write_to_path(authority)
        server = await asyncio.start_server(partial(_serve, once=own), "127.0.0.1", 0, ssl=context)
        port = server.sockets[0].getsockname()[1]

        async def between(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            behind_reader, behind_writer = await asyncio.open_connection("127.0.0.1", port)
            await asyncio.gather(pump(reader, behind_writer), pump(behind_reader, writer), return_exceptions=True)

        meter = await asyncio.start_server(between, "127.0.0.1", 0)
        url = f"https://127.0.0.1:{meter.sockets[0].getsockname()[1]}"
        settings = CloudSettings(api_url=url, api_key=SecretStr("k" * 32), ca_file=authority)
        async with CloudAPIClient(settings=settings) as client:
            await client.probe()
            await asyncio.sleep(0.2)  # the first one's last words
            before = [*counted]
            await ask(client)
            await asyncio.sleep(0.2)
            size, segments = (now - then for now, then in zip(counted, before, strict=True))
        server.close()
        meter.close()
        await asyncio.sleep(0.2)  # the handlers' own ends
    return size + HEADERS * (PACKETS_OF_A_CONNECTION * own + 1.5 * segments)


async def _serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter, *, once: bool) -> None:
    with suppress(asyncio.IncompleteReadError, ConnectionError):
        while True:
            head = (await reader.readuntil(b"\r\n\r\n")).lower()
            _, _, length = head.partition(b"content-length: ")
            await reader.readexactly(int(length.split(b"\r\n")[0] or b"0"))
            writer.write(_ANSWER + b"Content-Length: %d\r\n\r\n%b" % (len(_HEALTH), _HEALTH))
            await writer.drain()
            if once:
                break
    writer.close()
