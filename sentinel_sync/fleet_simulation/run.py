"""A run: a backend if none is named, processes full of vehicles, one script, and what the backend has afterwards."""

import asyncio
import contextlib
import hashlib
import itertools
import json
import os
import secrets
import subprocess
import sys
import tempfile
import time
from base64 import b64encode
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from uuid import uuid4

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from sentinel_sync.base.errors import SentinelSyncError
from sentinel_sync.base.http_library import httpx
from sentinel_sync.fleet_simulation.protocol import SCRIPTS, Plan, Second
from sentinel_sync.fleet_simulation.vehicles import MODEL
from sentinel_sync.models.rules.releases import manifest

MODEL_BYTES = 1 << 18
MODEL_VERSION = "v1.0.0"
READY_WITHIN = 300.0
"""Seconds for all processes to start their vehicles."""
END_WITHIN = 180.0
PAGE = 1000
#: Seconds between the last process that is ready and the first second.
_LEAD = 1.0


class SimulationError(SentinelSyncError):
    """The run cannot be made, or did not end."""


@dataclass(frozen=True, slots=True)
class Order:
    """What is asked for.

    Attributes:
        url: Of the backend; None: the reference backend, in a process of its own, for this run.
        trip_interval: Between the ends of one vehicle's trips, seconds on average.
        is_light: Probes and reports alone.
        database: For the reference backend of this run.
    """

    vehicles: int
    script: str
    duration: float
    url: str | None = None
    api_key: str = ""
    ca_file: str | None = None
    trip_interval: float = 30.0
    processes: int = 2
    seed: int = 1
    is_light: bool = False
    database: str | None = None


@dataclass(slots=True)
class Outcome:
    """What a run gave.

    Attributes:
        seconds: Of the script.
        acknowledged: Trips that vehicles were told are durable.
        left: Of them, those that were not at the backend when the vehicles stopped.
        lost: Of those that left the vehicle, those that the backend does not have; None where it cannot be asked.
        doubled: Those that the backend has twice; None as above.
        installed: Vehicles that have the release.
        backend_cpu: Seconds of processor time that the backend took; None where it is not ours.
        vehicles_cpu: The same of the vehicles.
    """

    order: Order
    fleet_id: str
    seconds: list[Second]
    acknowledged: int = 0
    left: int = 0
    lost: int | None = None
    doubled: int | None = None
    installed: int = 0
    backend_cpu: float | None = None
    vehicles_cpu: float = 0.0
    problems: list[str] = field(default_factory=list)


@dataclass(slots=True)
class _Worker:
    process: asyncio.subprocess.Process
    acknowledged: list[str] = field(default_factory=list)
    left: int = 0
    installed: int = 0


async def simulate(order: Order, told: Callable[[str], None]) -> Outcome:
    """Make the run; `told` gets a line now and then.

    Raises:
        SimulationError: A process failed, or the backend cannot be used.
    """
    outcome = Outcome(order, f"simulated_{secrets.token_hex(4)}", [Second() for _ in range(round(order.duration))])
    signer = Ed25519PrivateKey.generate()
    async with AsyncExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="fleet-")))
        url, key, backend = order.url or "", order.api_key, None
        if order.url is None:
            key = secrets.token_urlsafe(16)
            url, backend = await stack.enter_async_context(_backend(folder / "backend", key, order.database))
        client = await stack.enter_async_context(_client(url, key, order.ca_file))
        await _try_key(client, outcome.fleet_id)
        plans = _plans(order, url, key, outcome.fleet_id, folder, signer)
        told(f"starting {order.vehicles} vehicles in {len(plans)} processes")
        workers = [await stack.enter_async_context(_worker(plan, light=order.is_light)) for plan in plans]
        async with asyncio.timeout(READY_WITHIN):
            await asyncio.gather(*(_expect(worker, "ready") for worker in workers))
        before = _cpu(backend.pid) if backend is not None else None
        begin = time.time() + _LEAD
        for worker in workers:
            _say(worker, f"{begin}\n")
        told(f"{order.script}: {SCRIPTS[order.script].about}; {order.duration:.0f} s")
        publishing = asyncio.create_task(_release(order, client, signer, begin))
        async with asyncio.timeout(order.duration + END_WITHIN):
            await asyncio.gather(*(_follow(worker, outcome) for worker in workers))
        if order.is_light or SCRIPTS[order.script].release_at is None:
            publishing.cancel()
        await asyncio.wait([publishing])
        if not publishing.cancelled():
            publishing.result()
        if backend is not None and before is not None:
            outcome.backend_cpu = _cpu(backend.pid) - before
        outcome.vehicles_cpu = sum(_cpu(worker.process.pid) for worker in workers)
        for worker in workers:
            outcome.acknowledged += len(worker.acknowledged)
            outcome.left += worker.left
            outcome.installed += worker.installed
        told("asking the backend what it has")
        await _audit(outcome, client, [trip for worker in workers for trip in worker.acknowledged])
    return outcome


