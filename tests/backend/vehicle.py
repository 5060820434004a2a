"""A vehicle of the tests: sends what the contract says, and can leave any of it out."""

import hashlib
import itertools
import json
import os
import time
import uuid
from base64 import b64encode
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import httpx
import pytest

KEY = "the-key"
FLEET = "fleet_alpha"
_numbers = itertools.count()
#: What a file in the folder can and a server elsewhere cannot.
SQLITE_ONLY = pytest.mark.skipif("SENTINEL_TEST_DATABASE" in os.environ, reason="about SQLite's file alone")


class SettableClock:
    """The backend's clock, in the hand of a test."""

    def __init__(self) -> None:
        self.now = 1_795_420_800.0  # 2026-11-23T08:00:00Z

    def __call__(self) -> float:
        return self.now


class Vehicle:
    """One vehicle with its headers."""

    def __init__(self, http: httpx.AsyncClient, vehicle_id: str = "vehicle_001", fleet_id: str = FLEET) -> None:
        self.http = http
        self.vehicle_id = vehicle_id
        self.fleet_id = fleet_id

    def headers(self, method: str, **changed: str | None) -> dict[str, str]:
        """The headers of the contract; `changed` replaces some, or leaves out those that are None."""
        headers: dict[str, str | None] = {
            "Authorization": f"Bearer {KEY}",
            "User-Agent": f"sentinel-sync/1.0.0 (vehicle {self.vehicle_id})",
            "X-Fleet-ID": self.fleet_id,
            "X-Vehicle-ID": self.vehicle_id,
            "X-Request-ID": str(uuid.uuid4()),
        }
        if method == "POST":
            headers["Idempotency-Key"] = uuid.uuid4().hex
        headers |= {name.replace("_", "-"): value for name, value in changed.items()}
        return {name: value for name, value in headers.items() if value is not None}

    async def send(
        self,
        method: str,
        url: str,
        headers: Mapping[str, str | None] | None = None,
        **rest: Any,
    ) -> httpx.Response:
        return await self.http.request(method, url, headers=self.headers(method, **(headers or {})), **rest)

    async def get(self, url: str, headers: Mapping[str, str | None] | None = None, **rest: Any) -> httpx.Response:
        return await self.send("GET", url, headers, **rest)

    async def post_trip(self, trip: Mapping[str, Any], **headers: str | None) -> httpx.Response:
        given = {"Idempotency-Key": str(trip.get("trip_id")), **headers}
        return await self.send("POST", "/trips", given, json=trip)

    async def register(self, scenario_id: str = "20241117_103045", **changed: Any) -> httpx.Response:
        body = {**registration(scenario_id), **changed}
        return await self.send("POST", "/scenarios", {"Idempotency-Key": f"register-{scenario_id}"}, json=body)

    async def create_upload(
        self, content: bytes, filename: str = "bev.mp4", *, kind: str = "videos", **headers: str | None
    ) -> httpx.Response:
        given = {
            "Tus-Resumable": "1.0.0",
            "Upload-Length": str(len(content)),
            "Upload-Metadata": upload_metadata(content, filename),
            **headers,
        }
        return await self.send("POST", f"/scenarios/20241117_103045/{kind}", given)

    async def patch(self, location: str, offset: int, content: bytes, **headers: str | None) -> httpx.Response:
        given = {
            "Tus-Resumable": "1.0.0",
            "Upload-Offset": str(offset),
            "Content-Type": "application/offset+octet-stream",
            **headers,
        }
        return await self.send("PATCH", location, given, content=content)

    async def head(self, location: str) -> httpx.Response:
        return await self.send("HEAD", location, {"Tus-Resumable": "1.0.0"})


def upload_metadata(content: bytes, filename: str, filetype: str = "video/mp4") -> str:
    pairs = {"filename": filename, "filetype": filetype, "sha256": hashlib.sha256(content).hexdigest()}
    return ",".join(f"{name} {b64encode(value.encode()).decode()}" for name, value in pairs.items())


def trip_id() -> str:
    """A fresh `trip_` and UUIDv7; later ones sort after earlier ones."""
    number = (time.time_ns() // 1_000_000 << 80) | (7 << 76) | (2 << 62) | next(_numbers)
    return f"trip_{number:032x}"


def make_trip(**changed: Any) -> dict[str, Any]:
    return {
        "trip_id": trip_id(),
        "start_time": "2026-11-23T06:00:00Z",
        "end_time": "2026-11-23T07:00:00+00:00",
        "duration": 3600.0,
        "distance": 50_000,
        "average_speed": 13.9,
        "max_speed": 33.1,
        "alert_count": 6,
        "critical_alert_count": 1,
        "warning_alert_count": 2,
        "info_alert_count": 3,
        "average_risk_score": 0.2,
        "max_risk_score": 0.8,
        "driver_id": "d_" + "ab" * 16,
        "start_location": {"lat": 37.77, "lon": -122.42},
        "end_location": None,
        "interrupted": False,
        "schema_version": 1,
        **changed,
    }


def registration(scenario_id: str = "20241117_103045", **metadata: Any) -> dict[str, Any]:
    return {
        "scenario_id": scenario_id,
        "metadata": {
            "timestamp": "2024-11-17T10:30:45",
            "duration": 1.97,
            "num_frames": 60,
            "trigger": {"type": "critical", "reason": "risk 0.90 above 0.7"},
            "files": {"bev": "bev.mp4", "interior": "interior.mp4"},
            "location": "37.77,-122.42",
            **metadata,
        },
        "priority": "high",
        "consent": {"granted_at": "2026-11-01T00:00:00Z", "policy_version": "2"},
    }


def report_body(*models: dict[str, Any]) -> dict[str, Any]:
    return {
        "schema_version": 1,
        "reported_at": "2026-11-28T10:00:00Z",
        "agent": {"version": "0.1.0", "started_at": "2026-11-28T09:00:00Z", "starts": 1, "last_stop": "clean"},
        "outbox": {"waiting": 0, "set_aside": 0, "oldest_age": 0, "bytes": 0},
        "disk": {"free": 1, "used": 1},
        "scenarios": {"waiting": 0, "on_request": 0, "set_aside": 0, "uploaded": 0},
        "models": list(models),
        "data_used": {"day": 0, "month": 0},
    }


def fernet_token(content: bytes = b"secret") -> str:
    """Something of a Fernet token's shape."""
    padded = content.ljust(len(content) + 16 - len(content) % 16, b"\0")
    return b64encode(b"\x80" + bytes(8) + bytes(16) + padded + bytes(32), altchars=b"-_").decode()


def stored_bytes(folder: Path) -> bytes:
    """Everything that the backend has on disk."""
    return b"".join(path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file())


def problem(response: httpx.Response, status: int, kind: str) -> dict[str, Any]:
    """Checks that the response is this problem, and gives its body."""
    assert response.status_code == status, response.text
    assert response.headers["content-type"] == "application/problem+json"
    body: dict[str, Any] = json.loads(response.content)
    assert body["type"] == f"urn:sentinel:problem:{kind}"
    assert body["status"] == status
    assert body["title"]
    assert body["detail"]
    return body
