"""One filter for all JSON of a recording, by key and by value: what of it may leave the vehicle, and in which form.

docs/privacy.md says what it knows and what it cannot know.
"""

import json
import math
import re
from dataclasses import dataclass, replace
from functools import lru_cache

import pydantic_core
from pydantic import JsonValue

from sentinel_sync.base.payloads import is_finite, read_json
from sentinel_sync.base.privacy import coarse_degrees, names_a_place
from sentinel_sync.scenarios.rules.private_text import PLACE, clean, is_fine, is_fine_pair, is_pair, is_plain

_WORD = re.compile(r"[A-Z]?[a-zäöüß]+|[A-Z]+(?![a-z])|\d+")
_PERSONS = frozenset(
    {
        "driver", "owner", "user", "passenger", "operator", "occupant", "customer", "person", "caller", "codriver",
        "author", "annotator", "labeler", "labeller", "reviewer", "fahrer", "fahrerin", "beifahrer", "halter",
        "insasse", "conducteur", "passager", "conductor", "pasajero", "conducente",
    }
)  # fmt: skip
#: What of a person tells who it is.
_IDENTITY = frozenset(
    {
        "id", "ids", "name", "names", "uuid", "guid", "profile", "no", "number", "code", "key", "ref", "label", "tag",
        "first", "last", "middle", "given", "family", "initials", "nick", "alias", "handle", "nombre", "nom", "nome",
        "vorname", "nachname", "vector", "descriptor", "template", "encoding", "features",
    }
)  # fmt: skip
#: Keys that are one word or a few, run together: nothing under them leaves.
_PERSONAL = frozenset(
    {
        "firstname", "lastname", "fullname", "surname", "familyname", "givenname", "middlename", "nickname",
        "maidenname", "username", "displayname", "login", "email", "emails", "mail", "emailaddress", "contact",
        "contacts", "emergencycontact", "emergencycontacts", "phone", "phonenumber", "phoneno", "mobile",
        "mobilenumber", "cellphone", "telephone", "telephonenumber", "tel", "msisdn", "fax", "address",
        "streetaddress", "homeaddress", "postaladdress", "street", "housenumber", "postcode", "postalcode", "zip",
        "zipcode", "birthday", "birthdate", "dateofbirth", "dob", "ssn", "passport", "iban", "ipaddress",
        "macaddress", "imei", "imsi", "iccid", "ssid", "bssid", "license", "licence", "licenseplate",
        "licenceplate", "licensenumber", "licencenumber", "licenseplatenumber", "numberplate", "plate",
        "platenumber", "platetext", "registrationnumber", "kennzeichen", "vin", "lpr", "anpr", "faceprint",
        "fingerprint", "voiceprint", "biometrics", "biometric", "faceid", "facevector", "facetemplate",
        "faceencoding", "facedescriptor", "facefeatures", "recordedby", "createdby", "uploadedby", "annotatedby",
        "drivenby", "hostname", "computername", "devicename", "initials", "whatsapp", "telegram", "skype", "vorname",
        "nachname", "adresse", "telefon", "telefonnummer", "handynummer", "mailadresse",
    }
)  # fmt: skip
_CONTAINS = ("polyline", "embedding", "licenseplate", "licenceplate", "numberplate", "emailaddress")
#: A word that begins a number to call; `phone_detected` is none.
_PHONES = frozenset({"phone", "mobile", "cell", "tel", "telephone"})
_COORDINATES = frozenset(
    {
        "lat", "latitude", "lon", "lng", "long", "longitude", "lattitude", "latitud", "longitud", "latitudine",
        "longitudine", "breitengrad", "längengrad", "laengengrad",
    }
)  # fmt: skip
#: The same with a word run into it: `minlat`, `startlon`, `egolat`.
_RUN_IN = re.compile(
    r"(?:min|max|start|end|from|to|gps|geo|car|ego|cur|current|last|home|dest|target|user|my|center|centre|mean|avg)"
    r"(?:lat|lon|lng|latitude|longitude)"
)
#: What a coordinate's number may stand under once more.
_VALUES = frozenset({"value", "val", "raw", "degrees", "deg"})
#: The corners of an area: west, south, east, north.
_CORNERS = (
    ("xmin", "ymin", "xmax", "ymax"),
    ("minx", "miny", "maxx", "maxy"),
    ("left", "bottom", "right", "top"),
    ("west", "south", "east", "north"),
)
_PLACE_KEYS = frozenset({"pos", "fix", "gnss", "gcj02", "wgs84", "webmercator", "mercator"})
#: Keys of a place in a grid or code of its own.
_GRIDS = frozenset({"easting", "northing", "eastings", "northings"})
_CODES = frozenset(
    {
        "mgrs", "usng", "gridref", "gridreference", "what3words", "w3w", "quadkey", "h3", "h3index", "s2", "s2cell",
        "maidenhead", "gridlocator", "gridsquare", "gars", "georef", "utmref", "osgb", "osgridref",
    }
)  # fmt: skip
#: Of a place in degrees, minutes and seconds: all but the degrees.
_FRACTIONS = frozenset({"min", "mins", "minute", "minutes", "sec", "secs", "second", "seconds", "milliseconds"})
#: Keys beside which `x` and `y` are a place on Earth.
_REFERENCE_SYSTEMS = frozenset({"spatialreference", "wkid", "crs", "srs", "epsg", "srid"})
_MOST_DEGREES = 180.0
#: Of a map in metres; beyond it is no place on Earth.
_MOST_METRES = 20_100_000.0
#: Of a line of places so many are looked at, to tell that it is one.
_FIRST_FEW = 4
#: Numbers within this are finite.
_PLAIN = 1e300
#: A place in metres is rounded to so many.
_GRID_METRES = 1000
#: So far from the Earth's middle is its surface, metres: what three numbers of that length are (ECEF).
_EARTH_METRES = (6_330_000.0, 6_400_000.0)
_NUMBER = re.compile(r"\s*[-+]?\d{1,3}\.\d+\s*")
_PART = re.compile(r"\s*[-+]?\d{1,3}(?:\.\d*)?\s*")
_DIGITS = re.compile(r"\d+(?:\.\d+)?")
_LONG_FRACTION = re.compile(r"\d{3}\s*/\s*\d")
_FINE_KEY = re.compile(r"[-+]?\d{1,3}\.\d{4,}")
_RATIONAL = re.compile(r"\s*[-+]?\d+\s*/\s*\d+\s*")
#: Characters of one that is a place: Python reads no number of more than some thousand digits.
_LONGEST_RATIONAL = 64
#: Numbers of a place from the Earth's middle, with what may stand behind it: a fourth coordinate, a heading.
_LONGEST_POSE = 7


