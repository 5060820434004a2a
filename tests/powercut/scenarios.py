"""The operations that are cut off: each prepares a folder, acts on it in a process of its own, and is judged after.

What an operation has acknowledged it says by `acknowledge`, which is on disk, outside the folder, before it returns.
"""

import asyncio
import hashlib
import json
import os
from collections.abc import Callable, Coroutine
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pydantic import SecretStr, TypeAdapter

from sentinel_sync import CloudAPIClient, TripUploader
from sentinel_sync.base.errors import StoreError
from sentinel_sync.base.files import sync_folder
from sentinel_sync.models.installed import InstalledModels
from sentinel_sync.models.rules.installed import KeptVersion
from sentinel_sync.profiles.files import ProfileFolder
from sentinel_sync.scenarios.consent import ConsentRecord, WithdrawalMark
from sentinel_sync.scenarios.recordings import Recording
from sentinel_sync.scenarios.records import ScenarioRecords
from sentinel_sync.scenarios.rules.plan import Priority
from sentinel_sync.settings import CloudSettings
from sentinel_sync.store.outbox import NewItem
from sentinel_sync.store.store import DATABASE_NAME, Store
from tests.fakes.clock import FakeClock

Acknowledge = Callable[[str], None]
TEXT = TypeAdapter(str)
SAVED = 60
NAME, LIVE = "gaze", "gaze.onnx"
OLD, NEW = b"old" * 5_000, b"new" * 5_000
DRIVER = "driver-1"
POLICY = "1"


@dataclass(frozen=True, slots=True)
class Operation:
    """One operation.

    Attributes:
        prepare: Makes the folder as it is before.
        act: What is cut off; calls its argument with a word for all that it acknowledges.
        judge: Starts again on what is left, and raises AssertionError where something acknowledged is lost.
    """

    prepare: Callable[[Path], Coroutine[Any, Any, None]]
    act: Callable[[Path, Acknowledge], Coroutine[Any, Any, None]]
    judge: Callable[[Path, set[str]], Coroutine[Any, Any, None]]


def state(folder: Path) -> Store:
    return Store(folder / "state", clock=FakeClock())


def trip(number: int) -> NewItem:
    return NewItem("trip", f"trip-{number}", f"trip number {number} ".encode() * 20)


async def keys(store: Store) -> set[str]:
    return {item.key for item in await store.outbox.items(limit=10_000)}


async def works(store: Store) -> None:
    """Whether the store is whole, and takes and gives as ever."""
    assert await store.outbox.verify() == []
    assert await store.outbox.put(NewItem("other", "afterwards", b"{}"))
    (item,) = await store.outbox.claim("other", 1)
    await store.outbox.acknowledge("other", [item.seq])


# --- the store ---


async def nothing(folder: Path) -> None:
    await asyncio.to_thread(folder.mkdir)


async def three_trips(folder: Path) -> None:
    async with state(folder) as store:
        await store.outbox.put_all([trip(number) for number in range(3)])


async def start(folder: Path, acknowledge: Acknowledge) -> None:
    async with state(folder):
        acknowledge("started")


async def is_fresh(folder: Path, _: set[str]) -> None:
    async with state(folder) as store:
        assert store.salvaged is None, "there never was data"
        await works(store)


async def has_three_trips(folder: Path, _: set[str]) -> None:
    async with state(folder) as store:
        assert store.salvaged is None, "nothing was damaged"
        assert await keys(store) == {"trip-0", "trip-1", "trip-2"}
        await works(store)


async def take_and_forget(folder: Path, acknowledge: Acknowledge) -> None:
    async with state(folder) as store:
        first, second, _ = await store.outbox.claim("trip", 10)
        await store.outbox.acknowledge("trip", [first.seq])
        acknowledge(f"gone {first.key}")
        await store.outbox.acknowledge("trip", [second.seq])
        acknowledge(f"gone {second.key}")
        await store.outbox.put(trip(9))
        acknowledge("there trip-9")


async def keeps_its_word(folder: Path, acknowledged: set[str]) -> None:
    async with state(folder) as store:
        found = await keys(store)
        await works(store)
    for word, _, key in (said.partition(" ") for said in acknowledged):
        assert (key in found) == (word == "there"), f"{word} {key}"
    assert "trip-2" in found


async def go_on_after_refusal(folder: Path, acknowledge: Acknowledge) -> None:
    """Three trips one by one, as a host goes on that was told that one could not be kept."""
    path = folder / "state" / DATABASE_NAME
    async with state(folder) as store:
        file, refused = path.stat().st_ino, False
        for number in (5, 6, 7):
            try:
                await store.outbox.put(trip(number))
            except StoreError:
                acknowledge("refused")
                refused = True
            else:
                acknowledge(f"there trip-{number}")
                if refused:
                    acknowledge("another file" if path.stat().st_ino != file else "the same file")


