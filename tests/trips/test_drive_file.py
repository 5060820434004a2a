"""Drives from GPX and CSV files, good and bad ones."""

import os
import re
from collections.abc import Sequence
from pathlib import Path
from time import monotonic

import pytest

from sentinel_sync.trips import drive_file
from sentinel_sync.trips.drive_file import read_drives
from sentinel_sync.trips.rules.drive import Drive, DriveError

GPX_1_1 = """<?xml version="1.0" encoding="UTF-8"?>
<gpx version="1.1" creator="a logger" xmlns="http://www.topografix.com/GPX/1/1"
     xmlns:tpx="http://www.garmin.com/xmlschemas/TrackPointExtension/v2">
 <metadata><time>2020-01-01T00:00:00Z</time></metadata>
 <wpt lat="1.0" lon="1.0"><time>2019-01-01T00:00:00Z</time></wpt>
 <trk><name>to work &amp; back</name>
  <trkseg>
   <trkpt lat="37.7700" lon="-122.4100"><ele>12</ele><time>2026-11-23T08:00:00Z</time></trkpt>
   <trkpt lat="37.7709" lon="-122.4100"><time>2026-11-23T08:00:10.000Z</time>
    <extensions><tpx:TrackPointExtension><tpx:speed>9.5</tpx:speed></tpx:TrackPointExtension></extensions></trkpt>
  </trkseg>
  <trkseg>
   <trkpt lat="0.0" lon="0.0"><time>2026-11-23T08:00:15Z</time><fix>none</fix></trkpt>
   <trkpt lat="37.7718" lon="-122.4100"><time>2026-11-23T09:00:20+01:00</time></trkpt>
  </trkseg>
 </trk>
</gpx>
"""
GPX_1_0 = """<?xml version="1.0"?>
<gpx version="1.0" xmlns="http://www.topografix.com/GPX/1/0"><trk><trkseg>
<trkpt lat="37.7700" lon="-122.4100"><time>2026-11-23T08:00:00</time><speed>9.0</speed></trkpt>
<trkpt lat="37.7709" lon="-122.4100"><time>2026-11-23T08:00:10</time><speed>9.5</speed></trkpt>
</trkseg></trk></gpx>
"""
CSV = """time,lat,lon,speed
2026-11-23T08:00:00Z,37.7700,-122.4100,9.0
2026-11-23T09:00:10+01:00,37.7709,-122.4100,
1795420820.5,37.7718,-122.4100,9.5
"""
EIGHT = 1_795_420_800.0  # 2026-11-23T08:00:00Z


def read_drive(path: Path) -> Drive:
    """The one drive of a file."""
    (drive,) = read_drives(path).drives
    return drive


def written(folder: Path, content: str | bytes, name: str = "drive") -> Path:
    path = folder / name
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    return path


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16"])
def test_gpx_1_1_is_read_with_speeds_from_extensions_and_without_points_that_had_no_fix(
    tmp_path: Path, encoding: str
) -> None:
    text = GPX_1_1.replace("UTF-8", encoding.removesuffix("-sig"))
    drive = read_drive(written(tmp_path, text.encode(encoding)))
    assert (drive.start, drive.duration, len(drive.readings)) == (EIGHT, 20.0, 2)
    assert drive.origin == (37.77, -122.41)
    assert drive.distance == pytest.approx(200.15, rel=1e-3)
    assert [reading.speed for reading in drive.readings] == pytest.approx([9.5, 10.0], rel=1e-2)


def test_gpx_1_0_is_read_with_its_own_speeds_and_times_without_offset_as_utc(tmp_path: Path) -> None:
    drive = read_drive(written(tmp_path, GPX_1_0))
    assert (drive.start, drive.duration) == (EIGHT, 10.0)
    assert [reading.speed for reading in drive.readings] == [9.5]


@pytest.mark.parametrize(
    "text",
    [
        CSV,
        "\ufeff" + CSV,
        CSV.replace(",", ";"),
        CSV.replace(",", "\t"),
        CSV.replace("\n", "\r\n"),
        CSV.replace("time,lat,lon", "Timestamp, Latitude ,LNG") + "\n , ,,\n",
        (
            "speed,vehicle,lon,lat,time\n9.0,x,-122.41,37.77,1795420800\n,y,-122.41,37.7709,1795420810\n"
            "9.5,z,-122.41,37.7718,1795420820.5\n"
        ),
    ],
)
def test_csv_is_read_whatever_its_separators_and_the_order_of_its_columns(tmp_path: Path, text: str) -> None:
    drive = read_drive(written(tmp_path, text))
    assert (drive.start, drive.duration, len(drive.readings)) == (EIGHT, 20.5, 2)
    assert [reading.speed for reading in drive.readings] == pytest.approx([10.0, 9.5], rel=1e-2)


