"""`models`: a release engineer's whole way to a vehicle, and the operator's word, with and without a running agent."""

import argparse
import asyncio
import json
import os
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from sentinel_sync.backend.faults import Fault, FaultPlan
from sentinel_sync.backend.server import running_server
from sentinel_sync.backend.settings import BackendSettings
from sentinel_sync.cli.backend_access import vehicle_share
from sentinel_sync.cli.exit_codes import ExitCode
from sentinel_sync.cli.models import _facts, _pinned, _row
from sentinel_sync.models.commands import ModelCommand, ModelCommands, PlacedCommand
from sentinel_sync.models.rules.installed import ModelRecord
from sentinel_sync.models.rules.status import ModelStatus, OfferedVersion
from sentinel_sync.status import STATUS_NAME
from sentinel_sync.store.store import StateLock, Store
from tests.cli.backend import KEY, Backend
from tests.cli.vehicle import PATIENCE, Said, Vehicle
from tests.fakes.weights import some_tensors_replaced, weights

NAME = "detector"
FIRST = weights(300_000, 1)
SECOND = some_tensors_replaced(FIRST, 100, 1, 2)


@dataclass
class Fleet:
    """The reference backend, in a thread of its own; it counts how often a whole file is asked for."""

    folder: Path
    url: str = ""
    faults: FaultPlan = field(default_factory=lambda: FaultPlan([Fault(kind="delay", path="/model-files")]))

    @property
    def whole_files(self) -> int:
        return self.faults.strikes["delay"]

    @contextmanager
    def running(self) -> Iterator[None]:
        ready, done = threading.Event(), asyncio.Event()
        loop = asyncio.new_event_loop()

        async def serve() -> None:
            settings = BackendSettings(folder=self.folder, api_keys=(KEY,), publisher_keys=("publisher",))
            async with running_server(settings, faults=self.faults) as self.url:
                ready.set()
                await done.wait()

        thread = threading.Thread(target=loop.run_until_complete, args=(serve(),))
        thread.start()
        try:
            assert ready.wait(PATIENCE)
            yield
        finally:
            loop.call_soon_threadsafe(done.set)
            thread.join(PATIENCE)
            loop.close()


@pytest.fixture
def fleet(tmp_path: Path) -> Iterator[Fleet]:
    fleet = Fleet(tmp_path / "backend")
    with fleet.running():
        yield fleet


@pytest.fixture
def car(tmp_path: Path, fleet: Fleet, capsys: pytest.CaptureFixture[str]) -> Vehicle:
    """A vehicle that trusts the release engineer's key; both live in one folder here."""
    vehicle = Vehicle(tmp_path, fleet.url, capsys)
    key = vehicle.run("models", "keygen", "--out", str(tmp_path / "key.pem"), "--json").json["public_key"]
    vehicle.configure(models_dir=str(tmp_path / "models"), model_trusted_keys=[key])
    return vehicle


def release(car: Vehicle, fleet: Fleet, version: str, content: bytes, *publishing: str) -> Said:
    """Sign, verify and publish one."""
    file = car.folder / f"{NAME}-{version}.onnx"
    file.write_bytes(content)
    key = str(car.folder / "key.pem")
    words = ("--name", NAME, "--version", version, "--filename", f"{NAME}.onnx", "--key", key)
    assert car.run("models", "sign", str(file), *words).code == 0
    assert car.run("models", "verify", str(file)).code == 0
    (car.folder / "publisher").write_text("publisher\n")
    keys = ("--api-key-file", str(car.folder / "publisher"))
    return car.run("models", "publish", str(file), "--url", fleet.url, *keys, *publishing)


