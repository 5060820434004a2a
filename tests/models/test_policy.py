"""Downloads wait for the network's price, switches for a trip's end; orders come from other processes."""

import asyncio
from pathlib import Path

import pytest

from sentinel_sync import HeldError, ModelDownloader, VerificationError
from sentinel_sync.base.transfer import TransferStatus
from sentinel_sync.models.commands import ModelCommand, ModelCommands
from sentinel_sync.network.policy import TransferPolicy
from sentinel_sync.store.store import Store
from tests.fakes.clock import FakeClock
from tests.fakes.cloud import Answer, FakeCloud, settings_for
from tests.fakes.patience import until, until_true
from tests.models.vehicle import NAME, OLD, Build, ModelHost, content_of, fetched, leftovers, listed, live, registry

pytestmark = pytest.mark.usefixtures("off_the_loop")


async def _came(downloader: ModelDownloader, count: int) -> bool:
    return bool((await downloader.get_download_status(NAME))["received_bytes"] >= count)


class Trips:
    """Whether a trip is under way."""

    def __init__(self) -> None:
        self.under_way = False

    def __call__(self) -> bool:
        return self.under_way


@pytest.fixture
def trips() -> Trips:
    return Trips()


@pytest.fixture
def policy(store: Store, cloud: FakeCloud, clock: FakeClock, trips: Trips, tmp_path: Path) -> TransferPolicy:
    settings = settings_for(cloud, state_dir=tmp_path / "state", network="unmetered")
    policy = TransferPolicy(store.documents, settings, clock=clock, supervised=True)
    policy.follow_trips(trips)
    return policy


class TestTheNetworksPrice:
    async def test_nothing_is_fetched_over_a_metered_network(
        self, cloud: FakeCloud, host: ModelHost, models: Path, build: Build, policy: TransferPolicy
    ) -> None:
        host.entries = [listed("v2.1.0")]
        await policy.set_network("metered")
        downloader = build(auto_install=True, traffic=policy)
        assert await downloader.step() <= 30.0
        assert [update["version"] for update in await downloader.check_for_updates()] == ["v2.1.0"]
        result = await downloader.download_and_install_model(NAME, "v2.1.0")
        assert isinstance(result.error, HeldError)
        assert "metered" in str(result.reason)
        status = await downloader.get_download_status(NAME)
        assert (status["status"], "metered" in str(status["reason"])) == ("held", True)
        assert fetched(cloud) == []
        # The desk wakes it, and it does not ask for the listing again.
        downloader.check.wake.clear()
        await policy.set_network("unmetered")
        assert downloader.check.wake.is_set()
        await downloader.step()
        assert live(models) == content_of("v2.1.0")
        assert len(cloud.to("GET", "/models")) == 2

    async def test_one_under_way_is_cut_off_within_a_second_and_goes_on_from_where_it_was(
        self, cloud: FakeCloud, host: ModelHost, models: Path, build: Build, policy: TransferPolicy, clock: FakeClock
    ) -> None:
        size = 2_000_000
        content = content_of("v2.1.0", size)
        host.entries = [listed("v2.1.0", size=size, content=content)]
        served: asyncio.Queue[int] = asyncio.Queue()

        async def stall(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            """Most of the file, and then nothing for as long as anybody listens; the second time, what is asked for."""
            head = (await reader.readuntil(b"\r\n\r\n")).decode().lower()
            start = int(head.partition("range: bytes=")[2].partition("-")[0] or 0)
            if start:
                part = f"Content-Range: bytes {start}-{size - 1}/{size}\r\nContent-Length: {size - start}"
                writer.write(f"HTTP/1.1 206 Partial Content\r\n{part}\r\n\r\n".encode() + content[start:])
            else:
                writer.write(f"HTTP/1.1 200 OK\r\nContent-Length: {size}\r\n\r\n".encode() + content[:1_500_000])
            await writer.drain()
            await served.put(start)
            await reader.read()
            writer.close()

        async with await asyncio.start_server(stall, "127.0.0.1", 0) as server:
            host.base = f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}"
            downloader = build(auto_install=True, traffic=policy)
            stepping = asyncio.create_task(downloader.step())
            async with asyncio.timeout(10):
                assert await served.get() == 0
                await until_true(lambda: _came(downloader, 1_000_000), "what was sent")
                await policy.set_network("metered")
                await clock.advance(1.0)
                await stepping
            status = await downloader.get_download_status(NAME)
            assert (status["status"], "cut off" in str(status["reason"])) == ("held", True)
            assert live(models) == OLD
            # Neither a failure nor a reason to ask for the listing again: it goes on as soon as it may.
            await policy.set_network("unmetered")
            async with asyncio.timeout(10):
                await downloader.step()
                assert await served.get() >= 1_000_000
        assert live(models) == content
        assert len(cloud.to("GET", "/models")) == 1

    async def test_nobody_is_said_to_wait_who_will_not_go_on(
        self, host: ModelHost, build: Build, policy: TransferPolicy
    ) -> None:
        host.entries = [listed("v2.1.0")]
        await policy.set_network("metered")
        downloader = build(traffic=policy)
        assert not await downloader.download_and_install_model(NAME, "v2.1.0")
        assert (await downloader.get_download_status(NAME))["status"] == "held"
        await policy.set_network("unmetered")
        await downloader.step()
        assert (await downloader.get_download_status(NAME))["status"] == "installed"


