"""Looks at what came of it all, by what lies at the backend and went over the wire; shares no code with the agent."""

import hashlib
import itertools
import json
import math
import sqlite3
from collections.abc import Iterator, Sequence
from contextlib import closing
from pathlib import Path

from tests.simulation.link import Network
from tests.simulation.recorder import CAMERA
from tests.simulation.vehicle import DRIVERS, History, RecordingRecord, Vehicle

#: The model that is released.
MODEL = "yolov8m_automotive"
#: What has to come about over some seeds, in the world and, by the events in their logs, in the agents: a workload in
#: which it never does shows nothing of it.
SOMETIMES = frozenset(
    {
        "a process died",
        "a full disk refused something",
        "the backend was restarted",
        "an answer was lost after the work was done",
        "an answer was cut off",
        "a piece was cut off on its way",
        "trips went in a batch",
        "scenario.on_request",
        "scenario.wanted",
        "a file was altered on its way",
        "answered 401",
        "answered 429",
        "answered 503",
        "GET answered 206",
        "GET answered 304",
        "HEAD answered 200",
        "PATCH answered 204",
        "POST answered 409",
        "trip.interrupted",
        "trip.time_corrected",
        "outbox.released",
        "scenario.declined",
        "scenario.dropped",
        "scenario.overtaken",
        "scenario.uploaded",
        "model.installed",
        "model.refused",
        "model.failed",
        "traffic.held",
        "cloud.refused",
        "profiles.left",
    }
)
#: No part of a secret may be in anything that was sent, but for the driver's own address.
_TRACES = (b"Quillfeather", b"Brandvold", b"48.8583", b"2.29448", b"4885837")
_RECORDINGS_GO_TO = ("/scenarios", "/uploads")
_PARTS = sorted([f"{CAMERA}.mp4", "annotations.json"])
#: Requests of one vehicle within any hour: a probe every 30 s, and what there is to send.
_MOST_PER_HOUR = 1200
#: So many seconds after a listing, what it does not offer any more is not switched to.
_WORD_TAKES = 60.0
#: Metres of a trip that a dying process may lose: what was driven since the last checkpoint, 5 s, one reading of 300 m.
_LOST_METRES = 600.0


def findings(backend_folder: Path, history: History, network: Network, vehicles: Sequence[Vehicle]) -> list[str]:
    """All that is not as it was promised."""
    return [
        *_trips(backend_folder, history),
        *_secrets(network),
        *_keys(network),
        *_requests(network),
        *_patience(network),
        *_profiles(history, vehicles),
        *_models(history, vehicles),
        *_withdrawn(history, network),
        *_consent(history, network),
        *_recordings(backend_folder, history, vehicles),
        *_leftovers(vehicles),
    ]


def _trips(backend_folder: Path, history: History) -> Iterator[str]:
    path = backend_folder / "backend.sqlite3"
    with closing(sqlite3.connect(f"file:{path}?mode=ro", uri=True)) as connection:
        rows = connection.execute("SELECT trip_id, vehicle_id, distance, body FROM trips").fetchall()
    there = {trip_id: (vehicle, distance, json.loads(body)) for trip_id, vehicle, distance, body in rows}
    if len(there) != len(rows):
        yield "a trip is at the backend for two vehicles"
    for trip_id, record in history.trips.items():
        found = there.pop(trip_id, None)
        if found is None:
            yield f"trip {trip_id} of {record.vehicle} is lost ({record})"
            continue
        vehicle, distance, body = found
        if vehicle != record.vehicle:
            yield f"trip {trip_id} of {record.vehicle} came from {vehicle}"
        if record.told is not None and abs(distance - record.told) > 0.01:
            yield f"trip {trip_id}: {record.told} m were acknowledged, {distance} m arrived"
        if record.told is not None and abs(record.told - record.driven) > 1.0:
            yield f"trip {trip_id}: {record.driven} m were driven, {record.told} m acknowledged"
        if record.told is None and not record.driven - _LOST_METRES <= distance <= record.driven + 300.1:
            yield f"trip {trip_id}: {record.driven} m were driven before the process died, {distance} m arrived"
        if record.told is not None and body["interrupted"]:
            yield f"trip {trip_id} ended, and arrived as interrupted"
    for trip_id in there:
        yield f"trip {trip_id} was never begun"


