"""What may leave the vehicle, and in which form: coarse places, pseudonyms, paths fit for a log."""

import hashlib
import hmac
import logging
import math
import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any, NamedTuple

#: Decimals of a degree that a coordinate keeps: about 1.1 km north-south (wire contract, Privacy).
COORDINATE_DECIMALS = 2

#: Keys that name a coordinate, as whole words of a key: `lat`, `start_lat`, `gpsLongitude`.
_COORDINATE_WORDS = frozenset({"lat", "lon", "lng", "latitude", "longitude"})
_PLACE_WORDS = ("location", "position", "coordinate", "gps", "geo", "place", "waypoint", "latlon", "latlng")
_WORD = re.compile(r"[A-Z]?[a-z]+|[A-Z]+(?![a-z])")
#: Numbers that may be finer than two decimals: written so, or with an exponent. Possessive, and from a number's first
#: digit only: a text of a million digits must take no longer than one of a million letters.
_FINE_NUMBER = re.compile(r"[-+]?(?:(?<!\d)\d++(?:\.\d*+)?|\.\d++)[eE][-+]?\d+|[-+]?(?:(?<!\d)\d++)?\.\d{3,}")
#: Two such numbers with a comma between: a place in a URL's path.
_FINE_PAIR = re.compile(r"[-+]?\d{1,3}\.\d{3,}(?:,|%2[cC])[-+]?\d{1,3}\.\d{3,}")
#: What follows `/drivers/` is the caller's own id for a person.
_PERSON_IN_PATH = re.compile(r"(/drivers/)(?!leaderboard\b)[^/?#\s]+")
_CONTROL = re.compile(r"[\x00-\x1f\x7f-\x9f]+")


class Place(NamedTuple):
    """A coarse place: degrees, two decimals."""

    lat: float
    lon: float


def coarse_degrees(value: float) -> float:
    """Round degrees to what may be kept; never the negative zero, which would tell more than zero."""
    return round(value, COORDINATE_DECIMALS) + 0.0


def coarse_place(location: object) -> Place:
    """Read a place in the forms that vehicles' software uses and keep only what may be kept.

    Args:
        location: `{"lat": …, "lon": …}` (also `latitude`/`longitude`, `lng`), a pair, a "lat,lon" string, or an object
            with `lat` and `lon`. Degrees, WGS 84.

    Raises:
        ValueError: Not a place, not finite, or not on Earth. The message holds no coordinate.
    """
    lat, lon = _coordinates(location)
    if not (-90.0 <= lat <= 90.0 and -180.0 <= lon <= 180.0):
        raise ValueError("location is not on Earth: lat must be within ±90 and lon within ±180 degrees")
    return Place(coarse_degrees(lat), coarse_degrees(lon))


def place_or_none(location: object) -> Place | None:
    """Read a place likewise; None where a receiver has no fix yet, which it says with null or nothing at all.

    Raises:
        ValueError: It says something, and that is no place.
    """
    return None if _has_no_fix(location) else coarse_place(location)


def _has_no_fix(location: object) -> bool:
    match location:
        case None:
            return True
        case str():
            parts: Sequence[object] = [part.strip().lower() or None for part in location.split(",")]
        case Mapping():
            keys = {str(key).lower(): value for key, value in location.items()}
            known = [keys[name] for name in ("lat", "latitude", "lon", "lng", "long", "longitude") if name in keys]
            parts = known or ([None] if not keys else [keys])
        case Sequence():
            parts = location
        case _:
            parts = [getattr(location, "lat", location), getattr(location, "lon", location)]
    return any(_is_nothing(part) for part in parts)


def _is_nothing(value: object) -> bool:
    return value is None or (isinstance(value, str) and value in {"null", "none"})


