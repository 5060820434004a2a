"""The work that the benchmarks share: settings without a rate limit, and trips to send."""

from datetime import UTC, datetime
from pathlib import Path

from pydantic import SecretStr

from sentinel_sync.base.payloads import Location, TripSummary
from sentinel_sync.settings import CloudSettings


def trip_settings(state_dir: Path, api_url: str) -> CloudSettings:
    return CloudSettings(
        enabled=True,
        api_url=api_url,
        api_key=SecretStr("benchmark"),
        rate_limit=0,
        state_dir=state_dir,
        trip_queue_file=state_dir / "no-older-queue.json",
        outbox_max_bytes=4 << 30,
    )


def summary(number: int = 0) -> TripSummary:
    moment = datetime(2026, 11, 23, 12, tzinfo=UTC)
    return TripSummary(
        trip_id=f"trip_{number:032x}",
        start_time=moment,
        end_time=moment,
        duration=1830.2,
        distance=18234.6,
        average_speed=9.96,
        max_speed=31.2,
        alert_count=6,
        critical_alert_count=1,
        warning_alert_count=2,
        info_alert_count=3,
        average_risk_score=0.31,
        max_risk_score=0.92,
        driver_id="d_" + "5" * 32,
        start_location=Location(lat=37.77, lon=-122.42),
        end_location=Location(lat=37.9, lon=-122.1),
        interrupted=False,
    )