class TestTrips:
    async def test_what_comes_during_a_trip_is_switched_to_at_its_end(
        self, cloud: FakeCloud, host: ModelHost, models: Path, build: Build, policy: TransferPolicy, trips: Trips
    ) -> None:
        host.entries = [listed("v2.1.0")]
        trips.under_way = True
        downloader = build(auto_install=True, traffic=policy)
        assert await downloader.sync_now() == 0
        result = await downloader.download_and_install_model(NAME, "v2.1.0")
        assert (bool(result), result.waiting, result.error) == (False, True, None)
        assert live(models) == OLD
        assert registry(models)[NAME]["version"] == "v2.0.0"
        status = await downloader.get_download_status(NAME)
        assert (status["status"], status["version"], status["installed_version"]) == ("held", "v2.1.0", "v2.0.0")
        assert "a trip is under way" in str(status["reason"]) or "trip under way" in str(status["reason"])
        assert await downloader.upkeep_step() <= 2.0
        assert len(fetched(cloud)) == 2
        trips.under_way = False
        await downloader.upkeep_step()
        assert live(models) == content_of("v2.1.0")
        assert len(fetched(cloud)) == 2
        assert (await downloader.get_download_status(NAME))["status"] == "installed"

    async def test_it_waits_over_a_restart(
        self, cloud: FakeCloud, host: ModelHost, models: Path, build: Build, policy: TransferPolicy, trips: Trips
    ) -> None:
        host.entries = [listed("v2.1.0")]
        trips.under_way = True
        assert (await build(traffic=policy).download_and_install_model(NAME, "v2.1.0")).waiting
        again = build(traffic=policy)
        await again.upkeep_step()
        assert live(models) == OLD
        trips.under_way = False
        await again.upkeep_step()
        assert live(models) == content_of("v2.1.0")
        assert len(fetched(cloud)) == 2

    @pytest.mark.parametrize("meanwhile", ["revoked", "pinned", "spoilt"])
    async def test_what_waited_is_looked_at_again(
        self, host: ModelHost, models: Path, build: Build, policy: TransferPolicy, trips: Trips, meanwhile: str
    ) -> None:
        host.entries = [listed("v2.1.0")]
        trips.under_way = True
        downloader = build(traffic=policy)
        assert (await downloader.download_and_install_model(NAME, "v2.1.0")).waiting
        match meanwhile:
            case "revoked":
                downloader = build(traffic=policy, model_trusted_keys=())
            case "pinned":
                await downloader.pin(NAME, "v2.0.0")
            case "spoilt":
                (models / "versions" / NAME / "v2.1.0.pt").write_bytes(bytes(300_000))
                downloader = build(traffic=policy)
        trips.under_way = False
        await downloader.upkeep_step()
        assert live(models) == OLD
        status = await downloader.get_download_status(NAME)
        assert status["status"] == "failed"
        await downloader.check_for_updates()
        assert leftovers(models) == []
        assert not (models / "versions" / NAME / "v2.1.0.pt").exists()

    async def test_the_way_back_does_not_wait(
        self, host: ModelHost, models: Path, build: Build, policy: TransferPolicy, trips: Trips
    ) -> None:
        host.entries = [listed("v2.1.0")]
        downloader = build(traffic=policy)
        assert await downloader.download_and_install_model(NAME, "v2.1.0")
        trips.under_way = True
        assert await downloader.rollback(NAME)
        assert live(models) == OLD


