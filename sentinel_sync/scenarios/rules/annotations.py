"""What may leave of annotations: a file too large to hold, so it is changed as it streams by, and only where it must.

A file without places and persons in it leaves byte for byte as it was recorded.
"""

import re
from enum import Enum
from functools import lru_cache

from sentinel_sync.base.errors import ScenarioError
from sentinel_sync.base.privacy import coarsen

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
_PERSONAL = re.compile(
    r"(?:driver|owner|user|passenger)_?(?:id|name|uuid|profile)|.*embedding.*|(?:emergency_?)?contacts?|.*e_?mail.*",
    re.IGNORECASE,
)


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
    if _PERSONAL.fullmatch(name):
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
