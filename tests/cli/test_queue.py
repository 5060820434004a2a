"""`queue`: looking at what waits, and deciding on what cannot be sent."""

import sqlite3
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from sentinel_sync.store.store import DATABASE_NAME
from tests.cli.backend import Backend
from tests.cli.vehicle import Vehicle


def test_lists_items_as_a_table_that_says_why_and_when_next(vehicle: Vehicle) -> None:
    first, second = vehicle.queue_trips(2)
    vehicle.set_aside(second, "POST /trips: answered 422 (odd)")
    head, *rows = vehicle.run("queue", "list").out.splitlines()
    assert head.split() == ["KEY", "KIND", "STATE", "TRIES", "NEXT", "TRY", "AGE", "SIZE", "REASON"]
    assert rows[0].split("  ")[0] == first
    assert "waiting" in rows[0]
    assert " now " in rows[0]
    assert "set aside" in rows[1]
    assert "when retried" in rows[1]
    assert rows[1].endswith("POST /trips: answered 422 (odd)")


def test_lists_by_state_and_kind_and_says_what_the_limit_hides(vehicle: Vehicle) -> None:
    keys = vehicle.queue_trips(4)
    vehicle.set_aside(keys[3], "no")
    assert [item["key"] for item in vehicle.run("queue", "list", "--state", "set_aside", "--json").json["items"]] == [
        keys[3]
    ]
    assert vehicle.run("queue", "list", "--kind", "scenario").out == "nothing there\n"
    limited = vehicle.run("queue", "list", "--state", "waiting", "--limit", "2")
    assert len(limited.out.splitlines()) == 3
    assert limited.err == "2 of 3 items shown: --limit shows more\n"
    assert vehicle.run("queue", "list", "--json", "--limit", "1").json["total"] == 4


def test_shows_one_item_with_its_body(vehicle: Vehicle) -> None:
    (key,) = vehicle.queue_trips(1)
    said = vehicle.run("queue", "show", key)
    assert said.code == 0
    assert f"key       {key}\n" in said.out
    assert '\n  "distance": 20000.0,\n' in said.out
    shown = vehicle.run("queue", "show", key, "--json").json
    assert (shown["state"], shown["body"]["trip_id"]) == ("waiting", key)


@pytest.mark.parametrize("action", [("show",), ("retry",), ("drop", "--yes")])
def test_an_unknown_key_is_one_line_and_1_and_changes_nothing(vehicle: Vehicle, action: tuple[str, ...]) -> None:
    (key,) = vehicle.queue_trips(1)
    keys = ["trip_unknown"] if action == ("show",) else [key, "trip_unknown"]
    said = vehicle.run("queue", *action, *keys)
    assert (said.code, said.out) == (1, "")
    assert said.err.startswith(
        "sentinel-sync: error: there is no item 'trip_unknown' in the queue: sent already, or mistyped? `"
    )
    assert "queue list` has what waits, `sent` what went\n" in said.err
    assert vehicle.run("queue", "list", "--json").json["total"] == 1


def test_retry_brings_back_what_was_set_aside(vehicle: Vehicle) -> None:
    first, second = vehicle.queue_trips(2)
    vehicle.set_aside(first, "no")
    vehicle.set_aside(second, "no")
    said = vehicle.run("queue", "retry", first)
    assert (said.code, said.out.split(":")[0]) == (0, "1 item to be tried now")
    assert [item["state"] for item in vehicle.run("queue", "list", "--json").json["items"]] == ["waiting", "set_aside"]
    assert vehicle.run("queue", "retry", "--all", "--json").json == {"retried": 2, "agent_running": False}


@pytest.mark.parametrize("words", [(), ("--all", "trip_1")])
def test_retry_wants_keys_or_all(vehicle: Vehicle, words: tuple[str, ...]) -> None:
    assert vehicle.run("queue", "retry", *words).code == 2


def test_drop_refuses_where_nobody_can_be_asked(vehicle: Vehicle) -> None:
    (key,) = vehicle.queue_trips(1)
    said = vehicle.run("queue", "drop", key)
    assert said.code == 2
    assert "--yes" in said.err
    assert vehicle.run("queue", "list", "--json").json["total"] == 1


