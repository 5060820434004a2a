"""What of a recording's JSON may leave: places in every spelling, persons, paths; and what is none of these stays."""

import json
from collections.abc import Callable
from typing import Any
from urllib.parse import quote

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import JsonValue

from sentinel_sync.scenarios.rules.private_data import Context, outgoing, outgoing_text
from sentinel_sync.scenarios.rules.private_text import PLACE

ANNOTATIONS = Context(names_are_labels=True)


def sent(value: Any, context: Context = ANNOTATIONS) -> Any:
    return outgoing(value, context)


@pytest.mark.parametrize(
    ("text", "left"),
    [
        ("37.774929,-122.419416", "37.77,-122.42"),
        ("37.770000,-122.419416", "37.77,-122.42"),
        ("hard braking at 37.774929 -122.419416 (wet)", "hard braking at 37.77 -122.42 (wet)"),
        ("lat: 37.774929 lon: -122.419416", "lat: 37.77 lon: -122.42"),
        ("mlat=37.774929&mlon=-122.419416", "mlat=37.77&mlon=-122.42"),
        ("latE7=377749290 lonE7=-1224194160", "latE7=[place] lonE7=[place]"),
        ("377749290,-1224194160", "[place]"),
        ("37,774929; -122,419416", "37.77; -122.42"),
        ("3.7774929e1,-1.22419416e2", "37.77,-122.42"),
        ("37.774929°N / 122.419416°W", "37.77°N / 122.42°W"),
        ("N37.774929 W122.419416", "N37.77 W122.42"),
        ("37°46'29.7\"N 122°25'9.9\"W", "37°N 122°W"),
        ("37° 46.495\u2032 N", "37° N"),
        ("37d46m29.7s N", "37d N"),
        ("37 46 29.7 N 122 25 9.9 W", "[place] [place]"),
        ("N37 46.495 W122 25.165", "[place] [place]"),
        ("374629N1222510W", "[place]"),
        ("$GPRMC,225446,A,3746.4957,N,12225.1650,W,000.5,054.7,191194,020.3,E*68", "[place]"),
        ("$GNGGA,092725.00,4717.11399,N,00833.91590,E,1,08,1.01,499.6,M,48.0,M,,*5B", "[place]"),
        ("3746.4957,N,12225.1650,W", "[place]"),
        ("+37.7749-122.4194/", "[place]"),
        ("+374629.7-1222509.9+12/", "[place]"),
        ("37/1, 46/1, 2970/100", "[place]"),
        ("geo:37.786971,-122.399677;u=35", "geo:37.79,-122.4;u=35"),
        ("see https://maps.google.com/?q=37.774929,-122.419416", "see [place]"),
        ("https://maps.app.goo.gl/AbCdEf", "[place]"),
        (
            "https://www.openstreetmap.org/#map=17/37.77493/-122.41942",
            "https://www.openstreetmap.org/#map=17/37.77/-122.42",
        ),
        ("!3d37.774929!4d-122.419416", "[place][place]"),
        ("cp=47.677797~-122.387", "cp=47.68~-122.39"),
        ("///filled.count.soap", "[place]"),
        ("POINT(-122.419416 37.774929)", "POINT(-122.42 37.77)"),
        ("LINESTRING(-122.419416 37.774929, -122.419999 37.775555)", "LINESTRING(-122.42 37.77, -122.42 37.78)"),
        ("849VQHFJ+X6", "849VQH00+"),
        ("QHFJ+X6 San Francisco", "[place] San Francisco"),
        ("10S EG 51885 80825", "[place]"),
        ("10SEG5188580825", "[place]"),
        ("10S 551885 4180825", "[place]"),
        ("551885mE 4180825mN", "[place]"),
        ("37%2E774929%2C-122%2E419416", "37.77,-122.42"),
        ("37%252E774929%252C-122%252E419416", "37.77,-122.42"),
        ("lat\\u003a 37.774929", "lat: 37.77"),
        ('{"lat": 37.774929}', '{"lat":37.77}'),
        ('{"lat": 37.1234, "lat": 1}', '{"lat":1}'),
        ("[37.774929, -122.419416]", "[37.77,-122.42]"),
        ("\uff13\uff17.774929\uff0c-122.419416", "37.77,-122.42"),
        ("&#51;7&period;774929,-122&period;419416", "37.77,-122.42"),
        ("122.419416W", "122.42W"),
        (
            "xmin=-122.42231 ymin=37.77212 xmax=-122.41123 ymax=37.78123",
            "xmin=-122.42 ymin=37.77 xmax=-122.41 ymax=37.78",
        ),
        ("north: 37.78123, west=-122.42231", "north: 37.78, west=-122.42"),
        ("33T 0500000 4649776", "[place]"),
        ("hit at 1600 Amphitheatre Parkway", "hit at [place]"),
        ("near 221B Baker Street, London", "near [place], London"),
        ("37.7, -122.41941612", "37.7, -122.42"),
        ("120,500; 180,250", "120,500; 180,250"),  # no two latitudes: amounts with decimal commas
        ("Hauptstraße 12, 10115 Berlin", "[place], 10115 Berlin"),
        ("12 rue de Rivoli", "[place]"),
        ("Via Giuseppe Garibaldi 7", "[place]"),
    ],
)
def test_places_in_a_text(text: str, left: str) -> None:
    assert sent(text) == left
    assert sent(left) == left, "what may leave is left as it is"


