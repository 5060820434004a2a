"""What a model of 500 MB costs: downloaded, hashed and installed, against `curl -o` and then `sha256sum`.

Both fetch the same file from the same server, in turns. The server is a process of its own that answers with
`sendfile`, the client is one as well, so that its memory and its loop are its own. Ours does more than the peer: it
verifies a signature, makes file and folder durable (fsync) and keeps records.

`python -m benchmarks.models server FILE …` and `… client …` are those two processes.
"""

import asyncio
import base64
import hashlib
import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from statistics import median
from typing import Any

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from benchmarks.report import Figure, percentile, spread
from benchmarks.sleeper import bare_naps, sleeper
from benchmarks.work import trip_settings
from sentinel_sync import CloudAPIClient, ModelDownloader
from sentinel_sync.models.rules.releases import manifest
from sentinel_sync.store.store import Store

ROUNDS = 3
SIZE = int(os.environ.get("BENCH_MODEL_BYTES", "500000000"))
NAME = "gaze"
_PIECE = 4 << 20
#: The limit that this machine sets: a bare loop, measured so long in each round.
QUIET_SECONDS = 2.0
_KEY = Ed25519PrivateKey.from_private_bytes(b"b" * 32)


async def measure() -> list[Figure]:
    if shutil.which("curl") is None or shutil.which("sha256sum") is None:
        raise RuntimeError("this benchmark measures against curl and sha256sum: install them")
    with tempfile.TemporaryDirectory(dir=Path.cwd(), prefix=".bench-") as name:
        return await asyncio.to_thread(_measure, Path(name))


def _measure(folder: Path) -> list[Figure]:
    release = _make(folder / "model.bin")
    ours: list[dict[str, Any]] = []
    peers: list[float] = []
    with _server(folder / "model.bin", release) as url:
        for number in range(ROUNDS):
            peers.append(_peer(folder / "peer.bin", url))
            ours.append(_ours(folder / f"vehicle-{number}", url))
            shutil.rmtree(folder / f"vehicle-{number}")
    naps = [nap for one in ours for nap in one["naps"]]
    quiet = [nap for one in ours for nap in one["quiet"]]
    seconds = [one["seconds"] for one in ours]
    mega = SIZE / 1e6
    return [
        Figure(
            f"download, hash and install {mega:,.0f} MB, against curl -o and sha256sum",
            median(peer / mine for peer, mine in zip(peers, seconds, strict=True)),
            "×",
            0.5,
            at_least=True,
            how=f"ours {spread(seconds)} s, theirs {spread(peers)} s; a server of its own with sendfile",
        ),
        Figure(
            "memory that it takes besides",
            max(one["growth"] for one in ours) / 1e6,
            "MB",
            20.0,
            at_least=False,
            how="peak of the resident set, less what it was before; the most of all rounds",
        ),
        Figure(
            "stall meanwhile, at the 99.9th percentile",
            percentile(naps, 0.999) * 1e3,
            "ms",
            10.0,
            at_least=False,
            how=f"worst {max(naps) * 1e3:.1f} ms, {len(naps):,} naps of 1 ms; a bare loop: "
            f"{percentile(quiet, 0.999) * 1e3:.1f} ms, worst {max(quiet) * 1e3:.1f} ms",
        ),
    ]


def _make(path: Path) -> dict[str, Any]:
    """Write the model and say what the listing says of it."""
    digest, piece = hashlib.sha256(), os.urandom(_PIECE)
    with path.open("wb") as file:
        left = SIZE
        while left:
            # Not the same piece over and over: nothing on the way may find it easy.
            piece = piece[1:] + piece[:1]
            digest.update(piece[:left])
            left -= file.write(piece[:left])
    checksum = digest.hexdigest()
    signature = base64.b64encode(_KEY.sign(manifest(NAME, "v1.0.0", SIZE, checksum))).decode()
    return {"name": NAME, "version": "v1.0.0", "size": SIZE, "checksum": checksum, "signature": signature}


