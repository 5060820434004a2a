"""What extensions add to trips and vehicles, the fleet's figures, and models."""

import base64
import binascii
import gzip
import hashlib
import re
from typing import Any
from urllib.parse import urljoin

from sentinel_sync.base.http_library import httpx
from sentinel_sync.conformance.messages import report, trip
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
from sentinel_sync.conformance.work import compact, expect_counted, expect_moment, is_number, total_trips

_MOST_TRIPS = 500
#: A larger model is not fetched: the listing is judged all the same.
_LARGEST_MODEL = 64 << 20
_CHECKSUM = re.compile(r"[0-9a-f]{64}")
_VERSION = re.compile(r"v?\d+(\.\d+)*([-+].+)?")
_KEY_ID = re.compile(r"[0-9a-f]{16}")
_ENDINGS = (".pt", ".pth", ".onnx", ".engine", ".tflite", ".safetensors", ".bin")
_METRIC = "total_distance"


# --- trips-batch ---


async def _batch(run: Run, trips: list[Any], *, packed: bool = True) -> httpx.Response:
    if "trips-batch" not in run.extensions:
        raise AbsentError("/health does not list trips-batch")
    ids = "\n".join(str(one.get("trip_id")) if isinstance(one, dict) else "" for one in trips)
    body = compact({"trips": trips})
    return await run.send(
        "POST",
        "/trips/batch",
        idempotency_key=hashlib.sha256(ids.encode()).hexdigest(),
        content=gzip.compress(body) if packed else body,
        headers={"Content-Type": "application/json", **({"Content-Encoding": "gzip"} if packed else {})},
    )


def _results(answer: httpx.Response) -> dict[str, int]:
    expect_status(answer, 200, 207)
    results = read_object(answer).get("results")
    expect(isinstance(results, list), "`results` is no list")
    found: dict[str, int] = {}
    for one in results or []:
        expect(isinstance(one, dict) and isinstance(one.get("status"), int), f"a result has no status: {one!r:.120}")
        found[str(one.get("trip_id"))] = one["status"]
    return found


@check("batch", "trips-batch: POST /trips/batch → 200 or 207, a status for each trip", Level.EXTENSION)
async def batch(run: Run) -> None:
    """A backlog, packed; and again where the answer was lost."""
    trips = [trip() for _ in range(20)]
    for _ in range(2):
        found = _results(await _batch(run, trips))
        wrong = {one["trip_id"]: found.get(one["trip_id"]) for one in trips} if found else {"all": None}
        wrong = {name: status for name, status in wrong.items() if status not in {200, 201, 204, 409}}
        expect(not wrong, f"trips that were not taken, or not named: {wrong}")
    run.memory["trips"] = run.memory.get("trips", 0) + len(trips)
    await expect_counted(run, "the batch is not counted once")


@check("batch not packed", "trips-batch: Content-Encoding: gzip allowed", Level.EXTENSION)
async def batch_not_packed(run: Run) -> None:
    """Allowed, not required."""
    sent = trip()
    found = _results(await _batch(run, [sent], packed=False))
    expect(found.get(sent["trip_id"]) in {200, 201, 204}, f"its status is {found.get(sent['trip_id'])}")
    run.memory["trips"] = run.memory.get("trips", 0) + 1


@check(
    "batch with a bad trip",
    "each status means what it would mean as the answer to that trip's own POST",
    Level.EXTENSION,
)
async def batch_with_a_bad_trip(run: Run) -> None:
    """One that cannot be taken keeps no other out."""
    good, bad = trip(), trip(distance=-5.0)
    found = _results(await _batch(run, [bad, good]))
    expect(found.get(good["trip_id"]) in {200, 201, 204}, f"the good one's status is {found.get(good['trip_id'])}")
    status = found.get(bad["trip_id"])
    expect(status is None or 400 <= status < 500, f"the bad one's status is {status}")
    run.memory["trips"] = run.memory.get("trips", 0) + 1
    await expect_counted(run, "the bad one is counted")


