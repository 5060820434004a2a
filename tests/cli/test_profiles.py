"""`profiles`: list, show, sync, resolve and forget, with and without a running agent, against the reference backend."""

import asyncio
import io
import json
import signal
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

import pytest

from sentinel_sync import CloudAPIClient, TripUploader
from sentinel_sync.backend import BackendSettings
from sentinel_sync.base.privacy import pseudonym
from sentinel_sync.cli.exit_codes import ExitCode
from sentinel_sync.settings import Settings
from sentinel_sync.store.outbox import NewItem
from sentinel_sync.store.store import Store
from tests.cli.backend import KEY
from tests.cli.vehicle import PSEUDONYM_KEY, Vehicle, started, trip
from tests.conftest import FIXTURES
from tests.fakes.reference_backend import reference_backend

DRIVER = "driver_123"
FLEET_KEY = "AQEBAQEBAQEBAQEBAQEBAQEBAQEBAQEBAQEBAQEBAQE="


def reference(folder: Path) -> AbstractContextManager[str]:
    return reference_backend(BackendSettings(folder=folder, api_keys=(KEY,)))


@pytest.fixture
def url(tmp_path: Path) -> Iterator[str]:
    with reference(tmp_path / "backend") as url:
        yield url


def a_vehicle(folder: Path, url: str, capsys: pytest.CaptureFixture[str], *drivers: str) -> Vehicle:
    (folder / "profiles").mkdir(parents=True)
    vehicle = Vehicle(folder, url, capsys)
    vehicle.configure(
        vehicle_id=folder.name, profiles_dir=str(folder / "profiles"), profile_keys=[FLEET_KEY], reconnect_spread=0
    )
    for driver in drivers:
        profile = json.loads((FIXTURES / "profiles" / f"{DRIVER}.json").read_text()) | {"driver_id": driver}
        file_of(vehicle, driver).write_text(json.dumps(profile, indent=2))
    return vehicle


def file_of(vehicle: Vehicle, driver: str = DRIVER) -> Path:
    return vehicle.folder / "profiles" / f"{driver}.json"


def states(vehicle: Vehicle) -> dict[str, str]:
    listed: list[dict[str, Any]] = vehicle.run("profiles", "list", "--json").json["profiles"]
    return {profile["driver_id"]: profile["state"] for profile in listed}


def test_without_an_agent(tmp_path: Path, url: str, capsys: pytest.CaptureFixture[str]) -> None:
    one = a_vehicle(tmp_path / "one", url, capsys, DRIVER)
    two = a_vehicle(tmp_path / "two", url, capsys, DRIVER)
    assert states(one) == {DRIVER: "new"}
    assert not one.state.exists()
    assert one.run("profiles", "sync").out == "1 profile synced\n"
    assert states(one) == {DRIVER: "synced"}
    (file_of(one, "broken")).write_text("{")
    assert states(one) == {DRIVER: "synced", "broken": "unusable"}
    said = one.run("profiles", "sync")
    assert said.code == 75
    assert "1 of 2 profiles synced: the profile is not JSON" in said.err
    assert two.run("profiles", "sync", DRIVER).code == 0
    out = two.run("profiles", "list").out
    assert "182.3 km" in out  # the same profile: it is there already
    profile = json.loads(file_of(two).read_text())
    file_of(two).write_text(json.dumps(profile | {"total_distance": profile["total_distance"] + 1000.0}))
    assert states(two) == {DRIVER: "changed"}

    # Forgotten in one vehicle it goes from the other, with what that one had not sent yet.
    said = one.run("profiles", "forget", DRIVER)
    assert (said.code, file_of(one).exists()) == (2, True)
    said = one.run("profiles", "forget", DRIVER, "--yes")
    assert (said.code, file_of(one).exists()) == (0, False)
    assert said.out.startswith("forgotten on this vehicle and at the backend;")
    assert two.run("profiles", "sync").code == 75
    assert not file_of(two).exists()
    assert states(two) == {}
    assert DRIVER not in states(one)
    stored = b"".join(path.read_bytes() for path in (tmp_path / "backend").rglob("*") if path.is_file())
    assert DRIVER.encode() not in stored