@pytest.mark.parametrize(
    ("text", "left"),
    [
        ("write to a.driver@example.com now", "write to [mail] now"),
        ("call +49 170 1234567", "call [phone]"),
        ("call (415) 555-2671", "call [phone]"),
        ("+14155552671", "[phone]"),
        ("0170 1234567", "[phone]"),
        ("tel:+1-415-555-2671", "[phone]"),
        ("license plate 7ABC123 seen", "license plate [plate] seen"),
        ("B-AB 1234", "[plate]"),
        ("AB12 CDE", "[plate]"),
        ("AA-229-AA", "[plate]"),
        ("driver: A. Driver", "driver: [person]"),
        ("Mr. Smith looked away", "[person] looked away"),
        ("hard braking, driver Anna", "hard braking, driver [person]"),
        ("Driver Anna Muster braked", "Driver [person] braked"),
        ("taken over by passenger Zoé-Marie", "taken over by passenger [person]"),
        ("Fahrer Jürgen bremst", "Fahrer [person] bremst"),
        ("Beifahrerin Özlem Kaya", "Beifahrerin [person]"),
        ("conductrice Édith, freinage", "conductrice [person], freinage"),
        ("the owner O'Neill", "the owner [person]"),
        ("/home/driver/rec/1.jpg", "1.jpg"),
        ("saved to /home/anna/data/s1.log twice", "saved to s1.log twice"),
        ("C:\\Users\\anna\\x.jpg", "x.jpg"),
        ("\\\\server\\share\\f.txt", "f.txt"),
        ("~anna/x/y.png", "y.png"),
        ("../up/s1/", "s1"),
        ("file:///data/s1", "s1"),
        ("%2Fhome%2Fanna%2Fx.log", "x.log"),
        ("home/anna/x.log", "x.log"),
        ("rec/anna/x.log", "x.log"),
        ("$HOME/rec/anna/x", "x"),
        ("saved to ${HOME}/rec/x.log twice", "saved to x.log twice"),
        ("smb://nas/anna/x", "x"),
        ("anna [at] example [dot] com", "[mail]"),
        ("anna(at)example.com", "[mail]"),
        ("anna\uff20example.com", "[mail]"),
        ("phone: 555-2671", "phone: [phone]"),
        ("tel 5552671", "tel [phone]"),
        ("KA 01 AB 1234", "[plate]"),
        ("7 ABC 123", "[plate]"),
        ("AB 123 CD", "[plate]"),
        ("\u4eacA12345", "[plate]"),
        ("VIN: 1HGCM82633A004352", "VIN: [vehicle]"),
        ("Fahrer: Anna Schmidt", "Fahrer: [person]"),
        ("name: Anna Schmidt", "name: [person]"),
        ("passenger Anna Schmidt asleep", "passenger [person] asleep"),
        ("user=anna", "user=[person]"),
        ("login: anna.schmidt", "login: [person]"),
    ],
)
def test_persons_and_paths_in_a_text(text: str, left: str) -> None:
    assert sent(text) == left


