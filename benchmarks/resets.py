"""A link that resets the connection after each megabyte: how much longer does a model or a video take than uncut?"""

import asyncio
import hashlib
import socket
import struct
import tempfile
import time
from pathlib import Path
from random import Random
from statistics import median

from benchmarks.report import Figure, spread
from benchmarks.uploads import _client, _send, _upload
from sentinel_sync.base.clock import SystemClock
from sentinel_sync.base.errors import HeldError, NotNowError, UnreachableError
from sentinel_sync.cloud.download import FileDownload, FileHostError, Target
from sentinel_sync.scenarios.upload import PartSender
from tests.fakes.fault_proxy import fault_proxy
from tests.servers.node_tus import NodeTus, installed, missing

SIZE = 100_000_000
EVERY = 1_000_000
ROUNDS = 3
_BAR = 3.0


async def measure() -> list[Figure]:
    """Measure downloads, and uploads where tus's own server is there."""
    content = Random(1).randbytes(SIZE)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        figures = [await _model(folder, content)]
        if missing() is None:
            video = folder / "bev.mp4"
            await asyncio.to_thread(video.write_bytes, content)
            figures.append(await _video(folder, video))
    return figures


async def _model(folder: Path, content: bytes) -> Figure:
    uncut: list[float] = []
    cut: list[float] = []
    for _ in range(ROUNDS):
        for every, taken in ((SIZE, uncut), (EVERY, cut)):
            taken.append(await _download(folder / "model.part", content, every))
    return _figure("a model of 100 MB over a link that resets after each MB, against uncut", uncut, cut)


async def _download(staging: Path, content: bytes, every: int) -> float:
    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        head = (await reader.readuntil(b"\r\n\r\n")).decode().lower()
        start = int(head.partition("range: bytes=")[2].partition("-")[0] or 0)
        status = f"206 x\r\nContent-Range: bytes {start}-{SIZE - 1}/{SIZE}" if start else "200 x"
        writer.write(f'HTTP/1.1 {status}\r\nContent-Length: {SIZE - start}\r\nETag: "a"\r\n\r\n'.encode())
        writer.write(content[start : start + every])
        await writer.drain()
        if start + every < SIZE:
            # What is in flight arrives first, as when a middlebox gives a connection up.
            writer.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 0, 0))
        writer.close()

    await asyncio.to_thread(staging.unlink, missing_ok=True)
    target = Target(staging, SIZE, hashlib.sha256(content).hexdigest())
    async with await asyncio.start_server(serve, "127.0.0.1", 0) as server:
        url = f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}"
        async with _client(url) as client:
            download = FileDownload(client, target, clock=SystemClock(), on_progress=lambda _: None)
            begun = time.perf_counter()
            while True:
                try:
                    await download.fetch(f"{url}/model")
                    return time.perf_counter() - begun
                except FileHostError:
                    continue


async def _video(folder: Path, video: Path) -> Figure:
    uncut: list[float] = []
    cut: list[float] = []
    for number in range(ROUNDS):
        for every, taken in ((0, uncut), (EVERY, cut)):
            taken.append(await _send_video(folder, video, every, f"s{number}{every}"))
    return _figure("a video of 100 MB over a link that resets after each MB (tus), against uncut", uncut, cut)


async def _send_video(folder: Path, video: Path, every: int, scenario: str) -> float:
    with (
        tempfile.TemporaryDirectory(dir=folder) as name,
        NodeTus(Path(name), await asyncio.to_thread(installed)) as server,
    ):
        async with fault_proxy(server.url) as proxy, _client(proxy.url) as client:
            proxy.cuts.extend([every] * (SIZE // every) if every else [])
            parts, upload = PartSender(client, folder), await _upload(video, scenario)
            begun = time.perf_counter()
            while True:
                try:
                    await _send(parts, upload)
                    return time.perf_counter() - begun
                except (UnreachableError, NotNowError, HeldError):
                    client.gate.on_reachable()


def _figure(name: str, uncut: list[float], cut: list[float]) -> Figure:
    how = f"{spread(cut)} s against {spread(uncut)} s, over loopback"
    return Figure(name, median(cut) / median(uncut), "×", _BAR, at_least=False, how=how)