@check("batch too large", "trips-batch: at most 500 trips; a 413 or 400 for the whole: halve it", Level.EXTENSION)
async def batch_too_large(run: Run) -> None:
    """A backend may take more; what it refuses it refuses so that a vehicle halves it."""
    small = {"trip_id": "trip_x"}
    answer = await _batch(run, [small] * (_MOST_TRIPS + 1))
    if answer.status_code not in {200, 207}:
        expect_status(answer, 400, 413, 422)


# --- vehicle-report ---


@check("report", "vehicle-report: PUT /vehicles/{id}/status → 200", Level.EXTENSION)
async def vehicle_report(run: Run) -> None:
    """A vehicle tells how it is; whoever asks sees that."""
    if "vehicle-report" not in run.extensions:
        raise AbsentError("/health does not list it")
    sent = report(run)
    answer = await run.send("PUT", f"/vehicles/{run.vehicle_id}/status", json=sent)
    expect_status(answer, 200)
    body = read_object(answer)
    if body.get("time") is not None:
        expect_moment(body["time"], "time")
    for name in ("probe_interval", "report_interval"):
        expect(body.get(name) is None or is_number(body[name]), f"{name} is {body.get(name)!r}")
    wanted = body.get("wanted") or []
    expect(
        isinstance(wanted, list)
        and all(isinstance(one, dict) and isinstance(one.get("scenario_id"), str) for one in wanted),
        f"wanted is {wanted!r:.200}",
    )
    shown = read_object(await run.send("GET", f"/vehicles/{run.vehicle_id}/status"))
    expect(str(sent["data_used"]["month"]) in str(shown), "GET /vehicles/{id}/status does not tell its last report")


@check("report that is none", "reasons are of a fixed list, never free text", Level.OPTIONAL)
async def bad_report(run: Run) -> None:
    """A backend that keeps free text keeps what may be private."""
    if "vehicle-report" not in run.extensions:
        raise AbsentError("/health does not list vehicle-report")
    sent = report(run)
    sent["models"][1]["reason"] = "driver_123 said so"
    answer = await run.send("PUT", f"/vehicles/{run.vehicle_id}/status", json=sent)
    expect(400 <= answer.status_code < 500, f"a reason of free text was answered {answer.status_code}")


# --- figures ---


@check("statistics", "/fleet/{id}/statistics: eight figures")
async def statistics(run: Run) -> None:
    """All are numbers."""
    body = await total_trips(run)
    names = ("total_vehicles", "active_vehicles", "total_distance", "total_trips", "average_safety_score")
    for name in (*names, "total_alerts", "critical_alerts", "average_trip_duration"):
        expect(body.get(name) is None or is_number(body[name]), f"{name} is {body.get(name)!r}")
    is_alone = run.own_ids is None
    expect(
        not is_alone or body.get("total_vehicles") == 1,
        f"total_vehicles is {body.get('total_vehicles')!r}, of a fleet of one",
    )
    score = body.get("average_safety_score")
    expect(score is None or 0 <= score <= 100, f"average_safety_score is {score!r}")


async def _rows(run: Run, path: str, name: str, **query: Any) -> list[dict[str, Any]]:
    answer = await run.send("GET", f"/fleet/{run.fleet_id}/{path}?{httpx.QueryParams(query)}")
    expect_status(answer, 200)
    rows = read_object(answer).get(name)
    expect(isinstance(rows, list) and all(isinstance(row, dict) for row in rows), f"`{name}` is no list of objects")
    return rows or []


def _expect_descending(rows: list[dict[str, Any]], metric: str) -> None:
    values = [row.get(metric) for row in rows]
    expect(all(value is None or is_number(value) for value in values), f"{metric} is no number in a row")
    numbers = [value for value in values if is_number(value)]
    expect(numbers == sorted(numbers, reverse=True), f"not best first: {numbers[:5]}")


