"""When each vehicle was last heard: gathered in memory, written now and then, read together with what is written."""

import threading
from dataclasses import dataclass

from sentinel_sync.backend.database import Connection

_UPSERT = """
INSERT INTO vehicles (fleet_id, vehicle_id, last_seen, user_agent) VALUES (?, ?, ?, ?)
ON CONFLICT (fleet_id, vehicle_id) DO UPDATE SET last_seen = excluded.last_seen, user_agent = excluded.user_agent
WHERE excluded.last_seen >= vehicles.last_seen
"""


@dataclass(frozen=True, slots=True)
class Sighting:
    """The last time that a vehicle was heard."""

    last_seen: float
    """Seconds since the epoch, by the backend's clock."""
    user_agent: str


class Sightings:
    """All vehicles that ever sent an accepted request. At most the last few seconds are lost in a power cut."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._fresh: dict[tuple[str, str], Sighting] = {}
        self._being_written: dict[tuple[str, str], Sighting] = {}
        """What the last transaction took: known from here until the next, because it may not be committed yet."""

    def note(self, fleet_id: str, vehicle_id: str, user_agent: str, now: float) -> None:
        """A request of this vehicle was accepted."""
        with self._lock:
            self._fresh[fleet_id, vehicle_id] = Sighting(now, user_agent)

    @property
    def has_fresh(self) -> bool:
        """Whether there is something to write."""
        return bool(self._fresh)

    def find(self, connection: Connection, fleet_id: str, vehicle_id: str) -> Sighting | None:
        """When this vehicle was heard, None for never."""
        whose = (fleet_id, vehicle_id)
        with self._lock:
            known = self._fresh.get(whose) or self._being_written.get(whose)
        if known is not None:
            return known
        row = connection.execute(
            "SELECT last_seen, user_agent FROM vehicles WHERE fleet_id = ? AND vehicle_id = ?", whose
        ).fetchone()
        return None if row is None else Sighting(row["last_seen"], row["user_agent"])

    def census(self, connection: Connection, fleet_id: str, since: float) -> tuple[int, int]:
        """How many vehicles of a fleet were ever heard, and how many at `since` (seconds since the epoch) or later."""
        heard, active = connection.execute(
            "SELECT count(*), coalesce(sum(CASE WHEN last_seen >= ? THEN 1 ELSE 0 END), 0) FROM vehicles"
            " WHERE fleet_id = ?",
            (since, fleet_id),
        ).fetchone()
        for (fleet, vehicle_id), sighting in self._in_memory().items():
            if fleet != fleet_id:
                continue
            row = connection.execute(
                "SELECT last_seen FROM vehicles WHERE fleet_id = ? AND vehicle_id = ?", (fleet_id, vehicle_id)
            ).fetchone()
            heard += row is None
            active += (sighting.last_seen >= since) - (row is not None and row["last_seen"] >= since)
        return heard, active

    def flush(self, connection: Connection) -> None:
        """Writes what is new, in the transaction that is open."""
        with self._lock:
            self._being_written, self._fresh = self._fresh, {}
        rows = sorted((*whose, it.last_seen, it.user_agent) for whose, it in self._being_written.items())
        if rows:
            connection.executemany(_UPSERT, rows)

    def _in_memory(self) -> dict[tuple[str, str], Sighting]:
        with self._lock:
            return self._being_written | self._fresh