def _plans(order: Order, url: str, key: str, fleet_id: str, folder: Path, signer: Ed25519PrivateKey) -> list[Plan]:
    number = max(1, min(order.processes, order.vehicles))
    public = b64encode(signer.public_key().public_bytes(Encoding.Raw, PublicFormat.Raw)).decode()
    bounds = [order.vehicles * part // number for part in range(number + 1)]
    return [
        Plan(
            url=url,
            api_key=key,
            fleet_id=fleet_id,
            script=order.script,
            first=first,
            vehicles=after - first,
            duration=order.duration,
            trip_interval=order.trip_interval,
            folder=str(folder / "vehicles"),
            trusted_key=public,
            seed=order.seed,
            ca_file=order.ca_file,
        )
        for first, after in itertools.pairwise(bounds)
    ]


@asynccontextmanager
async def _backend(
    folder: Path, key: str, database: str | None
) -> AsyncIterator[tuple[str, asyncio.subprocess.Process]]:
    words = [sys.executable, "-m", "sentinel_sync", "serve", "--json", "--port", "0", "--folder", str(folder)]
    environment = {**os.environ, "SENTINEL_BACKEND_API_KEY": key, "SENTINEL_BACKEND_DATABASE": database or ""}
    process = await asyncio.create_subprocess_exec(*words, env=environment, stdout=subprocess.PIPE)
    try:
        assert process.stdout is not None  # noqa: S101  # asked for above
        line = await process.stdout.readline()
        if not line:
            raise SimulationError("the reference backend did not start: what it said is above")
        yield json.loads(line)["url"], process
    finally:
        with contextlib.suppress(ProcessLookupError):
            process.terminate()
        await process.wait()


@asynccontextmanager
async def _worker(plan: Plan, *, light: bool) -> AsyncIterator[_Worker]:
    module = "light" if light else "vehicles"
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", f"sentinel_sync.fleet_simulation.{module}"),
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        limit=1 << 28,
    )
    worker = _Worker(process)
    _say(worker, plan.to_json() + "\n")
    try:
        yield worker
    finally:
        if process.stdin is not None:
            process.stdin.close()
        with contextlib.suppress(ProcessLookupError):
            process.terminate()
        await process.wait()


def _say(worker: _Worker, line: str) -> None:
    assert worker.process.stdin is not None  # noqa: S101  # asked for above
    worker.process.stdin.write(line.encode())


async def _expect(worker: _Worker, event: str) -> dict[str, object]:
    assert worker.process.stdout is not None  # noqa: S101  # asked for above
    line = await worker.process.stdout.readline()
    facts: dict[str, object] = json.loads(line) if line else {}
    if facts.get("event") != event:
        raise SimulationError("a process of the simulation failed: what it said is above")
    return facts


async def _follow(worker: _Worker, outcome: Outcome) -> None:
    """Take what a process says, until it has said the last of it."""
    assert worker.process.stdout is not None  # noqa: S101  # asked for above
    async for line in worker.process.stdout:
        facts = json.loads(line)
        if facts["event"] == "second":
            outcome.seconds[facts["number"]].add(Second.from_json(facts))
            continue
        worker.acknowledged = [trip for trips in facts["acknowledged"].values() for trip in trips]
        worker.left, worker.installed = facts["left"], facts["installed"]
        return
    raise SimulationError("a process of the simulation failed: what it said is above")


@asynccontextmanager
async def _client(url: str, key: str, ca_file: str | None) -> AsyncIterator[httpx.AsyncClient]:
    trust = True if ca_file is None else httpx.create_ssl_context(verify=ca_file)
    headers = {"Authorization": f"Bearer {key}"}
    async with httpx.AsyncClient(base_url=url, headers=headers, timeout=60.0, verify=trust, trust_env=False) as client:
        yield client


async def _try_key(client: httpx.AsyncClient, fleet_id: str) -> None:
    """Ask once as one of the vehicles will: what all of them would be refused is said at once."""
    ids = {"X-Fleet-ID": fleet_id, "X-Vehicle-ID": "vehicle_000000", "X-Request-ID": str(uuid4())}
    try:
        answer = await client.get("/models", headers=ids)
    except httpx.TransportError as error:
        why = str(error) or type(error).__name__
        raise SimulationError(f"no backend answers at {client.base_url}: {why}") from None
    if answer.status_code in {401, 403}:
        raise SimulationError(
            f"the backend refuses the key ({answer.status_code}): it must be good for any fleet and vehicle"
        )


async def _release(order: Order, client: httpx.AsyncClient, signer: Ed25519PrivateKey, begin: float) -> None:
    share = SCRIPTS[order.script].release_at
    if share is None or order.is_light:
        return
    await asyncio.sleep(begin + share * order.duration - time.time())
    content = os.urandom(MODEL_BYTES)
    checksum = hashlib.sha256(content).hexdigest()
    signature = b64encode(signer.sign(manifest(MODEL, MODEL_VERSION, len(content), checksum))).decode()
    path = f"/models/{MODEL}/versions/{MODEL_VERSION}"
    answer = await client.put(path, params={"signature": signature}, content=content)
    if not answer.is_success:
        raise SimulationError(f"the model could not be published ({answer.status_code}): the key must be one that may")


async def _audit(outcome: Outcome, client: httpx.AsyncClient, acknowledged: Sequence[str]) -> None:
    """Compare what vehicles were told with what the backend has; only the reference backend can be asked."""
    there: list[str] = []
    after: str | None = ""
    while after is not None:
        try:
            answer = await client.get("/trips", params={"fleet_id": outcome.fleet_id, "limit": PAGE, "after": after})
        except httpx.TransportError as error:
            outcome.problems.append(f"the backend did not list its trips ({type(error).__name__}): nothing was audited")
            return
        if answer.status_code != 200:
            outcome.problems.append(f"the backend does not list its trips ({answer.status_code}): nothing was audited")
            return
        page = answer.json()
        there += [trip["trip_id"] for trip in page["trips"]]
        after = page["next"]
    outcome.doubled = len(there) - len(set(there))
    outcome.lost = max(0, len(set(acknowledged) - set(there)) - outcome.left)


def _cpu(pid: int) -> float:
    """Processor time of a process so far, seconds; 0 where the system does not say."""
    try:
        fields = Path(f"/proc/{pid}/stat").read_text(encoding="ascii").rpartition(")")[2].split()
    except OSError:
        return 0.0
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")