@check("rankings", '/fleet/{id}/rankings: {"rankings": [{"vehicle_id", metric}]}, best first')
async def rankings(run: Run) -> None:
    """The run's own vehicle is there."""
    rows = await _rows(run, "rankings", "rankings", metric=_METRIC, limit=10)
    expect(
        run.own_ids or [row.get("vehicle_id") for row in rows] == [run.vehicle_id],
        f"the vehicles are {[row.get('vehicle_id') for row in rows]}",
    )
    _expect_descending(rows, _METRIC)


@check("trends", '/fleet/{id}/trends: {"trend": [{"date", "value"}]}, oldest first')
async def trends(run: Run) -> None:
    """Dates are dates, and in order."""
    rows = await _rows(run, "trends", "trend", metric=_METRIC, days=7)
    dates = [str(row.get("date")) for row in rows]
    expect(all(re.fullmatch(r"\d{4}-\d\d-\d\d", date) for date in dates), f"dates are {dates}")
    expect(dates == sorted(dates), f"not oldest first: {dates}")
    expect(all(row.get("value") is None or is_number(row["value"]) for row in rows), "a value is no number")
    expect(any((row.get("value") or 0) > 0 for row in rows), "a day with trips has no value")


@check("comparison", '/fleet/{id}/comparison: {"vehicles": {id: {metric: value}}}')
async def comparison(run: Run) -> None:
    """By vehicle."""
    answer = await run.send("GET", f"/fleet/{run.fleet_id}/comparison?vehicle_ids={run.vehicle_id}")
    expect_status(answer, 200)
    vehicles = read_object(answer).get("vehicles")
    expect(isinstance(vehicles, dict) and isinstance(vehicles.get(run.vehicle_id), dict), "the vehicle is not in it")


@check("alerts", '/fleet/{id}/alerts: {"alerts": [{"vehicle_id", "severity", "message", "timestamp"}]}, newest first')
async def alerts(run: Run) -> None:
    """Times in order."""
    rows = await _rows(run, "alerts", "alerts", limit=10)
    times = [expect_moment(row.get("timestamp"), "timestamp") for row in rows]
    expect(times == sorted(times, reverse=True), "not newest first")
    expect(all(isinstance(row.get("severity"), str) for row in rows), "an alert has no severity")


@check("leaderboard", '/fleet/{id}/drivers/leaderboard: {"leaderboard": [{"driver_id", metric}]}, best first')
async def leaderboard(run: Run) -> None:
    """Pseudonyms, never anybody without one."""
    rows = await _rows(run, "drivers/leaderboard", "leaderboard", metric=_METRIC, limit=10)
    expect(all(isinstance(row.get("driver_id"), str) for row in rows), "a row names no driver")
    _expect_descending(rows, _METRIC)


@check("vehicle status", '/vehicles/{id}/status: {"vehicle_id", "status", "last_seen"}')
async def vehicle_status(run: Run) -> None:
    """The run's own vehicle was heard just now."""
    answer = await run.send("GET", f"/vehicles/{run.vehicle_id}/status")
    expect_status(answer, 200)
    body = read_object(answer)
    expect(body.get("vehicle_id") == run.vehicle_id, f"vehicle_id is {body.get('vehicle_id')!r}")
    expect(isinstance(body.get("status"), str), f"status is {body.get('status')!r}")
    if body.get("last_seen") is not None:
        expect_moment(body["last_seen"], "last_seen")


@check("not modified", "GETs may answer with ETag; a 304 means that what is cached holds", Level.OPTIONAL)
async def not_modified(run: Run) -> None:
    """Where there is an ETag, asking with it costs no body."""
    path = "/models"
    first = await run.send("GET", path)
    tag = first.headers.get("etag")
    if first.status_code != 200 or tag is None:
        raise AbsentError("GET /models gives no ETag")
    again = await run.send("GET", path, headers={"If-None-Match": tag})
    expect_status(again, 304)
    expect(not again.content, "a 304 has a body")
    other = await run.send("GET", path, headers={"If-None-Match": '"another"'})
    expect_status(other, 200)


# --- models ---