def _peer(target: Path, url: str) -> float:
    """Seconds that curl and sha256sum take, one after the other."""
    began = time.perf_counter()
    subprocess.run(["curl", "--silent", "--fail", "-o", str(target), f"{url}/file"], check=True)
    subprocess.run(["sha256sum", str(target)], check=True, stdout=subprocess.DEVNULL)
    seconds = time.perf_counter() - began
    target.unlink()
    return seconds


def _ours(folder: Path, url: str) -> dict[str, Any]:
    arguments = [sys.executable, "-m", "benchmarks.models", "client", str(folder), url]
    output = subprocess.run(arguments, check=True, stdout=subprocess.PIPE, text=True).stdout
    result: dict[str, Any] = json.loads(output)
    return result


# --- the client's process ---


async def _client(folder: Path, url: str) -> None:
    trusted = base64.b64encode(_KEY.public_key().public_bytes_raw()).decode()
    settings = trip_settings(folder / "state", url).model_copy(
        update={"models_dir": folder / "models", "model_trusted_keys": (trusted,)}
    )
    quiet = await bare_naps(QUIET_SECONDS)
    lateness: list[float] = []
    stop = asyncio.Event()
    async with Store(settings.state_dir) as store, CloudAPIClient(settings=settings) as client:
        downloader = ModelDownloader(client, store=store)
        # From here on as in a vehicle: everything is imported, the listing is known.
        (update,) = await downloader.check_for_updates()
        task = asyncio.create_task(sleeper(lateness, stop))
        before = _begin_peak()
        began = time.perf_counter()
        result = await downloader.download_and_install_model(NAME, update["version"], update["checksum"])
        seconds = time.perf_counter() - began
        growth = _memory("VmHWM") - before
        stop.set()
        await task
    if not result:
        raise RuntimeError(f"not installed: {result.reason}")
    print(json.dumps({"seconds": seconds, "growth": growth, "naps": lateness, "quiet": quiet}))


def _begin_peak() -> int:
    """Let the peak of the resident set begin anew; returns the resident set, bytes."""
    Path("/proc/self/clear_refs").write_text("5", encoding="ascii")
    return _memory("VmRSS")


def _memory(name: str) -> int:
    for line in Path("/proc/self/status").read_text(encoding="ascii").splitlines():
        if line.startswith(f"{name}:"):
            return int(line.split()[1]) * 1024
    raise RuntimeError(f"the kernel does not tell {name}")


# --- the server's process ---


@contextmanager
def _server(file: Path, release: dict[str, Any]) -> Iterator[str]:
    arguments = [sys.executable, "-m", "benchmarks.models", "server", str(file), json.dumps(release)]
    process = subprocess.Popen(arguments, stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    try:
        yield f"http://127.0.0.1:{int(process.stdout.readline())}"
    finally:
        process.terminate()
        process.wait()
        process.stdout.close()


async def _serve(file: Path, release: dict[str, Any]) -> None:
    answers = {
        "/models": json.dumps({"models": [release]}).encode(),
        f"/models/{NAME}/download": json.dumps({"download_url": "/file"}).encode(),
    }
    loop = asyncio.get_running_loop()

    async def converse(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            while head := await reader.readuntil(b"\r\n\r\n"):
                path = head.split(b" ", 2)[1].decode().partition("?")[0]
                body = answers.get(path)
                size = SIZE if body is None else len(body)
                writer.write(f"HTTP/1.1 200 OK\r\nContent-Length: {size}\r\n\r\n".encode() + (body or b""))
                await writer.drain()
                if body is None:
                    with file.open("rb") as content:
                        await loop.sendfile(writer.transport, content)
        except (asyncio.IncompleteReadError, ConnectionError):
            pass  # the client has what it wanted
        finally:
            writer.close()

    server = await asyncio.start_server(converse, "127.0.0.1", 0)
    print(server.sockets[0].getsockname()[1], flush=True)
    await server.serve_forever()


if __name__ == "__main__":
    match sys.argv[1:]:
        case ["server", file, release]:
            asyncio.run(_serve(Path(file), json.loads(release)))
        case ["client", folder, url]:
            asyncio.run(_client(Path(folder), url))