def test_the_whole_way_from_a_key_to_a_model_in_use_and_back(car: Vehicle, fleet: Fleet) -> None:
    live = car.folder / "models" / f"{NAME}.onnx"
    assert release(car, fleet, "v1.0.0", FIRST).out == f"{NAME} v1.0.0 published (100% of vehicles)\n"
    checked = car.run("models", "check")
    assert (checked.code, "v1.0.0" in checked.out, "none" in checked.out) == (0, True, True)
    assert car.run("models", "install", NAME, "v1.0.0").out == f"{NAME} v1.0.0 is in use\n"
    assert live.read_bytes() == FIRST
    assert fleet.whole_files == 1

    # The next one travels as what changed.
    release(car, fleet, "v2.0.0", SECOND)
    assert [update["version"] for update in car.run("models", "check", "--json").json["updates"]] == ["v2.0.0"]
    assert car.run("models", "install", NAME, "v2.0.0").code == 0
    assert live.read_bytes() == SECOND
    assert fleet.whole_files == 1
    (model,) = car.run("models", "list", "--json").json["models"]
    assert (model["installed"], model["previous"]) == ("v2.0.0", "v1.0.0")
    head = car.run("models", "list").out.splitlines()[0]
    assert ("IN USE" in head, "INSTALLED" in head) == (True, False), "one word for what the runtime opens"

    assert car.run("models", "rollback", NAME).out == f"{NAME} v1.0.0 is in use\n"
    assert live.read_bytes() == FIRST
    assert car.run("models", "pin", NAME, "v9.9.9").out.endswith("It is taken once it is offered\n")
    assert car.run("models", "pin", NAME, "v1.0.0").out == f"{NAME} v1.0.0 is pinned: no other is taken\n"
    assert car.run("models", "list").out.splitlines()[1].split()[:2] == [NAME, "v1.0.0"]
    refused = car.run("models", "install", NAME, "v2.0.0")
    assert (refused.code, "pinned v1.0.0" in refused.err) == (ExitCode.FAILED, True)
    assert car.run("models", "unpin", NAME).code == 0
    assert car.run("models", "install", NAME, "v2.0.0").code == 0
    assert live.read_bytes() == SECOND


def test_what_is_offered_to_others_alone_is_said() -> None:
    shown = ModelStatus(
        name=NAME,
        status="idle",
        installed=None,
        available=None,
        previous=None,
        pinned=None,
        reason=None,
        under_way=None,
        offered=[OfferedVersion(version="v2", note="not for this vehicle: rollout 10 %"), OfferedVersion(version="v1")],
    )
    row = _row(_facts(ModelRecord(NAME), shown))
    assert row[-1] == "v2 is not for this vehicle: rollout 10 %"
    for pinned, waits in (("v9", True), ("v1.0", False)):
        record, said = ModelRecord(NAME, pinned=pinned), shown.model_copy(update={"pinned": pinned})
        assert (f"nobody offers {pinned}, to which it is pinned" in _row(_facts(record, said))[-1]) is waits
    assert "Nobody offers it now" in _pinned(NAME, "v3", shown)
    assert _pinned(NAME, "v1.0", shown) == f"{NAME} v1.0 is pinned: no other is taken"
    overridden = "; v2 is not for this vehicle: rollout 10 %: the pin overrides that"
    assert _pinned(NAME, "v2.0.0", shown) == f"{NAME} v2.0.0 is pinned: no other is taken{overridden}"


def test_what_is_installed_past_its_rollout_is_said(car: Vehicle, fleet: Fleet) -> None:
    release(car, fleet, "v1.0.0", FIRST, "--rollout", "0")
    said = car.run("models", "install", NAME, "v1.0")
    outside = "it is rolled out to 0 % of vehicles and this one is outside: the order overrides that"
    assert (said.code, said.out) == (0, f"{NAME} v1.0.0 is in use; {outside}\n")
    assert (car.folder / "models" / f"{NAME}.onnx").read_bytes() == FIRST


@pytest.mark.parametrize(("text", "share"), [("0.1", 0.1), ("10%", 0.1), ("100%", 1.0), ("0", 0.0), ("1", 1.0)])
def test_a_share_of_vehicles_is_written_in_two_ways(text: str, share: float) -> None:
    assert vehicle_share(text) == share


