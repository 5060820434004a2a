"""What must never reach a backend: coordinates finer than two decimals, wherever they hide."""

import re
from collections.abc import Iterator
from typing import Any

DECIMALS = 2
"""About 1 km."""

_LATITUDE_OR_LONGITUDE = frozenset({"lat", "latitude", "lon", "lng", "long", "longitude"})
_PLACES = frozenset({"location", "start_location", "end_location", "position", "gps", "coordinates", "place"})
_NUMBER = re.compile(r"[-+]?\d+(?:\.\d+)?(?:[eE][-+]?\d+)?")
_PAIR = re.compile(r"\s*[-+]?\d{1,3}\.\d+\s*[,; ]\s*[-+]?\d{1,3}\.\d+\s*")
_IN_TEXT = re.compile(
    rb'"(?:lat|latitude|lon|lng|long|longitude)"\s{0,8}:\s{0,8}"?([-+]?\d{1,3}\.\d+)'
    rb'|"location"\s{0,8}:\s{0,8}[\["]\s{0,8}([-+]?\d{1,3}\.\d+)"?\s{0,8},\s{0,8}"?([-+]?\d{1,3}\.\d+)'
)
_LONGEST_MATCH = 256


def is_coarse(coordinate: float) -> bool:
    """Whether a coordinate, in degrees, has at most two decimals."""
    return round(coordinate, DECIMALS) == coordinate


def fine_coordinates(document: Any, path: str = "") -> Iterator[str]:
    """The dotted paths of all coordinates in a JSON document that are finer than two decimals.

    Found are numbers and numeric strings under names like `lat` and `longitude`, all numbers under names
    like `location`, and strings that are wholly a "lat,lon" pair under any name.
    """
    yield from _fine(document, path, place=False)


def _fine(value: Any, path: str, *, place: bool) -> Iterator[str]:
    if isinstance(value, dict):
        for name, inner in value.items():
            here = f"{path}.{name}" if path else str(name)
            is_place = place or str(name).lower() in _PLACES | _LATITUDE_OR_LONGITUDE
            yield from _fine(inner, here, place=is_place)
    elif isinstance(value, list):
        for index, inner in enumerate(value):
            yield from _fine(inner, f"{path}.{index}", place=place)
    elif isinstance(value, bool):
        return
    elif isinstance(value, int | float):
        if place and not is_coarse(value):
            yield path
    elif isinstance(value, str) and (place or _PAIR.fullmatch(value)) and _has_fine_number(value):
        yield path


def _has_fine_number(text: str) -> bool:
    return any(not is_coarse(float(number)) for number in _NUMBER.findall(text))


class CoordinateScanner:
    """Looks for fine coordinates in a JSON file that is too large to hold, block by block."""

    def __init__(self) -> None:
        self._tail = b""

    def has_fine(self, block: bytes) -> bool:
        """Whether this block, together with the end of the one before, shows a fine coordinate."""
        window = self._tail + block
        # A number cut off by the end of the window looks coarse now and is seen whole with the next block.
        self._tail = window[-_LONGEST_MATCH:]
        return any(not is_coarse(float(number)) for match in _IN_TEXT.finditer(window) for number in match.groups(b"0"))
