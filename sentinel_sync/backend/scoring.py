"""How a trip's summary becomes a score, and trips become the figures of a vehicle, a driver, a day or a fleet.

Safety score of one trip, 0 (worst) to 100 (best):

    100 - 60 x average_risk_score - 20 x max_risk_score
        - min(20, (5 x critical + 1 x warning) / max(1, distance in units of 10 km))

so the lasting risk counts most, one dangerous moment counts, and alerts count by how often they came, at most
20 points; info alerts cost nothing. The score of many trips is their mean, weighted by duration (a trip shorter
than a second weighs as one second): an hour says more about a driver than a minute.
"""

from collections.abc import Iterable
from dataclasses import dataclass

PERFECT = 100.0
AVERAGE_RISK_POINTS = 60.0
MAX_RISK_POINTS = 20.0
ALERT_POINTS = 20.0
CRITICAL_ALERT_POINTS = 5.0
WARNING_ALERT_POINTS = 1.0
ALERT_DISTANCE = 10_000.0
"""Metres over which alerts are counted; a shorter trip counts as one of this length."""


def safety_score(*, average_risk: float, max_risk: float, critical: int, warning: int, distance: float) -> float:
    """The score of one trip, by the formula above; distance in metres."""
    alerts = (CRITICAL_ALERT_POINTS * critical + WARNING_ALERT_POINTS * warning) / max(1.0, distance / ALERT_DISTANCE)
    return max(
        0.0,
        PERFECT - AVERAGE_RISK_POINTS * average_risk - MAX_RISK_POINTS * max_risk - min(ALERT_POINTS, alerts),
    )


SUMS = {
    "trips": "BIGINT",
    "duration": "DOUBLE PRECISION",
    "distance": "DOUBLE PRECISION",
    "critical_alerts": "BIGINT",
    "warning_alerts": "BIGINT",
    "info_alerts": "BIGINT",
    "weight": "DOUBLE PRECISION",
    "weighted_score": "DOUBLE PRECISION",
    "weighted_risk": "DOUBLE PRECISION",
}
"""What is summed over trips, and its type: the columns of `totals` from which every figure is made."""


@dataclass(frozen=True, slots=True)
class Metric:
    """One figure over a group of trips."""

    sql: str
    """An SQL expression over the sums."""
    best_is_lowest: bool
    meaning: str
    round_to: int | None = None
    """Decimals; None leaves a count whole."""


METRICS: dict[str, Metric] = {
    "safety_score": Metric("weighted_score / weight", False, "0…100, weighted by duration", round_to=2),
    "total_distance": Metric("distance", False, "metres", round_to=1),
    "total_trips": Metric("trips", False, "trips"),
    "total_duration": Metric("duration", False, "seconds", round_to=1),
    "average_trip_duration": Metric("duration / trips", False, "seconds", round_to=1),
    "average_speed": Metric(
        "distance / CASE WHEN duration > 1.0 THEN duration ELSE 1.0 END",
        False,
        "m/s, distance by duration",
        round_to=2,
    ),
    "average_risk_score": Metric("weighted_risk / weight", True, "0…1, weighted by duration", round_to=4),
    "total_alerts": Metric("critical_alerts + warning_alerts + info_alerts", True, "alerts of any severity"),
    "critical_alerts": Metric("critical_alerts", True, "critical alerts"),
    "alerts_per_100_km": Metric(
        # Divided first: PostgreSQL would multiply a count by 100000.0 as decimals, which takes as long as all else.
        "(critical_alerts + warning_alerts + info_alerts)"
        " / CASE WHEN distance > 1000.0 THEN distance ELSE 1000.0 END * 100000",
        True,
        "alerts of any severity, over at least one km",
        round_to=2,
    ),
}

#: So that a metric may have the name of a sum.
ALL_METRICS = ", ".join(f"{metric.sql} AS metric_{name}" for name, metric in METRICS.items())
"""The select list that computes every metric at once, each as `metric_` and its name."""


def rounded(name: str, value: float) -> float:
    """A metric's value without digits that mean nothing."""
    places = METRICS[name].round_to
    return value if places is None else round(value, places)


def describe_metrics(names: Iterable[str] = METRICS) -> str:
    """A list of the metrics for people, in Markdown."""
    lines = (
        f"- `{name}`: {METRICS[name].meaning}; best is {'lowest' if METRICS[name].best_is_lowest else 'highest'}"
        for name in names
    )
    return "\n".join(lines)