@pytest.mark.parametrize(
    ("typed", "code", "out", "left"),
    [("y", 0, "1 item dropped\n", 0), ("YES", 0, "1 item dropped\n", 0)]
    + [(typed, 1, "nothing was dropped\n", 1) for typed in ("", "n", "maybe")],
)
def test_at_a_terminal_drop_names_what_would_go_and_takes_nothing_but_a_yes(
    vehicle: Vehicle, type_answer: Callable[[str], object], typed: str, code: int, out: str, left: int
) -> None:
    (key,) = vehicle.queue_trips(1)
    vehicle.set_aside(key, "answered 422")
    type_answer(typed)
    said = vehicle.run("queue", "drop", key)
    assert (said.code, said.out) == (code, out)
    assert said.err == f"trip {key}, set aside, answered 422\nDrop 1 item for good? [y/N] "
    assert vehicle.run("queue", "list", "--json").json["total"] == left


def test_drop_deletes_for_good_and_is_counted(vehicle: Vehicle) -> None:
    key, other = vehicle.queue_trips(2)
    assert vehicle.run("queue", "drop", key, key, "--yes").out == "1 item dropped\n"
    assert vehicle.run("queue", "drop", other, "--yes", "--json").json == {"dropped": 1}
    assert vehicle.run("queue", "list").out == "the queue is empty\n"
    assert vehicle.run("status", "--json").json["outbox"]["dropped"] == {"trip.operator": 2}


def test_verify_finds_a_sound_outbox_sound(vehicle: Vehicle) -> None:
    vehicle.queue_trips(3)
    assert vehicle.run("queue", "verify").out == "the outbox is sound; it holds 3 items\n"
    assert vehicle.run("queue", "verify", "--json").json == {"sound": True, "items": 3, "problems": []}


def test_verify_finds_damage_and_says_what_to_do(vehicle: Vehicle) -> None:
    vehicle.queue_trips(200)
    _damage(vehicle.state / DATABASE_NAME)
    said = vehicle.run("queue", "verify")
    assert said.code == 1
    assert "is damaged: stop the agent and start it again" in said.err
    assert vehicle.run("queue", "verify", "--json").json["sound"] is False


@pytest.mark.parametrize("words", [("show", "x"), ("verify",), ("retry", "--all"), ("drop", "--yes", "trip_1")])
def test_looking_where_no_agent_ever_ran_says_so_and_makes_nothing(vehicle: Vehicle, words: tuple[str, ...]) -> None:
    said = vehicle.run("queue", *words)
    assert said.code == 1
    assert said.err.startswith("sentinel-sync: error: there is no outbox in the state folder ")
    assert not vehicle.state.exists()


def test_what_a_killed_agent_was_sending_waits_for_the_next_start(vehicle: Vehicle) -> None:
    (key,) = vehicle.queue_trips(1)
    vehicle.claim_all()
    (row,) = vehicle.run("queue", "list").out.splitlines()[1:]
    assert "waiting" in row
    assert "at next start" in row
    assert "1 waiting, 0 being sent" in vehicle.run("status").out
    said = vehicle.run("queue", "drop", key, "--yes")
    assert (said.code, said.out) == (1, "0 items dropped\n")
    assert "being sent when an agent last ran" in said.err


def _damage(path: Path) -> None:
    """Overwrite the middle of the file: everything lies in it, nothing beside it."""
    connection = sqlite3.connect(path)
    connection.execute("PRAGMA wal_checkpoint(TRUNCATE)")
    connection.close()
    with path.open("r+b") as file:
        file.seek(path.stat().st_size // 2)
        file.write(b"\xff" * 8192)


def test_the_one_reason_is_shown_everywhere(vehicle: Vehicle, backend: Backend) -> None:
    """G4: the key is refused, so no item was tried, and none has a reason of its own."""
    (key,) = vehicle.queue_trips(1)
    backend.key = "another"
    why = vehicle.run("once", "--json").json["why"]
    assert "credential is refused" in why
    (item,) = vehicle.run("queue", "list", "--json").json["items"]
    assert item["reason"] == why
    for words in (("queue", "list"), ("queue", "show", key), ("status",)):
        assert why in vehicle.run(*words).out


@pytest.mark.parametrize("change", [{"enabled": False}, {"api_url": "http://127.0.0.1:1"}])
def test_so_is_any_other_reason(vehicle: Vehicle, backend: Backend, change: dict[str, Any]) -> None:
    vehicle.queue_trips(1)
    vehicle.configure(**change)
    vehicle.run("once")
    (item,) = vehicle.run("queue", "list", "--json").json["items"]
    assert item["reason"]
    assert item["reason"] in vehicle.run("status").out
