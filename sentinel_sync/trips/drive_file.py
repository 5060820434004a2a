"""Reads a recorded drive from GPX 1.0/1.1 or CSV. Blocks: call it off the loop. The file may come from anybody."""

import asyncio
import codecs
import csv
import io
import os
import stat
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO
from uuid import uuid4
from xml.parsers import expat  # a document type, and with it any entity, is refused where it begins

from sentinel_sync.base.clock import rfc3339
from sentinel_sync.trips.rules.drive import Drive, DriveError, Fix, drives_of

#: No drive takes more bytes: a day at ten positions a second in verbose GPX.
MAX_BYTES = 256 << 20
#: Fourteen hours at ten positions a second; each takes some 200 bytes of memory.
MAX_FIXES = 500_000
_CHUNK = 64 << 10
#: A row of numbers is short: a longer line (characters) is no row.
_MAX_LINE = 16 << 10
#: Longer text (characters) is no time and no speed.
_MAX_TEXT = 64
#: GPX with extensions nests seven deep.
_MAX_DEPTH = 64

#: What a column may be called.
_COLUMNS = {
    "time": ("time", "timestamp", "datetime"),
    "lat": ("lat", "latitude"),
    "lon": ("lon", "lng", "long", "longitude"),
    "speed": ("speed", "speed_mps", "speed_m_s"),
}


@dataclass(slots=True)
class Unusable:
    """What of a file could not be used.

    Attributes:
        count: Positions that were left out, and a rest that could not be read as one.
        reason: Why the first of them was, with its line; it holds no coordinate.
    """

    count: int = 0
    reason: str | None = None

    def note(self, error: DriveError) -> None:
        """Leave something out."""
        self.count += 1
        self.reason = self.reason or str(error)


@dataclass(frozen=True, slots=True)
class RecordedDrives:
    """A file, read: the drives in it, mostly one, and what could not be used."""

    drives: tuple[Drive, ...]
    unusable: Unusable


def read_drives(path: Path) -> RecordedDrives:
    """Read a file's drives; its first character tells which kind of file it is. What can be used is used.

    Raises:
        DriveError: It cannot be read or holds no drive: one line that names the file, and the line in it where one is
            at fault. It holds no coordinate.
    """
    unusable = Unusable()
    try:
        with open(path, "rb", opener=_open_regular) as file:  # Path.open takes no opener
            head = file.read(_MAX_TEXT)
            file.seek(0)
            if not head:
                raise DriveError("it is empty")
            is_xml = head.lstrip(codecs.BOM_UTF8 + codecs.BOM_UTF16_LE + b"\0 \t\r\n").startswith(b"<")
            fixes = _GpxReader(unusable).fixes(file) if is_xml else _csv_fixes(file, unusable)
            try:
                drives, strays = drives_of(_bounded(fixes))
            except DriveError as error:
                # Where nothing could be used, the first reason is the one.
                raise DriveError(unusable.reason or str(error)) from None
            if strays:
                unusable.note(DriveError("a position hours before or after all others"))
                unusable.count += strays - 1
            return RecordedDrives(tuple(drives), unusable)
    except OSError as error:
        raise DriveError(f"cannot read {path}: {error.strerror}") from None
    except DriveError as error:
        raise DriveError(f"{path} is no drive: {error}") from None


def _open_regular(name: str, flags: int) -> int:
    """Open a regular file of a sane size; a pipe or a device could keep us for ever."""
    descriptor = os.open(name, flags | os.O_NONBLOCK)
    try:
        found = os.fstat(descriptor)
        if stat.S_ISDIR(found.st_mode):
            raise DriveError("it is a folder")
        if not stat.S_ISREG(found.st_mode):
            raise DriveError("it is a pipe or a device, not a file")
        if found.st_size > MAX_BYTES:
            raise DriveError(f"it is larger than {MAX_BYTES >> 20} MiB")
    except BaseException:
        os.close(descriptor)
        raise
    return descriptor


def _bounded(fixes: Iterator[Fix]) -> Iterator[Fix]:
    for number, fix in enumerate(fixes):
        if number == MAX_FIXES:
            raise DriveError(f"line {fix.line}: it has more than {MAX_FIXES:,} positions")
        yield fix


# --- CSV ---


