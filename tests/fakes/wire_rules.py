"""What every request must and must not carry, written a second time from the wire contract.

Nothing of the package is used here: a rule that the code and its test share would be wrong in both.
"""

import gzip
import json
import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import parse_qsl, unquote
from uuid import UUID

_USER_AGENT = re.compile(r"sentinel-sync/\d+\.\d+\.\d+\S*(?: \(vehicle (?P<vehicle>.+)\))?")
_PLACE_KEY = re.compile(
    r"location|position|coordinate|gps|waypoint|(?:^|[_\W])(?:lat|lon|lng)(?:$|[_\W])|latitude|longitude", re.IGNORECASE
)
_FINE = re.compile(r"\d*\.\d{3,}|\d\.?\d*e[-+]?\d", re.IGNORECASE)
_FINE_PAIR = re.compile(r"-?\d{1,3}\.\d{3,}\s*,\s*-?\d{1,3}\.\d{3,}")
_PSEUDONYM = re.compile(r"d_[0-9a-f]{32}")
#: Where this machine, standing in for a vehicle, keeps files.
_OWN_PATH = re.compile(r"(?:^|[\s\"'=:])/(?:tmp|home|root|var|data|mnt|opt)/[\w.-]+")


@dataclass(frozen=True, slots=True)
class Seen:
    """A request as it came in.

    Attributes:
        at: The loop's time when its head was whole, seconds.
        headers: Names in lower case.
    """

    method: str
    target: str
    headers: dict[str, str]
    body: bytes
    at: float

    @property
    def path(self) -> str:
        return self.target.partition("?")[0]

    @property
    def query(self) -> dict[str, str]:
        return dict(parse_qsl(self.target.partition("?")[2], keep_blank_values=True))

    @property
    def key(self) -> str | None:
        return self.headers.get("idempotency-key")

    @property
    def json(self) -> Any:
        body = gzip.decompress(self.body) if self.headers.get("content-encoding") == "gzip" else self.body
        return json.loads(body)


@dataclass(slots=True)
class WireRules:
    """Checks requests against the contract's "Every request" and "Privacy".

    Attributes:
        api_keys: Bearer tokens that may come; None where none may.
        is_stranger: Whether this host is not `api_url`'s: it learns neither credential nor vehicle.
        forbidden: Texts that must be nowhere in a request: raw driver ids, names, exact coordinates.
        direct: How paths begin that take a file's bytes without the credential, also on this host (direct-uploads).
    """

    vehicle_id: str
    fleet_id: str
    api_keys: set[str] | None
    is_stranger: bool = False
    forbidden: set[str] = field(default_factory=set)
    direct: str = "/direct/"
    _request_ids: set[str] = field(default_factory=set)

    def violations(self, seen: Seen) -> list[str]:
        """What is wrong with a request."""
        return [
            f"{seen.method} {seen.target}: {wrong}"
            for wrong in (*self._headers(seen), *self._places(seen), *self._persons(seen))
        ]

    def _headers(self, seen: Seen) -> Iterator[str]:
        authorization = seen.headers.get("authorization")
        is_stranger = self.is_stranger or seen.path.startswith(self.direct)
        if self.api_keys is None or is_stranger:
            if authorization is not None:
                yield "a credential on another origin"
        elif authorization not in {f"Bearer {key}" for key in self.api_keys}:
            yield "not the credential"
        agent = _USER_AGENT.fullmatch(seen.headers.get("user-agent", ""))
        ids = (None, None) if is_stranger else (self.vehicle_id, self.fleet_id)
        if agent is None or agent["vehicle"] != ids[0]:
            yield "not the User-Agent"
        if (seen.headers.get("x-vehicle-id"), seen.headers.get("x-fleet-id")) != ids:
            yield "not the fleet's and the vehicle's ids"
        yield from self._request_id(seen.headers.get("x-request-id", ""))
        if seen.method == "POST" and not seen.key:
            yield "a POST without Idempotency-Key"
        if seen.method == "PATCH" and seen.key:
            yield "a PATCH with Idempotency-Key"
        if "cookie" in seen.headers:
            yield "a cookie"

    def expect_again(self, seen: Seen) -> None:
        """The same attempt comes once more: it was redirected."""
        self._request_ids.discard(seen.headers.get("x-request-id", ""))

    def _request_id(self, request_id: str) -> Iterator[str]:
        if not _is_uuid(request_id):
            yield "X-Request-ID is no UUID"
        if request_id in self._request_ids:
            yield "X-Request-ID is not fresh"
        self._request_ids.add(request_id)

    def _places(self, seen: Seen) -> Iterator[str]:
        if _FINE_PAIR.search(unquote(seen.path)):
            yield "a fine place in the path"
        for name, value in seen.query.items():
            if (_PLACE_KEY.search(name) and _FINE.search(value)) or _FINE_PAIR.search(value):
                yield f"a fine place in the query ({name})"
        for name, value in seen.headers.items():
            if _FINE_PAIR.search(value):
                yield f"a fine place in a header ({name})"
        document = _document(seen)
        if document is not None:
            yield from (f"a fine place in the body ({where})" for where in _fine_places(document, place=False))

    def _persons(self, seen: Seen) -> Iterator[str]:
        person_may_be_named = unquote(seen.path).startswith("/drivers/") and seen.path.endswith("/profile")
        document = _document(seen)
        if document is not None and not person_may_be_named:
            for driver in _values_of(document, "driver_id"):
                if driver is not None and not _PSEUDONYM.fullmatch(str(driver)):
                    yield "a driver_id that is no pseudonym"
        if document is not None and _OWN_PATH.search(json.dumps(document)):
            yield "a path of the vehicle's file system"
        everything = "\n".join(
            (unquote(seen.target), *map(": ".join, seen.headers.items()), seen.body.decode("utf-8", "replace"))
        )
        for text in self.forbidden:
            if text in everything and not (person_may_be_named and text in unquote(seen.path)):
                yield f"holds {text!r}"


def _is_uuid(text: str) -> bool:
    try:
        return str(UUID(text)) == text
    except ValueError:
        return False


def _document(seen: Seen) -> Any:
    if not seen.body or "json" not in seen.headers.get("content-type", "json"):
        return None
    try:
        # Numbers as they are written: 37.770 is finer than 37.77, and 1e-5 is a fine number as well.
        body = gzip.decompress(seen.body) if seen.headers.get("content-encoding") == "gzip" else seen.body
        return json.loads(body, parse_float=_Written)
    except ValueError:
        return None


class _Written(str):
    """A number as the body spelled it."""

    __slots__ = ()


def _fine_places(value: Any, *, place: bool, where: str = "") -> Iterator[str]:
    match value:
        case dict():
            for key, inner in value.items():
                yield from _fine_places(inner, place=place or bool(_PLACE_KEY.search(key)), where=f"{where}.{key}")
        case list():
            for inner in value:
                yield from _fine_places(inner, place=place, where=f"{where}[]")
        case str():
            if (place and _FINE.search(value)) or (not isinstance(value, _Written) and _FINE_PAIR.search(value)):
                yield where


def _values_of(value: Any, key: str) -> Iterator[Any]:
    match value:
        case dict():
            for name, inner in value.items():
                if name == key:
                    yield inner
                else:
                    yield from _values_of(inner, key)
        case list():
            for inner in value:
                yield from _values_of(inner, key)
