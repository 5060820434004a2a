"""One seed from its beginning to the audit."""

import asyncio
import base64
import contextlib
import hashlib
import json
import logging
import re
import shutil
import sqlite3
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from random import Random

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from sentinel_sync import SyncAgent
from sentinel_sync.backend import BackendSettings, ModelSignature, publish_model
from sentinel_sync.backend.publishing import ModelRelease
from tests.simulation.auditor import MODEL, findings
from tests.simulation.link import BackendThread, Network, ask_for_all
from tests.simulation.vehicle import DRIVERS, WHO, History, Release, Vehicle
from tests.simulation.world import BootClock, World, run_simulated

_FERNET = "ZmZmZmZmZmZmZmZmZmZmZmZmZmZmZmZmZmZmZmZmZmY="
_KEY, _STRANGERS_KEY = (Ed25519PrivateKey.from_private_bytes(byte * 32) for byte in (b"k", b"s"))
_TRUSTED = base64.b64encode(_KEY.public_key().public_bytes(Encoding.Raw, PublicFormat.Raw)).decode()
_EVENT = re.compile(r"[a-z_]+(?:\.[a-z_]+)+")
_DAY = 86_400.0
#: Calm seconds at the end, in which all that is left must arrive.
_CALM = 7200.0
#: Longer than two turns of the profiles' sync.
_ONLINE = 260.0


@dataclass(frozen=True, slots=True)
class Outcome:
    """What came of a seed.

    Attributes:
        findings: What is not as it was promised.
        log: What happened, a line each.
        happened: Kinds of things that the world did.
        trips: How many were driven.
    """

    findings: list[str]
    log: list[str]
    happened: set[str]
    trips: int


def play(seed: int, folder: Path, *, days: float = 1.0) -> Outcome:
    """Play one seed."""
    history = History()

    async def main(world: World) -> Outcome:
        rng = Random(seed)
        backend = BackendThread(
            BackendSettings(folder=folder / "backend", api_keys=("key",), clock=world.now),
        )
        with backend.running():
            network, events.world = Network(world, backend, Random(rng.random())), world
            vehicles = [
                Vehicle(
                    name,
                    folder / name,
                    world,
                    network,
                    history,
                    Random(rng.random()),
                    profile_keys=[_FERNET],
                    model_trusted_keys=[_TRUSTED],
                )
                for name in ("vehicle_a", "vehicle_b")
            ]
            await _enrol(vehicles, network)
            async with asyncio.TaskGroup() as group:
                for vehicle in vehicles:
                    group.create_task(_days(vehicle, world, Random(rng.random()), days))
                group.create_task(_publish(world, Random(rng.random()), folder, history, days))
            network.is_calm = True
            ask_for_all(network.backend)
            # Twice: what the second vehicle sends is news to the first.
            for vehicle in (*vehicles, *vehicles):
                await vehicle.live(partial(_end, vehicle), crash_in=None)
        return Outcome(
            findings(folder / "backend", history, network, vehicles), world.log, network.happened, len(history.trips)
        )

    events = _Events(history)
    agents = logging.getLogger("sentinel_sync")
    before = agents.level
    agents.addHandler(events)
    agents.setLevel(min(logging.INFO, agents.getEffectiveLevel()))
    try:
        outcome = run_simulated(main, seed)
    finally:
        agents.removeHandler(events)
        agents.setLevel(before)
    return replace(outcome, happened=outcome.happened | events.seen)


class _Events(logging.Handler):
    """The events that agents have written to their logs: what they came to do."""

    def __init__(self, history: History) -> None:
        super().__init__(logging.INFO)
        self._history = history
        self.world: World | None = None
        self.seen: set[str] = set()

    def emit(self, record: logging.LogRecord) -> None:
        event = str(record.msg).partition(":")[0]
        if _EVENT.fullmatch(event):
            self.seen.add(event)
        if event in {"model.installed", "model.recovered"} and self.world is not None:
            self._history.switches.append((self.world.elapsed(), WHO.get(), record.getMessage()))


