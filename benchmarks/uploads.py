"""What sending a large video costs beside curl: its rate, its memory, the host's loop, and what a bad network adds.

The sending process is one of its own, so that its memory is its own; so is the server. Multipart goes to the reference
backend, tus to tus's own server. Rounds alternate with curl's, so that whatever else the machine does strikes both.
"""

import asyncio
import hashlib
import json
import os
import subprocess
import sys
import tempfile
import time
import urllib.parse
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from random import Random
from statistics import median
from uuid import uuid4

from pydantic import JsonValue

from benchmarks.report import Figure, percentile, spread
from benchmarks.sleeper import sleeper
from sentinel_sync.base.errors import HeldError, NotNowError, UnreachableError
from sentinel_sync.cloud.client import CloudAPIClient
from sentinel_sync.scenarios.records import QueuedScenario
from sentinel_sync.scenarios.rules.plan import Consent, Part, PartFile, PartKind, Priority, ScenarioPlan
from sentinel_sync.scenarios.upload import PartSender
from tests.fakes.fault_proxy import fault_proxy
from tests.servers.node_tus import NodeTus, installed, missing

SIZE = 1_000_000_000
ROUNDS = 5
CUTS = 20
KEY = "benchmark"
VEHICLE = "vehicle_001"
FLEET = "fleet_alpha"
VIDEO = "bev.mp4"
_WARM_UP = 4 << 20
_BLOCK = 32 << 20

_BACKEND = """
import sys
from pathlib import Path
from sentinel_sync.backend import BackendSettings, Extensions, serve
folder, key = Path(sys.argv[1]), sys.argv[2]
serve(port=0, folder=folder, api_keys=[key], settings=BackendSettings(
    folder=folder, api_keys=(key,), extensions=Extensions(resumable_uploads=False)))
"""


@dataclass(frozen=True, slots=True)
class Sent:
    """What one upload took: seconds, bytes that the process grew by, and how late the sleeper woke, seconds."""

    seconds: float
    growth: int
    lateness: list[float]


async def measure() -> list[Figure]:
    with tempfile.TemporaryDirectory(dir=Path.cwd(), prefix=".bench-") as name:
        folder = Path(name)
        video = await asyncio.to_thread(_recorded, folder)
        figures = await _beside_curl("multipart", folder, video)
        if reason := missing():
            print(f"tus is not measured: {reason}", file=sys.stderr)
            return figures
        figures += await _beside_curl("tus", folder, video)
        figures.append(await _cut(folder, video))
    return figures


def _recorded(folder: Path) -> Path:
    """A recording of one video."""
    (folder / "recording").mkdir()
    video = folder / "recording" / VIDEO
    block = Random(1).randbytes(_BLOCK)
    with video.open("wb") as file:
        for begin in range(0, SIZE, _BLOCK):
            file.write(block[: SIZE - begin])
    return video


async def _beside_curl(kind: str, folder: Path, video: Path) -> list[Figure]:
    ours: list[Sent] = []
    watched: list[Sent] = []
    theirs: list[float] = []
    bare: list[float] = []
    for _ in range(ROUNDS):
        theirs.append(await _with_a_bare_loop(bare, kind, folder, video))
        ours.append(await asyncio.to_thread(_in_own_process, kind, folder, video, watched=False))
        watched.append(await asyncio.to_thread(_in_own_process, kind, folder, video, watched=True))
    ratios = [curl / sent.seconds for curl, sent in zip(theirs, ours, strict=True)]
    rates = [SIZE / sent.seconds for sent in ours]
    curls = [SIZE / seconds for seconds in theirs]
    growth = [float(sent.growth) for sent in ours + watched]
    lateness = [late for sent in watched for late in sent.lateness]
    return [
        Figure(
            f"{kind}: rate / curl's rate",
            median(ratios),
            "×",
            0.85,
            at_least=True,
            how=f"{spread(rates, 1e-6)} MB/s; curl {spread(curls, 1e-6)} MB/s; {SIZE:,} bytes, {ROUNDS} rounds each",
        ),
        Figure(
            f"{kind}: memory grows by",
            max(growth) / 1e6,
            "MB",
            20.0,
            at_least=False,
            how=f"the most of {len(growth)} uploads: {spread(growth, 1e-6)} MB; peak resident memory less that before",
        ),
        Figure(
            f"{kind}: stall at the 99.9th percentile",
            percentile(lateness, 0.999) * 1e3,
            "ms",
            10.0,
            at_least=False,
            how=f"{len(lateness):,} naps of 1 ms, worst {max(lateness) * 1e3:.2f} ms; "
            f"a bare loop while curl sends: {percentile(bare, 0.999) * 1e3:.2f} ms, worst {max(bare) * 1e3:.2f} ms",
        ),
    ]


