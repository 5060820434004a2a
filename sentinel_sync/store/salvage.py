"""A damaged store: move it aside, save what can be read, and say so. Blocks: call it off the loop."""

import contextlib
import logging
import os
import shutil
import sqlite3
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

from sentinel_sync.base.files import free_name, replace_file, sync_folder
from sentinel_sync.store.log_repair import mended
from sentinel_sync.store.schema import (
    ADDED_COLUMNS,
    ADDED_TABLES,
    BUSY_TIMEOUT,
    COLUMNS_ADDED,
    VERSION,
    connect,
    migrate,
)

logger: logging.Logger = logging.getLogger(__name__)

#: Tables and the columns that are carried over, most valuable first. `seq` stays behind: SQLite gives a new one.
_TABLES: dict[str, tuple[str, ...]] = {
    "item": (
        "kind", "key", "priority", "state", "created_at", "due_at", "attempts", "offline", "reason", "body",
        "boot_id", "clock_offset", "checksum",
    ),
    "document": ("kind", "key", "body", "updated_at"),
    "counter": ("name", "value"),
    "sent": ("kind", "key", "at", "size_bytes"),
}  # fmt: skip
_COMPANIONS = ("-wal", "-shm", "-journal")
#: A higher schema version than this was written by no version to come, but by a flipped bit.
_LATEST_VERSION = 1_000
#: What SQLite says of a file that is not, or no longer, a whole database; also of sectors that cannot be read.
_DAMAGE = ("SQLITE_CORRUPT", "SQLITE_NOTADB", "SQLITE_IOERR_SHORT_READ", "SQLITE_IOERR_READ")
#: After so many unreadable rows in a row there is nothing more to be found beyond the damage.
_MAX_MISSES = 10_000

#: How a place that cannot be read shows.
_UNREADABLE = (sqlite3.DatabaseError, UnicodeDecodeError)

_Row = tuple[object, ...]


@dataclass(frozen=True, slots=True)
class Salvage:
    """What became of a damaged store.

    Attributes:
        moved_to: Where the damaged file lies now.
        saved: Rows saved, by table.
    """

    moved_to: Path
    saved: dict[str, int]


def put_aside_if_no_file(path: Path, now: float) -> Path | None:
    """Rename a folder, FIFO, socket or dangling link that stands where a file of ours belongs.

    Returns:
        Its new name; None where a file is there, or nothing.

    Raises:
        OSError: It cannot be renamed.
    """
    # A symbolic link that leads nowhere, or in a circle, does not "exist".
    if not os.path.lexists(path) or path.is_file():
        return None
    aside = free_name(path.with_name(f"{path.name}.damaged-{_stamp(now)}"))
    path.rename(aside)
    logger.error("store.damaged: %s was no file: moved to %s", path.name, aside.name)
    return aside


def repair(path: Path, now: float, *, is_new: bool) -> Salvage | None:
    """Bring the file into a state in which it can be opened, whatever instant a kill or power cut chose.

    In this order: end a salvage that was cut off, put aside what is no file, recover (play a rollback journal back),
    check, salvage, and where even that fails begin anew.

    Args:
        path: The database file; it need not exist.
        now: Wall time, for the name of what is put aside.
        is_new: Whether this folder has never held data: an empty file is then what a first start made, and no damage.

    Returns:
        What became of a damaged file; None where there was none.

    Raises:
        OSError: There is no space, or the folder cannot be written.
        sqlite3.Error: It cannot be told: the file cannot be opened, or somebody holds it.
    """
    finish(path)
    for suffix in ("-wal", "-shm", "-journal"):
        put_aside_if_no_file(_beside(path, suffix), now)
    aside = put_aside_if_no_file(path, now)
    if aside is not None:
        return Salvage(aside, {})
    if not path.exists():
        return None
    _mend_log(path, now)
    recovered = _recover(path)
    if (is_new and path.stat().st_size == 0) or (recovered and is_sound(path)):
        return None
    return salvage(path, now)