@pytest.mark.parametrize(
    ("value", "left"),
    [
        ({"pose": [37.774929, -122.419416]}, {"pose": [37.77, -122.42]}),
        ({"pose": [37.77, -122.419416, 90.0]}, {"pose": [37.77, -122.42, 90.0]}),
        ({"l\u0061t": 37.774929}, {"lat": 37.77}),
        ({"lat": 377749290, "lonE7": -1224194160}, {"lat": None, "lonE7": None}),
        ({"position_lat": 450670000}, {"position_lat": None}),
        ({"gps": [377749290, -1224194160]}, {"gps": [None, None]}),
        ({"geohash": "9q8yyk8yt"}, {"geohash": "9q8yy"}),
        ({"location": "9q8yyk8yt"}, {"location": "9q8yy"}),
        ({"bbox": [-122.42231, 37.77212, -122.41123, 37.78123]}, {"bbox": [-122.42, 37.77, -122.41, 37.78]}),
        (
            {"type": "Point", "coordinates": [-122.419416, 37.774929]},
            {"type": "Point", "coordinates": [-122.42, 37.77]},
        ),
        ({"37.774929": "-122.419416"}, {"37.77": "-122.42"}),
        ({"37.774929,-122.419416": 1}, {"37.77,-122.42": 1}),
        (
            {"x": -122.419416, "y": 37.774929, "spatialReference": {"wkid": 4326}},
            {"x": -122.42, "y": 37.77, "spatialReference": {"wkid": 4326}},
        ),
        ({"GPSLatitude": [[37, 1], [46, 1], [2970, 100]]}, {"GPSLatitude": [[37, 1], None, None]}),
        ({"location": [[37, 1], [46, 1], [2970, 100]]}, {"location": [[37, 1], None, None]}),
        ({"gps": {"deg": 37, "min": 46, "sec": 29.7}}, {"gps": {"deg": 37, "min": None, "sec": None}}),
        ({"lat_deg": 37, "lat_min": 46}, {"lat_deg": 37, "lat_min": None}),
        ({"easting": 551885.12, "northing": 4180825.4}, {"easting": 552000.0, "northing": 4181000.0}),
        ({"mgrs": "10SEG5188580825", "w3w": "filled.count.soap"}, {"mgrs": "[place]", "w3w": "[place]"}),
        ({"ecef": [-2706174.8, -4261059.5, 3885725.3]}, {"ecef": [-2706000.0, -4261000.0, 3886000.0]}),
        ({"route": ["37.774929", "-122.419416"]}, {"route": ["37.77", "-122.42"]}),
        ({"data": '{"a":{"location":"37.774929,-122.419416"}}'}, {"data": '{"a":{"location":"37.77,-122.42"}}'}),
        ({"driver": "A. Driver"}, {"driver": None}),
        ({"passengers": ["Anna", "Bob"]}, {"passengers": [None, None]}),
        ({"user": {"name": "Anna", "id": 7, "age": 44}}, {"user": {"age": 44}}),
        ({"driver_name": "x", "ownerId": 1, "vin": "WVW", "face_embedding": [0.1], "n": 1}, {"n": 1}),
        ({"license_plate": "7ABC123", "phone": "+1 415", "emergency_contacts": ["112"], "n": 1}, {"n": 1}),
        ({"mobile_no": "0170123", "contact_phone": 4155552671, "home_address": "1 Main St", "n": 1}, {"n": 1}),
        ({"a": float("nan"), "b": float("inf")}, {"a": None, "b": None}),
        ({"location": [-13627665.27, 4547675.35]}, {"location": [-13628000.0, 4548000.0]}),
        (
            {"x": -13627665.27, "y": 4547675.35, "spatialReference": {"wkid": 102100}},
            {"x": -13628000.0, "y": 4548000.0, "spatialReference": {"wkid": 102100}},
        ),
        ({"pos": [37.774929, -122.419416, 12.5, 0.3]}, {"pos": [37.77, -122.42, 12.5, 0.3]}),
        ({"track": [[37.774929, -122.419416], [37.775, -122.42]]}, {"track": [[37.77, -122.42], [37.77, -122.42]]}),
        ({"polyline": "_p~iF~ps|U_ulLnnqC", "n": 1}, {"n": 1}),
        ({"overview_polyline": {"points": "_p~iF~ps|U"}, "n": 1}, {"n": 1}),
        (
            {"north": 37.78123, "south": 37.77212, "east": -122.41123, "west": -122.42231},
            {"north": 37.78, "south": 37.77, "east": -122.41, "west": -122.42},
        ),
        (
            {"xmin": -122.42231, "ymin": 37.77212, "xmax": -122.41123, "ymax": 37.78123},
            {"xmin": -122.42, "ymin": 37.77, "xmax": -122.41, "ymax": 37.78},
        ),
        ({"minlat": 37.77212, "maxLon": -122.42231}, {"minlat": 37.77, "maxLon": -122.42}),
        ({"GPSLatitude": [37, 46, 29.74]}, {"GPSLatitude": [37, None, None]}),
        ({"lat": {"value": 377749290}}, {"lat": {"value": None}}),
        ({"latitud": 48.85837, "Längengrad": 2.294481}, {"latitud": 48.86, "Längengrad": 2.29}),
        ({"maidenhead": "CM87ss", "gars": "006AG39"}, {"maidenhead": "[place]", "gars": "[place]"}),
        ({"fahrer": "Anna", "author": "Anna", "recorded_by": "Anna"}, {"fahrer": None, "author": None}),
        ({"driver": {"first": "Anna", "initials": "AS", "state": "drowsy"}}, {"driver": {"state": "drowsy"}}),
        ({"face": {"vector": [0.1], "visible": True}}, {"face": {"visible": True}}),
    ],
)
def test_places_and_persons_by_key_and_by_value(value: JsonValue, left: JsonValue) -> None:
    assert sent(value) == left
    assert sent(left) == left, "what may leave is left as it is"


