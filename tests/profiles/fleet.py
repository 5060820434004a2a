"""A fleet of whole `ProfileSynchronizer`s over one real backend, to whom anything may happen at any passage.

A passage is where a vehicle's sync touches the world: before and after each request, each record in its store, and
each replacement of a profile's file. There the power may go, a request or its answer may be lost or come late, another
vehicle may sync, or the driver may drive on. All that passes the wire is kept.
"""

import base64
import json
import logging
import ssl
from collections.abc import Iterator, Mapping
from contextlib import AsyncExitStack, contextmanager
from datetime import UTC, datetime
from enum import StrEnum
from pathlib import Path
from random import Random
from typing import Any, NamedTuple, Self
from unittest.mock import patch

import httpx
from pydantic import TypeAdapter

from sentinel_sync.base.files import replace_file
from sentinel_sync.cloud.client import CloudAPIClient
from sentinel_sync.network.foundation import Foundation
from sentinel_sync.profiles.keys import GivenKeys
from sentinel_sync.profiles.profile_synchronizer import ProfileSynchronizer
from sentinel_sync.profiles.rules.fields import moment_of
from sentinel_sync.settings import CloudSettings
from sentinel_sync.store.documents import Documents
from sentinel_sync.store.store import Store
from tests.fakes.recording_clock import RecordingClock

KEY = base64.urlsafe_b64encode(bytes(range(32))).decode()
API_KEY = "key"
#: Nothing here is TLS, and reading all the world's certificates takes longer than a fleet's day.
NO_TLS = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
START = 1_790_000_000
YEARS = 10 * 365 * 86_400
SYNC_INTERVAL = 300.0
#: Words that only a profile holds, as plaintext.
PROFILE_WORDS = (b"face_embedding", b"total_distance", b"driving_style", b"Zacharias", b"0.123456789")


def iso(seconds: float) -> str:
    """A time as the vehicle's manager writes it: local, without an offset."""
    return datetime.fromtimestamp(seconds, UTC).astimezone().replace(tzinfo=None).isoformat()


class Mishap(StrEnum):
    """What may happen at a passage."""

    POWER_CUT = "the power goes"
    NOT_SENT = "the request is not sent"
    ANSWER_LOST = "it is done, and the answer lost"
    LATE = "it is given up, and arrives later"
    OTHER_SYNCS = "another vehicle syncs meanwhile"
    DRIVES = "the driver drives on meanwhile"


class PowerCut(BaseException):
    """The end of a process; nothing in it may catch that."""


class Drive(NamedTuple):
    """A drive of so many metres, and what the manager thinks of it."""

    vehicle: int
    distance: int
    style: str
    score: int


class Sync(NamedTuple):
    """A vehicle's turn, with what happens at which passage."""

    vehicle: int
    mishaps: dict[int, Mishap]


class Together(NamedTuple):
    """All vehicles take their turn at once."""


class Arrive(NamedTuple):
    """What was late arrives."""


class Forget(NamedTuple):
    """The driver asks to be forgotten."""

    vehicle: int
    mishaps: dict[int, Mishap]


Event = Drive | Sync | Together | Arrive | Forget