def _mend_log(path: Path, now: float) -> None:
    """Have SQLite play the log to its end where a disk has altered the middle of it; the altered one is kept."""
    log = _beside(path, "-wal")
    mend = mended(log)
    if mend is None:
        return
    aside = free_name(path.with_name(f"{log.name}.damaged-{_stamp(now)}"))
    _keep(log, aside)
    # What it says of the log is of the altered one.
    _beside(path, "-shm").unlink(missing_ok=True)
    replace_file(log, mend.content, durable=True)
    logger.error("store.log_damaged: kept as %s; mended: %d frames would have been lost", aside.name, mend.saved_frames)


def _recover(path: Path) -> bool:
    """Play back a rollback journal, as a kill leaves it while the very first start makes the file; False: damaged."""
    if not _beside(path, "-journal").exists():
        return True
    try:
        with contextlib.closing(sqlite3.connect(path, timeout=BUSY_TIMEOUT)) as connection:
            connection.execute("SELECT count(*) FROM sqlite_master").fetchone()
    except (sqlite3.DatabaseError, UnicodeDecodeError) as error:
        if _is_damage(error):
            return False
        raise
    return True


def is_sound(path: Path) -> bool:
    """Whether the file is a whole database with our tables (or does not exist yet).

    Raises:
        sqlite3.Error: It cannot be told: the file cannot be opened, or somebody holds it.
    """
    if not path.exists():
        return True
    if path.stat().st_size == 0:
        return False  # a file system that lost the content in a power cut; SQLite would take it for new
    try:
        # Reading only: a writer would play the log into a damaged file.
        with contextlib.closing(connect(path, writable=False)) as connection:
            connection.text_factory = bytes  # the check's own words may hold what is damaged
            if [row[0] for row in connection.execute("PRAGMA integrity_check(1)")] != [b"ok"]:
                return False
            return _has_our_tables(connection)
    except (sqlite3.DatabaseError, UnicodeDecodeError) as error:
        if _is_damage(error):
            return False
        raise


def _has_our_tables(connection: sqlite3.Connection) -> bool:
    """Whether the schema is one that some version of ours wrote; a file that was just made has none yet."""
    (version,) = connection.execute("PRAGMA user_version").fetchone()
    tables = {bytes(name).decode(errors="replace") for (name,) in connection.execute("SELECT name FROM sqlite_master")}
    if not tables:
        return bool(version == 0)
    if not 0 < version <= VERSION:
        return bool(VERSION < version < _LATEST_VERSION)  # a newer version's: that is said when it is opened
    there = {bytes(row[1]).decode(errors="replace") for row in connection.execute("PRAGMA table_info(item)")}
    if version < COLUMNS_ADDED and there & ADDED_COLUMNS:
        return False  # the number went back, not the schema
    for table, columns in _TABLES.items():
        if version < ADDED_TABLES.get(table, 0):
            if table in tables:
                return False
            continue
        known = [name for name in columns if version >= COLUMNS_ADDED or name not in ADDED_COLUMNS]
        try:
            connection.execute(f"SELECT {', '.join(known)} FROM {table} LIMIT 0")
        except sqlite3.OperationalError:
            return False
    return True


def rebuild(connection: sqlite3.Connection, path: Path, now: float, *, keep_other: bool = True) -> None:
    """Give an open database its file again, after somebody deleted or replaced it under us: nothing of it is lost.

    What lies in its place is kept under a dated name where it is another's. The connection is closed; the file is to
    be opened anew.

    Raises:
        OSError, sqlite3.Error: It cannot be written.
    """
    building = _beside(path, ".salvaging")
    for suffix in ("", *_COMPANIONS):
        _beside(building, suffix).unlink(missing_ok=True)
    with contextlib.closing(sqlite3.connect(building)) as target:
        connection.backup(target)
    building.replace(_beside(path, ".salvaged"))
    connection.close()
    if keep_other and path.exists():
        aside = free_name(path.with_name(f"{path.name}.replaced-{_stamp(now)}"))
        for suffix in ("", "-wal"):
            if _beside(path, suffix).exists():
                _beside(path, suffix).rename(_beside(aside, suffix))
    finish(path)