@pytest.mark.parametrize("text", ["10", "-1%", "101%", "abc", "", "%", "1%%", "nan", "inf"])
def test_what_is_no_share_is_said_to_be_none(text: str) -> None:
    with pytest.raises(argparse.ArgumentTypeError, match="is no share: it must be between 0 and 1"):
        vehicle_share(text)


def test_steps_that_are_none_are_refused_in_words(car: Vehicle) -> None:
    said = car.run("rollouts", "create", NAME, "v1.0.0", "--steps", "10%,abc", "--url", "http://127.0.0.1:9")
    assert (said.code, "argument --steps: 'abc' is no share" in said.err) == (ExitCode.USAGE, True)


def test_a_withdrawn_version_stays_where_it_is_in_use_and_reaches_nobody_else(car: Vehicle, fleet: Fleet) -> None:
    release(car, fleet, "v1.0.0", FIRST)
    release(car, fleet, "v2.0.0", SECOND)
    assert car.run("models", "install", NAME, "v2.0.0").code == 0
    desk = ("--url", fleet.url, "--api-key-file", str(car.folder / "publisher"))
    said = car.run("models", "withdraw", NAME, "v2.0.0", *desk)
    assert (said.code, said.out.startswith(f"{NAME} v2.0.0 is withdrawn: ")) == (0, True)
    assert car.run("models", "withdraw", NAME, "v2.0.0", *desk, "--json").json["withdrawn"] is True
    unknown = car.run("models", "withdraw", NAME, "v9.0.0", *desk)
    assert (unknown.code, "404 no model of this name and version is published" in unknown.err) == (1, True)

    assert car.run("models", "check").out == "there is nothing newer\n"
    live = car.folder / "models" / f"{NAME}.onnx"
    assert live.read_bytes() == SECOND
    assert car.run("models", "rollback", NAME).code == ExitCode.FAILED  # it was the first one here
    refused = car.run("models", "install", NAME, "v1.0.0")
    assert (refused.code, "not newer than v2.0.0" in refused.err) == (ExitCode.FAILED, True)
    # The way back for a fleet is a new version: what changed still travels alone.
    release(car, fleet, "v2.0.1", SECOND + b"mended")
    assert car.run("models", "install", NAME, "v2.0.1").code == 0
    assert (live.read_bytes(), fleet.whole_files) == (SECOND + b"mended", 1)


def test_a_backend_without_deltas_sends_the_whole_file(car: Vehicle, fleet: Fleet) -> None:
    car.configure(model_deltas=False)
    for version, content in (("v1.0.0", FIRST), ("v2.0.0", SECOND)):
        release(car, fleet, version, content)
        assert car.run("models", "install", NAME, version).code == 0
    assert fleet.whole_files == 2


