"""Health, the credential, trips and profiles: what every backend has."""

import asyncio
import base64
import json
import re
import secrets
import time
from datetime import datetime
from typing import Any, TypeGuard

from sentinel_sync.base.http_library import httpx
from sentinel_sync.conformance.messages import DISTANCE, trip
from sentinel_sync.conformance.run import (
    AbsentError,
    Level,
    MissedError,
    Run,
    check,
    expect,
    expect_status,
    read_object,
)

_REFUSALS = (400, 404, 410, 413, 415, 422)
_FAILURES = {"error", "failed", "rejected", "invalid"}
_LOOK_AGAIN_SECONDS = 0.5
_NAME = re.compile(r"[a-z][a-z0-9-]*")


def is_number(value: object) -> TypeGuard[float]:
    """A number of JSON."""
    return isinstance(value, int | float) and not isinstance(value, bool)


def expect_moment(value: object, what: str) -> datetime:
    """A time as the contract writes it."""
    try:
        found = datetime.fromisoformat(str(value))
    except ValueError:
        raise MissedError(f"{what} is no RFC 3339 time: {value!r}") from None
    expect(found.tzinfo is not None, f"{what} has no offset: {value!r}")
    return found


def expect_acknowledged(answer: httpx.Response, name: str, sent: str) -> None:
    """A 2xx acknowledges where its body does not contradict (Answers, Acknowledgement)."""
    expect_status(answer, 200, 201, 202, 204)
    if not answer.content:
        return
    body = read_object(answer)
    expect("error" not in body, "the body has an `error`, which takes the acknowledgement back")
    expect(body.get(name, sent) == sent, f"the body names another {name}: {body.get(name)!r}")
    expect(body.get("status") not in _FAILURES, f"the body's status tells of a failure: {body.get('status')!r}")


# --- health ---


@check("health", 'GET /health → 200 {"status": "ok"}, no credential needed')
async def health(run: Run) -> None:
    """The probe."""
    answer = await run.send("GET", "/health", key="")
    expect_status(answer, 200)
    body = read_object(answer)
    expect(body.get("status") == "ok", f"status is {body.get('status')!r}")
    extensions = body.get("extensions")
    if isinstance(extensions, list):
        run.extensions = frozenset(name for name in extensions if isinstance(name, str))
    run.memory["health"] = body


@check("health fields", "/health may carry time, min_interval, extensions", Level.OPTIONAL)
async def health_fields(run: Run) -> None:
    """What is there is what it should be."""
    body = run.memory.get("health")
    if body is None or not body.keys() & {"time", "min_interval", "extensions"}:
        raise AbsentError("none of them is there")
    if body.get("time") is not None:
        here = datetime.now().astimezone()
        ahead = abs((expect_moment(body["time"], "time") - here).total_seconds())
        expect(ahead < 86_400.0, f"time is {ahead:.0f} s from this machine's: vehicles set their clocks by it")
    interval = body.get("min_interval")
    expect(interval is None or (is_number(interval) and interval >= 0), f"min_interval is {interval!r}")
    extensions = body.get("extensions")
    expect(
        extensions is None
        or (isinstance(extensions, list) and all(isinstance(it, str) and _NAME.fullmatch(it) for it in extensions)),
        f"extensions is no list of names: {extensions!r}",
    )


# --- the credential ---


@check("wrong key", "401, 403: the credential is refused")
async def wrong_key(run: Run) -> None:
    """A vehicle with a key that was never given out gets nothing."""
    expect_status(await run.send("GET", "/models", key=f"wrong-{secrets.token_hex(16)}"), 401, 403)
    refused = trip()
    expect_status(
        await run.send(
            "POST", "/trips", key=f"wrong-{secrets.token_hex(16)}", idempotency_key=refused["trip_id"], json=refused
        ),
        401,
        403,
    )


@check("no key", "Authorization: Bearer {api_key} on every request")
async def no_key(run: Run) -> None:
    """Nor does one without."""
    expect_status(await run.send("GET", "/models", key=""), 401, 403)
    refused = trip()
    expect_status(await run.send("POST", "/trips", key="", idempotency_key=refused["trip_id"], json=refused), 401, 403)