class TestGoingOn:
    async def test_a_download_goes_on_after_a_restart_although_no_check_is_due(
        self, cloud: FakeCloud, host: ModelHost, models: Path, build: Build, clock: FakeClock
    ) -> None:
        host.entries = [listed("v2.1.0")]
        half = content_of("v2.1.0")[:150_000]
        head = b"HTTP/1.1 200 OK\r\nContent-Length: 300000\r\n\r\n"
        cuts = [Answer(raw=head + half), Answer(503)]
        host.spoil = lambda seen: cuts.pop(0) if "/files/" in seen.path else None
        await build(auto_install=True).step()
        assert not cuts, "after the cut it was gone on with at once"
        host.spoil = lambda _: None
        await build(auto_install=True).step()
        assert live(models) != content_of("v2.1.0"), "the next attempt has its time, also after a restart"
        clock.tick(30.0)
        await build(auto_install=True).step()
        assert live(models) == content_of("v2.1.0")
        assert cloud.requests[-1].headers["range"] == "bytes=150000-"
        assert len(cloud.to("GET", "/models")) == 1

    async def test_but_one_that_was_refused_is_not_fetched_again_at_each_start(
        self, cloud: FakeCloud, host: ModelHost, build: Build, clock: FakeClock
    ) -> None:
        host.entries = [listed("v2.1.0")]
        host.spoil = lambda seen: Answer(200, bytes(300_000)) if "/files/" in seen.path else None
        await build(auto_install=True).step()
        count = len(fetched(cloud))
        for _ in range(3):
            await build(auto_install=True).step()
        assert len(fetched(cloud)) == count
        clock.tick(1.2 * 86_400.0)
        await build(auto_install=True).step()
        assert len(fetched(cloud)) > count

    async def test_progress_is_told_and_shown(self, host: ModelHost, build: Build, clock: FakeClock) -> None:
        host.entries = [listed("v2.1.0")]
        told: list[TransferStatus] = []

        async def listen(progress: TransferStatus) -> None:
            told.append(progress)

        downloader = build()
        downloader.on_progress(listen)
        assert await downloader.download_and_install_model(NAME, "v2.1.0")
        await until(lambda: bool(told), "news of the download")
        assert (told[-1].name, told[-1].version, told[-1].total_bytes) == (NAME, "v2.1.0", 300_000)
        assert told[-1].done_bytes == 300_000

    async def test_a_download_under_way_is_shown_with_its_rate(
        self, cloud: FakeCloud, host: ModelHost, build: Build, clock: FakeClock
    ) -> None:
        host.entries = [listed("v2.1.0")]
        half = content_of("v2.1.0")[:150_000]
        head = b"HTTP/1.1 200 OK\r\nContent-Length: 300000\r\n\r\n"
        host.spoil = lambda seen: Answer(raw=head + half) if "/files/" in seen.path else None
        downloader = build()
        assert not await downloader.download_and_install_model(NAME, "v2.1.0")
        go_on = asyncio.Event()
        rest = content_of("v2.1.0")[150_000:]
        part = {"Content-Range": "bytes 150000-299999/300000"}
        host.spoil = lambda seen: Answer(206, rest, part, before_body=go_on) if "/files/" in seen.path else None
        count = len(cloud.requests)
        installing = asyncio.create_task(downloader.download_and_install_model(NAME, "v2.1.0"))
        await cloud.received(count + 2)
        clock.tick(10.0)
        status = await downloader.get_download_status(NAME)
        (shown,) = downloader.snapshot()
        go_on.set()
        assert await installing
        assert (status["status"], status["received_bytes"], status["total_bytes"]) == ("downloading", 150_000, 300_000)
        assert status["rate"] == 0.0
        assert shown.under_way is not None
        assert (shown.available, shown.under_way.phase, shown.under_way.done_bytes) == (None, "downloading", 150_000)