class TestPublishing:
    def test_again_changes_what_is_said_of_it_and_never_its_bytes(self, car: Vehicle, fleet: Fleet) -> None:
        release(car, fleet, "v1.0.0", FIRST)
        again = release(car, fleet, "v1.0.0", FIRST, "--rollout", "0.25")
        assert (again.code, "published before" in again.out, "25%" in again.out) == (0, True, True)
        other = release(car, fleet, "v1.0.0", SECOND)
        assert other.code == ExitCode.FAILED
        assert "other bytes" in other.err
        assert other.err.count("\n") == 1

    def test_a_release_is_rolled_out_step_by_step(self, car: Vehicle, fleet: Fleet) -> None:
        release(car, fleet, "v1.0.0", FIRST)
        backend = ("--url", fleet.url, "--api-key-file", str(car.folder / "publisher"))
        assert car.run("rollouts", "list", *backend).out == "no roll-out has begun\n"
        begun = car.run("rollouts", "create", NAME, "v1.0.0", "--steps", "5%,0.5,100%", *backend)
        assert (begun.code, "5 % of vehicles (step 1 of 3: 5 %, 50 %, 100 %)" in begun.out) == (0, True), begun
        again = car.run("rollouts", "create", NAME, "v1.0.0", *backend)
        assert (again.code, "abort ends it for good" in again.err) == (1, True)
        paused = car.run("rollouts", "pause", NAME, "v1.0.0", "--json", *backend).json
        assert (paused["state"], paused["share"], paused["why"]) == ("paused", 0.0, "paused by an operator")
        assert "running" in car.run("rollouts", "resume", NAME, "v1.0.0", *backend).out
        assert "aborted" in car.run("rollouts", "abort", NAME, "v1.0.0", *backend).out
        again = car.run("rollouts", "create", NAME, "v1.0.0", *backend)
        assert (again.code, "publish it under another version" in again.err) == (1, True)
        assert "0 %" in car.run("rollouts", "list", *backend).out
        unknown = car.run("rollouts", "show", NAME, "v9.0.0", *backend).err
        assert "404 no roll-out" in unknown
        assert "rollouts list` has those that began" in unknown
        for bad in ("0.5,0.1", "200%", "many"):
            assert car.run("rollouts", "create", NAME, "v1.0.0", "--steps", bad, *backend).code in {1, 2}

    def test_what_cannot_be_published_is_said_in_one_line(self, car: Vehicle, fleet: Fleet) -> None:
        release(car, fleet, "v1.0.0", FIRST)
        file = str(car.folder / f"{NAME}-v1.0.0.onnx")
        publish = ("models", "publish", file, "--url")
        keys = ("--api-key-file", str(car.folder / "publisher"))
        for words, code, why in (
            ((*publish, fleet.url), ExitCode.USAGE, "a key that may publish is needed"),
            ((*publish, fleet.url, "--api-key", "nobodys"), ExitCode.FAILED, "401"),
            ((*publish, fleet.url, "--api-key-file", "missing"), ExitCode.USAGE, "cannot read"),
            ((*publish, "ftp://127.0.0.1", *keys), ExitCode.USAGE, "no http(s) URL"),
            ((*publish, "http://fleet.example.com", *keys), ExitCode.USAGE, "use https"),
            ((*publish, "http://127.0.0.1:1", *keys), ExitCode.FAILED, "cannot be reached"),
            ((*publish, fleet.url, *keys, "--rollout", "2"), ExitCode.USAGE, "between 0 and 1"),
            ((*publish, fleet.url, *keys, "--rollout", "half"), ExitCode.USAGE, "between 0 and 1"),
            ((*publish, fleet.url, *keys, "--manifest", "missing"), ExitCode.USAGE, "cannot read"),
        ):
            said = car.run(*words)
            assert said.code == code, said.err
            assert why in said.err
            assert said.err.count("\n") == 1
        Path(file).write_bytes(SECOND)
        said = car.run(*publish, fleet.url, *keys)
        assert (said.code, "not what was signed" in said.err) == (ExitCode.FAILED, True)

    def test_the_key_of_a_vehicle_may_not_publish(self, car: Vehicle, fleet: Fleet) -> None:
        release(car, fleet, "v1.0.0", FIRST)
        file = str(car.folder / f"{NAME}-v1.0.0.onnx")
        (car.folder / "publisher").write_text(KEY)
        said = car.run("models", "publish", file, "--url", fleet.url, "--api-key-file", str(car.folder / "publisher"))
        assert (said.code, "403" in said.err) == (ExitCode.FAILED, True)