POINT = '<trkpt lat="1" lon="2"><time>2026-11-23T08:00:00Z</time></trkpt>'
HEAD = "time,lat,lon\n2026-11-23T08:00:00Z,37.77,-122.41\n"


@pytest.mark.parametrize(
    ("content", "why"),
    [
        ("", "it is empty"),
        ("\n\n", "line 1: no column time, lat, lon"),
        ("time,lat,lon\n", "it holds no position"),
        (HEAD, "it holds one position only"),
        (HEAD * 2, "line 3: the time is neither"),
        (HEAD + "2026-11-23T07:59:59Z,37.77,-122.41\n", "it holds one position only"),
        (HEAD + "2026-11-23T08:00:01,37.77,-122.41\n", "line 3: the time is neither RFC 3339 with an offset"),
        (HEAD + "nan,37.77,-122.41\n", "line 3: the time is not within"),
        (HEAD + "1795420801000,37.77,-122.41\n", "line 3: .*milliseconds"),
        (HEAD + "1795420801,nan,-122.41\n", "line 3: the latitude is not within"),
        (HEAD + "1795420801,91,-122.41\n", "line 3: the latitude"),
        (HEAD + "1795420801,37.77,200\n", "line 3: the longitude"),
        (HEAD + "1795420801,,2\n", "line 3: the latitude is not a number"),
        (HEAD + "1795420801,37.77\n", "line 3: 2 columns are too few"),
        ("time,lat,lon,speed\n1795420801,37.77,2,fast\n", "line 2: the speed is not a number"),
        ('time,lat,lon\n1795420801,"37.77,2\n', "line 2: 2 columns are too few"),
        ("time,lat,speed\n1,2,3\n", "line 1: no column lon; it must be a header"),
        ("1795420801,37.77,2\n", "line 1: no column time, lat, lon"),
        ("time,lat,lon\n" + "1" * 100_000, "line 2: too long"),
        (b"\x89PNG\r\n\x1a\n\x00\x00", "line 1: it is not text"),
        (HEAD.encode() + b"\xff\xfe\xfd", "line 3: 1 columns are too few"),
        (bytes(100_000), "line 1: too long"),
        ("<kml/>", "line 1: it is not GPX but begins with <kml>"),
        ("<gpx/>", "it holds no track point"),
        ("<gpx>\n<trk", r"line 2: it is not XML \(unclosed token\)"),
        ("<gpx>\n</trk>", r"line 2: it is not XML \(mismatched tag\)"),
        ("<gpx><rte><rtept lat='1' lon='2'><time>2026-11-23T08:00:00Z</time></rtept></rte></gpx>", "it holds no track"),
        ("<gpx>" + POINT, r"line 1: it is not XML \(no element found\)"),
        ("<gpx>\n<trkpt lat='1'><time>2026-11-23T08:00:00Z</time></trkpt></gpx>", "line 2: the track point has no lon"),
        ("<gpx>\n<trkpt lat='1' lon='2'/></gpx>", "line 2: the track point has no time"),
        ("<gpx><trkpt lat='1' lon='2'><time>noon</time></trkpt></gpx>", "line 1: the track point's time"),
        ("<gpx><trkpt lat='NaN' lon='2'><time>2026-11-23T08:00:00Z</time></trkpt></gpx>", "line 1: the latitude"),
        ("<gpx><trkpt lat='x' lon='2'><time>2026-11-23T08:00:00Z</time></trkpt></gpx>", "line 1: the latitude"),
        (f"<gpx>{POINT}\n\n{POINT.replace('08:', '07:')}</gpx>", "it holds one position only"),
        ("<gpx>" + "<a>" * 1000, "line 1: it nests deeper"),
        (b"<?xml version='1.0' encoding='no-such'?><gpx/>", "line 1: it is not XML in an encoding"),
        (b"<?xml version='1.0' encoding='shift_jis'?><gpx/>", "line 1: it is not XML in an encoding"),
    ],
)
def test_a_bad_file_is_one_line_that_names_the_file_and_the_line_at_fault(
    tmp_path: Path, content: str | bytes, why: str
) -> None:
    path = written(tmp_path, content)
    with pytest.raises(DriveError, match=f"^{re.escape(str(path))} is no drive: {why}") as caught:
        read_drive(path)
    assert "\n" not in str(caught.value)
    assert "37.77" not in str(caught.value)