def _csv_fixes(file: BinaryIO, unusable: Unusable) -> Iterator[Fix]:
    lines = _lines(file)
    _, header = next(lines, (1, ""))
    delimiter = max(";\t,", key=header.count)
    places = _places(_cells(header, delimiter))
    for number, line in lines:
        # Each line by itself: a quotation mark that is never closed must not swallow the rest.
        row = _cells(line, delimiter)
        if any(cell.strip() for cell in row):
            try:
                fix = _csv_fix(row, places, number)
            except DriveError as error:
                unusable.note(error)
            else:
                yield fix


def _cells(line: str, delimiter: str) -> list[str]:
    try:
        return next(csv.reader([line], delimiter=delimiter), [])
    except csv.Error:
        return []


def _lines(file: BinaryIO) -> Iterator[tuple[int, str]]:
    """A file's lines as numbered text, whatever ends them; none of them too long to be a row.

    Raises:
        DriveError: One is.
    """
    head = file.peek(len(codecs.BOM_UTF16_LE)) if isinstance(file, io.BufferedReader) else b""
    encoding = "utf-16" if head.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)) else "utf-8-sig"
    text = io.TextIOWrapper(file, encoding, errors="replace")
    number = 0
    while line := text.readline(_MAX_LINE + 1):
        number += 1
        if len(line) > _MAX_LINE:
            raise DriveError(f"line {number}: too long to be a row of a drive")
        yield number, line
    text.detach()


def _places(header: list[str]) -> dict[str, int]:
    """In which column what stands."""
    names = [name.strip().lower() for name in header]
    places = {
        column: next((names.index(alias) for alias in aliases if alias in names), -1)
        for column, aliases in _COLUMNS.items()
    }
    missing = [column for column in ("time", "lat", "lon") if places[column] < 0]
    if missing:
        text = ", ".join(missing)
        if any("\N{REPLACEMENT CHARACTER}" in name or "\0" in name for name in header):
            raise DriveError("line 1: it is not text; a GPX or CSV file is expected")
        raise DriveError(f"line 1: no column {text}; it must be a header such as time,lat,lon,speed")
    return places


def _csv_fix(row: list[str], places: dict[str, int], line: int) -> Fix:
    if max(places.values()) >= len(row):
        raise DriveError(f"line {line}: {len(row)} columns are too few for the header")
    speed = row[places["speed"]].strip() if places["speed"] >= 0 else ""
    return Fix(
        time=_moment(row[places["time"]], line),
        lat=_number(row[places["lat"]], "latitude", line),
        lon=_number(row[places["lon"]], "longitude", line),
        speed=_number(speed, "speed", line) if speed else None,
        line=line,
    )


def _moment(text: str, line: int) -> float:
    """Seconds since the epoch, given as such or as RFC 3339."""
    try:
        return _float(text)
    except ValueError:
        seconds = rfc3339(text.strip())
    if seconds is None:
        raise DriveError(
            f"line {line}: the time is neither RFC 3339 with an offset (2026-11-23T08:15:42Z) nor seconds since 1970"
        )
    return seconds


def _number(text: str, name: str, line: int) -> float:
    try:
        return _float(text)
    except ValueError:
        raise DriveError(f"line {line}: the {name} is not a number") from None


def _float(text: str) -> float:
    """A number as people write it, also with a decimal comma."""
    if len(text) > _MAX_TEXT:
        raise ValueError("too long for a number")
    return float(text.replace(",", ".", 1) if text.count(",") == 1 and "." not in text else text)


# --- GPX ---