async def has_what_was_taken(folder: Path, acknowledged: set[str]) -> None:
    async with state(folder) as store:
        found = await keys(store)
        await works(store)
    assert {said.removeprefix("there ") for said in acknowledged if said.startswith("there ")} <= found
    assert {"trip-0", "trip-1", "trip-2"} <= found


async def damaged(folder: Path) -> None:
    async with state(folder) as store:
        await store.outbox.put_all([trip(number) for number in range(SAVED)])
        await store.documents.save("fact", "one", "kept", TEXT)
    path = folder / "state" / DATABASE_NAME
    content = bytearray(path.read_bytes())
    content[:100] = b"x" * 100
    path.write_bytes(content)
    path.with_name(f"{DATABASE_NAME}-wal").write_bytes(b"an old log")


async def was_salvaged(folder: Path, _: set[str]) -> None:
    async with state(folder) as store:
        assert await keys(store) == {f"trip-{number}" for number in range(SAVED)}
        assert await store.documents.load("fact", "one", TEXT) == "kept"
        await works(store)
    assert list((folder / "state").glob("*.damaged-*")), "the evidence is kept"


# --- trips ---


def uploader(folder: Path, store: Store) -> TripUploader:
    settings = CloudSettings(
        api_url="http://127.0.0.1:1", api_key=SecretStr("key"), vehicle_id="v", state_dir=folder / "state"
    )
    return TripUploader(CloudAPIClient(settings=settings, clock=FakeClock()), store)


async def drive(folder: Path, acknowledge: Acknowledge) -> None:
    async with state(folder) as store:
        trips = uploader(folder, store)
        trip_id = await trips.start_trip("driver", {"lat": 48.0, "lon": 11.0})
        acknowledge(f"begun {trip_id}")
        trips.update_trip(1200.0, 20.0, 0.1)
        await trips.end_trip()
        acknowledge(f"ended {trip_id}")


async def has_the_drive(folder: Path, acknowledged: set[str]) -> None:
    async with state(folder) as store:
        trips = uploader(folder, store)
        await trips.prepare()  # what a cut left open is closed
        queued = await store.outbox.items(kind="trip")
        found = [json.loads(item.body)["trip_id"] for item in queued if not item.key.startswith("trip-")]
        assert len(queued) == 3 + len(found)
        await works(store)
    for word, _, trip_id in (said.partition(" ") for said in acknowledged):
        assert trip_id in found, f"{word}, and gone"
    assert len(found) <= 1, "never twice"


# --- models ---


def version(name: str, content: bytes) -> KeptVersion:
    return KeptVersion(name, LIVE, 1.0, len(content), hashlib.sha256(content).hexdigest())


def lay_down(installed: InstalledModels, name: str, content: bytes) -> None:
    """As a download does that has come to its end."""
    staging = installed.files.staging(NAME, name, LIVE)
    installed.files.make_room(staging, len(content))
    staging.write_bytes(content)


def keep(installed: InstalledModels, name: str) -> None:
    installed.files.keep(installed.files.staging(NAME, name, LIVE), installed.files.version(NAME, name, LIVE))


async def installed_in(folder: Path, store: Store) -> InstalledModels:
    installed = InstalledModels(folder / "models", store.documents, FakeClock())
    await installed.open()
    return installed


async def first_model(folder: Path) -> None:
    async with state(folder) as store:
        installed = await installed_in(folder, store)
        lay_down(installed, "v1", OLD)
        keep(installed, "v1")
        await installed.install(NAME, version("v1", OLD))
        lay_down(installed, "v2", NEW)


async def second_model(folder: Path, acknowledge: Acknowledge) -> None:
    async with state(folder) as store:
        installed = await installed_in(folder, store)
        await asyncio.to_thread(keep, installed, "v2")
        await installed.install(NAME, version("v2", NEW))
        acknowledge("v2")


async def one_whole_model(folder: Path, acknowledged: set[str]) -> None:
    live = folder / "models" / LIVE
    assert live.read_bytes() in {OLD, NEW}, "whole, also before the next start"
    async with state(folder) as store:
        installed = await installed_in(folder, store)
        await installed.clean([])
        now = installed.record(NAME).standing.installed
        assert live.read_bytes() == {"v1": OLD, "v2": NEW}[str(now)]
        assert json.loads((folder / "models" / "registry.json").read_text())[NAME]["version"] == now
        assert acknowledged <= {now}
        if now == "v2":
            assert (await installed.roll_back(NAME)).version == "v1"
            assert live.read_bytes() == OLD
        await works(store)


# --- profiles ---


BEFORE, AFTER = {"seat": 1, "name": "x" * 500}, {"seat": 2, "name": "y" * 700}


