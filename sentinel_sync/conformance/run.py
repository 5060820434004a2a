"""One run over a backend: checks, what each found, and the exchanges that showed it."""

import json
import secrets
import time
from collections.abc import Awaitable, Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any
from uuid import uuid4

from sentinel_sync.base.http_library import httpx

#: So much of a body is shown where a check is missed.
_SHOWN_BYTES = 600
_TIMEOUT_SECONDS = 30.0


class Level(StrEnum):
    """What a miss means."""

    REQUIRED = "required"
    OPTIONAL = "optional"
    """A backend may do without; what it does instead is allowed."""
    EXTENSION = "extension"
    """Only where the backend says that it has it; then it must be right."""


class Verdict(StrEnum):
    """What became of a check."""

    MET = "met"
    MISSED = "missed"
    ABSENT = "absent"
    """There is nothing to judge: an extension that is not offered, a listing that is empty."""


@dataclass(frozen=True, slots=True)
class Exchange:
    """A request and its answer, without the credential."""

    request: str
    answer: str


@dataclass(frozen=True, slots=True)
class Finding:
    """What one check found.

    Attributes:
        row: Of the contract, as it stands there.
        why: What is not as it should be, or why there is nothing to judge.
        exchanges: Those that the check made, where it was missed.
    """

    name: str
    row: str
    level: Level
    verdict: Verdict
    why: str
    seconds: float
    exchanges: tuple[Exchange, ...] = ()

    @property
    def fails(self) -> bool:
        """Whether a backend with this does not conform."""
        return self.verdict is Verdict.MISSED and self.level is not Level.OPTIONAL


class MissedError(Exception):
    """The backend does not do what the contract says."""


class AbsentError(Exception):
    """There is nothing to judge."""


@dataclass(slots=True)
class Run:
    """What the checks of one run share.

    Attributes:
        api_key: The credential.
        patience_seconds: Figures may be computed a little later: so long they may be others than they should be.
        own_ids: The fleet and the vehicle that the key is good for, where it is for no other.
        mark: In every id of this run, so that nothing of it is taken for a vehicle's.
        memory: What one check leaves for those after it.
    """

    client: httpx.AsyncClient
    api_key: str
    patience_seconds: float = 5.0
    own_ids: tuple[str, str] | None = None
    mark: str = field(default_factory=lambda: secrets.token_hex(4))
    memory: dict[str, Any] = field(default_factory=dict)
    exchanges: list[Exchange] = field(default_factory=list)
    extensions: frozenset[str] = frozenset()

    @property
    def fleet_id(self) -> str:
        """The run's own fleet, unless the key is good for another alone."""
        return self.own_ids[0] if self.own_ids else f"conformance_{self.mark}"

    @property
    def vehicle_id(self) -> str:
        """The run's own vehicle, unless the key is good for another alone."""
        return self.own_ids[1] if self.own_ids else f"conformance_vehicle_{self.mark}"

    async def send(
        self,
        method: str,
        path: str,
        *,
        key: str | None = None,
        idempotency_key: str | None = None,
        headers: dict[str, str] | None = None,
        address: str | None = None,
        **more: Any,
    ) -> httpx.Response:
        """Send one request as a vehicle does.

        Args:
            method: Of HTTP.
            path: Below the backend's address.
            key: Another credential; empty for none.
            idempotency_key: On a POST; a fresh one by default.
            headers: Besides.
            address: Absolute, instead of `path`; the credential goes along to the backend's own origin alone.
            more: As httpx takes it.

        Raises:
            MissedError: There is no answer.
        """
        url = (
            httpx.URL(address)
            if address is not None
            else self.client.base_url.copy_with(raw_path=self.client.base_url.raw_path.rstrip(b"/") + path.encode())
        )
        is_own = (url.scheme, url.host, url.port) == (
            self.client.base_url.scheme,
            self.client.base_url.host,
            self.client.base_url.port,
        )
        sent = {"User-Agent": f"sentinel-sync/conformance (vehicle {self.vehicle_id})"}
        if is_own:
            sent |= {
                "X-Fleet-ID": self.fleet_id,
                "X-Vehicle-ID": self.vehicle_id,
                "X-Request-ID": str(uuid4()),
            }
            credential = self.api_key if key is None else key
            sent |= {"Authorization": f"Bearer {credential}"} if credential else {}
        if method == "POST":
            sent["Idempotency-Key"] = idempotency_key or f"conformance-{self.mark}-{uuid4()}"
        request = self.client.build_request(method, url, headers={**sent, **(headers or {})}, **more)
        try:
            answer = await self.client.send(request)
        except httpx.HTTPError as error:
            self.exchanges.append(Exchange(_request_text(request), f"no answer: {type(error).__name__}: {error}"))
            raise MissedError(f"{method} {path}: no answer ({type(error).__name__}: {error})") from None
        self.exchanges.append(Exchange(_request_text(request), _answer_text(answer)))
        return answer