class TestWithoutAnAgent:
    def test_nothing_is_known_before_anything_was_done(self, car: Vehicle) -> None:
        assert car.run("models", "list").out == "no model is known on this vehicle\n"  # no state folder yet
        assert car.run("models", "check").out == "there is nothing newer\n"
        assert car.run("models", "list").out == "no model is known on this vehicle\n"

    def test_what_cannot_be_is_said_in_one_line(self, car: Vehicle, fleet: Fleet) -> None:
        release(car, fleet, "v1.0.0", FIRST)
        for words, code, why in (
            (("install", NAME, "v9.9.9"), ExitCode.FAILED, "not in the"),
            (("install", "../x", "v1.0.0"), ExitCode.FAILED, "is refused"),
            (("install", NAME, "newest"), ExitCode.FAILED, "must be like v2.1.0"),
            (("rollback", NAME), ExitCode.FAILED, "no previous version"),
            (("pin", NAME, "newest"), ExitCode.FAILED, "must be like v2.1.0"),
            (("clear-bad", NAME, "v1.0.0"), ExitCode.FAILED, "was not found bad"),
            (("forgive", NAME, "v1.0.0"), ExitCode.FAILED, "was not found bad"),
        ):
            said = car.run("models", *words)
            assert said.code == code, said
            assert why in said.err
            assert said.err.startswith("sentinel-sync: error: "), "once, and not by the log too"
            assert said.err.count("\n") == 1
        refused = car.run("models", "rollback", NAME, "--json")
        assert (refused.code, refused.json["done"]) == (ExitCode.FAILED, False)

    def test_a_backend_that_is_away_is_for_later(self, car: Vehicle) -> None:
        car.configure(api_url="http://127.0.0.1:1")
        for words in (("check",), ("install", NAME, "v1.0.0")):
            assert car.run("models", *words).code == ExitCode.LEFT
        car.configure(enabled=False)
        said = car.run("models", "check")
        assert (said.code, "cloud.enabled is false" in said.err) == (ExitCode.LEFT, True)

    def test_an_unsigned_model_is_refused(self, car: Vehicle, fleet: Fleet) -> None:
        release(car, fleet, "v1.0.0", FIRST)
        car.configure(model_trusted_keys=[])
        said = car.run("models", "install", NAME, "v1.0.0")
        assert (said.code, "no key is trusted" in said.err) == (ExitCode.FAILED, True)
        said = car.run("models", "check")
        assert (said.code, said.out) == (ExitCode.FAILED, "")
        assert "no key is trusted" in said.err, "which is not the same as nothing newer"
        assert not (car.folder / "models" / f"{NAME}.onnx").exists()


def note_placing(monkeypatch: pytest.MonkeyPatch) -> threading.Event:
    """Set once an order has been placed."""
    placed, place = threading.Event(), ModelCommands.place

    async def observed(orders: ModelCommands, order: ModelCommand) -> str:
        key = await place(orders, order)
        placed.set()
        return key

    monkeypatch.setattr(ModelCommands, "place", observed)
    return placed


class TestWithAnAgent:
    @pytest.fixture(autouse=True)
    def _agent(self, car: Vehicle) -> Iterator[None]:
        """As far as others can tell: the state folder is locked, and the status is of whoever locked it."""
        car.queue_trips(1)
        (car.state / STATUS_NAME).write_text(json.dumps({"process_id": os.getpid()}))
        lock = StateLock(car.state)
        lock.acquire()
        try:
            yield
        finally:
            lock.release()

    def test_an_order_is_left_for_it(self, car: Vehicle) -> None:
        said = car.run("models", "install", NAME, "v1.0.0")
        assert (said.code, said.out) == (0, "the running agent will do it\n")
        assert car.run("models", "check", "--json").json["done"] is None
        assert [placed.order for placed in orders_at(car)] == [
            ModelCommand("install", NAME, "v1.0.0"),
            ModelCommand("check"),
        ]
        assert car.run("models", "pin", NAME, "newest").code == ExitCode.FAILED
        assert len(orders_at(car)) == 2
        assert car.run("models", "list", "--json").json == {"models": [], "agent_running": True}

    @pytest.mark.parametrize(("done", "code"), [(True, ExitCode.DONE), (False, ExitCode.FAILED)])
    def test_its_answer_can_be_waited_for(
        self, car: Vehicle, monkeypatch: pytest.MonkeyPatch, done: bool, code: ExitCode
    ) -> None:
        placed = note_placing(monkeypatch)

        def agent() -> None:
            assert placed.wait(PATIENCE)
            asyncio.run(carry_out_one(car, "as the agent says", done=done))

        thread = threading.Thread(target=agent)
        thread.start()
        said = car.run("models", "rollback", NAME, "--wait")
        thread.join(PATIENCE)
        assert (said.code, "as the agent says" in said.out + said.err) == (code, True)

    def test_but_not_for_ever(self, car: Vehicle) -> None:
        said = car.run("models", "rollback", NAME, "--wait", "0.3")
        assert (said.code, "has not done it within 0.3 s" in said.out) == (ExitCode.LEFT, True)
        for words in ("0", "nan", "inf", "soon"):
            said = car.run("models", "rollback", NAME, "--wait", words)
            assert (said.code, "a number of seconds" in said.err) == (ExitCode.USAGE, True)