def salvage(path: Path, now: float) -> Salvage:
    """Put a new file, with what could be read, in the damaged one's place; keep the damaged one under a dated name.

    The new file is built beside and gets its place in one rename when it is whole: after a power cut in between, the
    damaged file is still there to be tried again, or `finish` ends what was begun.

    Raises:
        OSError: There is no space for it, or the folder cannot be written.
        sqlite3.Error: The same.
    """
    aside = free_name(path.with_name(f"{path.name}.damaged-{_stamp(now)}"))
    building = _beside(path, ".salvaging")
    for suffix in ("", *_COMPANIONS):
        _beside(building, suffix).unlink(missing_ok=True)
    try:
        for suffix in ("", "-wal", "-journal"):
            if _beside(path, suffix).exists():
                _keep(_beside(path, suffix), _beside(aside, suffix))
        saved = _copy_readable(aside, building)
        building.replace(_beside(path, ".salvaged"))
    except BaseException:
        # No space for it: tried again at the next start, and then it is not to find the space taken by this try.
        for name in (aside, building):
            for suffix in ("", *_COMPANIONS):
                _beside(name, suffix).unlink(missing_ok=True)
        raise
    _beside(aside, "-shm").unlink(missing_ok=True)
    finish(path)
    logger.error("store.damaged: moved to %s; saved %s", aside.name, saved)
    return Salvage(aside, saved)


def finish(path: Path) -> None:
    """Give a salvaged file its place, where one is whole: the last step of `salvage`, or of one that was cut off."""
    salvaged = _beside(path, ".salvaged")
    if not salvaged.exists():
        return
    # Durable are: the new name (and the damaged file's other one), then that the old log is gone (SQLite would play it
    # into the new file), then that the new file has the place. A disk may keep any of them first that is not asked for.
    sync_folder(path.parent)
    for suffix in _COMPANIONS:
        _beside(path, suffix).unlink(missing_ok=True)
    sync_folder(path.parent)
    salvaged.replace(path)
    sync_folder(path.parent)


def _stamp(now: float) -> str:
    return datetime.fromtimestamp(now, UTC).strftime("%Y%m%dT%H%M%SZ")


def _beside(path: Path, suffix: str) -> Path:
    return path.with_name(path.name + suffix)


def _keep(source: Path, target: Path) -> None:
    """Have the same content under a second name: as a link where the file system can, which takes no space."""
    try:
        os.link(source, target)
    except OSError:
        shutil.copyfile(source, target)
        with target.open("rb") as copy:
            os.fsync(copy.fileno())


def _is_damage(error: Exception) -> bool:
    """Also where the text of the schema, or of SQLite's own message, is no text any more, or has no meaning."""
    if isinstance(error, UnicodeDecodeError):
        return True
    name = getattr(error, "sqlite_errorname", "")
    return name.startswith(_DAMAGE) or name in {"SQLITE_ERROR", ""}


def _copy_readable(damaged: Path, building: Path) -> dict[str, int]:
    """Build a new file from what can be read of the damaged one, which stays as it is."""
    with contextlib.closing(connect(building, log=False)) as target:
        migrate(target)
        saved = _copy(damaged, target)
        if not any(saved.values()) and damaged.stat().st_size:
            # Not one row: often only the first page is gone, which says where the tables begin. Ours always begin at
            # the same pages, so a new file's first page can stand in for it.
            patched = _beside(building, ".patched")
            try:
                _patch_first_page(damaged, building, patched)
                saved = _copy(patched, target)
            finally:
                for suffix in ("", *_COMPANIONS):
                    _beside(patched, suffix).unlink(missing_ok=True)
    return saved