@dataclass(frozen=True, slots=True)
class Context:
    """Where a value stands.

    Attributes:
        place: Under a key that names a place.
        coordinate: Directly under a key of one coordinate.
        person: Under a key that names a person.
        names_are_labels: `name` is what was seen, not who (annotations).
    """

    place: bool = False
    coordinate: bool = False
    person: bool = False
    names_are_labels: bool = False

    def under(self, key: str) -> "Context | None":
        """The context of what stands under a key; None where nothing under it may leave."""
        return _under(self, key)


@dataclass(frozen=True, slots=True)
class _Traits:
    personal: bool
    is_name: bool
    is_identity: bool
    person: bool
    face: bool
    place: bool
    coordinate: bool
    phone: bool
    grid: bool
    code: bool
    fraction: bool
    reference_system: bool
    corner: bool
    plain: bool

    @property
    def special(self) -> bool:
        """Whether the key alone says what becomes of its value."""
        return self.phone or self.grid or self.code or self.fraction or self.person


@lru_cache(maxsize=8192)
def _under(context: Context, key: str) -> Context | None:
    traits = _traits_of(key)
    if traits.personal or (traits.is_name and (context.person or not context.names_are_labels)):
        return None
    if context.person and traits.is_identity:
        return None
    place, person = context.place or traits.place, context.person or traits.person
    coordinate = traits.coordinate or (context.coordinate and key.lower() in _VALUES)
    return replace(context, place=place, coordinate=coordinate, person=person or traits.face)