def _secrets(network: Network) -> Iterator[str]:
    for sent in network.wire:
        for trace in _TRACES:
            if trace in sent.data:
                yield f"{trace!r} was sent: {sent.data[:200]!r}"
        for driver in DRIVERS:
            if driver.encode() in sent.data and not sent.path.startswith("/drivers/"):
                yield f"the driver's id was sent: {sent.data[:200]!r}"


def _keys(network: Network) -> Iterator[str]:
    """The same work always goes under the same key: a trip's is its id."""
    for sent in network.wire:
        if sent.path == "/trips":
            head, _, body = sent.data.rpartition(b"\r\n")
            trip_id = json.loads(body)["trip_id"]
            if f"Idempotency-Key: {trip_id}\r\n".encode() not in head:
                yield f"trip {trip_id} went under another key: {head!r}"
        if sent.path == "/trips/batch":
            head, _, body = sent.data.rpartition(b"\r\n")
            names = "\n".join(trip["trip_id"] for trip in json.loads(body)["trips"])
            if f"Idempotency-Key: {hashlib.sha256(names.encode()).hexdigest()}\r\n".encode() not in head:
                yield f"a batch went under another key: {head!r}"


def _requests(network: Network) -> Iterator[str]:
    for vehicle, times in network.requests.items():
        begin = 0
        for end, at in enumerate(times):
            while at - times[begin] > 3600.0:
                begin += 1
            if end - begin > _MOST_PER_HOUR:
                yield f"{vehicle} sent {end - begin} requests within an hour"
                return


def _patience(network: Network) -> Iterator[str]:
    """What a backend asks for is for the whole vehicle; who was about to send at that instant still may."""
    for sent in network.wire:
        if sent.is_early:
            yield f"{sent.vehicle} sent {sent.method} {sent.path} at {sent.at:.1f} s, and was to come later"


def _profiles(history: History, vehicles: Sequence[Vehicle]) -> Iterator[str]:
    for vehicle, (driver, name) in itertools.product(vehicles, DRIVERS.items()):
        profile, driven = json.loads(vehicle.profile_file(driver).read_text()), history.profile_metres[driver]
        if abs(profile["total_distance"] - driven) > 1.0:
            yield f"{driver} in {vehicle.name}: {profile['total_distance']:.1f} m, {driven:.1f} m were driven"
        if profile["name"] != name:
            yield f"{driver} in {vehicle.name} lost the name"


def _models(history: History, vehicles: Sequence[Vehicle]) -> Iterator[str]:
    """Only whole, signed bytes are opened, the registry says which, and in the end the newest of them."""
    genuine = {release.sha256: release.version for release in history.releases if release.is_genuine}
    offered = [it.version for it in history.releases if it.is_genuine and it.withdrawn_at == math.inf]
    is_newest = bool(offered) and offered[-1] == list(genuine.values())[-1]
    for vehicle in vehicles:
        models = vehicle.folder / "models"
        live = models / f"{MODEL}.pt"
        if not live.exists():
            if is_newest:
                yield f"{vehicle.name} has no model"
            continue
        version = genuine.get(hashlib.sha256(live.read_bytes()).hexdigest())
        if version is None:
            yield f"{vehicle.name} opens a model that nobody may have released"
            continue
        registered = json.loads((models / "registry.json").read_text())[MODEL]["version"]
        if registered != version:
            yield f"{vehicle.name} opens {version}, and its registry says {registered}"
        # One that was withdrawn stays where it is in use, and where it was seen nothing older takes its place.
        if is_newest and version != offered[-1]:
            yield f"{vehicle.name} opens {version}, and {offered[-1]} is offered"
        if half := [path.name for path in models.rglob(".*") if path.is_file() and path.name != ".bad_versions.json"]:
            yield f"{vehicle.name} has left half-done files: {half}"


def _withdrawn(history: History, network: Network) -> Iterator[str]:
    """Nothing is switched to that the last listing which a vehicle got did not offer any more."""
    for release, (vehicle, listings) in itertools.product(history.releases, network.listings.items()):
        told_at = next((at for at in listings if at >= release.withdrawn_at), math.inf)
        mine = [(at, said) for at, whose, said in history.switches if whose == vehicle]
        words = [(at, said) for at, said in mine if f"{MODEL} {release.version}" in said]
        late = [(at, said) for at, said in words if at > told_at + _WORD_TAKES]
        # One that was cut off before that is ended whenever the disk lets it.
        if late and not any("recovered" in said for at, said in words if at < late[0][0]):
            yield f"{vehicle} at {late[0][0]:.0f} s: {late[0][1]}; withdrawn at {release.withdrawn_at:.0f} s"


