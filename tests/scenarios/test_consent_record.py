"""Decisions are kept, all of them, whoever makes them and however full the disk is."""

import errno
import shutil
from pathlib import Path
from unittest.mock import Mock

import pytest

from sentinel_sync.base.errors import StoreFullError
from sentinel_sync.base.files import make_folder
from sentinel_sync.scenarios.consent import ConsentRecord, WithdrawalMark
from sentinel_sync.scenarios.rules.plan import Consent
from sentinel_sync.store.store import Store
from tests.fakes.clock import FakeClock


async def test_every_decision_stays_on_record_in_its_order(store: Store, clock: FakeClock) -> None:
    record = ConsentRecord(store.documents, clock)
    assert (await record.load(), await record.history()) == (None, [])
    made = []
    for granted, policy in ((True, "1"), (False, "1"), (True, "2")):
        made.append(await record.record(granted=granted, policy_version=policy))
        # The order is that of the decisions, whatever the wall clock does.
        clock.set_wall(clock.now() - 3600.0)
    assert await record.load() == made[-1]
    assert await ConsentRecord(store.documents, clock).history() == made


async def test_decisions_of_two_processes_are_both_kept(store: Store, clock: FakeClock, tmp_path: Path) -> None:
    async with Store(tmp_path / "state", clock=clock, exclusive=False) as elsewhere:
        here, there = ConsentRecord(store.documents, clock), ConsentRecord(elsewhere.documents, clock)
        granted = await here.record(granted=True, policy_version="1")
        clock.tick(1.0)
        withdrawn = await there.record(granted=False, policy_version="1")
        assert await here.load() == withdrawn
        assert await here.history() == [granted, withdrawn]


async def test_a_decision_from_before_there_was_a_history_is_in_it(store: Store, clock: FakeClock) -> None:
    older = ConsentRecord(store.documents, clock)
    granted = await older.record(granted=True, policy_version="1")
    for key in await store.documents.keys("consent.scenarios"):
        await store.documents.delete("consent.scenarios", key)
    assert await older.history() == [granted]
    clock.tick(1.0)
    withdrawn = await older.record(granted=False, policy_version="1")
    assert await older.history() == [granted, withdrawn]


async def test_on_a_full_disk_a_consent_fails_and_a_withdrawal_holds(
    store: Store, clock: FakeClock, caplog: pytest.LogCaptureFixture
) -> None:
    record = ConsentRecord(store.documents, clock)
    granted = await record.record(granted=True, policy_version="1")
    await fill(store)
    clock.tick(1.0)
    with pytest.raises(StoreFullError):
        await record.record(granted=True, policy_version="x" * 100_000)
    await record.record(granted=False, policy_version="x" * 100_000)
    assert "too full" in caplog.text
    decided = await ConsentRecord(store.documents, clock).load()
    assert decided == Consent(granted=False, at=granted.at, policy_version="1")
    await free(store)
    clock.tick(1.0)
    again = await record.record(granted=True, policy_version="1")
    assert await record.history() == [granted, decided, again]


async def fill(store: Store) -> None:
    """Let the database grow no further, as on a full disk."""
    await store.documents._database.run(
        lambda connection: connection.execute(
            f"PRAGMA max_page_count = {connection.execute('PRAGMA page_count').fetchone()[0]}"
        ).fetchone(),
        writes=False,
    )


async def free(store: Store) -> None:
    await store.documents._database.run(
        lambda connection: connection.execute("PRAGMA max_page_count = 1000000").fetchone(), writes=False
    )


async def test_a_withdrawal_survives_a_state_folder_put_back_from_a_backup(tmp_path: Path, clock: FakeClock) -> None:
    mark = WithdrawalMark(tmp_path / "scenarios")
    async with Store(tmp_path / "state", clock=clock) as store:
        await ConsentRecord(store.documents, clock, mark).record(granted=True, policy_version="1")
    shutil.copytree(tmp_path / "state", tmp_path / "backup")
    clock.tick(60.0)
    async with Store(tmp_path / "state", clock=clock) as store:
        await ConsentRecord(store.documents, clock, mark).record(granted=False, policy_version="1")
    async with Store(tmp_path / "backup", clock=clock) as store:
        record = ConsentRecord(store.documents, clock, mark)
        restored = await record.load()
        assert restored is not None
        assert not restored.granted
        clock.tick(60.0)
        await record.record(granted=True, policy_version="1")
        given = await record.load()
        assert given is not None
        assert given.granted, "asked again, and given again"


@pytest.mark.parametrize("spoilt", [b"", b"{}", b'{"at": "now"}', b"\xff"])
async def test_in_doubt_there_is_no_consent(tmp_path: Path, store: Store, clock: FakeClock, spoilt: bytes) -> None:
    mark = WithdrawalMark(tmp_path)
    record = ConsentRecord(store.documents, clock, mark)
    await record.record(granted=True, policy_version="1")
    (tmp_path / ".consent-withdrawn.json").write_bytes(spoilt)
    decided = await record.load()
    assert decided is not None
    assert not decided.granted