@lru_cache(maxsize=4096)
def _traits_of(key: str) -> _Traits:
    words = [word.lower() for word in _WORD.findall(key)]
    joined = "".join(words)
    singular = words[-1].removesuffix("s") if words else ""
    about_person = bool(_PERSONS & {*words[:-1], singular})
    personal = (
        joined in _PERSONAL
        or any(part in joined for part in _CONTAINS)
        or (about_person and words[-1] in _IDENTITY)
        or joined.removesuffix("s") in _PERSONAL
    )
    coordinate = any(
        word in _COORDINATES or word.rstrip("0123456789e") in _COORDINATES or _RUN_IN.fullmatch(word) for word in words
    )
    return _Traits(
        personal=personal,
        is_name=joined == "name",
        is_identity=joined in _IDENTITY,
        person=singular in _PERSONS,
        face=singular == "face",
        place=names_a_place(key)
        or joined in _CODES | _GRIDS | _PLACE_KEYS
        or "utm" in words
        or "geohash" in joined
        or coordinate,
        coordinate=coordinate,
        phone=bool(_PHONES.intersection(words)),
        grid=bool(_GRIDS.intersection(words)),
        code=joined in _CODES,
        fraction=bool(_FRACTIONS.intersection(words)),
        reference_system=joined in _REFERENCE_SYSTEMS,
        corner=any(joined in corners for corners in _CORNERS),
        plain=is_plain(key) and _FINE_KEY.fullmatch(key) is None,
    )


def outgoing(value: JsonValue, context: Context) -> JsonValue:
    """What of a value may leave: persons and paths left out, places to two decimals, all else as it was."""
    if value is None or isinstance(value, bool):
        return value
    if isinstance(value, float | int):
        return _outgoing_number(value, context)
    if isinstance(value, str):
        if not context.place and is_plain(value):
            return value
        return _outgoing_text(value, context)
    if isinstance(value, list):
        return _outgoing_list(value, context)
    return _outgoing_object(value, context)


def _outgoing_number(value: float, context: Context) -> JsonValue:
    if not context.place and -_PLAIN < value < _PLAIN:
        return value
    if not is_finite(value):
        return None
    if context.coordinate and abs(value) > _MOST_DEGREES:
        return None  # in a degree's fractions, or in semicircles: nothing that can be rounded
    return coarse_degrees(value) if context.place and isinstance(value, float) else value


def _outgoing_text(text: str, context: Context) -> JsonValue:
    if context.coordinate:
        try:
            number = float(text)
        except ValueError:
            number = 0.0
        if not is_finite(number) or abs(number) > _MOST_DEGREES:
            return None
    if context.place and _is_rational(text):
        return _whole_degrees(text)
    cleaned = clean(text, lambda inner: _inner_json(inner, context), place=context.place)
    # Degrees, minutes and seconds in a form that is not known, or fractions: "[37, 46, 1337/50]".
    is_left = context.coordinate and len(_DIGITS.findall(cleaned)) > 1
    return PLACE if is_left or (context.place and _LONG_FRACTION.search(cleaned)) else cleaned


def _inner_json(text: str, context: Context) -> str | None:
    """The JSON inside a text as it may leave; None where there is none. Raises MalformedJSONError likewise."""
    return outgoing_text(text.encode("utf-8", "surrogatepass"), read_json(text), context).decode()


def outgoing_text(text: bytes, value: JsonValue, context: Context) -> bytes:
    """A JSON text as it may leave: as it was where nothing in it had to be changed.

    Args:
        value: What was read from it.
    """
    treated = outgoing(value, context)
    if treated == value and _says_only(text, value):
        return text
    return pydantic_core.to_json(treated, inf_nan_mode="null")


def _says_only(text: bytes, value: JsonValue) -> bool:
    """Whether what was read of a text is all that stands in it.

    Of a key that is there twice the last counts, silently, and a number that is none was read as null.
    """

    def each_key_once(pairs: list[tuple[str, object]]) -> dict[str, object]:
        found = dict(pairs)
        if len(found) != len(pairs):
            raise ValueError("a key is there twice")
        return found

    try:
        return bool(json.loads(text.removeprefix(b"\xef\xbb\xbf"), object_pairs_hook=each_key_once) == value)
    except (ValueError, RecursionError):
        return False


