"""The fleet's figures, made of sums that are kept as trips arrive."""

from collections.abc import Sequence
from datetime import timedelta
from typing import Annotated, Any, ClassVar, Literal

from fastapi import APIRouter, Depends, Query, Request
from fastapi.responses import Response
from pydantic import BaseModel, ConfigDict

from sentinel_sync.backend.callers import CallerHere, only_own_fleet
from sentinel_sync.backend.context import BackendHere
from sentinel_sync.backend.database import Connection
from sentinel_sync.backend.documentation import operation
from sentinel_sync.backend.downloads import revalidated
from sentinel_sync.backend.problems import FieldError, Problem
from sentinel_sync.backend.scoring import ALL_METRICS, METRICS, SUMS, Metric, describe_metrics, rounded
from sentinel_sync.backend.vehicles import ACTIVE_WITHIN

router: APIRouter = APIRouter(tags=["fleet"])

LARGEST_LIMIT = 1000
LONGEST_TREND = 366
SEVERITIES = ("critical", "warning", "info")


def _own_fleet(fleet_id: str, caller: CallerHere) -> str:
    only_own_fleet(caller.grant, fleet_id)
    return fleet_id


OwnFleet = Annotated[str, Depends(_own_fleet)]
LimitHere = Annotated[int, Query(ge=1, le=LARGEST_LIMIT)]
MetricHere = Annotated[str, Query(description="One of:\n\n" + describe_metrics())]
_SUMMED = ", ".join(f"CAST(sum({name}) AS {kind}) AS {name}" for name, kind in SUMS.items())
_OF_FLEET = (
    f"SELECT {ALL_METRICS} FROM (SELECT {_SUMMED} FROM totals WHERE fleet_id = ? AND kind = 'day') AS fleet"  # noqa: S608
    " WHERE trips > 0"
)
# Each severity is cut off by itself, so that an index has the newest and the others are not sorted.
_OF_SEVERITY = (
    "SELECT * FROM (SELECT vehicle_id, trip_id, end_time, max_risk, '{0}' AS severity, {0}_alerts AS count FROM trips"
    " WHERE fleet_id = ? AND critical_alerts + warning_alerts + info_alerts > 0 AND {0}_alerts > 0"
    " ORDER BY end_time DESC, trip_id DESC LIMIT ?) AS {0}"
)
_CONDITIONAL = {"If-None-Match": "The ETag of an earlier answer; 304 where it still holds."}


class FleetStatistics(BaseModel):
    """The averages are left out while there is no trip."""

    total_vehicles: int
    active_vehicles: int
    total_distance: float
    total_trips: int
    total_duration: float
    total_alerts: int
    critical_alerts: int
    average_safety_score: float | None = None
    average_trip_duration: float | None = None


class _Entry(BaseModel):
    """Carries the asked metric under its own name, too."""

    model_config: ClassVar[ConfigDict] = ConfigDict(extra="allow")

    rank: int
    total_trips: int


class VehicleEntry(_Entry):
    """One vehicle."""

    vehicle_id: str


class DriverEntry(_Entry):
    """One driver, by pseudonym."""

    driver_id: str


class Rankings(BaseModel):
    """Best first."""

    metric: str
    rankings: list[VehicleEntry]


class Leaderboard(BaseModel):
    """Best first."""

    metric: str
    leaderboard: list[DriverEntry]


class TrendPoint(BaseModel):
    """One day."""

    date: str
    value: float


class Trend(BaseModel):
    """Oldest first."""

    metric: str
    days: int
    trend: list[TrendPoint]


class Comparison(BaseModel):
    """All metrics for each vehicle that has sent a trip."""

    vehicles: dict[str, dict[str, float]]


class Alert(BaseModel):
    """All alerts of one severity in one trip."""

    vehicle_id: str
    severity: Literal["critical", "warning", "info"]
    message: str
    timestamp: str
    trip_id: str
    count: int


class Alerts(BaseModel):
    """Newest first."""

    alerts: list[Alert]


