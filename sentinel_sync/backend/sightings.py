"""When each vehicle was last heard: kept in memory, written along with commits that happen anyway."""

import threading
from collections.abc import Iterator
from dataclasses import dataclass
from sqlite3 import Connection


@dataclass(frozen=True, slots=True)
class Sighting:
    """The last time that a vehicle was heard."""

    last_seen: float
    """Seconds since the epoch, by the backend's clock."""
    user_agent: str


class Sightings:
    """All vehicles that ever sent an accepted request. At most the last few seconds are lost in a power cut."""

    def __init__(self) -> None:
        self._seen: dict[tuple[str, str], Sighting] = {}
        self._unwritten: set[tuple[str, str]] = set()
        self._lock = threading.Lock()

    def note(self, fleet_id: str, vehicle_id: str, user_agent: str, now: float) -> None:
        """A request of this vehicle was accepted."""
        with self._lock:
            self._seen[fleet_id, vehicle_id] = Sighting(now, user_agent)
            self._unwritten.add((fleet_id, vehicle_id))

    def find(self, fleet_id: str, vehicle_id: str) -> Sighting | None:
        """When this vehicle was heard, None for never."""
        return self._seen.get((fleet_id, vehicle_id))

    def of_fleet(self, fleet_id: str) -> Iterator[tuple[str, Sighting]]:
        """The vehicles of a fleet."""
        with self._lock:
            seen = list(self._seen.items())
        return ((vehicle_id, sighting) for (fleet, vehicle_id), sighting in seen if fleet == fleet_id)

    def load(self, connection: Connection) -> None:
        """Reads what earlier runs wrote."""
        with self._lock:
            for row in connection.execute("SELECT fleet_id, vehicle_id, last_seen, user_agent FROM vehicles"):
                self._seen[row["fleet_id"], row["vehicle_id"]] = Sighting(row["last_seen"], row["user_agent"])

    def flush(self, connection: Connection) -> None:
        """Writes what is new, in the transaction that is open."""
        with self._lock:
            rows = [
                (*vehicle, self._seen[vehicle].last_seen, self._seen[vehicle].user_agent) for vehicle in self._unwritten
            ]
            self._unwritten.clear()
        connection.executemany("INSERT OR REPLACE INTO vehicles VALUES (?, ?, ?, ?)", rows)