def _outgoing_object(value: dict[str, JsonValue], context: Context) -> JsonValue:
    if not context.place and any(
        traits.reference_system or (traits.corner and _is_area(value)) for traits in map(_traits_of, value)
    ):
        context = replace(context, place=True)
    if _is_earth_centred([value.get(axis) for axis in "xyz"]):
        value = value | {axis: _coarse_metres(value[axis]) for axis in "xyz"}
    elif context.place and _are_metres([value.get("x"), value.get("y")]):
        value = value | {axis: _coarse_metres(value[axis]) for axis in "xy"}
    elif context.place and _is_rational(value):
        return _whole_degrees(value)
    kept: dict[str, JsonValue] = {}
    for key, inner in value.items():
        under = _under(context, key)
        if under is None:
            continue
        traits = _traits_of(key)
        if traits.plain and not traits.special:  # as nearly all are: this is where the time goes
            kept[key] = outgoing(inner, under)
            continue
        if traits.phone and _is_to_call(inner):
            continue
        name = key if traits.plain else outgoing_key(key, inner)
        if name != key and _FINE_KEY.fullmatch(key):
            under = replace(under, place=True)
        kept[name] = _outgoing_special(traits, inner, under)
    return kept


def _outgoing_special(traits: _Traits, value: JsonValue, context: Context) -> JsonValue:
    """What becomes of a value whose key alone says how: grids, codes, fractions of a degree, persons."""
    match value:
        case int() | float() if traits.grid and not isinstance(value, bool):
            return round(value, -3) if abs(value) >= _GRID_METRES and is_finite(value) else None
        case str() if traits.grid or traits.code:
            return PLACE
        case int() | float() if traits.code:
            return None
        case int() | float() | str() if traits.fraction and context.place and not isinstance(value, bool):
            return None
        case str() if traits.person:
            return None
        case list() if traits.person:
            return [None if isinstance(inner, str) else outgoing(inner, context) for inner in value]
    return outgoing(value, context)


def outgoing_key(key: str, value: JsonValue = None) -> str:
    """A key as it may leave: a place or a person may stand in it as well."""
    if _FINE_KEY.fullmatch(key):
        number = _number_in(value)
        return repr(coarse_degrees(float(key))) if number is not None and is_pair(float(key), number) else key
    return clean(key, lambda _: None, place=False)


def _number_in(value: JsonValue) -> float | None:
    """A value that is a number finer than two decimals."""
    match value:
        case float() if is_finite(value) and is_fine(repr(value)):
            return value
        case str() if _NUMBER.fullmatch(value) and is_fine(value):
            return float(value)
    return None


def _is_to_call(value: JsonValue) -> bool:
    match value:
        case str():
            return sum(character.isdigit() for character in value) >= 5
        case int():
            return not isinstance(value, bool) and value >= 100_000
    return False


def _is_area(value: dict[str, JsonValue]) -> bool:
    """Whether an object has the sides or corners of an area on Earth."""
    keys = {key.lower().replace("_", ""): inner for key, inner in value.items()}
    return any(keys.keys() >= set(corners) and _is_place([keys[corner] for corner in corners]) for corners in _CORNERS)


def _are_metres(values: list[JsonValue]) -> bool:
    """Whether two numbers in a place are metres of a map's projection (web mercator: within ±20,037,508)."""
    return len(values) == 2 and all(
        isinstance(value, int | float) and not isinstance(value, bool) and _MOST_DEGREES < abs(value) < _MOST_METRES
        for value in values
    )


def _coarse_metres(value: JsonValue) -> JsonValue:
    return round(value, -3) if isinstance(value, int | float) else value