class TestOrders:
    @pytest.fixture
    def commands(self, store: Store, clock: FakeClock) -> ModelCommands:
        return ModelCommands(store.documents, clock)

    async def test_the_running_agent_carries_them_out(
        self, host: ModelHost, models: Path, build: Build, commands: ModelCommands, clock: FakeClock
    ) -> None:
        host.entries = [listed("v2.1.0"), listed("v1.9.0")]
        downloader = build()
        await commands.place(ModelCommand("check"))
        clock.tick(1.0)
        key = await commands.place(ModelCommand("install", NAME, "v2.1.0"))
        await downloader.upkeep_step()
        assert downloader.check.wake.is_set()
        await downloader.step()
        assert live(models) == content_of("v2.1.0")
        outcome = await commands.outcome(key)
        assert outcome is not None
        assert (outcome.done, outcome.message) == (True, f"{NAME} v2.1.0 is in use")
        clock.tick(1.0)
        await commands.place(ModelCommand("rollback", NAME))
        await downloader.upkeep_step()
        assert live(models) == OLD
        assert [shown.available for shown in downloader.snapshot()] == [None]
        clock.tick(1.0)
        await commands.place(ModelCommand("pin", NAME, "v1.9.0"))
        clock.tick(1.0)
        await commands.place(ModelCommand("install", NAME, "v1.9.0"))
        # The pin comes first, although another duty sees to it.
        await downloader.step()
        assert live(models) == OLD
        await downloader.upkeep_step()
        await downloader.step()
        assert live(models) == content_of("v1.9.0")
        clock.tick(1.0)
        await commands.place(ModelCommand("unpin", NAME))
        await downloader.upkeep_step()
        assert (await downloader.get_installed_models())[NAME]["pinned_version"] is None
        assert [outcome.order.action for outcome in await downloader.command_outcomes()] == [
            "check",
            "install",
            "rollback",
            "pin",
            "install",
            "unpin",
        ]
        assert await commands.waiting() == []

    async def test_what_cannot_be_is_told(
        self, host: ModelHost, models: Path, build: Build, commands: ModelCommands
    ) -> None:
        host.entries = [listed("v1.0.0")]
        for order in (
            ModelCommand("rollback", "unknown"),
            ModelCommand("forgive", NAME, "v1.0.0"),
            ModelCommand("install", NAME, "v1.0.0"),
        ):
            await commands.place(order)
        downloader = build()
        await downloader.upkeep_step()
        await downloader.step()
        outcomes = {outcome.order.action: (outcome.done, outcome.message) for outcome in await commands.outcomes()}
        assert outcomes["rollback"] == (False, "unknown cannot be rolled back: no previous version is kept")
        assert outcomes["forgive"] == (False, f"{NAME} v1.0.0 was not found bad on this vehicle")
        assert outcomes["install"][0] is False
        assert live(models) == OLD

    async def test_a_version_that_was_found_bad_may_be_tried_again_by_an_order(
        self, host: ModelHost, models: Path, build: Build, commands: ModelCommands
    ) -> None:
        host.entries = [listed("v2.1.0")]
        verdicts = iter([False, True])

        async def validator(*_: object) -> bool:
            return next(verdicts)

        downloader = build(validator=validator)
        assert not await downloader.download_and_install_model(NAME, "v2.1.0")
        assert live(models) == OLD
        key = await commands.place(ModelCommand("forgive", NAME, "v2.1.0"))
        await downloader.upkeep_step()
        outcome = await commands.outcome(key)
        assert outcome is not None
        assert (outcome.done, outcome.message) == (True, f"{NAME} v2.1.0 may be tried again")
        assert await downloader.download_and_install_model(NAME, "v2.1.0")
        assert live(models) == content_of("v2.1.0")

    @pytest.mark.parametrize(
        "order",
        [
            ModelCommand("install", "../x", "v1"),
            ModelCommand("install", NAME),
            ModelCommand("pin", NAME, "latest"),
            ModelCommand("rollback"),
        ],
    )
    async def test_nonsense_is_not_taken(self, commands: ModelCommands, order: ModelCommand) -> None:
        with pytest.raises(VerificationError):
            await commands.place(order)
        assert await commands.waiting() == []

    async def test_what_only_the_network_held_up_stays(
        self, cloud: FakeCloud, host: ModelHost, models: Path, build: Build, commands: ModelCommands
    ) -> None:
        host.entries = [listed("v2.1.0")]
        downloader = build()
        await downloader.check_for_updates()
        await commands.place(ModelCommand("install", NAME, "v2.1.0"))
        host.spoil = lambda seen: Answer(503) if "/files/" in seen.path else None
        assert await downloader.step() <= 60.0
        assert len(await commands.waiting()) == 1
        host.spoil = lambda _: None
        await build().step()
        assert live(models) == content_of("v2.1.0")

    async def test_one_that_the_backend_refuses_does_not_wait_for_ever(
        self, host: ModelHost, build: Build, commands: ModelCommands, caplog: pytest.LogCaptureFixture
    ) -> None:
        host.spoil = lambda _: Answer(404)
        key = await commands.place(ModelCommand("check"))
        await build().step()
        outcome = await commands.outcome(key)
        assert outcome is not None
        assert (outcome.done, "404" in outcome.message) == (False, True)

    async def test_why_one_waits_is_said_once(
        self,
        host: ModelHost,
        build: Build,
        commands: ModelCommands,
        policy: TransferPolicy,
        caplog: pytest.LogCaptureFixture,
    ) -> None:
        host.entries = [listed("v2.1.0")]
        await policy.set_network("metered")
        downloader = build(traffic=policy)
        await commands.place(ModelCommand("install", NAME, "v2.1.0"))
        with caplog.at_level("INFO"):
            for _ in range(3):
                await downloader.step()
        said = [record.message for record in caplog.records if record.message.startswith(("model.order", "model.held"))]
        assert [line.partition(":")[0] for line in said] == ["model.held", "model.order"]
        assert len(await commands.waiting()) == 1

    async def test_a_rollback_that_was_carried_out_before_a_kill_is_not_so_twice(
        self, host: ModelHost, models: Path, build: Build, commands: ModelCommands, store: Store
    ) -> None:
        host.entries = [listed("v2.1.0")]
        downloader = build()
        assert await downloader.download_and_install_model(NAME, "v2.1.0")
        key = await commands.place(ModelCommand("rollback", NAME))
        # As if the process had been killed between the switch and the end of the order.
        assert await downloader._roll_back(NAME, key)
        assert live(models) == OLD
        again = build()
        await again.upkeep_step()
        assert live(models) == OLD
        outcome = await commands.outcome(key)
        assert outcome is not None
        assert outcome.done

    async def test_an_order_can_be_taken_back(self, commands: ModelCommands) -> None:
        key = await commands.place(ModelCommand("check"))
        assert await commands.withdraw(key)
        assert not await commands.withdraw(key)

    async def test_only_the_last_outcomes_are_kept(
        self, build: Build, commands: ModelCommands, clock: FakeClock
    ) -> None:
        downloader = build()
        for number in range(25):
            clock.tick(1.0)
            await commands.place(ModelCommand("pin", NAME, f"v{number}"))
        await downloader.upkeep_step()
        versions = [outcome.order.version for outcome in await commands.outcomes()]
        assert versions == [f"v{number}" for number in range(5, 25)]


