"""Takes over `trip_queue.json`, the queue file of the module that this one succeeds: each trip once."""

import asyncio
import json
import logging
import re
import stat
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from itertools import islice
from pathlib import Path

import aiofiles
import aiofiles.os

from sentinel_sync.base.clock import Clock
from sentinel_sync.base.errors import StoreFullError
from sentinel_sync.base.files import free_name
from sentinel_sync.base.tasks import PeriodicTask
from sentinel_sync.store.outbox import NewItem
from sentinel_sync.store.store import Store
from sentinel_sync.trips.rules.trip import adopt

logger: logging.Logger = logging.getLogger(__name__)

#: A file larger than this (bytes; some 100,000 trips) is no queue file: the old module wrote it anew for each trip.
_MAX_BYTES = 64 << 20
#: Trips read and queued at a time: what is held in memory beside the text, and others get their turn in between.
_BATCH = 500
#: So many unreadable entries are named in the log; the rest is counted.
_NAMED = 10
#: Digits of an integer; Python refuses to read one with more than 4,300, and no value of a trip has as many.
_MAX_DIGITS = 400
#: Kind of the items that stand for renamed files with something that could not be read; their key is the file's name.
LEFT = "old_queue"
#: Seconds between two looks for what somebody has retried, where nobody wakes us.
_LOOK_AGAIN = 300.0
_SPACE = re.compile(r"[ \t\n\r]*")

PseudonymOf = Callable[[str | None], str | None]


@dataclass(frozen=True, slots=True)
class Takeover:
    """What became of the old queue.

    Attributes:
        taken: Trips that are in the outbox now and were not before.
        unreadable: Entries that are no trips; they stay in the renamed file.
        moved_to: The file's new name.
    """

    taken: int
    unreadable: int
    moved_to: Path


class LegacyQueue:
    """The old queue file, and those that were renamed and could not be read whole.

    For each of these an item lies in the outbox, set aside, so that `queue list` shows it; retried, the file is read
    again.

    Args:
        path: The file.
        store: Where the trips go.
        kind: Kind of a trip's item.
        vehicle_id: Part of the trips' new ids.
        pseudonym_of: Gives what stands for a driver.

    Attributes:
        retry: Reads files again whose item somebody has retried.
    """

    def __init__(
        self, path: Path, store: Store, *, kind: str, vehicle_id: str, pseudonym_of: PseudonymOf, clock: Clock
    ) -> None:
        self._path = path
        self._store = store
        self._kind = kind
        self._vehicle_id = vehicle_id
        self._pseudonym_of = pseudonym_of
        self._clock = clock
        self.retry: PeriodicTask = PeriodicTask("trips.takeover", self.retry_step)

    async def take_over(self) -> Takeover | None:
        """Move the old queue's trips into the outbox, then rename the file; None where there is none.

        A crash in between takes the same trips over again, under the same ids, so none is there twice. A file that
        breaks off gives the trips before the break, and is set aside as broken.
        """
        path = self._path
        try:
            found = await self._read_into_outbox(path)
        except OSError as error:
            logger.error(
                "trips.takeover: %s cannot be read (%s); left alone until the next start", path, error.strerror
            )
            return None
        except StoreFullError as error:
            logger.error("trips.takeover: %s waits for the next start: %s", path, error)
            return None
        if found is None:
            return None
        reader, taken = found
        stamp = datetime.fromtimestamp(self._clock.now(), UTC).strftime("%Y%m%dT%H%M%SZ")
        moved_to = await asyncio.to_thread(_move, path, f"{'broken' if reader.broken else 'imported'}-{stamp}")
        if reader.broken:
            logger.error(
                "trips.takeover: %s is no whole trip queue (%s): %d trips before that are queued; set aside as %s",
                path,
                reader.broken,
                taken,
                moved_to.name,
            )
        else:
            logger.info(
                "trips.takeover: %d trips of %s are queued, %d entries unreadable; kept as %s",
                taken,
                path,
                reader.unreadable,
                moved_to.name,
            )
        if (fault := reader.fault) is not None and moved_to != path:
            # Without a word of the file's: its drivers' names and places stay in it.
            try:
                await self._store.outbox.put(NewItem(LEFT, moved_to.name, json.dumps({"file": moved_to.name}).encode()))
                if (item := await self._store.outbox.find(moved_to.name)) is not None:
                    await self._store.outbox.set_aside(item.seq, fault)
            except StoreFullError as error:  # the agent starts all the same, and the log has said it
                logger.error("trips.takeover: %s is not shown in the queue: %s", moved_to.name, error)
        return Takeover(taken, reader.unreadable, moved_to)

    async def retry_step(self) -> float:
        """Read files again whose item somebody has retried; returns the seconds until the next look."""
        for item in await self._store.outbox.claim(LEFT, _BATCH):
            try:
                found = await self._read_into_outbox(self._path.with_name(item.key))
            except OSError as error:
                fault: str | None = f"{item.key} cannot be read ({error.strerror})"
            except StoreFullError as error:
                fault = str(error)
            else:
                fault = f"{item.key} is gone" if found is None else found[0].fault
            if fault is None:
                await self._store.outbox.acknowledge(LEFT, [item.seq])
                logger.info("trips.takeover: %s is taken over whole", item.key)
            else:
                await self._store.outbox.set_aside(item.seq, fault)
        return _LOOK_AGAIN

    async def _read_into_outbox(self, path: Path) -> "tuple[_Reader, int] | None":
        """Queue what can be read of a file; returns what could not, and how many trips were new."""
        reader = _Reader(self._kind, self._vehicle_id, self._pseudonym_of)
        taken = 0
        try:
            text = await _read(path)
            if text is None:
                return None
            entries = reader.trips(text)
            while batch := await asyncio.to_thread(lambda: list(islice(entries, _BATCH))):
                taken += await self._store.outbox.put_all(batch)
        except _BrokenFileError as error:
            reader.broken = str(error)
        return reader, taken