@pytest.mark.parametrize(
    ("value", "left"),
    [
        # Whole numbers of a grid, and a cell's number.
        ({"easting": 1000, "northing": 999.9}, {"easting": 1000, "northing": None}),
        ({"easting": -1499.5, "northing": float("inf")}, {"easting": -1000.0, "northing": None}),
        ({"h3": 617700169958293503, "s2": 1.5}, {"h3": None, "s2": None}),
        # Of a list of persons what is no text stays, and is looked at.
        (
            {"passengers": ["Anna", 7, {"name": "Bob", "age": 4}, ["a.b@example.com"]]},
            {"passengers": [None, 7, {"age": 4}, ["[mail]"]]},
        ),
        # A key is a coordinate where its value is one as fine.
        ({"37.774929": 1.5}, {"37.774929": 1.5}),
        ({"37.774929": "1.5"}, {"37.774929": "1.5"}),
        ({"37.774929": "late"}, {"37.774929": "late"}),
        ({"37.774929": -122.419}, {"37.77": -122.42}),
        # A number to call has five digits in a text, and six as a number.
        ({"cell_a": "12-34", "cell_b": "12-345"}, {"cell_a": "12-34"}),
        ({"mobile_a": 99_999, "mobile_b": 100_000}, {"mobile_a": 99_999}),
        ({"cell_voltage": 3.7, "phone_in_hand": True}, {"cell_voltage": 3.7, "phone_in_hand": True}),
        # A fraction of degrees tells as much as a decimal one does, in whichever form it is written.
        ({"GPSLatitude": [[37774929, 1000000], [0, 1], [0, 1]]}, {"GPSLatitude": [[37, 1], None, None]}),
        ({"GPSLatitude": [[37774929, 1000000], [0, 1]]}, {"GPSLatitude": [[37, 1], None]}),
        ({"GPSLatitude": "37774929/1000000", "lon": "-122419416/1000000"}, {"GPSLatitude": "37/1", "lon": "-123/1"}),
        (
            {"GPSLatitude": {"numerator": 37774929, "denominator": 1000000}},
            {"GPSLatitude": {"numerator": 37, "denominator": 1}},
        ),
        ({"lat": [37774, 1000], "lon": [181, 1]}, {"lat": [37, 1], "lon": None}),
        ({"location": ["37774929/1000000", "122419416/1000000"]}, {"location": ["37/1", "122/1"]}),
        ({"lat": "1/0", "lon": "9" * 63 + "/1"}, {"lat": None, "lon": None}),
        ({"GPSLatitude": "[37, 46, 1337/50]"}, {"GPSLatitude": PLACE}),
        ({"lat": "(37.0, 46.0, 29.74)", "lon": "122 W"}, {"lat": PLACE, "lon": "122 W"}),
        ({"GPSLatitude": ["37", 46, "1337/50"]}, {"GPSLatitude": ["37", None, None]}),
        ({"GPSLatitude": ["37.77", 46.5]}, {"GPSLatitude": ["37.77", None]}),
        ({"gps": "37774929/1000000, 122419416/1000000"}, {"gps": PLACE}),
        ({"lat": "9" * 5000 + "/1"}, {"lat": None}),
        ({"frame_rate": "30000/1001", "size": [1920, 1080]}, {"frame_rate": "30000/1001", "size": [1920, 1080]}),
        # From the Earth's middle, as whole numbers, with more behind them, under names of their own.
        ({"ecef": [-2706174.8, -4261059.5, 3885725.3, 1.0]}, {"ecef": [-2706000.0, -4261000.0, 3886000.0, 1.0]}),
        ({"gps_x": [-2706174, -4261059, 3885725]}, {"gps_x": [-2706000, -4261000, 3886000]}),
        (
            {"ecef": {"x": -2706174.8, "y": -4261059.5, "z": 3885725.3, "frame": 7}},
            {"ecef": {"x": -2706000.0, "y": -4261000.0, "z": 3886000.0, "frame": 7}},
        ),
        ({"tones": [6378137, *range(7)]}, {"tones": [6378137, *range(7)]}),
        # EXIF's rationals, and what has as many numbers and is none.
        ({"GPSLatitude": ["37/1", " 46 / 1 ", "2970/100"]}, {"GPSLatitude": ["37/1", None, None]}),
        (
            {"GPSLatitude": [{"numerator": number, "denominator": 1} for number in (37, 46, 29)]},
            {"GPSLatitude": [{"numerator": 37, "denominator": 1}, None, None]},
        ),
        ({"position": [1.23456, 2.5, 3.0]}, {"position": [1.23, 2.5, 3.0]}),
        ({"position": ["left", "37/1", "46/1"]}, {"position": ["left", "37/1", "46/1"]}),
        # Up to 180 degrees, and beyond a million of them: as whole numbers of a scale.
        ({"lon": [180, 30, 15.5]}, {"lon": [180, None, None]}),
        ({"lon": 180.0, "lat": 180.1}, {"lon": 180.0, "lat": None}),
        ({"lon": "180.0", "lat": "180.1"}, {"lon": "180.0", "lat": None}),
        ({"gps": [1_000_000, 5]}, {"gps": [1_000_000, 5]}),
        ({"gps": [1_000_001, 5]}, {"gps": [None, None]}),
        ({"gps": [5, -1_000_001]}, {"gps": [None, None]}),
    ],
)
def test_bounds_and_forms_of_what_a_key_says(value: JsonValue, left: JsonValue) -> None:
    assert sent(value) == left