class Vehicle:
    """One vehicle: its files, its store, its process."""

    def __init__(self, fleet: "Fleet", number: int) -> None:
        self.fleet = fleet
        self.number = number
        self.name = f"vehicle_{number}"
        self.folder = fleet.folder / self.name / "profiles"
        self.state_dir = fleet.folder / self.name / "state"
        self.folder.mkdir(parents=True)
        # One clock is ten years ahead, another as much behind.
        self.clock = RecordingClock(START + (number - 1) * YEARS)
        self.mishaps: dict[int, Mishap] = {}
        self._passage = 0
        self._dead = False
        self._stack = AsyncExitStack()

    @property
    def file(self) -> Path:
        """The driver's profile."""
        return self.folder / f"{self.fleet.driver}.json"

    def profile(self) -> dict[str, Any] | None:
        """What the manager reads, or None."""
        if not self.file.exists():
            return None
        profile: dict[str, Any] = json.loads(self.file.read_text())
        return profile

    def write(self, profile: Mapping[str, Any]) -> None:
        """As the manager writes: whole, by a rename."""
        new = self.folder / "new"
        new.write_text(json.dumps(profile, indent=2))
        new.replace(self.file)

    def drive(self, drive: Drive) -> None:
        """The manager reads the file, adds to it and writes it, and knows of nothing else."""
        profile = self.profile()
        if profile is None:
            return
        fleet = self.fleet
        fleet.sessions += 1
        fleet.driven += drive.distance
        self.clock.tick(60.0)
        now = self.clock.now()
        stamp = iso(now) if isinstance(profile["last_updated"], str) else now
        self.write(
            profile
            | {
                "total_distance": profile["total_distance"] + drive.distance,
                "total_time": profile["total_time"] + drive.distance / 4,
                "session_count": profile["session_count"] + 1,
                "driving_style": drive.style or profile["driving_style"],
                "safety_score": float(drive.score),
                "metrics": {"gap": [*profile["metrics"]["gap"], fleet.sessions]},
                "last_updated": stamp,
            }
        )

    async def start(self) -> None:
        """Begin a process: the folder is looked at before anybody drives."""
        self._dead, self.mishaps = False, {}
        http = httpx.AsyncClient(transport=_Wire(self))
        self._stack.push_async_callback(http.aclose)
        settings = CloudSettings.model_validate(
            {
                "api_url": self.fleet.url,
                "api_key": API_KEY,
                "vehicle_id": self.name,
                "rate_limit": 0,
                "state_dir": self.state_dir,
                "profiles_dir": self.folder,
                "sync_interval": SYNC_INTERVAL,
            }
        )
        store = await self._stack.enter_async_context(Store(self.state_dir, clock=self.clock))
        store.documents = _Kept(store.documents, self)
        self.client = CloudAPIClient(settings=settings, http=http, clock=self.clock, rng=Random(1))
        await self._stack.enter_async_context(self.client)
        self.synchronizer = ProfileSynchronizer(
            self.client,
            keys=GivenKeys([KEY]),
            foundation=Foundation.of(self.client, store, clock=self.clock, supervised=True),
        )
        await self.synchronizer.prepare()

    async def end(self) -> None:
        """The process is gone; what is on disk stays."""
        await self._stack.aclose()

    async def sync(self, mishaps: Mapping[int, Mishap] | None = None) -> None:
        """Its turn, as the agent gives it; the network is back."""
        self._passage, self.mishaps = 0, dict(mishaps or {})
        self.clock.tick(SYNC_INTERVAL)
        self.client.gate.on_reachable()
        try:
            await self.synchronizer.step()
        except* PowerCut:
            await self._restart()
        self.mishaps = {}

    async def forget(self, mishaps: Mapping[int, Mishap]) -> None:
        """Order it until it is said to be done, at least here."""
        self._passage, self.mishaps = 0, dict(mishaps)
        self.client.gate.on_reachable()
        while True:
            try:
                await self.synchronizer.forget_profile(self.fleet.driver)
                break
            except* PowerCut:
                await self._restart()
        self.mishaps = {}

    async def _restart(self) -> None:
        await self.end()
        await self.start()

    def passes(self) -> Mishap | None:
        """Come to the next passage; returns what is to happen there, apart from a power cut."""
        if self._dead:
            raise PowerCut
        mishap = self.mishaps.get(self._passage)
        self._passage += 1
        if mishap is Mishap.POWER_CUT:
            self._dead = True
            raise PowerCut
        return mishap

    async def meanwhile(self, mishap: Mishap | None) -> None:
        """Let happen what comes from elsewhere."""
        if mishap is Mishap.OTHER_SYNCS:
            await self.fleet.vehicles[(self.number + 1) % len(self.fleet.vehicles)].sync()
        elif mishap is Mishap.DRIVES:
            self.drive(Drive(self.number, 7, "", 50))


class Fleet:
    """Vehicles that share one backend and one driver."""

    def __init__(self, url: str, folder: Path, driver: str, *, size: int = 3) -> None:
        self.url = url
        self.folder = folder
        self.driver = driver
        self.driven = 0
        self.sessions = 0
        self.wire: list[bytes] = []
        self.puts = 0
        self.late: list[httpx.Request] = []
        self.vehicles = [Vehicle(self, number) for number in range(size)]
        for vehicle in self.vehicles:
            first = 100 * vehicle.number
            self.driven += first
            updated: Any = START + vehicle.number
            vehicle.write(
                {
                    "driver_id": driver,
                    "name": "Zacharias",
                    "face_embedding": [0.123456789],
                    "total_distance": first,
                    "total_time": first / 4,
                    "session_count": 0,
                    "driving_style": "normal",
                    "safety_score": 80.0,
                    "metrics": {"gap": []},
                    # Both forms of a time; each vehicle keeps its own.
                    "last_updated": iso(updated) if vehicle.number == 0 else updated,
                    "created_at": START - 1,
                }
            )

    async def __aenter__(self) -> Self:
        for vehicle in self.vehicles:
            await vehicle.start()
        return self

    async def __aexit__(self, *_: object) -> None:
        for vehicle in self.vehicles:
            await vehicle.end()

    async def quiesce(self, rounds: int | None = None) -> None:
        """The network is back, everybody parks, and all sync until there is nothing to say."""
        await self.deliver()
        for _ in range(rounds or 3):
            for vehicle in self.vehicles:
                await vehicle.sync()

    async def deliver(self) -> None:
        """What was late arrives."""
        late, self.late = self.late, []
        async with httpx.AsyncClient(verify=NO_TLS) as http:
            for request in late:
                again = httpx.Request(request.method, request.url, headers=request.headers, content=request.content)
                await http.send(again)

    def normal(self, vehicle: Vehicle) -> dict[str, Any] | None:
        """A vehicle's profile with its times in one form."""
        profile = vehicle.profile()
        if profile is None:
            return None
        for name in ("last_updated", "created_at"):
            moment = moment_of(profile, name)
            profile[name] = None if moment is None else moment.us
        return profile


