"""The fleet as the page shows it: figures with units, a trend to draw, rankings and alerts."""

import asyncio
from collections.abc import Awaitable
from typing import TypeVar

from pydantic import JsonValue

from sentinel_sync.base.errors import SentinelSyncError
from sentinel_sync.fleet.fleet_manager import FleetManager
from sentinel_sync.fleet.rules import (
    AggregateMetrics,
    FleetAlerts,
    FleetAnswer,
    FleetTrend,
    VehicleRankings,
    titled,
    unit_of,
)

#: A page is looked at, not searched.
_RANKED, _ALERTS = 10, 20
#: Cells and messages are cut to so many characters.
_LONGEST = 200

Answered = TypeVar("Answered", bound=FleetAnswer)


async def picture(fleet: FleetManager, metric: str, days: int) -> dict[str, JsonValue]:
    """All that the page shows of the fleet; what could not be had says why in its place.

    Raises:
        ValueError: A metric or number of days that cannot be.
    """
    statistics, trend, rankings, alerts = await asyncio.gather(
        _or_why(fleet.get_aggregate_metrics()),
        _or_why(fleet.get_fleet_trends(metric, days)),
        _or_why(fleet.get_vehicle_rankings(metric, _RANKED)),
        _or_why(fleet.get_fleet_alerts(limit=_ALERTS)),
    )
    return {
        "statistics": _statistics(statistics),
        "trend": _trend(trend, metric),
        "rankings": _rankings(rankings, metric),
        "alerts": _alerts(alerts),
    }


async def _or_why(asking: Awaitable[Answered]) -> Answered | str:
    try:
        return await asking
    except SentinelSyncError as error:
        return str(error)


def _statistics(answer: AggregateMetrics | str) -> dict[str, JsonValue]:
    if isinstance(answer, str):
        return {"error": answer}
    figures: list[JsonValue] = [
        [titled(name), unit_of(name, value).said(value)] for name, value in answer.items() if name not in _OWN
    ]
    return {**_age(answer), "figures": figures}


def _trend(answer: FleetTrend | str, metric: str) -> dict[str, JsonValue]:
    if isinstance(answer, str):
        return {"error": answer}
    unit = unit_of(metric)
    points: list[JsonValue] = [
        {
            "date": point.date[:_LONGEST],
            "value": None if point.value is None else unit.shown(point.value),
            "said": unit.said(point.value),
        }
        for point in answer.trend
    ]
    return {**_age(answer), "title": titled(metric), "unit": unit.name, "points": points}


def _rankings(answer: VehicleRankings | str, metric: str) -> dict[str, JsonValue]:
    if isinstance(answer, str):
        return {"error": answer}
    unit = unit_of(metric)
    rows: list[JsonValue] = [[entry.vehicle_id[:_LONGEST], unit.said(entry.get(metric))] for entry in answer.rankings]
    return {**_age(answer), "title": titled(metric), "rows": rows}


def _alerts(answer: FleetAlerts | str) -> dict[str, JsonValue]:
    if isinstance(answer, str):
        return {"error": answer}
    rows: list[JsonValue] = [
        [str(cell or "")[:_LONGEST] for cell in (alert.timestamp, alert.vehicle_id, alert.severity, alert.message)]
        for alert in answer.alerts
    ]
    return {**_age(answer), "rows": rows}


def _age(answer: FleetAnswer) -> dict[str, JsonValue]:
    return {"stale": answer.stale, "age": round(answer.age)}


_OWN = frozenset({"stale", "age"})