def _coordinates(location: object) -> tuple[float, float]:
    try:
        match location:
            case str():
                lat, lon = location.split(",")
            case Mapping():
                keys = {str(key).lower(): value for key, value in location.items()}
                lat = _first(keys, "lat", "latitude")
                lon = _first(keys, "lon", "lng", "long", "longitude")
            case Sequence():
                lat, lon = location
            case _:
                lat, lon = location.lat, location.lon  # type: ignore[attr-defined]
        pair = float(lat), float(lon)
    except (TypeError, ValueError, KeyError, AttributeError):
        # `from None`: the cause's text would repeat the coordinates.
        raise ValueError('location must be {"lat": degrees, "lon": degrees}, a pair, or a "lat,lon" string') from None
    if not all(map(math.isfinite, pair)):
        raise ValueError("location has a coordinate that is not a number")
    return pair


def _first(keys: Mapping[str, Any], *names: str) -> Any:
    return next(keys[name] for name in names if name in keys) if any(name in keys for name in names) else keys[names[0]]


def coarsen(value: Any, *, place: bool = False) -> Any:
    """Copy JSON with every coordinate in it rounded, in whatever form it comes.

    Numbers under keys such as `lat` or `longitude`, and every number (also inside a string) under keys that name a
    place (`location`, `gps_position`, GeoJSON's `coordinates`, …).

    Args:
        value: JSON: mappings, sequences, strings, numbers, None.
        place: True where `value` stands under a key that names a place.
    """
    match value:
        case float():
            return coarse_degrees(value) if place else value
        case str():
            return _coarse_text(value, _FINE_NUMBER) if place else value
        case Mapping():
            return {key: coarsen(inner, place=place or names_a_place(str(key))) for key, inner in value.items()}
        case bytes() | bytearray():
            return value
        case Sequence():
            return [coarsen(inner, place=place) for inner in value]
    return value


def coarse_path(path: str) -> str:
    """Return a URL's path with the places in it (`/near/37.774929,-122.419416`) coarsened."""
    return _FINE_PAIR.sub(lambda pair: _coarse_text(pair[0], _FINE_NUMBER), path)


def _coarse_text(text: str, number: re.Pattern[str]) -> str:
    return number.sub(lambda match: repr(coarse_degrees(float(match[0]))), text)


def names_a_place(key: str) -> bool:
    """Whether what stands under a key is a place, or part of one."""
    lowered = key.lower()
    if any(word in lowered for word in _PLACE_WORDS) or lowered == "long":
        return True
    return any(word.lower() in _COORDINATE_WORDS for word in _WORD.findall(key))


def pseudonym(driver_id: str | None, key: bytes | None) -> str | None:
    """Stand-in for a driver: `d_` + 32 hex digits of HMAC-SHA256(key, driver_id), or None where either is missing.

    The same driver is the same pseudonym across the fleet; without the key nobody gets back (wire contract, Privacy).
    """
    if not driver_id or not key:
        return None
    return "d_" + hmac.new(key, driver_id.encode(), hashlib.sha256).hexdigest()[:32]


def loggable_path(path: str) -> str:
    """Return the path as it may stand in a log or an error message: no driver's id, no query, no place."""
    return _PERSON_IN_PATH.sub(r"\1{id}", coarse_path(path.partition("?")[0]))


def loggable_text(text: str, limit: int = 200) -> str:
    """One line of text from outside, fit for a log: no control characters, no driver's id or place, not endless."""
    return _PERSON_IN_PATH.sub(r"\1{id}", coarse_path(_CONTROL.sub(" ", text[: 4 * limit]))).strip()[:limit]


# --- what others log ---

#: A filter counts only on the very logger that a record is made with, so each is named (httpx 0.28, httpcore 1.0).
_LOGGERS = ("httpx", "httpcore.connection", "httpcore.http11", "httpcore.http2", "httpcore.proxy", "httpcore.socks")
_ours: ContextVar[bool] = ContextVar("sentinel_sync_request", default=False)


def _is_theirs(_record: logging.LogRecord) -> bool:
    return not _ours.get()


def mute() -> None:
    """Install the filter; again is once."""
    for name in _LOGGERS:
        logging.getLogger(name).addFilter(_is_theirs)


@contextmanager
def unlogged() -> Iterator[None]:
    """Drop what httpx and httpcore log in this task meanwhile."""
    token = _ours.set(True)
    try:
        yield
    finally:
        _ours.reset(token)