@router.get(
    "/fleet/{fleet_id:path}/statistics",
    response_model=FleetStatistics,
    summary="The fleet as a whole",
    description=f"A vehicle is active if it was heard in the last {ACTIVE_WITHIN / 3600:.0f} h. "
    "A fleet that nobody has heard of has zero of everything.",
    **operation(headers=_CONDITIONAL),
)
async def statistics(request: Request, fleet_id: OwnFleet, backend: BackendHere) -> Response:
    """The fleet as a whole."""
    active_since = backend.now() - ACTIVE_WITHIN

    def look(connection: Connection) -> tuple[dict[str, float], int, int]:
        everything = connection.execute(_OF_FLEET, (fleet_id,)).fetchall()
        fleet = {name: rounded(name, everything[0][f"metric_{name}"]) for name in METRICS} if everything else {}
        return fleet, *backend.sightings.census(connection, fleet_id, active_since)

    fleet, vehicles, active = await backend.database.read(look)
    answer: dict[str, Any] = {"total_vehicles": vehicles, "active_vehicles": active}
    for name in ("total_distance", "total_trips", "total_duration", "total_alerts", "critical_alerts"):
        answer[name] = fleet.get(name, 0)
    if fleet:
        answer["average_safety_score"] = fleet["safety_score"]
        answer["average_trip_duration"] = fleet["average_trip_duration"]
    return revalidated(request, answer)


@router.get(
    "/fleet/{fleet_id:path}/rankings",
    response_model=Rankings,
    summary="Vehicles, best first",
    **operation(422, headers=_CONDITIONAL),
)
async def rankings(
    request: Request,
    fleet_id: OwnFleet,
    backend: BackendHere,
    metric: MetricHere = "safety_score",
    limit: LimitHere = 10,
) -> Response:
    """Vehicles, best first."""
    entries = await backend.database.read(_best("vehicle", fleet_id, metric, limit))
    return revalidated(request, {"metric": metric, "rankings": entries})


@router.get(
    "/fleet/{fleet_id:path}/drivers/leaderboard",
    response_model=Leaderboard,
    summary="Drivers, best first",
    description="By pseudonym; trips without one are left out.",
    **operation(422, headers=_CONDITIONAL),
)
async def leaderboard(
    request: Request,
    fleet_id: OwnFleet,
    backend: BackendHere,
    metric: MetricHere = "safety_score",
    limit: LimitHere = 10,
) -> Response:
    """Drivers, best first."""
    entries = await backend.database.read(_best("driver", fleet_id, metric, limit))
    return revalidated(request, {"metric": metric, "leaderboard": entries})


@router.get(
    "/fleet/{fleet_id:path}/trends",
    response_model=Trend,
    summary="One figure, day by day",
    description="Days are calendar days in UTC by a trip's start, the last one is today. Days without a trip are "
    "left out.",
    **operation(422, headers=_CONDITIONAL),
)
async def trends(
    request: Request,
    fleet_id: OwnFleet,
    backend: BackendHere,
    metric: MetricHere = "safety_score",
    days: Annotated[int, Query(ge=1, le=LONGEST_TREND)] = 30,
) -> Response:
    """One figure, day by day."""
    sql = _known(metric).sql
    today = backend.today().date()
    window = (fleet_id, (today - timedelta(days=days - 1)).isoformat(), today.isoformat())
    rows = await backend.database.read(
        lambda connection: connection.execute(
            f"SELECT name, {sql} FROM (SELECT name, {_SUMMED} FROM totals"  # noqa: S608  # of METRICS
            " WHERE fleet_id = ? AND kind = 'day' AND name BETWEEN ? AND ? GROUP BY name) AS days ORDER BY name",
            window,
        ).fetchall()
    )
    trend = [{"date": day, "value": rounded(metric, value)} for day, value in rows]
    return revalidated(request, {"metric": metric, "days": days, "trend": trend})


