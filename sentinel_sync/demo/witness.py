"""Asks the backend what it has, and compares: what counts is what it says, not what the agent says it sent."""

import asyncio
import json
import re
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from sentinel_sync.base.http_library import httpx
from sentinel_sync.base.payloads import TripSummary
from sentinel_sync.base.privacy import pseudonym
from sentinel_sync.demo.city import DAY
from sentinel_sync.demo.processes import PATIENCE, DemoError

#: Seconds between two questions while something is awaited from another process.
_POLL = 0.1
#: Trips per answer.
_PAGE = 1000
_PSEUDONYM = re.compile(r"d_[0-9a-f]{32}")
_FINER = re.compile(r"-?\d+\.\d{3,}")


class Witness:
    """A reader of the backend's own routes. An async context manager.

    Args:
        url: The backend's address.
        key: A key that it accepts.
        fleet_id: Whose statistics are asked for.
    """

    def __init__(self, url: str, key: str, fleet_id: str) -> None:
        headers = {
            "Authorization": f"Bearer {key}",
            "User-Agent": "sentinel-sync-witness",
            "X-Fleet-ID": fleet_id,
            "X-Vehicle-ID": "witness",
            "X-Request-ID": "00000000-0000-4000-8000-000000000000",
        }
        self._fleet_id = fleet_id
        self._http = httpx.AsyncClient(base_url=url, headers=headers, trust_env=False, timeout=PATIENCE)

    async def __aenter__(self) -> Self:
        await self._http.__aenter__()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self._http.__aexit__(kind, error, trace)

    async def trips(self) -> list[dict[str, Any]]:
        """All trips, in the order of the backend's listing."""
        trips: list[dict[str, Any]] = []
        after: str | None = ""
        while after is not None:
            page = await self._get("/trips", limit=_PAGE, after=after)
            trips += page["trips"]
            after = page["next"]
        return trips

    async def count(self, name: str) -> int:
        """How many trips there are ("total"), or how often one was sent again ("repeats")."""
        return int((await self._get("/trips", limit=1))[name])

    async def wait_for(self, name: str, least: int) -> int:
        """Wait until a count is reached; returns it as it is then, or when patience ended."""
        loop = asyncio.get_running_loop()
        end = loop.time() + PATIENCE
        while (found := await self.count(name)) < least and loop.time() < end:  # noqa: ASYNC110  # another process
            await asyncio.sleep(_POLL)
        return found

    async def scenarios(self) -> list[dict[str, Any]]:
        """The recordings of which something has arrived."""
        scenarios: list[dict[str, Any]] = (await self._get("/scenarios", limit=_PAGE))["scenarios"]
        return scenarios

    async def wait_for_scenario(self, scenario_id: str) -> dict[str, Any]:
        """Wait until a recording has arrived whole; returns it as it is then, or when patience ended.

        Raises:
            DemoError: Nothing of it has arrived.
        """
        loop = asyncio.get_running_loop()
        end = loop.time() + PATIENCE
        while True:
            found = next((one for one in await self.scenarios() if one["scenario_id"] == scenario_id), None)
            if (found is not None and found["complete"]) or loop.time() >= end:
                break
            await asyncio.sleep(_POLL)
        if found is None:
            raise DemoError("nothing of the recording has arrived")
        return found

    async def strikes(self) -> dict[str, int]:
        """How often each kind of fault has struck."""
        strikes: dict[str, int] = (await self._get("/_faults"))["strikes"]
        return strikes

    async def end_faults(self) -> None:
        """Let nothing fail on purpose any more."""
        response = await self._http.put("/_faults", json={"faults": []})
        response.raise_for_status()

    async def statistics(self) -> dict[str, Any]:
        """The fleet's statistics."""
        return await self._get(f"/fleet/{self._fleet_id}/statistics")

    async def _get(self, path: str, **query: int | str) -> dict[str, Any]:
        try:
            response = await self._http.get(path, params=query)
        except httpx.HTTPError as error:
            raise DemoError(f"{path}: the backend cannot be asked: {type(error).__name__}") from None
        if not response.is_success:
            raise DemoError(f"{path}: the backend answered {response.status_code}")
        answer: dict[str, Any] = response.json()
        return answer


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
