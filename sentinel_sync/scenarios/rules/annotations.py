"""Filters annotations of any size in blocks: what is small is read whole and judged by value, what is large is entered.

A container that does not fit into `_WINDOW` bytes is passed on member by member, each under the keys it stands under.
"""

import re
from dataclasses import dataclass

import pydantic_core
from pydantic import JsonValue

from sentinel_sync.base.errors import ScenarioError
from sentinel_sync.base.payloads import MalformedJSONError, read_json
from sentinel_sync.scenarios.rules.private_data import Context, outgoing, outgoing_key, outgoing_text

#: Read whole: a frame of the recorder's with five detections has 2 kB.
_WINDOW = 256 << 10
#: A text or number longer than this is no annotation; to hold it whole could exhaust the memory.
_LONGEST_SCALAR = 1 << 20
#: Brackets that open.
_OPENING = (b"[", b"{")
_BOM = b"\xef\xbb\xbf"
_SPACE = re.compile(rb"[ \t\r\n]*")
#: What stands before the next bracket, texts whole; a match without one ends in a text that goes on.
_TO_BRACKET = re.compile(rb'(?:[^"\[\]{}]++|"(?:[^"\\]++|\\.)*+")*+([\[\]{}])?', re.DOTALL)
_TEXT = re.compile(rb'"(?:[^"\\]++|\\.)*+"', re.DOTALL)
_SCALAR_END = re.compile(rb"[,\]}\s]")
_CUT_OFF = "the annotations are cut off"
_NO_JSON = "the annotations are not valid JSON"


@dataclass(slots=True)
class _Container:
    """A container that was entered.

    Attributes:
        closing: Its last byte.
        context: Of its members; in an object, before the key is known.
        has_members: Whether one was passed on.
        expects: What comes next: a `member` (or its end), or a `separator`.
    """

    closing: bytes
    context: Context
    has_members: bool = False
    expects_member: bool = True