@router.get(
    "/fleet/{fleet_id:path}/comparison",
    response_model=Comparison,
    summary="Vehicles side by side",
    **operation(headers=_CONDITIONAL),
)
async def comparison(
    request: Request,
    fleet_id: OwnFleet,
    backend: BackendHere,
    vehicle_ids: Annotated[str, Query(description="Comma-separated; all where absent.")] = "",
) -> Response:
    """Vehicles side by side."""
    chosen = {vehicle_id.strip() for vehicle_id in vehicle_ids.split(",")} - {""}
    vehicles = await backend.database.read(lambda connection: _figures(connection, fleet_id, sorted(chosen)))
    return revalidated(request, {"vehicles": vehicles})


@router.get(
    "/fleet/{fleet_id:path}/alerts",
    response_model=Alerts,
    summary="Alerts, newest first",
    description="Trips carry counts, so there is one entry for each severity in each trip, at the trip's end.",
    **operation(422, headers=_CONDITIONAL),
)
async def alerts(
    request: Request,
    fleet_id: OwnFleet,
    backend: BackendHere,
    severity: Literal["critical", "warning", "info"] | None = None,
    limit: LimitHere = 50,
) -> Response:
    """Alerts, newest first."""

    def select(connection: Connection) -> list[dict[str, Any]]:
        chosen = [name for name in SEVERITIES if severity in {None, name}]
        rows = connection.execute(alerts_query(chosen), (*(fleet_id, limit) * len(chosen), limit))
        return [
            {
                "vehicle_id": row["vehicle_id"],
                "severity": row["severity"],
                "message": f"{row['count']} {row['severity']} alert{'s' if row['count'] > 1 else ''} in one trip, "
                f"highest risk {row['max_risk']:.2f}",
                "timestamp": row["end_time"],
                "trip_id": row["trip_id"],
                "count": row["count"],
            }
            for row in rows
        ]

    return revalidated(request, {"alerts": await backend.database.read(select)})


def _known(metric: str) -> Metric:
    found = METRICS.get(metric)
    if found is None:
        wrong = FieldError("query.metric", "must be one of " + ", ".join(METRICS))
        raise Problem(422, "invalid-parameters", "there is no such metric", errors=[wrong])
    return found


def _figures(connection: Connection, fleet_id: str, chosen: Sequence[str]) -> dict[str, dict[str, float]]:
    """All metrics, by vehicle; all vehicles where none is chosen."""
    among = f" AND name IN ({', '.join('?' * len(chosen))})" if chosen else ""
    rows = connection.execute(
        f"SELECT name, {ALL_METRICS} FROM totals"  # noqa: S608  # constants of this package only
        f" WHERE fleet_id = ? AND kind = 'vehicle'{among} ORDER BY name",
        (fleet_id, *chosen),
    )
    return {row["name"]: {name: rounded(name, row[f"metric_{name}"]) for name in METRICS} for row in rows}


def alerts_query(severities: Sequence[str]) -> str:
    """The newest alerts of a fleet, so many of each severity, and of all of them."""
    return (
        " UNION ALL ".join(_OF_SEVERITY.format(name) for name in severities)
        + " ORDER BY end_time DESC, trip_id DESC, severity LIMIT ?"
    )


def ranking_query(kind: Literal["vehicle", "driver"], metric: Metric) -> str:
    """The best by a metric, of a fleet, so many: on PostgreSQL in the order of an index (`migrations/versions`)."""
    direction = "ASC" if metric.best_is_lowest else "DESC"
    return (
        f"SELECT name, {metric.sql}, trips FROM totals"  # noqa: S608  # constants of this package only
        f" WHERE fleet_id = ? AND kind = '{kind}' ORDER BY 2 {direction}, 1 LIMIT ?"
    )


def _best(kind: Literal["vehicle", "driver"], fleet_id: str, name: str, limit: int) -> Any:
    """The query for the best vehicles or drivers by a metric, as something that a database can run."""
    query = ranking_query(kind, _known(name))

    def select(connection: Connection) -> list[dict[str, Any]]:
        rows = connection.execute(query, (fleet_id, limit)).fetchall()
        return [
            {f"{kind}_id": subject, "rank": rank, "total_trips": trips, name: rounded(name, value)}
            for rank, (subject, value, trips) in enumerate(rows, 1)
        ]

    return select