def test_an_area_is_one_however_its_corners_are_written() -> None:
    corners = {"x_min": -122.42231, "Y_MIN": 37.77212, "x_max": -122.41123, "Y_MAX": 37.78123}
    assert not [left for left in sent(corners).values() if left not in {None, -122.42, 37.77, -122.41, 37.78}]


@pytest.mark.parametrize(
    ("text", "left"),
    [
        ('{ "a" : 1.50,\n "note": "and/or" }', '{ "a" : 1.50,\n "note": "and/or" }'),
        ('{ "a" : 1.50,\n "note": "/home/anna/x" }', '{"a":1.5,"note":"x"}'),
        ('{"a": 1, "a": 1, "b": "and/or"}', '{"a":1,"b":"and/or"}'),
        ('["\ud800", 37.774929, -122.419416]', '["\ud800", 37.77, -122.42]'),
    ],
)
def test_json_in_a_text_keeps_its_form_where_nothing_had_to_go(text: str, left: str) -> None:
    assert sent(text) == left


def test_a_file_keeps_its_byte_order_mark_where_nothing_had_to_go() -> None:
    text = b'\xef\xbb\xbf{ "a": 1 }'
    assert outgoing_text(text, {"a": 1}, ANNOTATIONS) == text
    assert outgoing_text(text, {"a": "/home/anna/x"}, ANNOTATIONS) == b'{"a":"x"}'


