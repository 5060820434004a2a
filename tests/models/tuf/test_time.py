"""A vehicle's clock against a TUF repository's dates: set back, forgotten, ahead; none makes what has expired valid."""

from datetime import UTC, datetime

import pytest

from sentinel_sync.base.errors import UnreachableError, VerificationError
from sentinel_sync.cloud.response_policy import Probe
from sentinel_sync.store.timekeeper import Timekeeper
from tests.fakes.cloud import Answer
from tests.fakes.tuf_repository import DAY, TufRepository
from tests.models.tuf.vehicle import NAME, Vehicle

pytestmark = pytest.mark.usefixtures("off_the_loop")

#: What a clock without a battery says.
LONG_AGO = 86_400.0 * 365


@pytest.fixture
def start(vehicle: Vehicle) -> float:
    """The time at the beginning."""
    return vehicle.clock.now()


async def refused(vehicle: Vehicle, match: str, timekeeper: Timekeeper | None = None) -> None:
    offers = await vehicle.start(timekeeper=timekeeper)
    with pytest.raises(VerificationError, match=match):
        await offers.ask()


def republish(repository: TufRepository, now: float, *roles: str) -> None:
    repository.now = now
    repository.publish(*roles)


class TestSetBack:
    @pytest.mark.parametrize("role", ["root", "timestamp", "snapshot", "targets"])
    async def test_what_was_seen_expired_stays_so(
        self, vehicle: Vehicle, repository: TufRepository, start: float, role: str
    ) -> None:
        """Also across restarts, and when the cache is lost."""
        assert await vehicle.versions() == ["v1"]
        days = {"root": 366, "timestamp": 2, "snapshot": 8, "targets": 91}[role]
        if role == "targets":
            republish(repository, start + days * DAY, "snapshot", "timestamp")
        elif role == "snapshot":
            republish(repository, start + days * DAY, "timestamp")
        elif role == "root":
            republish(repository, start + days * DAY)
        vehicle.clock.set_wall(start + days * DAY)
        await refused(vehicle, f"{role} version . has expired")
        for then in (start, LONG_AGO):
            vehicle.clock.set_wall(then)
            await refused(vehicle, f"its {role} version . was seen to have expired")
        vehicle.lose_cache()
        await refused(vehicle, f"its {role} version . was seen to have expired")
        if role == "root":
            repository.publish_root()
        repository.publish()
        assert await vehicle.versions() == ["v1"]

    async def test_time_that_passed_out_of_reach_has_passed(
        self, vehicle: Vehicle, repository: TufRepository, start: float
    ) -> None:
        """Nobody saw the metadata after it had expired, but the vehicle knew the time, and what it had."""
        assert await vehicle.versions() == ["v1"]
        vehicle.clock.set_wall(start + 2 * DAY)
        repository.attack = lambda _: Answer(503)
        with pytest.raises(Exception, match="503"):
            await vehicle.versions()
        repository.attack = lambda _: None
        vehicle.clock.set_wall(start)
        await refused(vehicle, "its timestamp version 2 was seen to have expired")
        republish(repository, start + 2 * DAY, "timestamp")
        assert await vehicle.versions() == ["v1"]

    async def test_a_clock_before_the_last_check_is_not_followed(
        self, vehicle: Vehicle, repository: TufRepository, start: float
    ) -> None:
        """A thief of the timestamp's key dates back what the vehicle is to believe."""
        vehicle.clock.set_wall(start + 2 * DAY)
        republish(repository, start + 2 * DAY)
        assert await vehicle.versions() == ["v1"]
        vehicle.clock.set_wall(LONG_AGO)
        republish(repository, start, "timestamp")  # a newer version, that expired a day before the last check
        await refused(vehicle, "its timestamp version 4 has expired")

    async def test_a_date_that_the_repository_has_signed_has_passed(
        self, vehicle: Vehicle, repository: TufRepository, start: float
    ) -> None:
        """A clock that never knew better learns from what was verified."""
        vehicle.clock.set_wall(LONG_AGO)
        released = datetime.fromtimestamp(start - DAY, UTC).isoformat()
        planned = datetime.fromtimestamp(start + 400 * DAY, UTC).isoformat()
        for version, date in (("v2", released), ("v3", planned)):
            repository.add(f"{version}.pt", b"x", {"name": NAME, "version": version, "released_at": date})
        repository.publish()
        assert await vehicle.versions() == ["v2", "v3", "v1"]
        republish(repository, start - 3 * DAY, "timestamp")
        await refused(vehicle, "its timestamp version 4 has expired")
        republish(repository, start, "timestamp")
        assert len(await vehicle.versions()) == 3

    async def test_an_installed_listing_is_not_used_past_its_date(
        self, vehicle: Vehicle, repository: TufRepository, start: float
    ) -> None:
        offers = await vehicle.start()
        (release,) = (await offers.ask()).releases
        vehicle.clock.set_wall(start + 2 * DAY)
        await refused(vehicle, "expired")
        again = await vehicle.start()
        with pytest.raises(VerificationError, match="expired"):
            await again.address(release)