def _patch_first_page(damaged: Path, sound: Path, patched: Path) -> None:
    with contextlib.closing(connect(sound, writable=False)) as connection:
        (page_size,) = connection.execute("PRAGMA page_size").fetchone()
    shutil.copyfile(damaged, patched)
    pages = patched.stat().st_size // page_size
    with sound.open("rb") as source, patched.open("r+b") as target:
        first = bytearray(source.read(page_size))
        # Offset 28: the size in pages; 32 and 36: the list of free pages (sqlite.org/fileformat2.html, section 1.3).
        first[28:32] = pages.to_bytes(4)
        first[32:40] = bytes(8)
        target.write(first)


def _copy(damaged: Path, target: sqlite3.Connection) -> dict[str, int]:
    saved = dict.fromkeys(_TABLES, 0)
    try:
        # Reading only, as above: this is the evidence.
        source = connect(damaged, writable=False)
    except _UNREADABLE:
        return saved
    with contextlib.closing(source):
        source.text_factory = _text
        for table, columns in _TABLES.items():
            places = ", ".join("?" * len(columns))
            statement = f"INSERT OR IGNORE INTO {table} ({', '.join(columns)}) VALUES ({places})"
            target.execute("BEGIN IMMEDIATE")
            for row in _rows(source, table, columns):
                try:
                    if not _has_text(row, columns):
                        raise sqlite3.IntegrityError("its text is none")
                    saved[table] += target.execute(statement, row).rowcount
                except sqlite3.IntegrityError as error:
                    # The damage changed a value so that the row breaks a rule of the table: the row is lost.
                    logger.warning("store.damaged: a row of %s cannot be kept (%s)", table, error)
            if table == "item":
                # What was being sent waits again.
                target.execute("UPDATE item SET state = 'waiting' WHERE state = 'sending'")
            target.execute("COMMIT")
    return saved


def _text(raw: bytes) -> str | bytes:
    """Text as it is; bytes that are none stay bytes, so that one such row does not end the reading."""
    try:
        return raw.decode()
    except UnicodeDecodeError:
        return raw


def _has_text(row: _Row, columns: tuple[str, ...]) -> bool:
    return not any(isinstance(value, bytes) and name != "body" for name, value in zip(columns, row, strict=True))


def _rows(source: sqlite3.Connection, table: str, columns: tuple[str, ...]) -> Iterator[_Row]:
    """Read a table forwards until the damage, then what lies behind it."""
    names = ", ".join(_present(source, table, columns))
    if table != "item":
        # Small tables without row ids: what comes before the damage is all that can be reached.
        with contextlib.suppress(*_UNREADABLE):
            yield from source.execute(f"SELECT {names} FROM {table}")
        return
    last, first_behind = 0, 0
    with contextlib.suppress(*_UNREADABLE):
        for row in source.execute(f"SELECT seq, {names} FROM item NOT INDEXED ORDER BY seq"):
            last = row[0]
            yield row[1:]
        return  # to the end: nothing is behind
    backwards = f"SELECT seq, {names} FROM item NOT INDEXED WHERE seq > ? ORDER BY seq DESC"
    with contextlib.suppress(*_UNREADABLE):
        for row in source.execute(backwards, (last,)):
            first_behind = row[0]
            yield row[1:]
    yield from _between(source, names, last, first_behind)


def _present(source: sqlite3.Connection, table: str, columns: tuple[str, ...]) -> list[str]:
    """The columns as they can be read: one that the file's version did not have yet is NULL."""
    try:
        found = {str(row[1]) for row in source.execute(f"PRAGMA table_info({table})")}
    except _UNREADABLE:
        found = set()
    return [name if name in found or name not in ADDED_COLUMNS else f"NULL AS {name}" for name in columns]


def _between(source: sqlite3.Connection, names: str, last: int, first_behind: int) -> Iterator[_Row]:
    """Look between two damaged places, row by row."""
    seq, misses = last, 0
    while misses < _MAX_MISSES and (seq := seq + 1) != first_behind:
        misses += 1
        with contextlib.suppress(*_UNREADABLE):
            for row in source.execute(f"SELECT {names} FROM item WHERE seq = ?", (seq,)):
                misses = 0
                yield row
