"""A recorder's metadata.json: what it must have, and what of it may leave the vehicle."""

import re
from collections.abc import Mapping
from enum import Enum
from functools import lru_cache

import pydantic_core
from pydantic import JsonValue

from sentinel_sync.base.errors import ScenarioError
from sentinel_sync.base.privacy import coarsen
from sentinel_sync.scenarios.rules.plan import ANNOTATIONS_NAME, METADATA_NAME, check_name

_LONGEST_KEY = 64
#: White space that a pretty-printer puts between a key and its colon.
_LONGEST_GAP = 64
#: Longer than any key with its colon: so much is held back, so that no key is cut in two.
_HOLD = _LONGEST_KEY + _LONGEST_GAP + 8
#: A longer number or text under a place's key is nobody's coordinate, and would have to be held whole.
_LONGEST_TOKEN = 1 << 20

_KEY = re.compile(rb'"([^"\\]{1,%d})"\s{0,%d}:' % (_LONGEST_KEY, _LONGEST_GAP))
_TOKEN = re.compile(
    rb'(?P<space>[\s,:]+)|(?P<open>[\[{])|(?P<close>[\]}])|(?P<text>"(?:[^"\\]|\\.)*")'
    rb"|(?P<number>-?\d[\d.eE+-]*)|(?P<word>-?[A-Za-z]+)",
    re.DOTALL,
)
#: A number that is, or could be, finer than two decimals.
_FINE = re.compile(rb"\.\d{3}|[eE]")
_ESCAPE = re.compile(r"(\\u[0-9A-Fa-f]{4}|\\.)", re.DOTALL)
#: The same in annotations, where a bare `name` is the label of what was seen.
_PERSONAL_IN_ANNOTATIONS = re.compile(
    r"(?:driver|owner|user|passenger)_?(?:id|name|uuid|profile)|.*embedding.*|(?:emergency_?)?contacts?|.*e_?mail.*",
    re.IGNORECASE,
)
#: A recorder writes a few hundred bytes; backends take no more than this of a JSON body.
LARGEST_METADATA = 1 << 20
#: Nested deeper it is no recorder's, and would only exhaust the stack.
_DEEPEST = 50

#: Keys that name a person or how to reach one: none of it may leave outside the encrypted profile (wire contract).
_PERSONAL = re.compile(
    r"(?:driver|owner|user|passenger|operator)(?:_?(?:id|name|uuid|profile))?|(?:first|last|full)?_?name"
    r"|.*embedding.*|(?:emergency_?)?contacts?|(?:.*_)?phone(?:_?(?:number|no))?|.*e_?mail.*|licen[cs]e(?:_?(?:plate|number))?",
    re.IGNORECASE,
)
#: Two numbers finer than may leave, side by side in a text, under whatever key.
_PAIR = re.compile(r"(?<![\w.])[-+]?\d{1,3}\.\d{3,}[°\sNSns]{0,4}[,;/ ]\s{0,4}[-+]?\d{1,3}\.\d{3,}(?![\w.])")
#: Degrees with minutes, and perhaps seconds: only whole degrees of them leave.
_MINUTES = re.compile(
    r"(\d{1,3}\s?[°º])\s{0,4}\d{1,2}(?:\.\d+)?\s?['\u2032\u2019]"
    r"(?:\s{0,4}\d{1,2}(?:\.\d+)?\s?(?:[\"\u2033\u201d]|''))?"
)
#: A key of one coordinate alone. In units of a degree's fraction (1e-7, minutes) it is nothing that can be rounded.
_COORDINATE = re.compile(r".*(?:latitude|longitude).*|(?:.*[_-])?(?:lat|lon|lng)(?:[_-].*|E\d)?", re.IGNORECASE)
_MOST_DEGREES = 180.0
#: A path: absolute (two segments or more, so that "24 m/s" and "and/or" are none), home, relative by dots, a drive's,
#: or a file URL.
_PATH = re.compile(
    r"""(?<![\w/.:])(?:file:/{0,3}|[A-Za-z]:(?=[\\/])|~|\.{1,2}(?=[\\/]))?(?:[\\/][^\\/\s"':;,]+){2,}[\\/]?"""
)
#: A value that is nothing but a path may be shorter, and have blanks in it.
_WHOLE_PATH = re.compile(r"\s*(?:file:|~[\\/]|\.{1,2}[\\/]|[\\/]|[A-Za-z]:[\\/]).*", re.DOTALL)
_SEPARATOR = re.compile(r"[\\/]+")