def test_what_tells_who_somebody_is_stays_in_the_file(
    tmp_path: Path, url: str, capsys: pytest.CaptureFixture[str]
) -> None:
    vehicle = a_vehicle(tmp_path / "one", url, capsys, DRIVER)
    profile = json.loads(file_of(vehicle).read_text())
    file_of(vehicle).write_text(json.dumps(profile | {"name": "Ada Lovelace", "notes": {"phone": "555"}}))
    for words in (("profiles", "show", DRIVER), ("profiles", "show", DRIVER, "--json"), ("profiles", "list")):
        said = vehicle.run(*words, "--log-level", "debug")
        assert said.code == 0
        assert not [text for text in (str(profile["face_embedding"][0]), "Ada", "555") if text in said.out + said.err]
    shown = vehicle.run("profiles", "show", DRIVER, "--json").json
    assert shown["not_shown"] == ["face_embedding", "name", "notes"]
    assert shown["fields"]["total_distance"] == profile["total_distance"]
    assert "face_embedding" in vehicle.run("profiles", "show", DRIVER).out
    said = vehicle.run("profiles", "show", "nobody")
    assert said.code == 1
    assert "there is no profile of 'nobody'" in said.err
    assert "profiles list` has those there are" in said.err
    assert vehicle.run("profiles", "show", "a\nb").code == 2