def _outgoing_list(values: list[JsonValue], context: Context) -> JsonValue:
    if context.coordinate and 2 <= len(values) <= 3 and all(_is_part_of_degrees(value) for value in values):
        return [_first_part(values[0], context), *[None] * (len(values) - 1)]
    if _is_earth_centred(values[:3]) and len(values) <= _LONGEST_POSE:
        return [*map(_coarse_metres, values[:3]), *(outgoing(value, context) for value in values[3:])]
    if context.coordinate and _is_rational(values):
        return _whole_degrees(values)
    if context.place and _are_metres(values[:2]) and len(values) <= 3:
        return [_coarse_metres(value) for value in values[:2]] + values[2:]
    if context.place and len(values) == 3 and all(_is_rational(value) for value in values):
        return [_whole_degrees(values[0]), None, None]  # EXIF: degrees, minutes, seconds
    if context.place and 2 <= len(values) <= 3 and any(_is_scaled(value) for value in values[:2]):
        return [None] * len(values)
    if _is_place(values) or any(isinstance(value, list) and _is_place(value) for value in values[:_FIRST_FEW]):
        context = replace(context, place=True)
    inner = replace(context, coordinate=False) if context.coordinate else context
    return [outgoing(value, inner) for value in values]


def _is_rational(value: JsonValue) -> bool:
    match value:
        case [int(), int()]:
            return True
        case {"numerator": int(), "denominator": int()}:
            return True
        case str():
            return _RATIONAL.fullmatch(value) is not None
    return False


def _whole_degrees(rational: JsonValue) -> JsonValue:
    """A fraction of degrees as whole ones, written as it was: 37774929/1000000 tells as much as 37.774929 does."""
    match rational:
        case [int(above), int(below)] | {"numerator": int(above), "denominator": int(below)}:
            degrees = _divided(above, below)
            if degrees is None:
                return None
            return [degrees, 1] if isinstance(rational, list) else {"numerator": degrees, "denominator": 1}
        case str() if len(rational) <= _LONGEST_RATIONAL:
            degrees = _divided(*map(int, rational.split("/")))
            return None if degrees is None else f"{degrees}/1"
    return None


def _divided(above: int, below: int) -> int | None:
    degrees = above // below if below else None
    return degrees if degrees is not None and abs(degrees) <= _MOST_DEGREES else None


def _is_part_of_degrees(value: JsonValue) -> bool:
    """Whether it can be degrees, minutes or seconds, in whichever form."""
    if isinstance(value, str):
        return _is_rational(value) or _PART.fullmatch(value) is not None
    if isinstance(value, int | float):
        return not isinstance(value, bool) and abs(value) <= _MOST_DEGREES
    return _is_rational(value)


def _first_part(value: JsonValue, context: Context) -> JsonValue:
    if _is_rational(value):
        return _whole_degrees(value)
    return value if isinstance(value, int) else outgoing(value, context)


def _is_scaled(value: JsonValue) -> bool:
    return isinstance(value, int) and abs(value) > 1_000_000


def _is_place(values: list[JsonValue]) -> bool:
    """Whether a list is latitude and longitude, perhaps with a height or heading, or the corners of an area."""
    if not 2 <= len(values) <= 6:
        return False
    if len(values) <= 3:
        return _is_fine_pair(values[:2])
    if len(values) == 5:
        return False
    half = len(values) // 2
    corners = [*values[:2], *values[half : half + 2]]
    if not (_is_fine_pair(corners[:2]) and _is_fine_pair(corners[2:])):
        return False
    west, south, east, north = (float(str(number)) for number in corners)
    # The sides of an area that somebody drove through are short; those of a box in a picture hardly ever.
    return max(abs(east - west), abs(north - south)) < 1.0


def _is_fine_pair(values: list[JsonValue]) -> bool:
    """Whether two numbers, also written as texts, can be a place and are finer than may leave."""
    texts = [str(value) for value in values if isinstance(value, float | str) and not isinstance(value, bool)]
    if len(texts) != 2 or not all(_NUMBER.fullmatch(text) for text in texts):
        return False
    return is_pair(*map(float, texts)) and is_fine_pair(*(text.strip() for text in texts))


def _is_earth_centred(values: list[JsonValue]) -> bool:
    numbers = [value for value in values if isinstance(value, int | float) and not isinstance(value, bool)]
    if len(values) != 3 or len(numbers) != 3 or not all(is_finite(value) for value in numbers):
        return False
    return _EARTH_METRES[0] <= math.hypot(*numbers) <= _EARTH_METRES[1]