def _stands(history: History, vehicle: str, at: float) -> bool | None:
    """Whether a consent stood; None where that cannot be said, as a process died while it was being decided."""
    standing: bool | None = False
    for decision in history.decisions:
        if decision.vehicle == vehicle and decision.began <= at:
            is_done = decision.stands_since is not None and decision.stands_since <= at
            standing = decision.granted if is_done or standing is decision.granted else None
    return standing


def _consent(history: History, network: Network) -> Iterator[str]:
    for sent in network.wire:
        if sent.path.startswith(_RECORDINGS_GO_TO) and sent.method in {"POST", "PATCH", "PUT"}:
            if _stands(history, sent.vehicle, sent.at) is False:
                yield f"{sent.vehicle} sent {sent.method} {sent.path} at {sent.at:.1f} s without a consent"
            if sent.is_metered:
                yield f"{sent.vehicle} sent {sent.method} {sent.path} at {sent.at:.1f} s over a metered link"


def _recordings(backend_folder: Path, history: History, vehicles: Sequence[Vehicle]) -> Iterator[str]:
    """Whole and once at the backend, or the agent says why not; none that was made while a consent stood withdrawn."""
    with closing(sqlite3.connect(f"file:{backend_folder / 'backend.sqlite3'}?mode=ro", uri=True)) as connection:
        rows = connection.execute(
            "SELECT vehicle_id, scenario_id, name, file FROM scenarios LEFT JOIN parts ON scenario = scenarios.id"
        ).fetchall()
    there: dict[tuple[str, str], list[str]] = {}
    for vehicle_id, name, part, file in rows:
        there.setdefault((vehicle_id, name), []).append(part)
        yield from _kept(backend_folder, file, f"{name} of {vehicle_id}")
    said = {vehicle.name: vehicle.said for vehicle in vehicles}
    for made in history.recordings:
        parts = sorted(there.pop((made.vehicle, made.name), []))
        reported = said[made.vehicle].get(made.name)
        if parts and _is_after_a_no(history, made):
            yield f"{made.name} of {made.vehicle} was made while no consent stood, and was sent"
        if parts == _PARTS:
            # Where the last acknowledgement was lost, and then the consent taken back, nobody can ask any more.
            if reported is None or (reported["status"] != "uploaded" and not _may_stay(history, made)):
                yield f"{made.name} of {made.vehicle} arrived, and the agent says {reported}"
        elif not _may_stay(history, made):
            yield f"{made.name} of {made.vehicle} has not arrived whole ({parts}): {reported}"
        elif reported is None or reported["reason"] is None:
            yield f"{made.name} of {made.vehicle} stays, and nobody knows why: {reported}"
    for vehicle_id, name in there:
        yield f"{name} of {vehicle_id} was never recorded"


def _kept(backend_folder: Path, file: str | None, whose: str) -> Iterator[str]:
    if file is None:
        return
    content = next(backend_folder.rglob(file)).read_bytes()
    for trace in _TRACES:
        if trace in content:
            yield f"{trace!r} of {whose} is at the backend"


def _is_after_a_no(history: History, made: RecordingRecord) -> bool:
    """Whether the driver had said no when it was made; before the first word there was none."""
    has_decided = any(it.vehicle == made.vehicle and it.began <= made.made_at for it in history.decisions)
    return has_decided and _stands(history, made.vehicle, made.made_at) is False


def _may_stay(history: History, made: RecordingRecord) -> bool:
    """Whether a driver has ever said no before or after: a vehicle whose clock was set cannot always tell the two."""
    return any(not it.granted for it in history.decisions if it.vehicle == made.vehicle)


def _leftovers(vehicles: Sequence[Vehicle]) -> Iterator[str]:
    for vehicle in vehicles:
        path = vehicle.folder / "state" / "outbox.db"
        with closing(sqlite3.connect(path)) as connection:
            (left,) = connection.execute("SELECT count(*) FROM item").fetchone()
        if left:
            yield f"{left} items are left in {vehicle.name}'s outbox"
