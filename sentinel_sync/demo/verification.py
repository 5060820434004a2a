"""Is what arrived what was recorded? Looks at what the backend says it has, not at what the agent says it sent."""

import json
import re
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from sentinel_sync.base.payloads import TripSummary
from sentinel_sync.base.privacy import pseudonym
from sentinel_sync.demo.city import DAY
from sentinel_sync.demo.processes import DemoError

_PSEUDONYM = re.compile(r"d_[0-9a-f]{32}")
_FINER = re.compile(r"-?\d+\.\d{3,}")


@dataclass(frozen=True, slots=True)
class CutTrip:
    """A trip that was under way when its vehicle was killed.

    Attributes:
        drive: Number in `city.DAY`.
        on_disk: Metres that were on disk for certain.
    """

    drive: int
    trip_id: str
    on_disk: float


def verify(
    arrived: Sequence[Mapping[str, Any]],
    recorded: Mapping[int, TripSummary],
    cut: CutTrip,
    old: Sequence[Mapping[str, Any]],
    pseudonym_key: str,
) -> None:
    """Compare what arrived with what should have.

    Args:
        arrived: All trips that the backend has, as it shows them.
        recorded: Trips that were ended, by the number of their drive.
        cut: The one that was not.
        old: The older module's queue.
        pseudonym_key: The fleet's.

    Raises:
        DemoError: Something is not as promised; names it.
    """
    by_id = {trip["trip_id"]: trip for trip in arrived}
    if len(by_id) != len(arrived):
        raise DemoError(f"{len(arrived) - len(by_id)} trips arrived twice")
    expected = {trip.trip_id for trip in recorded.values()} | {cut.trip_id}
    if missing := expected - by_id.keys():
        raise DemoError(f"{len(missing)} trips have not arrived: {', '.join(sorted(missing))}")
    _verify_taken_over([trip for trip_id, trip in by_id.items() if trip_id not in expected], old)
    for drive, trip in recorded.items():
        _verify_recorded(by_id[trip.trip_id], trip, pseudonym(DAY[drive].driver, pseudonym_key.encode()))
    _verify_cut(by_id[cut.trip_id], cut)
    if sum(bool(trip["interrupted"]) for trip in arrived) != 1:
        raise DemoError("another trip than the one that was cut off is marked as interrupted")
    _verify_private(arrived, [drive.driver for drive in DAY] + [str(trip["driver_id"]) for trip in old])


def raw_ids_in(folder: Path, old: Iterable[Mapping[str, Any]]) -> Iterator[str]:
    """Names of files in a folder that hold a driver's own id. Blocks."""
    ids = {drive.driver for drive in DAY} | {trip["driver_id"] for trip in old if trip["driver_id"]}
    for path in sorted(folder.rglob("*")):
        if path.is_file() and any(driver.encode() in path.read_bytes() for driver in ids):
            yield path.name


def _verify_taken_over(arrived: Sequence[Mapping[str, Any]], old: Sequence[Mapping[str, Any]]) -> None:
    if Counter(trip["distance"] for trip in arrived) != Counter(trip["distance"] for trip in old):
        raise DemoError(f"of the older module's {len(old)} trips, {len(arrived)} have arrived, or others than those")


def _verify_recorded(arrived: Mapping[str, Any], trip: TripSummary, driver: str | None) -> None:
    if TripSummary.model_validate({name: arrived[name] for name in TripSummary.model_fields}) != trip:
        raise DemoError(f"{trip.trip_id} arrived with other figures than were recorded")
    if arrived["driver_id"] != driver:
        raise DemoError(f"{trip.trip_id} carries another pseudonym than its driver's")


def _verify_cut(arrived: Mapping[str, Any], cut: CutTrip) -> None:
    if not arrived["interrupted"]:
        raise DemoError(f"{cut.trip_id} was cut off, and is not marked as interrupted")
    if arrived["distance"] < cut.on_disk - 1e-6:
        raise DemoError(f"{cut.trip_id} lost what had been on disk: {arrived['distance']:.0f} of {cut.on_disk:.0f} m")


def _verify_private(arrived: Sequence[Mapping[str, Any]], raw_ids: Sequence[str]) -> None:
    for trip in arrived:
        places = json.dumps([trip["start_location"], trip["end_location"]])
        if _FINER.search(places):
            raise DemoError(f"{trip['trip_id']} arrived with a place finer than two decimals")
        if trip["driver_id"] is not None and not _PSEUDONYM.fullmatch(trip["driver_id"]):
            raise DemoError(f"{trip['trip_id']} arrived with something else than a pseudonym")
    everything = json.dumps(list(arrived))
    if any(f'"{raw}"' in everything for raw in raw_ids if raw != "None"):
        raise DemoError("a driver's own id has arrived")