@check("no such path", "any other 4xx: this item can't succeed", Level.OPTIONAL)
async def no_such_path(run: Run) -> None:
    """Errors are application/problem+json where a backend is modern."""
    answer = await run.send("GET", f"/no-such-path-{run.mark}")
    expect_status(answer, 404)
    kind = answer.headers.get("content-type", "")
    expect(kind.startswith("application/problem+json"), f"its body is {kind or 'of no named type'}")
    body = read_object(answer)
    expect(body.get("status", 404) == 404, f"the problem's status is {body.get('status')!r}")


# --- trips ---


async def total_trips(run: Run) -> dict[str, Any]:
    """The fleet's statistics, which count each trip once."""
    answer = await run.send("GET", f"/fleet/{run.fleet_id}/statistics", headers={"Cache-Control": "no-cache"})
    expect_status(answer, 200)
    return read_object(answer)


async def expect_counted(run: Run, why: str) -> None:
    """The statistics tell of as many trips as were acknowledged; a backend may count them a little later."""
    expected, last = run.memory.get("trips"), time.monotonic() + run.patience_seconds
    while (found := (await total_trips(run)).get("total_trips")) != expected:
        expect(time.monotonic() < last, f"{why}: total_trips is {found!r}, not {expected}")
        await asyncio.sleep(_LOOK_AGAIN_SECONDS)


async def post(run: Run, body: dict[str, Any]) -> httpx.Response:
    """A trip, as a vehicle sends it."""
    return await run.send("POST", "/trips", idempotency_key=body["trip_id"], json=body)


@check("trip", 'POST /trips → 201 {"trip_id", "status": "uploaded"}')
async def trip_is_taken(run: Run) -> None:
    """The one thing that every vehicle does."""
    run.memory["trip"] = sent = trip()
    before = await total_trips(run)
    counted, distance = before.get("total_trips"), before.get("total_distance")
    run.memory["trips"] = counted if isinstance(counted, int) else 0
    run.memory["distance"] = distance if is_number(distance) else 0.0
    answer = await post(run, sent)
    expect_status(answer, 201)
    expect_acknowledged(answer, "trip_id", sent["trip_id"])
    run.memory["trips"] += 1


@check("trip again", "the same Idempotency-Key on every retry; 409: already there, the work is done")
async def trip_again(run: Run) -> None:
    """A vehicle that did not get the answer sends the same again: it is done, not doubled."""
    sent = run.memory["trip"]
    answer = await post(run, sent)
    if answer.status_code != 409:
        expect_acknowledged(answer, "trip_id", sent["trip_id"])


@check("trip counted once", "each trip exactly once, by its id")
async def trip_counted_once(run: Run) -> None:
    """Two requests, one trip, in what the fleet sees."""
    await expect_counted(run, "a trip that was sent twice is not counted once")
    distance = (await total_trips(run)).get("total_distance")
    expected = run.memory["distance"] + DISTANCE
    expect(is_number(distance) and abs(distance - expected) < 1.0, f"total_distance is {distance!r}, not {expected}")


@check("trip without driver and places", "driver_id, start_location, end_location: or null")
async def trip_with_nulls(run: Run) -> None:
    """A vehicle without a pseudonym key names no driver; one without a fix no place."""
    sent = trip(driver_id=None, start_location=None, end_location=None, interrupted=True)
    expect_acknowledged(await post(run, sent), "trip_id", sent["trip_id"])
    run.memory["trips"] = run.memory.get("trips", 0) + 1


@check("trip that is none", "422, 400: this item can't succeed")
async def bad_trip(run: Run) -> None:
    """What cannot be taken is refused for good, so that it does not come again for ever."""
    broken = trip()
    del broken["start_time"]
    expect_status(await post(run, broken), *_REFUSALS)
    expect_status(await post(run, trip(distance="far")), *_REFUSALS)
    answer = await run.send("POST", "/trips", content=b'{"trip_id": ', headers={"Content-Type": "application/json"})
    expect_status(answer, *_REFUSALS)
    await expect_counted(run, "a trip that was refused is counted")