class _BrokenFileError(ValueError):
    """Nothing of the file can be read; the message says why, and repeats nothing of it."""


class _Reader:
    """Reads the entries one by one, so that neither a huge nor a hostile file stops anything else for long."""

    def __init__(self, kind: str, vehicle_id: str, pseudonym_of: PseudonymOf) -> None:
        self._kind = kind
        self._vehicle_id = vehicle_id
        self._pseudonym_of = pseudonym_of
        self.unreadable = 0
        self.broken = ""
        self._first = ""

    @property
    def fault(self) -> str | None:
        """What could not be read and why, for a person who may mend it; None where all of it was."""
        faults = []
        if self.unreadable:
            faults.append(f"{self.unreadable} of its entries are no trips ({self._first})")
        if self.broken:
            faults.append(f"it is no whole trip queue ({self.broken})")
        return f"{'; '.join(faults)}: mend the file, then retry" if faults else None

    def trips(self, text: str) -> Iterator[NewItem]:
        """Yield the trips; sets `broken` where the file breaks off."""
        try:
            for number, entry in enumerate(_entries(text)):
                try:
                    trip = adopt(entry, self._vehicle_id, self._pseudonym_of)
                except ValueError as error:
                    self._leave(number, error)
                    continue
                yield NewItem(self._kind, trip.trip_id, trip.model_dump_json().encode())
        except json.JSONDecodeError as error:
            self.broken = f"line {error.lineno}, column {error.colno}"
        except (ValueError, RecursionError) as error:
            self.broken = str(error)

    def _leave(self, number: int, error: ValueError) -> None:
        self.unreadable += 1
        self._first = self._first or f"entry {number}: {error}"
        if self.unreadable <= _NAMED:
            logger.error("trips.takeover: entry %d is no trip (%s); it stays in the renamed file", number, error)


def _entries(text: str) -> Iterator[object]:
    """Decode a JSON list entry by entry; or objects one after the other, as loggers write them, a line each."""
    decoder = json.JSONDecoder(parse_int=_integer)
    at = _skip_space(text, 0)
    if text[at : at + 1] == "{":
        yield from _objects(decoder, text, at)
        return
    if text[at : at + 1] != "[":
        raise ValueError("not a list of trips")
    at = _skip_space(text, at + 1)
    if text[at : at + 1] == "]":
        _refuse_more(text, at + 1)
        return
    while True:
        entry, at = decoder.raw_decode(text, at)
        yield entry
        at = _skip_space(text, at)
        match text[at : at + 1]:
            case ",":
                at = _skip_space(text, at + 1)
            case "]":
                _refuse_more(text, at + 1)
                return
            case _:
                raise json.JSONDecodeError("Expecting ',' or ']'", text, at)


def _objects(decoder: json.JSONDecoder, text: str, at: int) -> Iterator[object]:
    """Objects with white space or commas between them; a line that cannot be read costs only itself."""
    while at < len(text):
        try:
            entry, at = decoder.raw_decode(text, at)
        except json.JSONDecodeError:
            entry = None
            at = text.find("\n", at) % (len(text) + 1)
        yield entry
        at = _skip_space(text, at)
        if text[at : at + 1] == ",":
            at = _skip_space(text, at + 1)


def _refuse_more(text: str, at: int) -> None:
    """Say that something follows the list: what is in the list is taken all the same."""
    at = _skip_space(text, at)
    if at < len(text):
        raise json.JSONDecodeError("something follows the list", text, at)


def _skip_space(text: str, at: int) -> int:
    found = _SPACE.match(text, at)
    return at if found is None else found.end()


def _integer(digits: str) -> int | float:
    return int(digits) if len(digits) <= _MAX_DIGITS else float(digits)


async def _read(path: Path) -> str | None:
    try:
        status = await aiofiles.os.stat(path)
    except FileNotFoundError:
        return None
    if not stat.S_ISREG(status.st_mode):
        raise _BrokenFileError("it is no file")
    if status.st_size > _MAX_BYTES:
        raise _BrokenFileError(f"it is larger than {_MAX_BYTES} bytes")
    try:
        async with aiofiles.open(path, encoding="utf-8-sig") as file:
            return await file.read()
    except UnicodeDecodeError:
        raise _BrokenFileError("its bytes are no text") from None


def _move(path: Path, suffix: str) -> Path:
    target = free_name(path.with_name(f"{path.name}.{suffix}"))
    try:
        path.rename(target)
    except OSError as error:
        # It is read again at the next start; its trips keep their ids, so none is there twice.
        logger.error("trips.takeover: %s cannot be renamed (%s): move it away by hand", path, error.strerror)
        return path
    return target