async def test_a_consent_that_a_wrong_clock_dates_after_a_withdrawal_is_not_put_back(
    tmp_path: Path, clock: FakeClock
) -> None:
    mark = WithdrawalMark(tmp_path / "scenarios")
    async with Store(tmp_path / "state", clock=clock) as store:
        await ConsentRecord(store.documents, clock, mark).record(granted=True, policy_version="1")
    shutil.copytree(tmp_path / "state", tmp_path / "backup")
    clock.set_wall(clock.now() - 400_000_000.0)
    async with Store(tmp_path / "state", clock=clock) as store:
        await ConsentRecord(store.documents, clock, mark).record(granted=False, policy_version="1")
    async with Store(tmp_path / "backup", clock=clock) as store:
        restored = await ConsentRecord(store.documents, clock, mark).load()
        assert restored is not None
        assert not restored.granted


async def test_what_was_there_at_a_withdrawal_is_told_from_what_came_later(
    tmp_path: Path, store: Store, clock: FakeClock
) -> None:
    folder = tmp_path / "scenarios"
    record = ConsentRecord(store.documents, clock, WithdrawalMark(folder))
    make_folder(folder / "before")
    await record.record(granted=False, policy_version="1")
    make_folder(folder / "later")
    assert await record.made_while_withdrawn() == frozenset()
    await record.record(granted=True, policy_version="1")
    assert await record.made_while_withdrawn() == {"later"}
    await record.record(granted=True, policy_version="1")
    make_folder(folder / "consented")
    await record.record(granted=False, policy_version="1")
    (folder / ".consent-withdrawn.json").write_bytes(b"spoilt")
    await record.record(granted=True, policy_version="1")
    assert await record.made_while_withdrawn() == {"before", "later", "consented"}, "in doubt there is no consent"
    shutil.rmtree(folder)
    await record.record(granted=False, policy_version="1")
    await record.record(granted=True, policy_version="1")
    assert await record.made_while_withdrawn() == frozenset(), "nothing is remembered of what is gone"


async def test_a_withdrawal_is_known_of_also_where_the_state_folder_was_lost(tmp_path: Path, clock: FakeClock) -> None:
    folder = tmp_path / "scenarios"
    async with Store(tmp_path / "state", clock=clock) as store:
        await ConsentRecord(store.documents, clock, WithdrawalMark(folder)).record(granted=False, policy_version="1")
    make_folder(folder / "meanwhile")
    async with Store(tmp_path / "another", clock=clock) as store:
        record = ConsentRecord(store.documents, clock, WithdrawalMark(folder))
        await record.record(granted=True, policy_version="1")
        assert await record.made_while_withdrawn() == {"meanwhile"}


async def test_a_withdrawal_that_cannot_be_noted_beside_the_recordings_stands_all_the_same(
    tmp_path: Path, store: Store, clock: FakeClock
) -> None:
    (tmp_path / "file").write_text("")
    record = ConsentRecord(store.documents, clock, WithdrawalMark(tmp_path / "file"))
    await record.record(granted=False, policy_version="1")
    decided = await record.load()
    assert decided is not None
    assert not decided.granted


async def test_after_a_withdrawal_that_could_not_be_noted_nobody_knows_what_a_later_one_found(
    tmp_path: Path, store: Store, clock: FakeClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / "scenarios"
    record = ConsentRecord(store.documents, clock, WithdrawalMark(folder))
    with monkeypatch.context() as full:
        full.setattr(
            "sentinel_sync.scenarios.consent.replace_file", Mock(side_effect=OSError(errno.ENOSPC, "No space left"))
        )
        await record.record(granted=False, policy_version="1")
    make_folder(folder / "meanwhile")
    await record.record(granted=False, policy_version="1")
    await record.record(granted=True, policy_version="1")
    assert await record.made_while_withdrawn() == {"meanwhile"}


async def test_of_a_consent_that_a_full_disk_refuses_nothing_stays(store: Store, clock: FakeClock) -> None:
    record = ConsentRecord(store.documents, clock)
    await fill(store)
    with pytest.raises(StoreFullError):
        await record.record(granted=True, policy_version="x" * 100_000)
    assert await record.load() is None
    assert await record.history() == []


async def test_a_drivers_first_word_a_no_stands_or_is_not_acknowledged(
    tmp_path: Path, store: Store, clock: FakeClock
) -> None:
    record = ConsentRecord(store.documents, clock)
    await fill(store)
    with pytest.raises(StoreFullError):
        await record.record(granted=False, policy_version="x" * 100_000)
    assert await record.history() == []
    # Where it is noted beside the recordings, it stands.
    make_folder(tmp_path / "scenarios")
    marked = ConsentRecord(store.documents, clock, WithdrawalMark(tmp_path / "scenarios"))
    await marked.record(granted=False, policy_version="x" * 100_000)
    make_folder(tmp_path / "scenarios" / "meanwhile")
    await free(store)
    await marked.record(granted=True, policy_version="1")
    assert await marked.made_while_withdrawn() == {"meanwhile"}


async def test_a_consent_that_a_full_disk_refuses_leaves_the_no_before_it(
    tmp_path: Path, store: Store, clock: FakeClock
) -> None:
    """The no is known beside the recordings alone: the state folder was lost since."""
    folder, mark = tmp_path / "scenarios", WithdrawalMark(tmp_path / "scenarios")
    mark.write(1.0, stood=False)
    record = ConsentRecord(store.documents, clock, mark)
    await fill(store)
    with pytest.raises(StoreFullError):
        await record.record(granted=True, policy_version="x" * 100_000)
    assert mark.stands()
    make_folder(folder / "meanwhile")
    await free(store)
    await record.record(granted=True, policy_version="1")
    assert not mark.stands()
    assert await record.made_while_withdrawn() == {"meanwhile"}
