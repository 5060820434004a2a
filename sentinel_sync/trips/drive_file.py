"""Reads a recorded drive from GPX 1.0/1.1 or CSV. Blocks: call it off the loop. The file may come from anybody."""

import asyncio
import codecs
import csv
import os
import stat
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO
from uuid import uuid4
from xml.parsers import expat  # a document type, and with it any entity, is refused where it begins

from sentinel_sync.cloud.rules.answers import rfc3339
from sentinel_sync.trips.rules.drive import Drive, DriveError, Fix, drive_of

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


def read_drive(path: Path) -> Drive:
    """Read a drive; its first character tells which kind of file it is.

    Raises:
        DriveError: It cannot be read or is no drive: one line that names the file, and the line in it where one is at
            fault. It holds no coordinate.
    """
    try:
        with open(path, "rb", opener=_open_regular) as file:  # Path.open takes no opener
            head = file.read(_MAX_TEXT)
            file.seek(0)
            if not head:
                raise DriveError("it is empty")
            is_xml = head.lstrip(codecs.BOM_UTF8 + codecs.BOM_UTF16_LE + b"\0 \t\r\n").startswith(b"<")
            return drive_of(_bounded(_GpxReader().fixes(file) if is_xml else _csv_fixes(file)))
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


def _csv_fixes(file: BinaryIO) -> Iterator[Fix]:
    lines = _Lines(file)
    header = next(lines, "")
    rows = csv.reader(lines, delimiter=max(",;\t", key=header.count), strict=True)
    places = _places(next(csv.reader([header], delimiter=max(",;\t", key=header.count)), []))
    try:
        for row in rows:
            if any(cell.strip() for cell in row):
                yield _csv_fix(row, places, lines.number)
    except csv.Error as error:
        raise DriveError(f"line {lines.number}: {error}") from None


class _Lines:
    """A file's lines as text, none of them too long to be a row."""

    def __init__(self, file: BinaryIO) -> None:
        self._file = file
        self.number = 0

    def __iter__(self) -> Iterator[str]:
        return self

    def __next__(self) -> str:
        line = self._file.readline(_MAX_LINE + 1)
        if not line:
            raise StopIteration
        self.number += 1
        if len(line) > _MAX_LINE:
            raise DriveError(f"line {self.number}: too long to be a row of a drive")
        try:
            return line.decode("utf-8-sig" if self.number == 1 else "utf-8")
        except UnicodeDecodeError:
            raise DriveError(f"line {self.number}: it is not text; a GPX or CSV file is expected") from None


def _places(header: list[str]) -> dict[str, int]:
    """In which column what stands."""
    names = [name.strip().lower() for name in header]
    places = {
        column: next((names.index(alias) for alias in aliases if alias in names), -1)
        for column, aliases in _COLUMNS.items()
    }
    missing = [column for column in ("time", "lat", "lon") if places[column] < 0]
    if missing:
        raise DriveError(f"line 1: no column {', '.join(missing)}; it must be a header such as time,lat,lon,speed")
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
        return float(text)
    except ValueError:
        seconds = rfc3339(text.strip())
    if seconds is None:
        raise DriveError(
            f"line {line}: the time is neither RFC 3339 with an offset (2026-11-23T08:15:42Z) nor seconds since 1970"
        )
    return seconds


def _number(text: str, name: str, line: int) -> float:
    try:
        return float(text)
    except ValueError:
        raise DriveError(f"line {line}: the {name} is not a number") from None


# --- GPX ---


class _GpxReader:
    """Track points of a GPX file, as they come: memory does not grow with the file.

    On expat itself: an element tree of a large file is large, and only expat tells of a document type when it begins,
    in whatever encoding, before anything that it declares can be used.
    """

    def __init__(self) -> None:
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
            DriveError: It is not GPX, or a point of it is unusable.
        """
        last = False
        while not last:
            chunk = file.read(_CHUNK)
            last = not chunk
            try:
                self._parser.Parse(chunk, last)
            except expat.ExpatError as error:
                raise DriveError(f"line {error.lineno}: it is not XML ({expat.ErrorString(error.code)})") from None
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
                self._found.append(_gpx_fix(point, self._point_line))


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