def test_a_name_in_metadata_is_a_persons_and_in_annotations_a_label() -> None:
    assert sent({"name": "car"}) == {"name": "car"}
    assert sent({"name": "A. Driver"}, Context()) == {}


BENIGN: list[JsonValue] = [
    "risk 0.90 above 0.7 with driver distracted",
    "minimum TTC 0.8 s",
    "braking at 24 m/s and/or 9.81 m/s2",
    "2024-11-17T10:30:45.123456+01:00",
    "2026-11-01 10:00:00",
    "ratio 0.1234, 0.5678",
    "1700000000,1700000100",
    "speed 12.345 m/s at 13.456 s",
    "size 1920x1080, frame 12 of 60",
    "AEB (Level 2), v1.2.3, 100 N, route 66, lane-change 3/4",
    "driver: distracted",
    "https://docs.example.com/kb/42?lang=en",
    {"bbox": [102.12345, 83.55123, 140.223, 120.99]},
    {"bbox": [0.42312, 0.22113, 0.5, 0.6], "keypoint": [0.42312, 0.22113]},
    {"driver": {"gaze": {"pitch": 0.12345}, "state": "drowsy"}},
    {"phone_detected": True, "time_to_contact": 0.8, "emergency_braking": True},
    {"timestamp": 1731839445.123, "latency_ms": 812.123, "track_id": 123456789012},
    {"velocity": [-3.1, 0.1, 0], "translation": [0.12345, 0.55555, 1.2]},
    {"0.033333": {"a": 1}, "class_name": "person", "person": {"box": [1, 2]}},
    {"lat": 37, "lon": "-122", "long_range": True},
    "driver Monitoring System active, name: Car, label: Traffic Light",
    "Driver Attention Warning, passenger Seat empty, Driver Drowsiness 0.7, driver Takeover, Driver Side Airbag",
    "driver DMS ok, driver ID missing, screwdriver Bosch, driver 3, no owner, Passenger Door open",
    "engine 55.1234 W, scale 0.12345 W/m2, a=-3.1234 m/s2, b=0.1234",
    "CAN 0x7FF, error AB12, AT&T, a &lt; b, \ufb01rst frame, Street sign",
    {"left": 102.12345, "top": 83.55123, "right": 140.22, "bottom": 120.99},
    {"face": "visible", "features": [0.1, 0.2], "first": 1, "last": 60, "encoding": "h264"},
    {"lateral_offset": 0.123456, "longitudinal_speed": 12.345678, "flat": 1.23456, "value": 12.345678},
    {"path": "bev.mp4", "x": 102.12345, "y": 83.55123, "wind": {"north": 1.2345, "south": 0.1}},
]


@pytest.mark.parametrize("value", BENIGN)
def test_what_is_no_secret_comes_out_unchanged(value: JsonValue) -> None:
    assert sent(value) == value


# --- random documents with planted secrets ---