class TestBesideAnotherCommand:
    """E7: the folder is held, and nobody who holds it carries orders out."""

    @pytest.fixture
    def holder(self, car: Vehicle) -> Iterator[StateLock]:
        car.queue_trips(1)
        lock = StateLock(car.state)
        lock.acquire()
        try:
            yield lock
        finally:
            lock.release()

    def test_it_is_done_once_the_folder_is_free(
        self, car: Vehicle, fleet: Fleet, holder: StateLock, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        placed = note_placing(monkeypatch)

        def other_command() -> None:
            assert placed.wait(PATIENCE)
            holder.release()

        release(car, fleet, "v1.0.0", FIRST)
        thread = threading.Thread(target=other_command)
        thread.start()
        said = car.run("models", "install", NAME, "v1.0.0")
        thread.join(PATIENCE)
        assert (said.code, said.out) == (0, f"{NAME} v1.0.0 is in use\n")
        assert orders_at(car) == []

    @pytest.mark.usefixtures("holder")
    def test_or_it_is_said_that_it_is_not_done(self, car: Vehicle, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr("sentinel_sync.cli.models._OTHERS_WAIT", 0.3)
        for stale in ("", '{"process_id": 1}', "[]"):
            (car.state / STATUS_NAME).write_text(stale)
            said = car.run("models", "rollback", NAME)
            assert (said.code, "has not done it within 0.3 s" in said.out) == (ExitCode.LEFT, True)


def orders_at(car: Vehicle) -> list[PlacedCommand]:
    async def look() -> list[PlacedCommand]:
        async with Store(car.state, exclusive=False) as store:
            return await ModelCommands(store.documents).waiting()

    return asyncio.run(look())


async def carry_out_one(car: Vehicle, message: str, *, done: bool) -> None:
    """What a running agent does with the first order that it finds."""
    async with Store(car.state, exclusive=False) as store:
        orders = ModelCommands(store.documents)
        await orders.finish((await orders.waiting())[0], message, done=done)


@pytest.mark.parametrize("answer", [b"{}", b"[]", b"<html>", b'{"rollout": []}'])
def test_a_backend_that_has_no_roll_outs_is_told_in_a_line(vehicle: Vehicle, backend: Backend, answer: bytes) -> None:
    backend.answers = dict.fromkeys(("/rollouts", f"/rollouts/{NAME}/versions/v1.0.0"), (200, answer))
    way = ("--url", backend.url, "--api-key-file", str(vehicle.folder / "key"))
    (vehicle.folder / "key").write_text(KEY)
    (vehicle.folder / "key").chmod(0o600)
    for words in (("list",), ("show", NAME, "v1.0.0")):
        said = vehicle.run("rollouts", *words, *way)
        assert (said.code, said.err.count("\n")) == (ExitCode.FAILED, 1)
        assert "does not answer as the reference backend does" in said.err