CheckFunction = Callable[[Run], Awaitable[None]]


@dataclass(frozen=True, slots=True)
class Check:
    """One row of the contract as something that can be tried."""

    name: str
    row: str
    level: Level
    function: CheckFunction


CHECKS: list[Check] = []


def check(name: str, row: str, level: Level = Level.REQUIRED) -> Callable[[CheckFunction], CheckFunction]:
    """Enter a function as a check; checks are made in the order in which they are entered."""

    def enter(function: CheckFunction) -> CheckFunction:
        CHECKS.append(Check(name, row, level, function))
        return function

    return enter


def expect(condition: object, why: str) -> None:
    """Say that the backend must be so.

    Raises:
        MissedError: It is not.
    """
    if not condition:
        raise MissedError(why)


def expect_status(answer: httpx.Response, *allowed: int) -> None:
    """Say which statuses are right.

    Raises:
        MissedError: It is another.
    """
    expect(answer.status_code in allowed, f"answered {answer.status_code}, not {' or '.join(map(str, allowed))}")


def read_object(answer: httpx.Response) -> dict[str, Any]:
    """The body as an object of JSON.

    Raises:
        MissedError: It is none.
    """
    with suppress(ValueError):
        body = json.loads(answer.content)
        if isinstance(body, dict):
            return body
    raise MissedError("the body is no JSON object")


async def run_checks(run: Run, checks: Sequence[Check], heard: Callable[[Finding], None]) -> list[Finding]:
    """Make all checks, each whatever became of those before it."""
    findings = []
    for one in checks:
        run.exchanges.clear()
        began, verdict, why = time.perf_counter(), Verdict.MET, ""
        try:
            await one.function(run)
        except AbsentError as error:
            verdict, why = Verdict.ABSENT, str(error)
        except MissedError as error:
            verdict, why = Verdict.MISSED, str(error)
        except Exception as error:  # no backend's odd answer may keep the others from being judged
            verdict, why = Verdict.MISSED, f"its answer cannot be judged ({type(error).__name__}: {error})"
        seconds = time.perf_counter() - began
        shown = tuple(run.exchanges[-3:]) if verdict is Verdict.MISSED else ()
        finding = Finding(one.name, one.row, one.level, verdict, why, seconds, shown)
        heard(finding)
        findings.append(finding)
    return findings


def _request_text(request: httpx.Request) -> str:
    lines = [f"{request.method} {request.url.raw_path.decode()}"]
    lines += [f"{name}: {value}" for name, value in request.headers.items() if name not in {"authorization", "host"}]
    with suppress(httpx.RequestNotRead):
        lines += ["", _shortened(request.content)]
    return "\n".join(lines)


def _answer_text(answer: httpx.Response) -> str:
    lines = [f"{answer.status_code} {answer.reason_phrase}"]
    lines += [f"{name}: {value}" for name, value in answer.headers.items()]
    return "\n".join([*lines, "", _shortened(answer.content)])


def _shortened(body: bytes) -> str:
    try:
        text = body[:_SHOWN_BYTES].decode()
    except UnicodeDecodeError as error:
        if len(body) <= _SHOWN_BYTES or error.end < _SHOWN_BYTES - 4:
            return f"({len(body)} bytes)"
        text = body[:_SHOWN_BYTES].decode(errors="ignore")
    text = "".join(letter if letter.isprintable() or letter == "\n" else "·" for letter in text)
    return text if len(body) <= _SHOWN_BYTES else f"{text}… ({len(body)} bytes)"


def client_for(url: str, *, verify: Any = True, transport: httpx.AsyncBaseTransport | None = None) -> httpx.AsyncClient:
    """A client for a run: redirects are answers here, and no environment changes the way."""
    return httpx.AsyncClient(
        base_url=url,
        timeout=_TIMEOUT_SECONDS,
        verify=verify,
        transport=transport,
        trust_env=False,
        follow_redirects=False,
    )