class TestAhead:
    async def test_a_clock_that_ran_ahead_and_was_put_right_shuts_nobody_out(
        self, vehicle: Vehicle, repository: TufRepository, start: float
    ) -> None:
        """It cost at most what had been signed until then: the next timestamp is good again."""
        assert await vehicle.versions() == ["v1"]
        vehicle.clock.set_wall(start + 3 * DAY)
        await refused(vehicle, "set this vehicle's clock if it is ahead")
        vehicle.clock.set_wall(start + 3600.0)
        republish(repository, start + 3600.0, "timestamp")
        assert await vehicle.versions() == ["v1"]

    async def test_out_of_reach_years_ahead(self, vehicle: Vehicle, repository: TufRepository, start: float) -> None:
        assert await vehicle.versions() == ["v1"]
        vehicle.clock.set_wall(start + 20 * 365 * DAY)
        repository.attack = lambda _: Answer(cut=1)
        with pytest.raises(UnreachableError):
            await vehicle.versions()
        repository.attack = lambda _: None
        vehicle.clock.set_wall(start + 3600.0)
        republish(repository, start + 3600.0, "timestamp")
        assert await vehicle.versions() == ["v1"]

    async def test_what_the_backends_time_contradicts_is_refused_and_not_held_against_the_repository(
        self, vehicle: Vehicle, repository: TufRepository, start: float
    ) -> None:
        assert await vehicle.versions() == ["v1"]
        timekeeper = await seen_backend(vehicle, start)
        vehicle.clock.set_wall(start + 20 * 365 * DAY)
        await refused(vehicle, "its root version 1 has expired", timekeeper)
        vehicle.clock.set_wall(start + 60.0)
        assert await vehicle.versions() == ["v1"]


class TestTheBackendsTime:
    async def test_it_counts_where_the_clock_is_behind(
        self, vehicle: Vehicle, repository: TufRepository, start: float
    ) -> None:
        assert await vehicle.versions() == ["v1"]
        timekeeper = await seen_backend(vehicle, start + 2 * DAY)
        vehicle.clock.set_wall(start)
        await refused(vehicle, "its timestamp version 2 has expired", timekeeper)

    async def test_what_it_proved_once_is_remembered(
        self, vehicle: Vehicle, repository: TufRepository, start: float
    ) -> None:
        timekeeper = await seen_backend(vehicle, start + 2 * DAY)
        vehicle.clock.set_wall(start)
        republish(repository, start + 2 * DAY)
        assert (await (await vehicle.start(timekeeper=timekeeper)).ask()).releases
        republish(repository, start, "timestamp")
        await refused(vehicle, "its timestamp version 4 has expired")


async def seen_backend(vehicle: Vehicle, true_time: float) -> Timekeeper:
    """One that knows from the backend what time it is."""
    timekeeper = Timekeeper(vehicle.store.documents, vehicle.clock)
    text = datetime.fromtimestamp(true_time, UTC).isoformat()
    await timekeeper.observe(Probe(text, None, vehicle.clock.monotonic(), vehicle.clock.monotonic(), None))
    return timekeeper
