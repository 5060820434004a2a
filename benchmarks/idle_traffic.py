"""What a parked vehicle that is online sends and receives in a day over TLS: counted below TLS, packets by rule."""

import asyncio
import ssl
import tempfile
from pathlib import Path

import trustme
from pydantic import SecretStr

from benchmarks.report import Figure
from sentinel_sync.cloud.client import CloudAPIClient
from sentinel_sync.settings import CloudSettings

#: Five minutes between probes, once a vehicle is quiet (`cloud/rules/connectivity.py`).
PROBES_A_DAY = 288
#: IPv4 and TCP with time stamps, bytes a packet; of a connection of its own: three to open, four to close, and an
#: acknowledgement for each two segments.
HEADERS = 52
PACKETS_OF_A_CONNECTION = 7
_HEALTH = b'{"status":"ok","time":"2026-11-29T00:00:00Z","extensions":["trips-batch","vehicle-report"]}'
_ANSWER = b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nDate: Sun, 29 Nov 2026 00:00:00 GMT\r\n"


async def measure() -> list[Figure]:
    """Probes on connections of their own, which is what five minutes between them come to, and on one that is kept."""
    (own_bytes, own_segments), (kept_bytes, kept_segments) = await _probes(own=True), await _probes(own=False)
    own = own_bytes + HEADERS * (PACKETS_OF_A_CONNECTION + 1.5 * own_segments)
    kept = kept_bytes + HEADERS * 1.5 * kept_segments
    return [
        Figure(
            "idle, online, over TLS: a day",
            own * PROBES_A_DAY / 1e6,
            "MB",
            0.6,
            at_least=False,
            how=f"{own:.0f} B a probe, {own_bytes} B of them TLS 1.3 with two ECDSA certificates; "
            f"on a connection that is kept {kept:.0f} B, {kept * PROBES_A_DAY / 1e6:.2f} MB",
        )
    ]


async def _probes(*, own: bool) -> tuple[int, int]:
    """Bytes and segments of one probe, in both directions, below TLS."""
    ca = trustme.CA()
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    ca.create_child_ca().issue_cert("127.0.0.1").configure_cert(context)
    counted, counted_then = [0, 0], [0, 0]

    async def pump(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while piece := await reader.read(1 << 16):
            counted[0] += len(piece)
            counted[1] += 1
            writer.write(piece)
        writer.close()

    with tempfile.TemporaryDirectory() as name:
        authority = Path(name) / "ca.pem"
        ca.cert_pem.write_to_path(authority)
        server = await asyncio.start_server(_serve, "127.0.0.1", 0, ssl=context)
        port = server.sockets[0].getsockname()[1]

        async def between(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            behind_reader, behind_writer = await asyncio.open_connection("127.0.0.1", port)
            await asyncio.gather(pump(reader, behind_writer), pump(behind_reader, writer), return_exceptions=True)

        meter = await asyncio.start_server(between, "127.0.0.1", 0)
        url = f"https://127.0.0.1:{meter.sockets[0].getsockname()[1]}"
        settings = CloudSettings(api_url=url, api_key=SecretStr("k" * 32), ca_file=authority)
        before = [0, 0]
        async with CloudAPIClient(settings=settings) as client:
            await client.probe()
            if not own:
                await asyncio.sleep(0.2)  # the first one's last words
                before = [*counted]
                await client.probe()
                await asyncio.sleep(0.2)
                counted_then = [*counted]
        await asyncio.sleep(0.2)
        if own:
            counted_then = [*counted]
        server.close()
        meter.close()
    return counted_then[0] - before[0], counted_then[1] - before[1]


async def _serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    try:
        while True:
            await reader.readuntil(b"\r\n\r\n")
            writer.write(_ANSWER + b"Content-Length: %d\r\n\r\n%b" % (len(_HEALTH), _HEALTH))
            await writer.drain()
    except (asyncio.IncompleteReadError, ConnectionError):
        writer.close()