@check("models", "GET /models → name, version, size, checksum, signature; rollout 0…1, filename's ending")
async def models(run: Run) -> None:
    """Each entry can be read by a vehicle."""
    answer = await run.send("GET", "/models")
    expect_status(answer, 200)
    listed = read_object(answer).get("models")
    expect(isinstance(listed, list), "`models` is no list")
    for one in listed or []:
        _expect_release(one)
    run.memory["models"] = listed


def _expect_release(one: Any) -> None:
    expect(
        isinstance(one, dict) and isinstance(one.get("name"), str) and one["name"],
        f"an entry has no name: {one!r:.120}",
    )
    what = f"{one['name']} {one.get('version')}"
    expect(_VERSION.fullmatch(str(one.get("version"))), f"{what}: the version is not like v2.1.0")
    size = one.get("size")
    expect(isinstance(size, int) and not isinstance(size, bool) and size > 0, f"{what}: size is {size!r}")
    expect(_CHECKSUM.fullmatch(str(one.get("checksum"))), f"{what}: checksum is no SHA-256 in lower-case hex")
    rollout = one.get("rollout")
    expect(rollout is None or (is_number(rollout) and 0 <= rollout <= 1), f"{what}: rollout is {rollout!r}")
    filename = one.get("filename")
    expect(filename is None or str(filename).endswith(_ENDINGS), f"{what}: filename is {filename!r}")
    key_id = one.get("key_id")
    expect(key_id is None or _KEY_ID.fullmatch(str(key_id)), f"{what}: key_id is {key_id!r}")
    try:
        signature = base64.b64decode(str(one.get("signature") or ""), validate=True)
    except (ValueError, binascii.Error):
        signature = b""
    expect(len(signature) == 64, f"{what}: signature is not base64 of an Ed25519 signature")


def _smallest(run: Run) -> dict[str, Any]:
    listed = [
        one for one in run.memory.get("models") or [] if isinstance(one, dict) and isinstance(one.get("size"), int)
    ]
    if not listed:
        raise AbsentError("no model is published: publish one to have this judged")
    found: dict[str, Any] = min(listed, key=lambda one: int(one["size"]))
    if found["size"] > _LARGEST_MODEL:
        raise AbsentError(f"the smallest model has {found['size']} bytes: not fetched")
    return found


async def _address(run: Run, model: dict[str, Any]) -> str:
    query = httpx.QueryParams({"version": model["version"]})
    answer = await run.send("GET", f"/models/{model['name']}/download?{query}")
    expect_status(answer, 200)
    body = read_object(answer)
    for name in ("version", "checksum"):
        expect(body.get(name) == model[name], f"{name} is {body.get(name)!r}, in the listing {model[name]!r}")
    url = body.get("download_url")
    if not isinstance(url, str):
        raise MissedError(f"download_url is {url!r}")
    return urljoin(str(run.client.base_url), url)


@check("model file", "GET /models/{name}/download → the file, as the listing's size and checksum say")
async def model_file(run: Run) -> None:
    """Whole."""
    model = _smallest(run)
    answer = await run.send("GET", "file", address=await _address(run, model))
    expect_status(answer, 200)
    expect(len(answer.content) == model["size"], f"{len(answer.content)} bytes, in the listing {model['size']}")
    expect(hashlib.sha256(answer.content).hexdigest() == model["checksum"], "its SHA-256 is not the listing's")
    run.memory["file"] = answer.content


@check(
    "model file goes on", "fetched with Range from where it stopped, whole where the server does not", Level.OPTIONAL
)
async def model_range(run: Run) -> None:
    """A download over a bad link goes on where it was cut."""
    model, whole = _smallest(run), run.memory.get("file")
    if whole is None or len(whole) < 2:
        raise AbsentError("the file could not be fetched")
    half = len(whole) // 2
    answer = await run.send("GET", "file", address=await _address(run, model), headers={"Range": f"bytes={half}-"})
    expect_status(answer, 206)
    expect(answer.content == whole[half:], "206, but not the bytes that were asked for")


@check("no such model", "404, 410: this item can't succeed")
async def no_such_model(run: Run) -> None:
    """What is not there is told so."""
    expect_status(await run.send("GET", f"/models/no-such-model-{run.mark}/download"), 404, 410)