def test_a_backend_that_is_away_is_told_later(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with reference(tmp_path / "backend") as url:
        vehicle = a_vehicle(tmp_path / "one", url, capsys, DRIVER)
        assert vehicle.run("profiles", "sync").code == 0
    said = vehicle.run("profiles", "forget", DRIVER, "--yes", "--json")
    assert said.code == 75
    assert said.json == {"forgotten_here": True, "forgotten_at_backend": False, "agent_running": False}
    assert not file_of(vehicle).exists()
    assert states(vehicle) == {DRIVER: "to_forget"}
    with reference(tmp_path / "backend") as url:
        vehicle.configure(api_url=url)
        assert vehicle.run("profiles", "sync").code == 0
        assert states(vehicle) == {}
    stored = b"".join(path.read_bytes() for path in (tmp_path / "backend").rglob("*") if path.is_file())
    assert DRIVER.encode() not in stored


def unknown_fall(vehicle: Vehicle) -> float:
    """The file's distance falls, and its manager stamps nothing; returns what it was."""
    profile = json.loads(file_of(vehicle).read_text())
    file_of(vehicle).write_text(json.dumps(profile | {"total_distance": 500.0}))
    distance: float = profile["total_distance"]
    return distance


def test_what_nobody_can_know_is_asked_and_decided(
    tmp_path: Path, url: str, capsys: pytest.CaptureFixture[str]
) -> None:
    vehicle = a_vehicle(tmp_path / "one", url, capsys, DRIVER)
    assert vehicle.run("profiles", "sync").code == 0
    said = vehicle.run("profiles", "resolve", DRIVER, "--keep", "sum")
    assert (said.code, "there is nothing to decide about 'driver_123': its state is 'synced'" in said.err) == (1, True)
    unknown_fall(vehicle)
    said = vehicle.run("profiles", "sync")
    assert said.code == 75
    assert "`profiles resolve DRIVER --keep local|fleet|sum` decides" in said.err
    assert states(vehicle) == {DRIVER: "undecided"}
    listed = " ".join(vehicle.run("profiles", "list").out.split())
    assert "to be decided" in listed
    said = vehicle.run("profiles", "resolve", DRIVER, "--keep", "all")
    assert (said.code, "invalid choice: 'all'" in said.err) == (2, True)
    assert vehicle.run("profiles", "resolve", "nobody", "--keep", "local").code == 1
    said = vehicle.run("profiles", "resolve", DRIVER, "--keep", "local")
    assert (said.code, "0.5 km" in said.out) == (0, True)
    assert states(vehicle) == {DRIVER: "synced"}


def test_why_says_for_each_driver_what_to_do_and_who_waits_for_nothing(
    tmp_path: Path, url: str, capsys: pytest.CaptureFixture[str]
) -> None:
    vehicle = a_vehicle(tmp_path / "one", url, capsys, DRIVER, "settled", "fresh")
    for driver in (DRIVER, "settled"):
        assert vehicle.run("profiles", "sync", driver).code == 0
    unknown_fall(vehicle)
    assert vehicle.run("profiles", "sync", DRIVER).code == 75
    file_of(vehicle, "broken").write_text("{")
    waiting = {it["name"]: it for it in vehicle.run("why", "--json").json["waiting"]}
    assert waiting.keys() == {DRIVER, "fresh", "broken"}
    assert f"profiles resolve {DRIVER} --keep local|fleet|sum" in waiting[DRIVER]["remedy"]
    assert waiting["broken"]["remedy"] == "mend the profile's file"
    assert waiting["fresh"]["reason"] == "the next sync: it is never synced"
    assert waiting["fresh"]["remedy"].startswith("start one: ")
    vehicle.configure(profile_keys=[], profile_keys_command=["false"])
    (keys,) = vehicle.run("why", "--json").json["waiting"]
    assert (keys["kind"], keys["name"], keys["remedy"]) == ("driver", "all", "see `doctor`")


def test_a_decision_waits_for_a_backend_that_is_away(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with reference(tmp_path / "backend") as url:
        vehicle = a_vehicle(tmp_path / "one", url, capsys, DRIVER)
        assert vehicle.run("profiles", "sync").code == 0
    before = unknown_fall(vehicle)
    said = vehicle.run("profiles", "resolve", DRIVER, "--keep", "sum", "--json")
    assert (said.code, said.json["done"]) == (75, False)
    assert states(vehicle) == {DRIVER: "decided"}
    assert "--keep sum is carried out with the next sync" in vehicle.run("profiles", "list").out
    content = b"".join(path.read_bytes() for path in vehicle.state.iterdir() if path.is_file())
    assert DRIVER.encode() not in content
    with reference(tmp_path / "backend") as url:
        vehicle.configure(api_url=url)
        assert vehicle.run("profiles", "sync").code == 0
    assert json.loads(file_of(vehicle).read_text())["total_distance"] == before + 500.0


def test_a_decision_beside_a_running_agent(tmp_path: Path, url: str, capsys: pytest.CaptureFixture[str]) -> None:
    vehicle = a_vehicle(tmp_path / "one", url, capsys, DRIVER)
    assert vehicle.run("profiles", "sync").code == 0
    before = unknown_fall(vehicle)
    with started("run", "--json", "--config", str(vehicle.config), folder=vehicle.folder) as agent:
        agent.out.until(lambda line: (json.loads(line)["profiles"] or {}).get("failing") == 1)
        assert vehicle.run("profiles", "resolve", DRIVER, "--keep", "fleet").code == 0
        assert json.loads(file_of(vehicle).read_text())["total_distance"] == before
        agent.signal(signal.SIGTERM)
        assert agent.wait() == 0
    assert DRIVER not in agent.everything()


def test_beside_a_running_agent(tmp_path: Path, url: str, capsys: pytest.CaptureFixture[str]) -> None:
    vehicle = a_vehicle(tmp_path / "one", url, capsys, DRIVER, "other")
    arguments = ("run", "--json", "--config", str(vehicle.config))
    with started(*arguments, folder=vehicle.folder) as agent:
        agent.out.until(lambda line: (json.loads(line)["profiles"] or {}).get("synced_at") is not None)
        profile = json.loads(file_of(vehicle).read_text())
        file_of(vehicle).write_text(json.dumps(profile | {"total_distance": profile["total_distance"] + 1000.0}))
        assert vehicle.run("profiles", "sync", DRIVER).out == "1 profile synced\n"
        assert states(vehicle) == {DRIVER: "synced", "other": "synced"}
        assert "2 driver profiles" in vehicle.run("status").out

        vehicle.configure(profile_keys=[], profile_keys_command=["cat", "keys"])
        said = vehicle.run("profiles", "forget", DRIVER, "--yes")
        assert said.code == 2
        assert "give it the same settings" in said.err
        assert file_of(vehicle).exists()
        vehicle.configure(profile_keys=[FLEET_KEY], profile_keys_command=[])

        assert vehicle.run("profiles", "forget", DRIVER, "--yes").code == 0
        assert not file_of(vehicle).exists()
        assert states(vehicle) == {"other": "synced"}
        agent.signal(signal.SIGTERM)
        assert agent.wait() == 0
    everything = agent.everything()
    assert not [text for text in (DRIVER, "face_embedding", FLEET_KEY) if text in everything]


@pytest.mark.parametrize(("typed", "is_forgotten"), [("y", True), ("no", False)])
def test_at_a_terminal_nothing_but_a_yes_forgets(
    tmp_path: Path,
    url: str,
    capsys: pytest.CaptureFixture[str],
    type_answer: Callable[[str], object],
    typed: str,
    is_forgotten: bool,
) -> None:
    car = a_vehicle(tmp_path / "one", url, capsys, DRIVER)
    type_answer(typed)
    answer = car.run("profiles", "forget", DRIVER)
    assert answer.err.startswith(f"Remove the profile of {DRIVER} for good, in the whole fleet? [y/N] ")
    assert ("nothing was forgotten" in answer.out, file_of(car).exists()) == (not is_forgotten, not is_forgotten)


def test_what_cannot_be_synced_or_decided_now_is_said_with_the_reason(
    tmp_path: Path, url: str, capsys: pytest.CaptureFixture[str]
) -> None:
    car = a_vehicle(tmp_path / "one", url, capsys, DRIVER)
    with started("run", "--json", "--config", str(car.config), folder=car.folder) as agent:
        agent.out.until(lambda line: (json.loads(line)["profiles"] or {}).get("synced_at") is not None)
        said = car.run("profiles", "sync", "nobody")
        assert (said.code, "there is no profile of 'nobody' in " in said.err) == (1, True)
        agent.signal(signal.SIGTERM)
        assert agent.wait() == 0
    unknown_fall(car)
    car.configure(api_url="http://127.0.0.1:1")
    said = car.run("profiles", "resolve", DRIVER, "--keep", "sum")
    assert (said.code, "written down, and done with the next sync: " in said.err) == (ExitCode.LEFT, True)
    assert car.run("profiles", "sync", "--wait", "-1").code == ExitCode.USAGE


class TestData:
    """`data export` and `data erase`: all that a vehicle holds of one driver."""

    def test_all_of_it_is_exported_readable_and_for_its_owner_alone(
        self, tmp_path: Path, url: str, capsys: pytest.CaptureFixture[str]
    ) -> None:
        car = a_vehicle(tmp_path / "one", url, capsys, DRIVER)
        car.run("profiles", "sync")
        mine, _ = self.queue_trips(car)
        file = tmp_path / "export.json"
        assert car.run("data", "export", DRIVER, "--out", str(file)).code == 0
        assert file.stat().st_mode & 0o777 == 0o600
        held = json.loads(file.read_text())
        there = json.loads(file_of(car).read_text())
        assert held["profile"] == there, "what tells who it is, too"
        assert held["pseudonym"].startswith("d_")
        assert [trip["trip_id"] for trip in held["trips"]] == [mine]
        assert len(held["profile_sent"]) == 1
        assert "already" in car.run("data", "export", DRIVER, "--out", str(file)).err
        assert json.loads(car.run("data", "export", DRIVER).out)["driver_id"] == DRIVER

    def test_of_a_driver_who_was_never_here_there_is_nothing(
        self, tmp_path: Path, url: str, capsys: pytest.CaptureFixture[str]
    ) -> None:
        car = a_vehicle(tmp_path / "one", url, capsys)
        held = json.loads(car.run("data", "export", "nobody").out)
        assert (held["profile"], held["profile_state"], held["trips"]) == (None, None, [])

    def test_it_is_erased_and_only_what_was_done_is_said_to_be(
        self, tmp_path: Path, url: str, capsys: pytest.CaptureFixture[str]
    ) -> None:
        car = a_vehicle(tmp_path / "one", url, capsys, DRIVER)
        car.run("profiles", "sync")
        mine, other = self.queue_trips(car)
        steps = {step["what"]: step for step in car.run("data", "erase", DRIVER, "--yes", "--json").json["steps"]}
        assert {what: step["done"] for what, step in steps.items()} == {
            "profile on this vehicle": True,
            "profile at the backend": True,
            "trips that wait on this vehicle": True,
            "trips at the backend": None,
            "recordings": None,
        }
        assert not file_of(car).exists()
        waiting = [item["key"] for item in car.run("queue", "list", "--json").json["items"]]
        assert (mine in waiting, other in waiting) == (False, True)
        assert [one for one in car.run("sent", "--json").json["sent"] if one["kind"] == "profile"] == []
        held = json.loads(car.run("data", "export", DRIVER).out)
        assert (held["profile"], held["trips"]) == (None, [])

    def test_without_a_backend_it_is_not_said_to_be_erased_there(
        self, tmp_path: Path, url: str, capsys: pytest.CaptureFixture[str]
    ) -> None:
        car = a_vehicle(tmp_path / "one", url, capsys, DRIVER)
        car.run("profiles", "sync")
        car.configure(api_url="http://127.0.0.1:1")
        answer = car.run("data", "erase", DRIVER, "--yes")
        assert answer.code == ExitCode.LEFT
        assert "not yet" in answer.out
        assert "the backend has not confirmed it yet" in answer.out

    def test_a_trip_under_way_is_told_of_and_not_said_to_be_erased(
        self, tmp_path: Path, url: str, capsys: pytest.CaptureFixture[str]
    ) -> None:
        car = a_vehicle(tmp_path / "one", url, capsys, DRIVER)

        async def begin() -> str:
            settings = Settings.load(car.config).cloud
            async with Store(car.state) as store, CloudAPIClient(settings=settings) as client:
                return await TripUploader(client, store).start_trip(driver_id=DRIVER)

        trip_id = asyncio.run(begin())
        assert json.loads(car.run("data", "export", DRIVER).out)["trip_under_way"] == trip_id
        assert json.loads(car.run("data", "export", "another").out)["trip_under_way"] is None
        answer = car.run("data", "erase", DRIVER, "--yes")
        assert (answer.code, "erase again once it has ended" in answer.out) == (ExitCode.LEFT, True)

    def test_nobody_is_erased_by_mistake(
        self, tmp_path: Path, url: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
    ) -> None:
        car = a_vehicle(tmp_path / "one", url, capsys, DRIVER)
        monkeypatch.setattr("sys.stdin", io.StringIO(""))
        assert "say --yes" in car.run("data", "erase", DRIVER).err
        assert file_of(car).exists()

    @pytest.mark.parametrize(("typed", "is_erased"), [("yes", True), ("", False)])
    def test_at_a_terminal_nothing_but_a_yes_erases(
        self,
        tmp_path: Path,
        url: str,
        capsys: pytest.CaptureFixture[str],
        type_answer: Callable[[str], object],
        typed: str,
        is_erased: bool,
    ) -> None:
        car = a_vehicle(tmp_path / "one", url, capsys, DRIVER)
        type_answer(typed)
        answer = car.run("data", "erase", DRIVER)
        assert (answer.code == ExitCode.DONE, "nothing was erased" in answer.out) == (is_erased, not is_erased)
        assert answer.err == f"Erase all that this vehicle holds of {DRIVER}, for good? [y/N] "
        assert file_of(car).exists() is not is_erased

    def test_of_a_driver_who_was_never_here_and_without_pseudonyms_there_is_nothing_to_erase(
        self, tmp_path: Path, url: str, capsys: pytest.CaptureFixture[str]
    ) -> None:
        car = a_vehicle(tmp_path / "one", url, capsys)
        car.queue_trips(1)
        car.configure(pseudonym_key=None)
        assert json.loads(car.run("data", "export", "nobody").out)["trips"] == []
        answer = car.run("data", "erase", "nobody", "--yes", "--json")
        profile, trips, _ = answer.json["steps"]
        assert (answer.code, profile["note"]) == (ExitCode.DONE, "there was none")
        assert (trips["what"], trips["done"]) == ("trips", True)
        assert car.run("queue", "list", "--json").json["total"] == 1, "nobody's trip is taken for a driver's"

    def test_beside_a_running_agent_it_is_the_agent_that_erases(
        self, tmp_path: Path, url: str, capsys: pytest.CaptureFixture[str]
    ) -> None:
        car = a_vehicle(tmp_path / "one", url, capsys, DRIVER)
        with started("run", "--json", "--config", str(car.config), folder=car.folder) as agent:
            agent.out.until(lambda line: (json.loads(line)["profiles"] or {}).get("synced_at") is not None)
            steps = car.run("data", "erase", DRIVER, "--yes", "--json").json["steps"]
            agent.signal(signal.SIGTERM)
            assert agent.wait() == 0
        assert [step["done"] for step in steps[:2]] == [True, True]
        assert not file_of(car).exists()
        assert DRIVER not in agent.everything()

    @staticmethod
    def queue_trips(car: Vehicle) -> tuple[str, str]:
        """A trip of the driver, and one of another."""
        mine, other = car.queue_trips(2)

        async def put() -> None:
            async with Store(car.state, exclusive=False) as store:
                await store.outbox.drop([mine])
                body = json.loads(trip(mine)) | {"driver_id": pseudonym(DRIVER, PSEUDONYM_KEY.encode())}
                await store.outbox.put(NewItem("trip", mine, json.dumps(body).encode()))

        asyncio.run(put())
        return mine, other