async def _enrol(vehicles: list[Vehicle], network: Network) -> None:
    """The drivers are enrolled in the first vehicle, and their files carried to the others."""
    first, *others = vehicles
    (first.folder / "profiles").mkdir()
    for driver, name in DRIVERS.items():
        profile = {"driver_id": driver, "name": name, "total_distance": 0.0, "total_trips": 0, "created_at": 1.78e9}
        first.profile_file(driver).write_text(json.dumps(profile))
    network.is_calm = True
    await first.live(_rest, crash_in=None)
    network.is_calm = False
    for other in others:
        (other.folder / "profiles").mkdir()
        for driver in DRIVERS:
            shutil.copy(first.profile_file(driver), other.profile_file(driver))


async def _days(vehicle: Vehicle, world: World, rng: Random, days: float) -> None:
    async def drives(agent: SyncAgent, clock: BootClock) -> None:
        for _ in range(rng.randint(0, 3)):
            await asyncio.sleep(rng.expovariate(1.0 / 120.0))
            if rng.random() < 0.5:
                await vehicle.decide(agent, granted=rng.random() < 0.6)
            await vehicle.drive(agent, clock)
        if rng.random() < 0.5:
            await agent.drain(rng.uniform(0.0, 30.0))

    while world.elapsed() < days * _DAY:
        await asyncio.sleep(rng.expovariate(1.0 / 7200.0))
        await vehicle.live(drives, crash_in=rng.expovariate(1.0 / 900.0) if rng.random() < 0.6 else None)


async def _publish(world: World, rng: Random, folder: Path, history: History, days: float) -> None:
    """Releases of the model, now and then; some that somebody else has signed."""
    while world.elapsed() < days * _DAY:
        await asyncio.sleep(rng.expovariate(1.0 / 7200.0))
        version, content, is_genuine = f"v1.{len(history.releases)}.0", rng.randbytes(200_000), rng.random() < 0.75
        checksum = hashlib.sha256(content).hexdigest()
        signed = manifest_of(MODEL, version, len(content), checksum)
        key = _KEY if is_genuine else _STRANGERS_KEY
        (folder / "new.pt").write_bytes(content)
        signatures = [ModelSignature(base64.b64encode(key.sign(signed)).decode(), None)]
        offered = ModelRelease(name=MODEL, version=version, signatures=signatures)
        publish_model(folder / "backend", folder / "new.pt", offered)
        history.releases.append(release := Release(version, checksum, is_genuine))
        world.note(f"released: {version}{'' if is_genuine else ', signed by a stranger'}")
        if rng.random() < 0.3:
            await asyncio.sleep(rng.expovariate(1.0 / 1800.0))
            _withdraw(folder / "backend", version)
            release.withdrawn_at = world.elapsed()
            world.note(f"withdrawn: {version}")


def _withdraw(backend: Path, version: str) -> None:
    with contextlib.closing(sqlite3.connect(backend / "backend.sqlite3", isolation_level=None)) as connection:
        connection.execute("DELETE FROM models WHERE version = ?", (version,))


def manifest_of(name: str, version: str, size: int, checksum: str) -> bytes:
    """What is signed (wire contract, "Signature"), written down once more: the auditor's side shares no code."""
    kind = b"application/vnd.sentinel.model.v1+json"
    fields = {"checksum": checksum, "name": name, "size": size, "version": version}
    body = json.dumps(fields, sort_keys=True, separators=(",", ":"), ensure_ascii=False).encode()
    return b" ".join([b"DSSEv1", str(len(kind)).encode(), kind, str(len(body)).encode(), body])


async def _end(vehicle: Vehicle, agent: SyncAgent, clock: BootClock) -> None:
    """Whatever may go does, and what does not is to have a reason."""
    clock.wrong_by = 0.0
    await vehicle.decide(agent, granted=True)
    await _rest(agent, clock)
    vehicle.said = {status["scenario_id"]: status for status in await agent.scenarios.get_scenarios()}


async def _rest(agent: SyncAgent, _: BootClock) -> None:
    """Be online for a while, and then until nothing is left, as long as that may take."""
    await asyncio.sleep(_ONLINE)
    with contextlib.suppress(TimeoutError):  # the auditor says what is left
        async with asyncio.timeout(_CALM):
            while (await agent.remaining()).left:  # noqa: ASYNC110 - the agent tells nobody when it is done
                await asyncio.sleep(30.0)