class _GpxReader:
    """Track points of a GPX file, as they come: memory does not grow with the file.

    On expat itself: an element tree of a large file is large, and only expat tells of a document type when it begins,
    in whatever encoding, before anything that it declares can be used.
    """

    def __init__(self, unusable: Unusable) -> None:
        self._unusable = unusable
        self._parser = parser = expat.ParserCreate(namespace_separator=" ")
        parser.buffer_text = True
        parser.StartDoctypeDeclHandler = self._refuse_document_type
        parser.StartElementHandler = self._start
        parser.EndElementHandler = self._end
        parser.CharacterDataHandler = self._text
        self._path: list[str] = []
        self._point: dict[str, str] | None = None  # the track point under way
        self._point_depth = self._point_line = 0
        self._collecting: list[str] | None = None
        self._found: list[Fix] = []
        self._points = 0

    def fixes(self, file: BinaryIO) -> Iterator[Fix]:
        """Read the file.

        Raises:
            DriveError: It is not GPX.
        """
        last = False
        while not last:
            chunk = file.read(_CHUNK)
            last = not chunk
            try:
                self._parser.Parse(chunk, last)
            except expat.ExpatError as error:
                broken = DriveError(f"line {error.lineno}: it is not XML ({expat.ErrorString(error.code)})")
                if not self._points:
                    raise broken from None
                # Cut off by a power cut, or damaged: what came before is a drive all the same.
                self._unusable.note(broken)
                last = True
            except (LookupError, ValueError):
                raise DriveError("line 1: it is not XML in an encoding that is known here") from None
            found, self._found = self._found, []
            yield from found
        if not self._points:
            raise DriveError("it holds no track point; routes and waypoints are no drive")

    def _refuse_document_type(self, *_: object) -> None:
        raise DriveError(f"line {self._parser.CurrentLineNumber}: a document type declaration; GPX has none")

    def _start(self, name: str, attributes: dict[str, str]) -> None:
        tag = name.rpartition(" ")[2]
        line = self._parser.CurrentLineNumber
        if not self._path and tag != "gpx":
            raise DriveError(f"line {line}: it is not GPX but begins with <{tag[:_MAX_TEXT]}>")
        self._path.append(tag)
        if len(self._path) > _MAX_DEPTH:
            raise DriveError(f"line {line}: it nests deeper than {_MAX_DEPTH} elements")
        self._collecting = None
        if tag == "trkpt" and self._point is None:
            self._point = {key: attributes[key] for key in ("lat", "lon") if key in attributes}
            self._point_depth, self._point_line = len(self._path), line
        elif self._point is not None and (
            tag == "speed"  # GPX 1.0's own, or in 1.1 somebody's extension of it: all of them are m/s
            or (tag in {"time", "fix"} and len(self._path) == self._point_depth + 1)
        ):
            self._collecting = []

    def _text(self, text: str) -> None:
        if self._collecting is not None and sum(map(len, self._collecting)) <= _MAX_TEXT:
            self._collecting.append(text[: _MAX_TEXT + 1])

    def _end(self, _: str) -> None:
        tag = self._path.pop()
        collected, self._collecting = self._collecting, None
        if self._point is None:
            return
        if collected is not None:
            self._point[tag] = "".join(collected).strip()
        elif tag == "trkpt" and len(self._path) == self._point_depth - 1:
            point, self._point = self._point, None
            self._points += 1
            if point.get("fix") != "none":  # the receiver says itself that it did not know
                try:
                    self._found.append(_gpx_fix(point, self._point_line))
                except DriveError as error:
                    self._unusable.note(error)


def _gpx_fix(point: dict[str, str], line: int) -> Fix:
    missing = [key for key in ("lat", "lon", "time") if not point.get(key)]
    if missing:
        raise DriveError(f"line {line}: the track point has no {' and no '.join(missing)}")
    text = point["time"]
    # "Date and time are in Universal Coordinated Time (UTC), not local time" (GPX 1.1, wptType): some leave out the Z.
    seconds = rfc3339(text)
    if seconds is None:
        seconds = rfc3339(f"{text}Z")
    if seconds is None:
        raise DriveError(f"line {line}: the track point's time is not like 2026-11-23T08:15:42Z")
    speed = point.get("speed")
    return Fix(
        time=seconds,
        lat=_number(point["lat"], "latitude", line),
        lon=_number(point["lon"], "longitude", line),
        speed=_number(speed, "speed", line) if speed else None,
        line=line,
    )


class RecordedClock:
    """Wall time and elapsed time of a recording, for the `TripUploader` that it is played into, and for nothing else.

    Its boot is nobody's: no sighting of the backend's time and no later reading of this machine's clock is about it, so
    the recording's times are never "put right" by what is learnt about this machine's clock.

    Args:
        start: Of the recording, seconds since the epoch.
    """

    def __init__(self, start: float) -> None:
        self._start = start
        self._elapsed = 0.0
        self._boot_id = f"recording-{uuid4()}"

    def show(self, elapsed: float) -> None:
        """Move on to so many seconds after the start; never back."""
        self._elapsed = max(self._elapsed, elapsed)

    def now(self) -> float:
        """Wall time in the recording, seconds since the epoch."""
        return self._start + self._elapsed

    def monotonic(self) -> float:
        """Seconds since the recording began."""
        return self._elapsed

    def boot_id(self) -> str:
        """One of its own."""
        return self._boot_id

    async def sleep(self, seconds: float) -> None:
        """Wait for so many real seconds: a retry must not be over at once because a recording is played fast."""
        await asyncio.sleep(seconds)