BOMB = (
    '<?xml version="1.0"?>\n<!DOCTYPE gpx [<!ENTITY a "aaaaaaaaaaaaaaaaaaaa">'
    + "".join(f'<!ENTITY a{n} "{f"&a{n - 1 if n else str()};" * 20}">' for n in range(12))
    + "]>\n<gpx><name>&a11;</name></gpx>"
)


@pytest.mark.parametrize("encoding", ["utf-8", "utf-16"])
@pytest.mark.parametrize(
    "text",
    [
        BOMB,
        '<?xml version="1.0"?>\n<!DOCTYPE gpx SYSTEM "file:///etc/passwd"><gpx/>',
        '<?xml version="1.0"?>\n<!DOCTYPE gpx [<!ENTITY x SYSTEM "file:///etc/passwd">]><gpx>&x;</gpx>',
        '<?xml version="1.0"?>\n<!DOCTYPE gpx [<!ENTITY % x SYSTEM "http://127.0.0.1:9/x"> %x;]><gpx/>',
    ],
)
def test_a_document_type_is_refused_before_anything_it_declares_is_used(
    tmp_path: Path, text: str, encoding: str
) -> None:
    path = written(tmp_path, text.encode(encoding))
    began = monotonic()
    with pytest.raises(DriveError, match="line 2: a document type declaration"):
        read_drive(path)
    assert monotonic() - began < 1.0


def test_what_is_not_a_regular_file_is_refused_without_waiting_for_it(tmp_path: Path) -> None:
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    for path, why in (
        (tmp_path, "it is a folder"),
        (pipe, "it is a pipe or a device"),
        (Path("/dev/zero"), "it is a pipe or a device"),
    ):
        with pytest.raises(DriveError, match=why):
            read_drive(path)


def test_a_missing_or_forbidden_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(DriveError, match=r"cannot read .*absent\.gpx: No such file"):
        read_drive(tmp_path / "absent.gpx")


def test_a_huge_file_is_refused_unread(tmp_path: Path) -> None:
    path = tmp_path / "huge.csv"
    with path.open("wb") as file:
        file.truncate(300 << 20)  # sparse: it takes no space
    with pytest.raises(DriveError, match="larger than 256 MiB"):
        read_drive(path)


def test_more_positions_than_a_drive_has_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(drive_file, "MAX_FIXES", 3)
    rows = "".join(f"{EIGHT + second},37.77,-122.41\n" for second in range(4))
    with pytest.raises(DriveError, match="line 5: it has more than 3 positions"):
        read_drive(written(tmp_path, "time,lat,lon\n" + rows))