@check("trip with a fine place", "start_location, end_location: two decimals, about 1 km", Level.OPTIONAL)
async def fine_trip(run: Run) -> None:
    """No vehicle sends it; a backend that takes it keeps where somebody lives, from whatever sent it."""
    answer = await post(run, trip(start_location={"lat": 37.774929, "lon": -122.419416}))
    run.memory["trips"] = run.memory.get("trips", 0) + answer.is_success
    expect_status(answer, *_REFUSALS)


# --- profiles ---


def _sealed() -> str:
    """A Fernet token to look at: the version, a time, and random bytes (github.com/fernet/spec)."""
    return base64.urlsafe_b64encode(b"\x80" + secrets.token_bytes(8 + 16 + 64 + 32)).decode()


def _profile(run: Run, updated_at: float) -> dict[str, Any]:
    return {"driver_id": f"conformance_{run.mark}", "encrypted_data": _sealed(), "updated_at": updated_at}


def _path(run: Run) -> str:
    return f"/drivers/conformance_{run.mark}/profile"


@check("no profile", "GET /drivers/{id}/profile → 404 where there is none")
async def no_profile(run: Run) -> None:
    """Nobody has this driver."""
    expect_status(await run.send("GET", _path(run)), 404)


@check("profile", 'PUT /drivers/{id}/profile → 200 or 201; GET → {"driver_id", "encrypted_data", "updated_at"}')
async def profile(run: Run) -> None:
    """What was put is what is got: the backend cannot read it, so it cannot mend it."""
    for updated_at in (1_795_000_000.25, 1_795_000_100.5):
        sent = _profile(run, updated_at)
        expect_status(await run.send("PUT", _path(run), json=sent, headers=await _condition(run)), 200, 201, 204)
        answer = await run.send("GET", _path(run))
        expect_status(answer, 200)
        got = read_object(answer)
        for name in ("driver_id", "encrypted_data"):
            expect(got.get(name) == sent[name], f"{name} came back as {got.get(name)!r:.80}")
        expect(got.get("updated_at") == updated_at, f"updated_at came back as {got.get('updated_at')!r}")


async def _condition(run: Run) -> dict[str, str]:
    """The condition that a vehicle's PUT carries."""
    answer = await run.send("GET", _path(run))
    if answer.status_code == 404:
        return {"If-None-Match": "*"}
    tag = answer.headers.get("etag")
    return {} if tag is None else {"If-Match": tag}


@check("profile conditions", "Extension: optimistic concurrency: If-Match, If-None-Match: *, 412", Level.EXTENSION)
async def profile_conditions(run: Run) -> None:
    """The second of two vehicles must not overwrite the first."""
    answer = await run.send("GET", _path(run))
    expect_status(answer, 200)
    tag = answer.headers.get("etag")
    if tag is None:
        raise AbsentError("GET gives no ETag")
    put = _profile(run, 1_795_000_200.0)
    expect_status(await run.send("PUT", _path(run), json=put, headers={"If-Match": tag}), 200, 201, 204)
    late = _profile(run, 1_795_000_300.0)
    expect_status(await run.send("PUT", _path(run), json=late, headers={"If-Match": tag}), 412)
    expect_status(await run.send("PUT", _path(run), json=late, headers={"If-None-Match": "*"}), 412)
    got = read_object(await run.send("GET", _path(run)))
    expect(
        got.get("encrypted_data") == put["encrypted_data"], "a PUT that was refused with 412 has changed the profile"
    )


async def clean_up(run: Run) -> None:
    """Take away what may be: the profile, where the backend deletes profiles."""
    await run.send("DELETE", _path(run))


def compact(body: dict[str, Any]) -> bytes:
    """JSON without white space."""
    return json.dumps(body, separators=(",", ":")).encode()
