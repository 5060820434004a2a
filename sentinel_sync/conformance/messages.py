"""What a vehicle sends, as the contract writes it; spelled out, so that no code of the agent agrees with itself."""

import secrets
import time
from datetime import UTC, datetime
from typing import Any

from sentinel_sync.conformance.run import Run

#: Of each trip of a run, metres: sums can be told.
DISTANCE = 1000.0


def moment(seconds_ago: float = 0.0) -> str:
    """A time, RFC 3339 with an offset."""
    return datetime.fromtimestamp(time.time() - seconds_ago, UTC).isoformat(timespec="milliseconds")


def trip(**changes: Any) -> dict[str, Any]:
    """A trip that ended a minute ago."""
    milliseconds = int((time.time() - 360.0) * 1000)
    # RFC 9562 section 5.7: 48 bits of time, the version, the variant, chance for the rest.
    number = (milliseconds << 80) | (7 << 76) | (secrets.randbits(12) << 64) | (2 << 62) | secrets.randbits(62)
    return {
        "trip_id": f"trip_{number:032x}",
        "start_time": moment(360.0),
        "end_time": moment(60.0),
        "duration": 300.0,
        "distance": DISTANCE,
        "average_speed": 3.3,
        "max_speed": 14.0,
        "alert_count": 1,
        "critical_alert_count": 0,
        "warning_alert_count": 1,
        "info_alert_count": 0,
        "average_risk_score": 0.1,
        "max_risk_score": 0.4,
        "driver_id": f"d_{'0' * 31}1",
        "start_location": {"lat": 37.77, "lon": -122.42},
        "end_location": {"lat": 37.78, "lon": -122.41},
        "interrupted": False,
        "schema_version": 1,
        **changes,
    }


def announcement(scenario_id: str) -> dict[str, Any]:
    """A recording with one video."""
    return {
        "scenario_id": scenario_id,
        "metadata": {
            "timestamp": moment(120.0),
            "duration": 1.0,
            "num_frames": 30,
            "trigger": {"type": "near_miss", "reason": "minimum TTC 0.8 s"},
            "files": {"bev": "bev.mp4"},
        },
        "priority": "normal",
        "consent": {"granted_at": moment(3600.0), "policy_version": "1"},
    }


def scenario_id() -> str:
    """A recording's id: a time stamp, as a recorder names folders, and a number of chance."""
    return datetime.now(UTC).strftime("%Y%m%d_%H%M%S_") + str(secrets.randbelow(10**9)).zfill(9)


def report(run: Run) -> dict[str, Any]:
    """A vehicle that is well."""
    return {
        "schema_version": 1,
        "reported_at": moment(),
        "agent": {"version": "1.0.0", "started_at": moment(600.0), "starts": 3, "last_stop": "clean"},
        "outbox": {"waiting": 0, "set_aside": 0, "oldest_age": 0.0, "bytes": 0},
        "disk": {"free": 10**9, "used": 10**9},
        "scenarios": {"waiting": 0, "on_request": 0, "set_aside": 0, "uploaded": 1},
        "models": [
            {"name": "conformance", "version": "v1.0.0", "state": "installed", "since": moment(600.0)},
            {
                "name": "conformance",
                "version": "v1.1.0",
                "state": "rolled_back",
                "since": moment(300.0),
                "reason": "probation",
            },
        ],
        "data_used": {"day": 1000, "month": int(run.mark, 16) % 10**6},
    }