async def _with_a_bare_loop(bare: list[float], kind: str, folder: Path, video: Path) -> float:
    """Seconds that curl takes; how late a loop wakes meanwhile that has nothing to do is the machine's own limit."""
    stop = asyncio.Event()
    watching = asyncio.create_task(sleeper(bare, stop))
    try:
        return await asyncio.to_thread(_curl, kind, folder, video)
    finally:
        stop.set()
        await watching


@contextmanager
def _server(kind: str, folder: Path) -> Iterator[str]:
    """A server with an empty folder, which is gone with it."""
    with tempfile.TemporaryDirectory(dir=folder) as name:
        if kind == "tus":
            with NodeTus(Path(name), installed()) as server:
                yield server.url
            return
        process = subprocess.Popen([sys.executable, "-c", _BACKEND, name, KEY], stdout=subprocess.PIPE, text=True)
        assert process.stdout is not None
        try:
            said = process.stdout.readline()
            yield next(word for word in said.split() if word.startswith("http://"))
        finally:
            process.terminate()
            process.wait()
            process.stdout.close()


def _headers() -> dict[str, str]:
    return {
        "Authorization": f"Bearer {KEY}",
        "User-Agent": f"sentinel-sync/1.0.0 (vehicle {VEHICLE})",
        "X-Fleet-ID": FLEET,
        "X-Vehicle-ID": VEHICLE,
        "X-Request-ID": str(uuid4()),
        "Idempotency-Key": str(uuid4()),
    }


def _curl(kind: str, folder: Path, video: Path) -> float:
    """Seconds that curl takes to send it."""
    with _server(kind, folder) as url:
        _post(f"{url}/scenarios", {"Content-Type": "application/json"}, json.dumps(_announcement("s")).encode())
        headers, address = {**_headers(), "Expect": ""}, f"{url}/scenarios/s/videos"
        if kind == "tus":
            tus = {"Tus-Resumable": "1.0.0"}
            address = urllib.parse.urljoin(address, _post(address, {**tus, "Upload-Length": str(SIZE)}, b""))
            headers |= {**tus, "Upload-Offset": "0", "Content-Type": "application/offset+octet-stream"}
            what = ["-X", "PATCH", "-T", str(video)]
        else:
            what = ["-F", f"{VIDEO}=@{video};type=video/mp4"]
        given = [word for name, value in headers.items() for word in ("-H", f"{name}: {value}".rstrip(" "))]
        began = time.perf_counter()
        subprocess.run(["curl", "-sSf", "-o", os.devnull, *given, *what, address], check=True)
        return time.perf_counter() - began


def _post(url: str, headers: dict[str, str], body: bytes) -> str:
    """Make a request of the preparation; returns its `Location`."""
    request = urllib.request.Request(url, data=body, headers={**_headers(), **headers}, method="POST")
    with urllib.request.urlopen(request) as answer:
        return str(answer.headers.get("Location", ""))


def _metadata(video: str) -> dict[str, JsonValue]:
    return {
        "timestamp": "2026-11-23T09:10:11",
        "duration": 2.0,
        "num_frames": 60,
        "trigger": {"type": "critical", "reason": "risk 0.90"},
        "files": {"bev": video},
    }


def _announcement(scenario: str) -> dict[str, object]:
    consent = {"granted_at": "2026-11-23T08:00:00Z", "policy_version": "1"}
    return {"scenario_id": scenario, "metadata": _metadata(VIDEO), "priority": "high", "consent": consent}


def _in_own_process(kind: str, folder: Path, video: Path, *, watched: bool) -> Sent:
    with _server(kind, folder) as url:
        arguments = [sys.executable, "-m", "benchmarks.uploads", url, str(video), str(int(watched))]
        return Sent(**json.loads(subprocess.run(arguments, check=True, stdout=subprocess.PIPE, text=True).stdout))


async def _sent(url: str, video: Path, *, watched: bool) -> Sent:
    """Send it, and say what that took."""
    async with _client(url) as client:
        parts = PartSender(client, video.parent)
        await _warm_up(parts, video.with_name(f"warm-up-{uuid4().hex}.mp4"))
        upload = await _upload(video, "s")
        lateness: list[float] = []
        stop = asyncio.Event()
        before = _begin_anew()
        watching = asyncio.create_task(sleeper(lateness, stop)) if watched else None
        began = time.perf_counter()
        await _send(parts, upload)
        seconds = time.perf_counter() - began
        growth = _resident("VmHWM") - before
        stop.set()
        if watching is not None:
            await watching
    return Sent(seconds, growth, lateness)


