"""When large traffic may go: hours of the vehicle's own day, or what the host says of the vehicle."""

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from enum import StrEnum


class VehicleCondition(StrEnum):
    """What a host may say of the vehicle."""

    PARKED = "parked"
    CHARGING = "charging"
    HOME = "home"


@dataclass(frozen=True, slots=True)
class Window:
    """A time of the week, while a condition holds; either may be left out.

    Attributes:
        days: Days on which it begins, 0 is Monday; empty: each.
        begin: Minutes after local midnight.
        end: Minutes after local midnight; not after `begin`: on the next day.
        condition: What has to hold, or None.
    """

    days: frozenset[int] = frozenset()
    begin: int = 0
    end: int = 24 * 60
    condition: VehicleCondition | None = None

    def is_open(self, now: datetime, conditions: Collection[VehicleCondition]) -> bool:
        """Whether it is open at a local time, while these conditions hold."""
        if self.condition is not None and self.condition not in conditions:
            return False
        minute, today = now.hour * 60 + now.minute, now.weekday()
        if self.begin < self.end:
            return self._begins_on(today) and self.begin <= minute < self.end
        yesterday = (today - 1) % 7
        return (self._begins_on(today) and minute >= self.begin) or (self._begins_on(yesterday) and minute < self.end)

    def _begins_on(self, day: int) -> bool:
        return not self.days or day in self.days


def why_closed(
    name: str, key: str, windows: Sequence[Window], now: datetime, conditions: Collection[VehicleCondition]
) -> str | None:
    """Why something waits for its window, or None where one is open, or there is none.

    Args:
        name: What waits, for a person.
        key: The setting.
        windows: Any of them will do.
        now: Local time.
        conditions: What the host says of the vehicle.
    """
    if not windows or any(window.is_open(now, conditions) for window in windows):
        return None
    return f"cloud.{key} is closed: {name} wait for it"


def seconds_to_next_minute(now: datetime) -> float:
    """When a window may open or close next: they do at full minutes."""
    following = (now + timedelta(minutes=1)).replace(second=0, microsecond=0)
    return (following - now).total_seconds()
