"""Fleet answers over a real socket: cached, revalidated, shared, kept for when the backend is away."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from random import Random
from typing import Any

import pytest

from sentinel_sync.backend import BackendSettings, running_server
from sentinel_sync.base.errors import CloudError, HeldError, NotNowError, RejectedError, UnreachableError
from sentinel_sync.cloud.client import CloudAPIClient
from sentinel_sync.fleet.fleet_manager import MAX_AGE, MAX_ANSWERS, FleetManager
from sentinel_sync.network.foundation import Foundation
from sentinel_sync.network.policy import TransferPolicy
from sentinel_sync.settings import CloudSettings
from sentinel_sync.settings.cloud import DataBudget
from sentinel_sync.store.store import Store
from tests.fakes.clock import FakeClock
from tests.fakes.scripted_server import Answerer, Asked, Said, ScriptedServer, scripted

STATISTICS = {"total_vehicles": 3, "total_distance": 1234.5, "total_trips": 2}


def settings(url: str, state_dir: Path) -> CloudSettings:
    return CloudSettings.model_validate(
        {
            "api_url": url,
            "api_key": "key",
            "vehicle_id": "vehicle_001",
            "fleet_id": "fleet alpha".replace(" ", "/"),
            "rate_limit": 0,
            "timeout": 5,
            "state_dir": state_dir,
        }
    )


@asynccontextmanager
async def asking(
    answer: Answerer, store: Store, clock: FakeClock, rng: Random
) -> AsyncIterator[tuple[FleetManager, ScriptedServer]]:
    async with (
        scripted(answer) as server,
        CloudAPIClient(settings=settings(server.url, store.state_dir), clock=clock, rng=rng) as client,
    ):
        yield FleetManager(client, store, clock=clock), server


async def test_an_answer_is_fresh_for_five_minutes_and_then_revalidated(
    store: Store, clock: FakeClock, rng: Random
) -> None:
    def answer(asked: Asked) -> Said:
        if asked.headers.get("if-none-match") == '"1"':
            return Said(304, headers={"ETag": '"1"'})
        return Said.json(STATISTICS, ETag='"1"')

    async with asking(answer, store, clock, rng) as (fleet, server):
        assert (await fleet.get_fleet_statistics())["total_vehicles"] == 3
        clock.tick(MAX_AGE - 1)
        again = await fleet.get_fleet_statistics()
        assert (again.stale, again.age) == (False, MAX_AGE - 1)
        assert len(server.asked) == 1
        clock.tick(1)
        confirmed = await fleet.get_fleet_statistics()
        assert len(server.asked) == 2
        assert (confirmed["total_distance"], confirmed.stale, confirmed.age) == (1234.5, False, 0.0)
        assert server.asked[1].headers["if-none-match"] == '"1"'
        assert server.asked[0].target == "/fleet/fleet%2Falpha/statistics"


async def test_offline_the_last_known_comes_back_with_its_age_also_after_a_restart(
    store: Store, clock: FakeClock, rng: Random
) -> None:
    said = [Said.json(STATISTICS)]
    async with asking(lambda _: said[0], store, clock, rng) as (fleet, server):
        await fleet.get_fleet_statistics()
        said[0] = Said(cut=True)
        clock.tick(1000.0)
        known = await fleet.get_fleet_statistics()
        assert (known.stale, known.age, known["total_trips"]) == (True, 1000.0, 2)
        clock.reboot("boot-2")
        clock.tick(500.0)
        config = settings(server.url, store.state_dir)
        async with CloudAPIClient(settings=config, clock=clock, rng=rng) as client:
            later = await FleetManager(client, store, clock=clock).get_fleet_statistics()
        assert (later.stale, later.age, later["total_trips"]) == (True, 1500.0, 2)


async def test_another_backend_is_not_answered_for(store: Store, clock: FakeClock, rng: Random) -> None:
    async with asking(lambda _: Said.json(STATISTICS), store, clock, rng) as (fleet, _):
        await fleet.get_fleet_statistics()
    async with asking(lambda _: Said(cut=True), store, clock, rng) as (fleet, _):
        with pytest.raises(UnreachableError, match="statistics"):
            await fleet.get_fleet_statistics()


async def test_offline_without_anything_known_is_an_error_that_says_so(
    store: Store, clock: FakeClock, rng: Random
) -> None:
    async with asking(lambda _: Said(503), store, clock, rng) as (fleet, _):
        with pytest.raises(NotNowError, match="answered 503"):
            await fleet.get_fleet_trends()


async def test_callers_of_one_thing_share_one_request(store: Store, clock: FakeClock, rng: Random) -> None:
    asked_once, go = asyncio.Event(), asyncio.Event()

    async def answer(_: Asked) -> Said:
        asked_once.set()
        await go.wait()
        return Said.json({"rankings": [{"vehicle_id": "a", "safety_score": 1}]})

    async with asking(answer, store, clock, rng) as (fleet, server):
        callers = [asyncio.create_task(fleet.get_vehicle_rankings()) for _ in range(20)]
        await asked_once.wait()
        callers[0].cancel()  # one that goes leaves the others theirs
        go.set()
        found = await asyncio.gather(*callers[1:])
        assert {len(rankings) for rankings in found} == {1}
        assert len(server.asked) == 1
        assert server.asked[0].query == {"metric": "safety_score", "limit": "10"}
        with pytest.raises(asyncio.CancelledError):
            await callers[0]


async def test_a_request_ends_when_nobody_waits_for_it(store: Store, clock: FakeClock, rng: Random) -> None:
    asked, hung_up = asyncio.Event(), asyncio.Event()

    async def answer(_: Asked) -> Said:
        asked.set()
        await hung_up.wait()
        return Said.json(STATISTICS)

    async with asking(answer, store, clock, rng) as (fleet, _):
        caller = asyncio.create_task(fleet.get_fleet_statistics())
        await asked.wait()
        caller.cancel()
        with pytest.raises(asyncio.CancelledError):
            await caller
        hung_up.set()
        assert (await fleet.get_fleet_statistics())["total_trips"] == 2


async def test_closing_the_client_ends_what_is_being_asked_with_an_error(
    store: Store, clock: FakeClock, rng: Random
) -> None:
    asked = asyncio.Event()

    async def answer(_: Asked) -> Said:
        asked.set()
        await asyncio.Event().wait()
        return Said()

    async with asking(answer, store, clock, rng) as (fleet, _):
        caller = asyncio.create_task(fleet.get_fleet_statistics())
        await asked.wait()
        await fleet.close()
        with pytest.raises(CloudError, match="being closed"):
            await caller


@pytest.mark.parametrize(
    "said",
    [
        Said.json(None),
        Said.json([]),
        Said.json({"total_vehicles": "many"}),
        Said.json({"total_vehicles": {"a": 1}}),
        Said(200, b"<html>log in</html>", {"Content-Type": "text/html"}),
        Said(200, b'"' + b"x" * (10 << 20) + b'"'),
        Said(200, b'{"total_vehi'),
        Said(304),
    ],
    ids=["null", "list", "text", "object", "html", "10 MB", "truncated", "304 of nothing"],
)
async def test_an_unusable_answer_is_an_error_and_then_the_last_known(
    said: Said, store: Store, clock: FakeClock, rng: Random
) -> None:
    now = [said]
    async with asking(lambda _: now[0], store, clock, rng) as (fleet, _):
        with pytest.raises(CloudError, match="statistics"):
            await fleet.get_fleet_statistics()
        clock.tick(120.0)  # the client's own pause after a failure
        now[0] = Said.json(STATISTICS)
        await fleet.get_fleet_statistics()
        now[0] = said
        clock.tick(MAX_AGE)
        known = await fleet.get_fleet_statistics()
        assert known["total_vehicles"] == 3
        assert known.stale


async def test_nulls_and_additions_are_taken_as_they_are_but_our_own_marks_are_not(
    store: Store, clock: FakeClock, rng: Random
) -> None:
    body = {"total_vehicles": None, "average_safety_score": 84, "added": [1], "stale": True, "age": -5}
    async with asking(lambda _: Said.json(body), store, clock, rng) as (fleet, _):
        stats = await fleet.get_fleet_statistics()
        assert stats["total_vehicles"] is None
        assert stats["added"] == [1]
        assert (stats.stale, stats.age) == (False, 0.0)


async def test_an_unknown_metric_brings_the_backends_reason_even_where_an_older_answer_is_known(
    store: Store, clock: FakeClock, rng: Random
) -> None:
    now = [Said.json({"trend": []})]
    async with asking(lambda _: now[0], store, clock, rng) as (fleet, _):
        await fleet.get_fleet_trends(metric="charm")
        clock.tick(MAX_AGE)
        now[0] = Said.json({"title": "there is no such metric"}, 422)
        with pytest.raises(RejectedError, match=r"answered 422 \(there is no such metric\)"):
            await fleet.get_fleet_trends(metric="charm")


async def test_bad_arguments_cost_no_request(store: Store, clock: FakeClock, rng: Random) -> None:
    async with asking(lambda _: Said(500), store, clock, rng) as (fleet, server):
        for limit in (0, -1, 10**9):
            with pytest.raises(ValueError, match="limit"):
                await fleet.get_fleet_alerts(limit=limit)
            with pytest.raises(ValueError, match="limit"):
                await fleet.get_driver_leaderboard(limit=limit)
        with pytest.raises(ValueError, match="days"):
            await fleet.get_fleet_trends(days=0)
        with pytest.raises(ValueError, match="severity"):
            await fleet.get_fleet_alerts(severity="a b")
        assert server.asked == []


async def test_more_entries_than_asked_for_are_cut_off(store: Store, clock: FakeClock, rng: Random) -> None:
    alerts = [{"vehicle_id": "a", "severity": "info", "message": str(n), "timestamp": "t"} for n in range(5000)]
    async with asking(lambda _: Said.json({"alerts": alerts}), store, clock, rng) as (fleet, server):
        found = await fleet.get_fleet_alerts(severity="info", limit=3)
        assert [alert["message"] for alert in found] == ["0", "1", "2"]
        assert server.asked[0].query == {"severity": "info", "limit": "3"}
        # Larger than what is kept: given, not stored.
        assert await store.documents.keys("fleet_answer") == []


async def test_what_is_kept_on_disk_is_bounded(store: Store, clock: FakeClock, rng: Random) -> None:
    async with asking(lambda _: Said.json({"status": "online"}), store, clock, rng) as (fleet, server):
        for number in range(MAX_ANSWERS + 5):
            await fleet.get_vehicle_status(f"v{number}")
        kept = await store.documents.keys("fleet_answer")
        assert len(kept) == MAX_ANSWERS
        assert not any("/v0/" in key for key in kept)
        assert server.asked[0].path == "/vehicles/v0/status"


async def test_a_damaged_document_costs_only_itself(store: Store, clock: FakeClock, rng: Random) -> None:
    async with asking(lambda _: Said.json(STATISTICS), store, clock, rng) as (fleet, server):
        await fleet.get_fleet_statistics()
        (key,) = await store.documents.keys("fleet_answer")
        config = settings(server.url, store.state_dir)
        await store.documents._database.run(
            lambda c: c.execute("UPDATE document SET body = x'7b7d' WHERE key = ?", (key,))
        )
        async with CloudAPIClient(settings=config, clock=clock, rng=rng) as client:
            assert (await FleetManager(client, store, clock=clock).get_fleet_statistics())["total_trips"] == 2
        assert len(server.asked) == 2


async def test_every_question_against_the_reference_backend(tmp_path: Path) -> None:
    backend = BackendSettings(folder=tmp_path / "backend", api_keys=("key",))
    async with (
        running_server(backend) as url,
        CloudAPIClient(url, "key", "vehicle_001", "fleet_alpha", rate_limit=0) as client,
        Store(tmp_path / "state") as store,
    ):
        fleet = FleetManager(client, store)
        stats = await fleet.get_fleet_statistics()
        assert (stats["total_vehicles"], stats["total_trips"]) == (1, 0)
        assert list(await fleet.get_vehicle_rankings(metric="safety_score", limit=10)) == []
        assert (await fleet.get_fleet_trends(metric="safety_score", days=30))["days"] == 30
        assert (await fleet.get_vehicle_comparison(["vehicle_001", "vehicle_002"]))["vehicles"] == {}
        assert len(await fleet.get_fleet_alerts()) == 0
        assert (await fleet.get_driver_leaderboard(metric="safety_score"))["leaderboard"] == ()
        assert (await fleet.get_vehicle_status())["status"] == "online"
        assert (await fleet.get_aggregate_metrics())["total_vehicles"] == 1
        with pytest.raises(RejectedError, match="no such metric"):
            await fleet.get_vehicle_rankings(metric="charm")
        with pytest.raises(RejectedError, match="404"):
            await fleet.get_vehicle_status("../nobody")


@asynccontextmanager
async def budgeted(
    store: Store, clock: FakeClock, rng: Random
) -> AsyncIterator[tuple[FleetManager, TransferPolicy, ScriptedServer]]:
    """A manager with a data budget of 1,000 bytes a day."""
    async with (
        scripted(lambda _: Said.json(STATISTICS)) as server,
        CloudAPIClient(settings=settings(server.url, store.state_dir), clock=clock, rng=rng) as client,
    ):
        budget = client.settings.model_copy(update={"data_budget": {"any": DataBudget(day=1000)}})
        policy = TransferPolicy(store.documents, budget, clock=clock, bus_address="unix:path=/nowhere")
        yield FleetManager(client, foundation=Foundation.of(client, store, policy=policy, clock=clock)), policy, server
        await policy.close()


async def test_with_the_budget_used_up_the_last_known_comes_back_as_stale(
    store: Store, clock: FakeClock, rng: Random
) -> None:
    async with budgeted(store, clock, rng) as (fleet, policy, server):
        assert not (await fleet.get_fleet_statistics()).stale
        policy.count(0, 950)
        clock.tick(MAX_AGE + 1.0)
        again = await fleet.get_fleet_statistics()
        assert (again.stale, again["total_vehicles"]) == (True, 3)
        assert len(server.asked) == 1


async def test_with_the_budget_used_up_and_nothing_known_the_caller_is_told_why(
    store: Store, clock: FakeClock, rng: Random
) -> None:
    async with budgeted(store, clock, rng) as (fleet, policy, server):
        policy.count(950, 0)
        with pytest.raises(HeldError, match=r"not sent: 950 B of the 1 kB per day .* fleet statistics wait until"):
            await fleet.get_fleet_statistics()
        assert server.asked == []


async def test_on_a_metered_network_people_are_answered(store: Store, clock: FakeClock, rng: Random) -> None:
    async with budgeted(store, clock, rng) as (fleet, policy, _):
        await policy.set_network("metered")
        assert not (await fleet.get_fleet_statistics()).stale


@pytest.mark.parametrize(
    ("body", "ids", "left_out"),
    [
        ({"rankings": [{"vehicle_id": None, "x": 1}, {"vehicle_id": "b"}, 5, {}, {"vehicle_id": "c"}]}, ["b", "c"], 3),
        ({"rankings": None}, [], 0),
        ({}, [], 0),
        ({"rankings": []}, [], 0),
    ],
)
async def test_what_cannot_be_read_of_a_listing_is_left_out_and_counted(
    store: Store,
    clock: FakeClock,
    rng: Random,
    caplog: pytest.LogCaptureFixture,
    body: dict[str, Any],
    ids: list[str],
    left_out: int,
) -> None:
    async with asking(lambda _: Said.json(body), store, clock, rng) as (fleet, _):
        found = await fleet.get_vehicle_rankings()
    assert [entry["vehicle_id"] for entry in found] == ids
    assert (f"{left_out} of 5 entries" in caplog.text) is bool(left_out)