def test_positions_cut_by_the_reader_between_chunks_are_whole(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(drive_file, "_CHUNK", 7)
    assert read_drive(written(tmp_path, GPX_1_1)).duration == 20.0


SIXTY = [
    (f"2026-11-23T08:{minute:02}:00Z", f"{37.7700 + minute * 0.0009:.4f}", "-122.4100", "9.5") for minute in range(60)
]


def csv_of(rows: Sequence[tuple[str, ...]], *, delimiter: str = ",", end: str = "\n") -> str:
    return end.join(delimiter.join(row) for row in [("time", "lat", "lon", "speed"), *rows]) + end


def gpx_of(rows: Sequence[tuple[str, ...]]) -> str:
    points = "\n".join(
        f'<trkpt lat="{lat}" lon="{lon}">{f"<time>{time}</time>" if time else ""}</trkpt>' for time, lat, lon, _ in rows
    )
    return f"<gpx><trk><trkseg>\n{points}\n</trkseg></trk></gpx>\n"


def with_row(number: int, *row: str) -> list[tuple[str, ...]]:
    return [*SIXTY[:number], row, *SIXTY[number + 1 :]]


#: I11: what recorders leave: the file, how many positions could not be used, and how many of the 60 were.
IMPERFECT: dict[str, tuple[str | bytes, int, int]] = {
    "CSV, one without a time": (csv_of(with_row(30, "", "37.797", "-122.41", "9")), 1, 59),
    "GPX, one without a time": (gpx_of(with_row(30, "", "37.797", "-122.41", "9")), 1, 59),
    "CSV, one 1 ms back": (csv_of(with_row(30, "2026-11-23T08:28:59.999Z", "37.797", "-122.41", "9")), 0, 59),
    "GPX, one 1 ms back": (gpx_of(with_row(30, "2026-11-23T08:28:59.999Z", "37.797", "-122.41", "9")), 0, 59),
    "CSV, two in a row back": (csv_of([*SIXTY[:30], *SIXTY[10:12], *SIXTY[30:]]), 0, 60),
    "CSV, the last row cut off": (csv_of(SIXTY)[:-20], 1, 59),
    "GPX, cut off": (gpx_of(SIXTY)[:-60], 1, 59),
    "CSV, a leading 1980 date": (csv_of(with_row(0, "1980-01-06T00:00:12Z", "37.77", "-122.41", "0")), 1, 59),
    "GPX, a leading 1980 date": (gpx_of(with_row(0, "1980-01-06T00:00:12Z", "37.77", "-122.41", "0")), 1, 59),
    "CSV, a leading 1970 date": (csv_of(with_row(0, "1970-01-01T00:00:12Z", "37.77", "-122.41", "0")), 1, 59),
    "CSV, a leading future date": (csv_of(with_row(0, "2094-01-01T00:00:12Z", "37.77", "-122.41", "0")), 1, 59),
    "CR line ends": (csv_of(SIXTY, end="\r"), 0, 60),
    "CRLF line ends": (csv_of(SIXTY, end="\r\n"), 0, 60),
    "decimal commas": (csv_of([tuple(c.replace(".", ",") for c in row) for row in SIXTY], delimiter=";"), 0, 60),
    "quoted decimal commas": (
        csv_of([(t, f'"{a.replace(".", ",")}"', f'"{o.replace(".", ",")}"', v) for t, a, o, v in SIXTY]),
        0,
        60,
    ),
    "a quotation mark that is never closed": (csv_of(with_row(30, '"2026', "37.797", "-122.41", "9")), 1, 59),
    "bytes that are no text": (csv_of(with_row(30, "x", "x", "x", "x")).encode().replace(b"x", b"\xff"), 1, 59),
    "UTF-16": (csv_of(SIXTY).encode("utf-16"), 0, 60),
    "a latitude of 237": (csv_of(with_row(30, "2026-11-23T08:30:00Z", "237", "-122.41", "9")), 1, 59),
    "a receiver's NaN": (gpx_of(with_row(30, "2026-11-23T08:30:00Z", "NaN", "NaN", "9")), 1, 59),
    "a row of another table": (csv_of(with_row(30, "# restarted")), 1, 59),
    "rows of zero bytes after a power cut": (csv_of(SIXTY) + "\0" * 400, 1, 60),
}


@pytest.mark.parametrize("kind", IMPERFECT)
def test_what_can_be_used_is_used_and_the_rest_is_counted(tmp_path: Path, kind: str) -> None:
    content, unusable, used = IMPERFECT[kind]
    recorded = read_drives(written(tmp_path, content))
    (drive,) = recorded.drives
    assert (recorded.unusable.count, len(drive.readings) + 1) == (unusable, used)
    assert drive.duration < 3600.0
    assert (recorded.unusable.reason is None) == (unusable == 0)


def test_an_absurd_gap_splits_the_drive(tmp_path: Path) -> None:
    """Two days in one file are two drives, in the order in which they were driven or not."""
    later = [(time.replace("11-23", "11-25"), *rest) for time, *rest in SIXTY]
    for rows in ([*SIXTY, *later], [*later, *SIXTY]):
        first, second = read_drives(written(tmp_path, csv_of(rows))).drives
        assert {first.duration, second.duration} == {59 * 60.0}
        assert abs(first.start - second.start) == 2 * 86_400.0


def test_no_position_is_lost_where_one_went_back_just_before_the_gap(tmp_path: Path) -> None:
    later = [(time.replace("11-23", "11-25"), *rest) for time, *rest in SIXTY]
    first, second = read_drives(written(tmp_path, csv_of([*SIXTY, SIXTY[10], *later]))).drives
    assert (len(first.readings), len(second.readings)) == (59, 59)
    assert (first.left_out, second.left_out) == (1, 0)