async def _warm_up(parts: PartSender, small: Path) -> None:
    """Import and open all that the first upload does."""
    await asyncio.to_thread(small.write_bytes, bytes(_WARM_UP))
    await _send(parts, await _upload(small, "warm-up"))
    await asyncio.to_thread(small.unlink)


def _begin_anew() -> int:
    """Have the kernel forget the peak of the resident memory; returns what it is now."""
    Path("/proc/self/clear_refs").write_text("5", encoding="ascii")
    return _resident("VmRSS")


def _client(url: str) -> CloudAPIClient:
    return CloudAPIClient(url, KEY, VEHICLE, FLEET, rate_limit=0.0)


@dataclass(slots=True)
class Upload:
    """A recording of one video, as the uploader's ledger has it."""

    plan: ScenarioPlan
    part: Part


async def _upload(video: Path, scenario: str) -> Upload:
    status = await asyncio.to_thread(video.stat)
    part = Part(PartKind.VIDEO, video.name, status.st_size, status.st_mtime_ns, sent_as="bev.mp4")
    digest = await asyncio.to_thread(_sha256, video)
    part = replace(part, file=PartFile(video.name, status.st_size, digest))
    announced = Part(PartKind.METADATA, "metadata.json", 1, 1)
    plan = ScenarioPlan(scenario, str(video.parent), Priority.HIGH, 0.0, (announced, part), outgoing_id=scenario)
    return Upload(plan, part)


def _sha256(video: Path) -> str:
    with video.open("rb") as file:
        return str(hashlib.file_digest(file, "sha256").hexdigest())


async def _send(parts: PartSender, upload: Upload) -> None:
    """One attempt at its metadata and its video; the address of a resumable upload is kept."""

    async def remember(address: str | None) -> None:
        upload.part = replace(upload.part, upload_url=address)

    async def ask() -> None:
        """Nobody says no here."""

    queued = QueuedScenario(upload.plan.scenario_id, _metadata(upload.part.name))
    consent = Consent(granted=True, at=1_795_000_000.0, policy_version="1")
    for part in (upload.plan.parts[0], upload.part):
        await parts.send(
            upload.plan,
            part,
            queued,
            consent,
            may_send=ask,
            remember=remember,
            on_progress=lambda _: None,
            confirmed=lambda _: None,
        )


async def _cut(folder: Path, video: Path) -> Figure:
    """What goes out where the network cuts it twenty times, by both counts: the vehicle's and the network's."""
    sent = 0

    def count(sent_bytes: int, _received: int) -> None:
        nonlocal sent
        sent += sent_bytes

    places = sorted(Random(20261123).sample(range(SIZE), CUTS))
    with (
        tempfile.TemporaryDirectory(dir=folder) as name,
        NodeTus(Path(name), await asyncio.to_thread(installed)) as server,
    ):
        async with fault_proxy(server.url) as proxy, _client(proxy.url) as client:
            proxy.cuts.extend(later - earlier for earlier, later in zip([0, *places], places, strict=False))
            client.on_traffic(count)
            parts, upload = PartSender(client, video.parent), await _upload(video, "s")
            while True:
                try:
                    await _send(parts, upload)
                    break
                except (UnreachableError, NotNowError, HeldError):
                    client.gate.on_reachable()  # the connection is back
            struck, through = proxy.struck, proxy.from_client
        (arrived,) = server.ids()
        if struck != CUTS or (Path(name) / arrived).stat().st_size != SIZE:
            raise RuntimeError(f"cut {struck} times, and {arrived} is not whole")
    return Figure(
        f"tus, cut {CUTS} times at random: bytes sent / bytes of the file",
        sent / SIZE,
        "×",
        1.02,
        at_least=False,
        how=f"{sent:,} bytes handed to the network, {through:,} passed by it",
    )


def _resident(field: str) -> int:
    for line in Path("/proc/self/status").read_text(encoding="ascii").splitlines():
        if line.startswith(f"{field}:"):
            return int(line.split()[1]) * 1024
    raise RuntimeError("the kernel does not tell the resident memory")


def main(url: str, video: str, watched: str) -> None:
    sent = asyncio.run(_sent(url, Path(video), watched=bool(int(watched))))
    print(json.dumps({"seconds": sent.seconds, "growth": sent.growth, "lateness": sent.lateness}))


if __name__ == "__main__":
    main(*sys.argv[1:])
