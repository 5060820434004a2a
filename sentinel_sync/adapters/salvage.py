"""A damaged store: move it aside, save what can be read, and say so. Blocks: call it off the loop."""

import contextlib
import logging
import shutil
import sqlite3
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

from sentinel_sync.adapters.database import connect
from sentinel_sync.adapters.schema import migrate

logger = logging.getLogger(__name__)

#: Tables and the columns that are carried over, most valuable first. `seq` stays behind: SQLite gives a new one.
_TABLES: dict[str, tuple[str, ...]] = {
    "item": (
        "kind", "key", "priority", "created_at", "due_at", "attempts", "reason", "body", "boot_id", "clock_offset"
    ),
    "document": ("kind", "key", "body", "updated_at"),
    "counter": ("name", "value"),
}  # fmt: skip
_COMPANIONS = ("", "-wal", "-shm")
#: After so many unreadable rows in a row there is nothing more to be found beyond the damage.
_MAX_MISSES = 10_000


@dataclass(frozen=True, slots=True)
class Salvage:
    """What became of a damaged store.

    Attributes:
        moved_to: Where the damaged file lies now.
        saved: Rows saved, by table.
    """

    moved_to: Path
    saved: dict[str, int]


def is_sound(path: Path) -> bool:
    """Whether the file is a whole database (or does not exist yet)."""
    if not path.exists():
        return True
    try:
        with contextlib.closing(connect(path)) as connection:
            return [row[0] for row in connection.execute("PRAGMA quick_check(1)")] == ["ok"]
    except sqlite3.DatabaseError as error:
        if getattr(error, "sqlite_errorname", "").startswith(("SQLITE_CORRUPT", "SQLITE_NOTADB", "SQLITE_IOERR_SHORT")):
            return False
        raise


def salvage(path: Path, now: float) -> Salvage:
    """Move the damaged file aside under a dated name and put a new one, with what could be read, in its place.

    The new file is built beside and renamed when it is whole, so a power cut in between leaves the damaged file to be
    tried again.
    """
    stamp = datetime.fromtimestamp(now, UTC).strftime("%Y%m%dT%H%M%SZ")
    aside = _free_name(path.with_name(f"{path.name}.damaged-{stamp}"))
    fresh = path.with_name(f"{path.name}.salvaged")
    for suffix in _COMPANIONS:
        fresh.with_name(fresh.name + suffix).unlink(missing_ok=True)
    # Copies, not moves, until the new file is whole.
    for suffix in _COMPANIONS:
        source = path.with_name(path.name + suffix)
        if source.exists():
            shutil.copyfile(source, aside.with_name(aside.name + suffix))
    saved = _copy_readable(aside, fresh)
    for suffix in _COMPANIONS[1:]:
        path.with_name(path.name + suffix).unlink(missing_ok=True)
    fresh.replace(path)
    logger.error("store.damaged: moved to %s; saved %s", aside.name, saved)
    return Salvage(aside, saved)


def _free_name(path: Path) -> Path:
    number = 1
    candidate = path
    while candidate.exists():
        number += 1
        candidate = path.with_name(f"{path.name}-{number}")
    return candidate


def _copy_readable(damaged: Path, fresh: Path) -> dict[str, int]:
    saved = dict.fromkeys(_TABLES, 0)
    with contextlib.closing(connect(fresh)) as target:
        migrate(target)
        try:
            source = connect(damaged)
        except sqlite3.DatabaseError:
            return saved
        with contextlib.closing(source):
            for table, columns in _TABLES.items():
                target.execute("BEGIN IMMEDIATE")
                for row in _rows(source, table, columns):
                    places = ", ".join("?" * len(columns))
                    statement = f"INSERT OR IGNORE INTO {table} ({', '.join(columns)}) VALUES ({places})"
                    try:
                        saved[table] += target.execute(statement, row).rowcount
                    except sqlite3.DatabaseError as error:
                        # The damage changed a value so that the row breaks a rule of the table: the row is lost.
                        logger.warning("store.damaged: a row of %s cannot be kept (%s)", table, error)
                target.execute("COMMIT")
        # One file, no log beside it, so that it can be renamed.
        target.execute("PRAGMA journal_mode=DELETE")
    return saved


def _rows(source: sqlite3.Connection, table: str, columns: tuple[str, ...]) -> "list[tuple[object, ...]]":
    """Read a table forwards until the damage, then what lies behind it."""
    names = ", ".join(columns)
    found: list[tuple[object, ...]] = []
    if table != "item":
        # Small tables without row ids: what comes before the damage is all that can be reached.
        with contextlib.suppress(sqlite3.DatabaseError):
            found.extend(source.execute(f"SELECT {names} FROM {table}"))
        return found
    last = _forwards(source, names, found)
    first_behind = _backwards(source, names, found, last)
    for seq in range(last + 1, min(first_behind, last + _MAX_MISSES)):
        with contextlib.suppress(sqlite3.DatabaseError):
            found.extend(source.execute(f"SELECT {names} FROM item WHERE seq = ?", (seq,)))
    return found


def _forwards(source: sqlite3.Connection, names: str, found: list[tuple[object, ...]]) -> int:
    last = 0
    with contextlib.suppress(sqlite3.DatabaseError):
        for row in source.execute(f"SELECT seq, {names} FROM item NOT INDEXED ORDER BY seq"):
            last = row[0]
            found.append(row[1:])
    return last


def _backwards(source: sqlite3.Connection, names: str, found: list[tuple[object, ...]], last: int) -> int:
    first = last + 1
    with contextlib.suppress(sqlite3.DatabaseError):
        for row in source.execute(
            f"SELECT seq, {names} FROM item NOT INDEXED WHERE seq > ? ORDER BY seq DESC", (last,)
        ):
            first = row[0]
            found.append(row[1:])
    return first
