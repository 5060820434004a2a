"""Roles that the targets role lets speak for some paths: followed, and one that is bad costs only itself."""

import logging

import pytest

from sentinel_sync.base.errors import NotNowError
from tests.fakes.cloud import Answer
from tests.fakes.tuf_repository import DAY, LIVES, TufRepository, sign
from tests.models.tuf.vehicle import NAME, Vehicle, content_of, offer

pytestmark = pytest.mark.usefixtures("off_the_loop")

LANES, SIGNS = "lane_net", "sign_net"


def offer_by(repository: TufRepository, role: str, name: str, version: str = "v1") -> None:
    """Have a role sign for a release, which is published with the next of them."""
    path = f"{name}/{version}/{name}.pt"
    repository.add(path, content_of(f"{role} {version}"), {"name": name, "version": version}, role=role)


async def offered(vehicle: Vehicle) -> set[tuple[str, str]]:
    """Names and versions that a process that starts now is offered."""
    return {(release.name, release.version) for release in (await (await vehicle.start()).ask()).releases}


async def test_what_a_delegated_role_signs_is_offered_and_fetched(vehicle: Vehicle, repository: TufRepository) -> None:
    repository.delegate("lanes", [f"{LANES}/*/*"])
    offer_by(repository, "lanes", LANES)
    repository.publish()
    offers = await vehicle.start()
    releases = {release.name: release for release in (await offers.ask()).releases}
    assert set(releases) == {NAME, LANES}
    assert await vehicle.fetch(offers, releases[LANES]) == content_of("lanes v1")


async def test_a_role_speaks_for_its_own_paths_only(vehicle: Vehicle, repository: TufRepository) -> None:
    repository.delegate("lanes", [f"{LANES}/*/*"])
    offer_by(repository, "lanes", SIGNS)
    repository.publish()
    assert await offered(vehicle) == {(NAME, "v1")}


async def test_the_first_role_that_may_speak_counts(vehicle: Vehicle, repository: TufRepository) -> None:
    repository.delegate("first", [f"{LANES}/*/*", f"{NAME}/*/*"])
    repository.delegate("second", [f"{LANES}/*/*"])
    for role in ("second", "first"):
        offer_by(repository, role, LANES)
    offer_by(repository, "first", NAME)
    repository.publish()
    offers = await vehicle.start()
    releases = {release.name: release for release in (await offers.ask()).releases}
    assert await vehicle.fetch(offers, releases[LANES]) == content_of("first v1")
    assert await vehicle.fetch(offers, releases[NAME]) == content_of("v1"), "the targets role's own word is before all"


@pytest.mark.parametrize("terminating", [False, True])
async def test_behind_a_terminating_role_nobody_is_asked(
    vehicle: Vehicle, repository: TufRepository, terminating: bool
) -> None:
    repository.delegate("first", [f"{LANES}/*/*"], terminating=terminating)
    repository.delegate("second", [f"{LANES}/*/*"])
    offer_by(repository, "second", LANES)
    repository.publish()
    assert ((LANES, "v1") in await offered(vehicle)) is not terminating


@pytest.mark.parametrize("fault", ["nobody signed it", "it has expired", "it is not there"])
async def test_a_bad_role_costs_what_it_might_speak_for_and_no_more(
    vehicle: Vehicle, repository: TufRepository, caplog: pytest.LogCaptureFixture, fault: str
) -> None:
    repository.delegate("lanes", [f"{LANES}/*/*"])
    repository.delegate("rest", ["*/*/*"])
    offer_by(repository, "lanes", LANES)
    offer_by(repository, "rest", LANES, "v2")
    offer_by(repository, "rest", SIGNS)
    if fault == "nobody signed it":
        repository.signers["lanes"] = []
    repository.publish()
    address = "/metadata/1.lanes.json"
    if fault == "it is not there":
        del repository.files[address]
    if fault == "it has expired":
        lanes = repository.delegated["lanes"]
        lanes.expires = lanes.expires.replace(year=2020)
        repository.pinned = False
        repository.files[address] = sign(lanes, repository.signers["lanes"])
        repository.snapshot.meta["lanes.json"] = repository._meta(lanes, b"")
        repository.publish("snapshot", "timestamp")
    with caplog.at_level(logging.WARNING):
        assert await offered(vehicle) == {(NAME, "v1"), (SIGNS, "v1")}
    assert "models.entry: left aside: lanes: " in caplog.text
    asked = [seen.path for seen in repository.asked]
    assert asked.count(address) == 1, "it is not asked again for each target"


async def test_where_a_role_does_not_come_the_last_listing_stays(vehicle: Vehicle, repository: TufRepository) -> None:
    repository.delegate("lanes", [f"{LANES}/*/*"])
    offer_by(repository, "lanes", LANES)
    repository.publish()
    offers = await vehicle.start()
    before = await offers.ask()
    offer_by(repository, "lanes", LANES, "v2")
    offer(repository, "v2")
    repository.attack = lambda seen: Answer(503) if seen.path.endswith("lanes.json") else None
    with pytest.raises(NotNowError):
        await offers.ask()
    assert offers.last == before, "it is no withdrawal of the other models either"


async def test_no_more_roles_are_followed_than_the_bound(
    vehicle: Vehicle, repository: TufRepository, caplog: pytest.LogCaptureFixture
) -> None:
    for number in range(40):
        repository.delegate(f"role{number}", [f"net{number}/*/*"])
        offer_by(repository, f"role{number}", f"net{number}")
    repository.publish()
    found = await offered(vehicle)
    assert (NAME, "v1") in found
    assert len(found) == 1 + 32
    assert "more than 32 delegated roles" in caplog.text


async def test_a_listing_holds_no_longer_than_any_role_that_it_rests_on(
    vehicle: Vehicle, repository: TufRepository, monkeypatch: pytest.MonkeyPatch
) -> None:
    repository.delegate("lanes", [f"{LANES}/*/*"])
    monkeypatch.setitem(LIVES, "lanes", 0.25 * DAY)
    offer_by(repository, "lanes", LANES)
    repository.publish()
    offers = await vehicle.start()
    (release,) = [release for release in (await offers.ask()).releases if release.name == LANES]
    before = len(repository.asked)
    await offers.address(release)
    assert len(repository.asked) == before
    vehicle.clock.tick(0.3 * DAY)
    repository.now += 0.3 * DAY
    repository.publish()
    await offers.address(release)
    assert len(repository.asked) > before