LAT, LON = 48.858370, 2.294481  # digits that stand nowhere else
SECRETS: list[Callable[[], JsonValue]] = [
    lambda: f"{LAT:.6f},{LON:.6f}",
    lambda: f"lat={LAT:.6f}, lon={LON:.6f}",
    lambda: f"POINT({LON:.6f} {LAT:.6f})",
    lambda: f"geo:{LAT:.6f},{LON:.6f}",
    lambda: f"https://www.google.com/maps/@{LAT:.6f},{LON:.6f},17z",
    lambda: quote(f"{LAT:.6f},{LON:.6f}", safe=""),
    lambda: json.dumps({"position": {"lat": LAT, "lng": LON}}),
    lambda: json.dumps(json.dumps([LAT, LON])),
    lambda: [LAT, LON],
    lambda: [str(LAT), str(LON)],
    lambda: {"latitude": LAT, "longitude": LON},
    lambda: {"start_lat": str(LAT), "start_lon": str(LON)},
    lambda: {"gps": {"a": [LAT], "b": LON}},
    lambda: {str(LAT): LON},
    lambda: {"latE7": 488583700, "lonE7": 22944810},
    lambda: "$GPGLL,4851.5022,N,00217.6689,E,225444,A",
    lambda: "+48.858370+002.294481/",
    lambda: "at 8FW4V75V+8Q",
    lambda: "zacharias.quill@example.org",
    lambda: "/home/zacharias/recordings/a.mp4",
    lambda: {"driver_name": "Zacharias Quill"},
    lambda: {"driver": {"fullName": "Zacharias Quill"}},
    lambda: {"owner": "Zacharias Quill"},
    lambda: "driver: Zacharias Quill",
    lambda: "call +33 1 44 11 23 23",
    lambda: {"licensePlate": "QX-773-ZZ"},
    lambda: "QX-773-ZZ",
    lambda: {"north": LAT, "south": LAT - 0.01, "east": LON + 0.01, "west": LON},
    lambda: {"minlat": LAT, "minlon": LON},
    lambda: f"&#52;8.858370,{LON:.6f}",
    lambda: "zacharias.quill [at] example [dot] org",
    lambda: "passenger Zacharias Quill",
    lambda: {"driver": {"first": "Zacharias", "last": "Quill"}},
    lambda: "media/zacharias/a.mp4",
]
#: What no part of may be found in anything that leaves.
TRACES = (
    "58370",
    "58371",
    "58583",
    "94481",
    "294481",
    "5022",
    "6689",
    "488583",
    "V75V",
    "acharias",
    "Quill",
    "44 11",
    "773",
)

plain = st.none() | st.booleans() | st.integers(-99, 99) | st.sampled_from(["car", "lane 2", "0.5 s", "a/b", ""])
keys = st.sampled_from(["frames", "objects", "a", "b", "state", "info", "note", "x"])
documents = st.recursive(
    plain, lambda inner: st.lists(inner, max_size=4) | st.dictionaries(keys, inner, max_size=4), max_leaves=15
)


@st.composite
def planted(draw: st.DrawFn) -> Any:
    """A document with secrets in it, at any depth."""
    value: Any = draw(documents)
    for _ in range(draw(st.integers(1, 4))):
        secret = draw(st.sampled_from(SECRETS))()
        value = draw(
            st.sampled_from(
                [{"note": secret, "rest": value}, [value, secret], {"deep": {"er": [secret]}, "rest": value}]
            )
        )
    return value


@settings(max_examples=400)
@given(planted())
def test_no_planted_secret_comes_out(value: JsonValue) -> None:
    left = json.dumps(sent(value), ensure_ascii=False)
    assert not [trace for trace in TRACES if trace in left]


@given(documents)
def test_a_document_without_secrets_comes_out_as_it_was(value: JsonValue) -> None:
    assert sent(value) == value


@pytest.mark.parametrize(
    "text",
    ["1" * 100_000, "1," * 50_000, "a@" * 50_000, "/a" * 50_000, "lat " * 25_000, "37.1 " * 20_000, "N1 " * 30_000,
     "+1" * 50_000, "%25" * 30_000, "[" * 5_000, "://" * 30_000, "0 " * 50_000, "A-" * 50_000,
     "Ab " * 30_000, "1 Ab " * 20_000, "user=" * 20_000, "a/" * 50_000, "&#5" * 30_000, "\uff13." * 30_000,
     "x=1.12345," * 10_000, "$A/" * 30_000, "Via " * 30_000, "1 rue a " * 15_000, "AB1" * 30_000, "(at)" * 30_000],
)  # fmt: skip
def test_a_hostile_text_takes_no_longer_than_another(text: str) -> None:
    """A backtracking pattern would take minutes; the suite's own time limit ends it."""
    assert isinstance(sent({"location": text, "note": text}), dict)