class AnnotationFilter:
    """Passes JSON on in blocks: places to two decimals, without what names a person; the rest byte for byte."""

    def __init__(self) -> None:
        self._held = bytearray()
        self._at = 0
        self._containers: list[_Container] = []
        self._dropped: list[_Container] = []
        self._passed: list[bytes] = []
        self._begun = False
        self._ended = False

    def feed(self, block: bytes) -> bytes:
        """Take the next block; return what can be passed on so far.

        Raises:
            ScenarioError: This is not JSON.
        """
        self._held += block
        if len(self._held) < _WINDOW:
            return b""
        return self._pass_on(final=False)

    def finish(self) -> bytes:
        """Return what was held back.

        Raises:
            ScenarioError: The file ended within a value, or something follows it.
        """
        rest = self._pass_on(final=True)
        if not self._ended:
            raise ScenarioError(_CUT_OFF)
        if self._held.strip():
            raise ScenarioError(_NO_JSON)
        return rest + self._held  # a last line's end

    def _pass_on(self, *, final: bool) -> bytes:
        if not self._begun:
            if len(self._held) < len(_BOM) and not final:
                return b""
            self._begun, self._at = True, len(_BOM) if self._held.startswith(_BOM) else 0
        while not self._ended and self._step(final=final):
            pass
        del self._held[: self._at]
        self._at = 0
        passed, self._passed = b"".join(self._passed), []
        return passed

    def _step(self, *, final: bool) -> bool:
        """Take one member, separator or end; False where more has to be read first."""
        self._skip_space()
        if self._at >= len(self._held):
            return False
        if not self._containers:
            return self._value(Context(names_are_labels=True), b"", final=final)
        inside = self._containers[-1]
        byte = self._next()
        if byte == inside.closing and (not inside.expects_member or not inside.has_members):
            self._at += 1
            self._leave()
            return True
        if not inside.expects_member:
            if byte != b",":
                raise ScenarioError(_NO_JSON)
            self._at += 1
            inside.expects_member = True
            return True
        before = b"," if inside.has_members else b""
        if inside.closing == b"]":
            return self._value(inside.context, before, final=final)
        return self._member(inside, before, final=final)

    def _member(self, inside: _Container, before: bytes, *, final: bool) -> bool:
        begun = self._at
        end = self._end_of_value(final=final)
        if end is None:
            return False
        key = self._parsed(self._at, end)
        if not isinstance(key, str):
            raise ScenarioError(_NO_JSON)
        self._at = end
        self._skip_space()
        if self._next() != b":":
            if self._at < len(self._held) or final:
                raise ScenarioError(_NO_JSON)
            self._at = begun
            return False
        self._at += 1
        self._skip_space()
        context = inside.context.under(key)
        end = self._end_of_value(final=final)
        if end is None and not self._is_large_container():
            self._at = begun
            return False
        if end is not None:
            # The key is judged together with what stands under it.
            treated = outgoing({key: self._parsed(self._at, end)}, inside.context)
            self._at = end
            inside.expects_member = False
            if treated:
                inside.has_members = True
                self._emit(before + _json(treated)[1:-1])
            return True
        inside.expects_member = False
        if context is None:
            self._enter(None)
        else:
            inside.has_members = True
            self._emit(before + _json(outgoing_key(key)) + b":")
            self._enter(context)
        return True

    def _value(self, context: Context, before: bytes, *, final: bool) -> bool:
        end = self._end_of_value(final=final)
        if end is None and not self._is_large_container():
            return False
        if self._containers:
            self._containers[-1].expects_member = False
            self._containers[-1].has_members = True
        if end is None:
            self._emit(before)
            self._enter(context)
            return True
        self._emit(before + outgoing_text(bytes(self._held[self._at : end]), self._parsed(self._at, end), context))
        self._at = end
        if not self._containers:
            self._ended = True
        return True

    def _enter(self, context: Context | None) -> None:
        """Go into the container that begins here; with None nothing of it is passed on."""
        opening = self._next()
        self._at += 1
        container = _Container(b"]" if opening == b"[" else b"}", context or Context())
        if context is None or self._dropped:
            self._dropped.append(container)
        else:
            self._passed.append(opening)
        self._containers.append(container)

    def _leave(self) -> None:
        container = self._containers.pop()
        if self._dropped:
            self._dropped.pop()
        else:
            self._passed.append(container.closing)
        self._ended = not self._containers

    def _emit(self, piece: bytes) -> None:
        if not self._dropped:
            self._passed.append(piece)

    def _next(self) -> bytes:
        return bytes(self._held[self._at : self._at + 1])

    def _skip_space(self) -> None:
        found = _SPACE.match(self._held, self._at)
        self._at = self._at if found is None else found.end()

    def _is_large_container(self) -> bool:
        """Whether a container begins here that does not end within the window."""
        opens = self._next() in {b"[", b"{"}
        if not opens and len(self._held) - self._at > _LONGEST_SCALAR:
            raise ScenarioError(_NO_JSON)
        return opens and len(self._held) - self._at >= _WINDOW

    def _end_of_value(self, *, final: bool) -> int | None:
        """Where the value that begins here ends; None where that is not within what was read, or the window."""
        first = self._next()
        if first == b'"':
            text = _TEXT.match(self._held, self._at)
            return None if text is None else text.end()
        if first not in {b"[", b"{"}:
            scalar = _SCALAR_END.search(self._held, self._at)
            return scalar.start() if scalar is not None else (len(self._held) if final else None)
        depth, at, last = 0, self._at, self._at + _WINDOW
        while at < last:
            found = _TO_BRACKET.match(self._held, at)
            if found is None or found[1] is None:
                return None
            depth += 1 if found[1] in _OPENING else -1
            at = found.end()
            if depth == 0:
                return at
        return None

    def _parsed(self, start: int, end: int) -> JsonValue:
        try:
            return read_json(bytes(self._held[start:end]))
        except MalformedJSONError:
            raise ScenarioError(_NO_JSON) from None


def _json(value: object) -> bytes:
    return pydantic_core.to_json(value, inf_nan_mode="null")
