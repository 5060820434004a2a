"""An index for each order that fleets are asked for: each leaderboard's metric, and the alerts of each severity.

The expressions are those of `scoring.METRICS`, or PostgreSQL does not use them. While those of the alerts are built,
trips that arrive wait.
"""

from alembic import op

revision = "0002"
down_revision = "0001"
branch_labels = None
depends_on = None

_ALERTS = "(critical_alerts + warning_alerts + info_alerts)"
_METRICS = {
    "safety_score": "(weighted_score / weight) DESC",
    "total_distance": "distance DESC",
    "total_trips": "trips DESC",
    "total_duration": "duration DESC",
    "average_trip_duration": "(duration / trips) DESC",
    "average_speed": "(distance / CASE WHEN duration > 1.0 THEN duration ELSE 1.0 END) DESC",
    "average_risk_score": "(weighted_risk / weight)",
    "total_alerts": _ALERTS,
    "critical_alerts": "critical_alerts",
    "alerts_per_100_km": f"({_ALERTS} / CASE WHEN distance > 1000.0 THEN distance ELSE 1000.0 END * 100000)",
}


def upgrade() -> None:
    """Makes the indexes."""
    for name, order in _METRICS.items():
        op.execute(
            f"CREATE INDEX totals_by_{name} ON totals (fleet_id, kind, {order}, name)"
            " WHERE kind IN ('vehicle', 'driver')"
        )
    for severity in ("critical", "warning", "info"):
        op.execute(
            f"CREATE INDEX trips_with_{severity} ON trips (fleet_id, end_time, trip_id) WHERE {severity}_alerts > 0"
        )
    op.execute("DROP INDEX trips_with_alerts")