class _Treatment(Enum):
    """What becomes of a key's value."""

    COARSEN = "coarsen"
    DROP = "drop"


class AnnotationFilter:
    """Passes JSON on in blocks: places to two decimals, what names a person as `null`."""

    def __init__(self) -> None:
        self._held = b""
        self._treatment: _Treatment | None = None
        self._depth = 0

    def feed(self, block: bytes) -> bytes:
        """Take the next block; return what can be passed on so far.

        Raises:
            ScenarioError: This is not JSON.
        """
        return self._pass_on(self._held + block, final=False)

    def finish(self) -> bytes:
        """Return what was held back.

        Raises:
            ScenarioError: The file ended within a value.
        """
        rest = self._pass_on(self._held, final=True)
        if self._treatment is not None:
            raise ScenarioError("the annotations are cut off")
        return rest

    def _pass_on(self, text: bytes, *, final: bool) -> bytes:
        passed: list[bytes] = []
        at = 0
        while True:
            if self._treatment is None:
                end = self._skip_to_value(text, at)
                if end is None:
                    end = len(text) if final else max(at, len(text) - _HOLD)
                    passed.append(text[at:end])
                    self._held = text[end:]
                    return b"".join(passed)
                passed.append(text[at:end])
                at = end
                continue
            token = _TOKEN.match(text, at)
            if token is None or (token.end() == len(text) and not final):
                if token is None and len(text) - at > _LONGEST_TOKEN:
                    raise ScenarioError("the annotations are not valid JSON")
                self._held = text[at:]
                return b"".join(passed)
            piece, at = self._treat(token, at)
            passed.append(piece)

    def _skip_to_value(self, text: bytes, at: int) -> int | None:
        """Where the next value that must be treated begins."""
        for key in _KEY.finditer(text, at):
            self._treatment = _treatment_of(key[1])
            if self._treatment is not None:
                self._depth = 0
                return key.end()
        return None

    def _treat(self, token: re.Match[bytes], at: int) -> tuple[bytes, int]:
        """What stands for one token within a treated value, and where to go on."""
        drops = self._treatment is _Treatment.DROP
        match token.lastgroup:
            case "space":
                return (b"" if drops and self._depth else token[0]), token.end()
            case "open":
                self._depth += 1
                return (b"" if drops else token[0]), token.end()
            case "close":
                if self._depth == 0:  # a key without a value: not JSON, and not ours to judge here
                    self._treatment = None
                    return b"", at
                self._depth -= 1
            case _:
                pass
        if self._depth == 0:
            self._treatment = None
            return (b"null" if drops else _coarse(token)), token.end()
        return (b"" if drops else _coarse(token)), token.end()


@lru_cache(maxsize=4096)
def _treatment_of(key: bytes) -> _Treatment | None:
    name = key.decode(errors="replace")
    if _PERSONAL_IN_ANNOTATIONS.fullmatch(name):
        return _Treatment.DROP
    # `coarsen` itself is asked, so that what names a place is said in one room only.
    return _Treatment.COARSEN if coarsen({name: 0.001}) != {name: 0.001} else None


def _coarse(token: re.Match[bytes]) -> bytes:
    match token.lastgroup:
        case "number":
            try:
                exact = float(token[0])
            except ValueError:
                raise ScenarioError("the annotations are not valid JSON") from None
            return repr(coarsen(exact, place=True)).encode() if _FINE.search(token[0]) else token[0]
        case "text":
            # Escapes are stepped over: the digits of `\u00e0` are no number.
            pieces = _ESCAPE.split(token[0].decode(errors="surrogateescape"))
            pieces[::2] = [str(coarsen(piece, place=True)) for piece in pieces[::2]]
            return "".join(pieces).encode(errors="surrogateescape")
    return token[0]