class TestTheFilesHost:
    async def test_its_retry_after_holds_for_it_alone_and_for_all_of_its_files(
        self, cloud: FakeCloud, host: ModelHost, stranger: FakeCloud, build: Build, clock: FakeClock
    ) -> None:
        other = listed("v1.0.0", name="another")
        host.entries, host.base = [listed("v2.1.0"), other], stranger.url
        stranger.handler = lambda _: Answer(503, headers={"Retry-After": "600"})
        downloader = build(auto_install=True)
        await downloader.step()
        await downloader.download_and_install_model("another", "v1.0.0")
        assert len(stranger.requests) == 1
        assert len(cloud.to("GET", "/models")) == 1
        clock.tick(590.0)
        await downloader.step()
        assert len(stranger.requests) == 1
        clock.tick(80.0)
        await build(auto_install=True).step()
        assert len(stranger.requests) >= 2, "also after a restart"

    async def test_where_it_is_the_apis_own_it_holds_for_everything(
        self, cloud: FakeCloud, host: ModelHost, build: Build, clock: FakeClock
    ) -> None:
        host.entries = [listed("v2.1.0"), listed("v1.0.0", name="another")]
        host.spoil = lambda seen: Answer(503, headers={"Retry-After": "600"}) if "/files/" in seen.path else None
        downloader = build(auto_install=True)
        await downloader.step()
        assert fetched(cloud)[1:] == ["/files/v2.1.0/1"]
        asked = len(cloud.requests)
        clock.tick(590.0)
        assert not await downloader.download_and_install_model("another", "v1.0.0")
        assert len(cloud.requests) == asked