async def a_profile(folder: Path) -> None:
    (folder / "profiles").mkdir(parents=True)
    (folder / "profiles" / f"{DRIVER}.json").write_text(json.dumps(BEFORE))


async def change_profile(folder: Path, acknowledge: Acknowledge) -> None:
    def change() -> None:
        profiles = ProfileFolder(folder / "profiles")
        profiles.sweep()
        read = profiles.read(DRIVER)
        assert read is not None
        assert profiles.replace(DRIVER, AFTER, read) is not None
        acknowledge("changed")

    await asyncio.to_thread(change)


async def one_whole_profile(folder: Path, acknowledged: set[str]) -> None:
    profiles = ProfileFolder(folder / "profiles")
    read = profiles.read(DRIVER)
    assert read is not None
    assert read.profile == AFTER or (read.profile == BEFORE and not acknowledged)
    profiles.sweep()
    assert [path.name for path in (folder / "profiles").iterdir()] == [f"{DRIVER}.json"]


# --- consent ---


def consents(folder: Path, store: Store) -> ConsentRecord:
    return ConsentRecord(store.documents, FakeClock(), WithdrawalMark(folder / "scenarios"))


async def consented(folder: Path) -> None:
    async with state(folder) as store:
        await consents(folder, store).record(granted=True, policy_version=POLICY)


async def withdraw(folder: Path, acknowledge: Acknowledge) -> None:
    async with state(folder) as store:
        await consents(folder, store).record(granted=False, policy_version=POLICY)
        acknowledge("withdrawn")


async def stays_withdrawn(folder: Path, acknowledged: set[str]) -> None:
    async with state(folder) as store:
        decided = await consents(folder, store).load()
        assert decided is not None
        assert not (acknowledged and decided.granted)
        await works(store)


async def grant(folder: Path, acknowledge: Acknowledge) -> None:
    async with state(folder) as store:
        await consents(folder, store).record(granted=True, policy_version=POLICY)
        acknowledge("granted")


async def stays_granted(folder: Path, acknowledged: set[str]) -> None:
    async with state(folder) as store:
        decided = await consents(folder, store).load()
        assert not acknowledged or (decided is not None and decided.granted)
        await works(store)


# --- plans of uploads ---


def recordings(store: Store) -> ScenarioRecords:
    return ScenarioRecords(store.documents, store.outbox, FakeClock())


async def plan_upload(folder: Path, acknowledge: Acknowledge) -> None:
    metadata: dict[str, Any] = {"scenario_id": "s-1"}
    async with state(folder) as store:
        await recordings(store).queue(Recording("s-1", folder / "scenarios" / "s-1", metadata, ()), Priority.HIGH)
        acknowledge("queued")


async def is_planned(folder: Path, acknowledged: set[str]) -> None:
    async with state(folder) as store:
        records = recordings(store)
        plan, item = await records.plan("s-1"), await records.item("s-1")
        assert not acknowledged or (plan is not None and plan.in_queue and item is not None)
        assert item is None or plan is not None, "a plan is written first"
        await works(store)


OPERATIONS: dict[str, Operation] = {
    "first start": Operation(nothing, start, is_fresh),
    "ordinary start": Operation(three_trips, start, has_three_trips),
    "end trip": Operation(three_trips, drive, has_the_drive),
    "acknowledge": Operation(three_trips, take_and_forget, keeps_its_word),
    "put": Operation(three_trips, go_on_after_refusal, has_what_was_taken),
    "salvage": Operation(damaged, start, was_salvaged),
    "model switch": Operation(first_model, second_model, one_whole_model),
    "profile write": Operation(a_profile, change_profile, one_whole_profile),
    "consent withdrawn": Operation(consented, withdraw, stays_withdrawn),
    "consent given": Operation(three_trips, grant, stays_granted),
    "upload plan": Operation(three_trips, plan_upload, is_planned),
}


# --- what must be noticed, where the test is any good ---


def writes(*synced: str) -> Operation:
    """Write a file by a temporary name, syncing only what is named, and acknowledge it."""

    async def act(folder: Path, acknowledge: Acknowledge) -> None:
        def write() -> None:
            with (folder / "new").open("wb") as file:
                file.write(NEW)
                if "file" in synced:
                    file.flush()
                    os.fsync(file.fileno())
            (folder / "new").replace(folder / "kept")
            if "folder" in synced:
                sync_folder(folder)
            acknowledge("kept")

        await asyncio.to_thread(write)

    async def judge(folder: Path, acknowledged: set[str]) -> None:
        kept = folder / "kept"
        assert not acknowledged or await asyncio.to_thread(kept.read_bytes) == NEW

    return Operation(nothing, act, judge)


CONTROLS: dict[str, Operation] = {
    "written": writes(),
    "file synced": writes("file"),
    "file and folder synced": writes("file", "folder"),
}