class _Wire(httpx.AsyncBaseTransport):
    """A real connection, with what may happen on it."""

    def __init__(self, vehicle: Vehicle) -> None:
        self._vehicle = vehicle
        self._inner = httpx.AsyncHTTPTransport(verify=NO_TLS)

    async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
        vehicle, fleet = self._vehicle, self._vehicle.fleet
        mishap = vehicle.passes()
        await vehicle.meanwhile(mishap)
        if mishap is Mishap.NOT_SENT:
            raise httpx.ConnectError("not sent")
        headers = b"".join(name + value for name, value in request.headers.raw)
        fleet.wire.append(str(request.url).encode() + headers + request.content)
        fleet.puts += request.method == "PUT"
        if mishap is Mishap.LATE:
            fleet.late.append(request)
            raise httpx.ReadTimeout("given up")
        response = await self._inner.handle_async_request(request)
        body = await response.aread()
        fleet.wire.append(b"".join(name + value for name, value in response.headers.raw) + body)
        if mishap is Mishap.ANSWER_LOST:
            raise httpx.ReadError("the answer is lost")
        await vehicle.meanwhile(vehicle.passes())
        return httpx.Response(response.status_code, headers=response.headers, content=body)

    async def aclose(self) -> None:
        await self._inner.aclose()


class _Kept(Documents):
    """The store's documents, with a passage before and after each change."""

    def __init__(self, inner: Documents, vehicle: Vehicle) -> None:
        super().__init__(inner._database, inner._clock)
        self._vehicle = vehicle

    async def save(self, kind: str, key: str, fact: Any, shape: TypeAdapter[Any]) -> None:
        await self._passage(kind)
        await super().save(kind, key, fact, shape)
        await self._passage(kind)

    async def delete(self, kind: str, key: str) -> bool:
        await self._passage(kind)
        deleted = await super().delete(kind, key)
        await self._passage(kind)
        return deleted

    async def _passage(self, kind: str) -> None:
        if kind.startswith("profile"):  # the accounts of data used are another matter
            await self._vehicle.meanwhile(self._vehicle.passes())


@contextmanager
def power_cuts_at_files(fleet: Fleet) -> Iterator[None]:
    """Passages before and after the replacement of a profile's file."""
    owners = {vehicle.folder: vehicle for vehicle in fleet.vehicles}
    replace = replace_file

    def replaced(path: Path, content: bytes, **how: Any) -> None:
        owners[path.parent].passes()
        replace(path, content, **how)
        owners[path.parent].passes()

    with patch("sentinel_sync.profiles.files.replace_file", replaced):
        yield


class _Lines(logging.Handler):
    def __init__(self) -> None:
        super().__init__(logging.DEBUG)
        self.lines: list[str] = []

    def emit(self, record: logging.LogRecord) -> None:
        self.lines.append(record.getMessage())


@contextmanager
def overheard() -> Iterator[list[str]]:
    """All that the package logs, at every level."""
    logger, handler = logging.getLogger("sentinel_sync"), _Lines()
    before = logger.level
    logger.addHandler(handler)
    logger.setLevel(logging.DEBUG)
    try:
        yield handler.lines
    finally:
        logger.setLevel(before)
        logger.removeHandler(handler)


def secrets_in(content: bytes) -> list[bytes]:
    """What of a profile, or of the key, can be read in it."""
    key = base64.urlsafe_b64decode(KEY)
    return [word for word in (*PROFILE_WORDS, KEY.encode(), key, key[:16], key[16:]) if word in content]


def left_on_disk(folder: Path, but: str = "profiles") -> dict[Path, bytes]:
    """All files but those in the folders where the vehicles' managers keep their profiles."""
    found = {path: path.read_bytes() for path in folder.rglob("*") if path.is_file() and path.parent.name != but}
    assert found
    return found