class TestWithdrawn:
    @pytest.mark.parametrize("change", ["withdrawn", "rollout 0", "other bytes"])
    async def test_what_is_not_offered_any_more_is_not_switched_to(
        self, host: ModelHost, models: Path, build: Build, policy: TransferPolicy, clock: FakeClock, change: str
    ) -> None:
        """v2 is staged and waits for a trip's end; the operator takes it back; the trip ends."""
        driving = True
        policy.follow_trips(lambda: driving)
        host.entries = [listed("v2.1.0")]
        downloader = build(auto_install=True, traffic=policy)
        await downloader.step()
        assert "when the trip under way has ended" in str((await downloader.get_download_status(NAME))["reason"])
        host.entries = {
            "withdrawn": [listed("v2.0.0")],
            "rollout 0": [listed("v2.1.0", rollout=0.0)],
            "other bytes": [listed("v2.1.0") | {"checksum": "0" * 64}],
        }[change]
        clock.tick(2 * 86_400.0)
        await downloader.step()
        driving = False
        await downloader.upkeep_step()
        assert live(models) == OLD
        assert "not switched to" in str((await downloader.get_download_status(NAME))["reason"])
        host.entries = [listed("v2.1.0")]
        clock.tick(2 * 86_400.0)
        await downloader.step()
        await downloader.upkeep_step()
        assert live(models) == content_of("v2.1.0"), "offered again"

    @pytest.mark.parametrize("word", ["still offered", "withdrawn", "no answer"])
    async def test_what_an_earlier_life_had_ready_is_asked_for_again(
        self, host: ModelHost, models: Path, build: Build, policy: TransferPolicy, word: str
    ) -> None:
        driving = True
        policy.follow_trips(lambda: driving)
        host.entries = [listed("v2.1.0")]
        await build(auto_install=True, traffic=policy).step()
        driving = False
        downloader = build(auto_install=True, traffic=policy)
        await downloader.upkeep_step()
        assert live(models) == OLD
        assert "asked first" in str((await downloader.get_download_status(NAME))["reason"])
        if word == "withdrawn":
            host.entries = [listed("v2.0.0")]
        elif word == "no answer":
            host.spoil = lambda _: Answer(503)
        await downloader.step()
        await downloader.upkeep_step()
        assert live(models) == (OLD if word == "withdrawn" else content_of("v2.1.0"))


class TestDamaged:
    @pytest.mark.parametrize("auto_install", [True, False])
    async def test_it_is_shown_and_fetched_again(
        self, host: ModelHost, models: Path, build: Build, clock: FakeClock, auto_install: bool
    ) -> None:
        host.entries = [listed("v2.1.0", rollout=0.0)]  # it is in use already: nothing new comes to this vehicle
        downloader = build(auto_install=auto_install)
        assert await downloader.download_and_install_model(NAME, "v2.1.0")
        await downloader.step()
        await downloader.upkeep_step()
        (models / f"{NAME}.pt").write_bytes(b"cut off")
        await downloader.upkeep_step()
        status = await downloader.get_download_status(NAME)
        assert (status["status"], "was changed on this vehicle" in str(status["reason"])) == ("damaged", True)
        assert downloader.check.wake.is_set()
        await downloader.step()
        assert live(models) == content_of("v2.1.0")
        assert (await downloader.get_download_status(NAME))["status"] == "installed"
        assert await downloader.rollback(NAME)
        assert live(models) == OLD

    async def test_one_that_is_withdrawn_is_not_fetched_again(
        self, host: ModelHost, models: Path, build: Build, cloud: FakeCloud, clock: FakeClock
    ) -> None:
        host.entries = [listed("v2.1.0")]
        downloader = build(auto_install=True)
        await downloader.step()
        host.entries = [listed("v2.0.0")]
        clock.tick(2 * 86_400.0)
        await downloader.step()
        (models / f"{NAME}.pt").write_bytes(b"cut off")
        await downloader.upkeep_step()
        count = len(fetched(cloud))
        for _ in range(5):
            await downloader.step()
        assert len(fetched(cloud)) == count
        reason = str((await downloader.get_download_status(NAME))["reason"])
        assert ("was changed" in reason, "not in the backend's listing" in reason) == (True, True)
        assert await downloader.rollback(NAME), "the last whole version was kept"
        assert live(models) == OLD