def read_metadata(text: bytes) -> dict[str, JsonValue]:
    """Read metadata.json.

    Raises:
        ScenarioError: It is not a JSON object.
    """
    try:
        metadata = pydantic_core.from_json(text, allow_inf_nan=False)
    except ValueError:
        raise ScenarioError(f"{METADATA_NAME} is not valid JSON") from None
    if not isinstance(metadata, dict):
        raise ScenarioError(f"{METADATA_NAME} is not a JSON object")
    if _depth(metadata) > _DEEPEST:
        raise ScenarioError(f"{METADATA_NAME} is nested deeper than {_DEEPEST} levels")
    return metadata


def video_names(metadata: Mapping[str, JsonValue]) -> tuple[str, ...]:
    """File names of the videos that the metadata announces, each once, in its order.

    Raises:
        ScenarioError: `files` is missing or is not camera → file name, or a name is none.
    """
    files = metadata.get("files")
    if not isinstance(files, dict):
        raise ScenarioError(f"{METADATA_NAME} has no `files` (camera: file name)")
    names: dict[str, None] = {}
    for camera, name in files.items():
        if not isinstance(name, str):
            raise ScenarioError(f"{METADATA_NAME} names no file for the camera {camera!a}")
        if check_name(name, "the file name") in {METADATA_NAME, ANNOTATIONS_NAME}:
            raise ScenarioError(f"{METADATA_NAME} calls {name} a video")
        names[name] = None
    return tuple(names)


def outgoing_metadata(metadata: Mapping[str, JsonValue]) -> dict[str, JsonValue]:
    """The metadata as it may leave: coarse places, no persons, no paths of this vehicle's file system."""
    kept = _fit_to_leave(coarsen(dict(metadata)))
    return kept if isinstance(kept, dict) else {}


def _fit_to_leave(value: JsonValue) -> JsonValue:
    match value:
        case str():
            return _without_paths(_without_places(value))
        case dict():
            return {
                _without_paths(key): None if _is_scaled_coordinate(key, inner) else _fit_to_leave(inner)
                for key, inner in value.items()
                if not _PERSONAL.fullmatch(key)
            }
        case list() if _is_place(value):
            return [coarsen(number, place=True) for number in value]
        case list():
            return [_fit_to_leave(inner) for inner in value]
    return value


def _without_places(text: str) -> str:
    pairs_coarse = _PAIR.sub(lambda pair: str(coarsen(pair[0], place=True)), text)
    return _MINUTES.sub(r"\1", pairs_coarse)


def _is_place(values: list[JsonValue]) -> bool:
    """Whether a list may be latitude and longitude, perhaps with a height: finer than may leave, and on Earth."""
    if not 2 <= len(values) <= 3 or not all(isinstance(value, int | float) for value in values):
        return False
    return all(isinstance(value, float) and abs(value) <= _MOST_DEGREES for value in values[:2])


def _is_scaled_coordinate(key: str, value: JsonValue) -> bool:
    try:
        return (
            isinstance(value, int | float | str)
            and _COORDINATE.fullmatch(key) is not None
            and abs(float(value)) > _MOST_DEGREES
        )
    except ValueError:  # a text that is no number
        return False


def _without_paths(text: str) -> str:
    """Reduce every path in a text to its last segment."""
    if _WHOLE_PATH.fullmatch(text):
        return _last_segment(text)
    return _PATH.sub(lambda match: _last_segment(match[0]), text)


def _last_segment(path: str) -> str:
    return next((segment for segment in reversed(_SEPARATOR.split(path.strip())) if segment.strip(".~")), "")


def _depth(value: object) -> int:
    """How deep containers are nested; stops counting where it is too deep anyway."""
    deepest, level = 0, [value]
    while level and deepest <= _DEEPEST:
        deepest += 1
        level = [
            inner
            for container in level
            if isinstance(container, Mapping | list)
            for inner in (container.values() if isinstance(container, Mapping) else container)
        ]
    return deepest
