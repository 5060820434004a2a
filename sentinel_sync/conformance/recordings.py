"""Scenarios: announced, sent part by part, resumably where the backend can, to other addresses where it says so."""

import base64
import gzip
import hashlib
import secrets
from typing import Any
from urllib.parse import urljoin

from sentinel_sync.base.http_library import httpx
from sentinel_sync.conformance.messages import announcement, scenario_id
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
from sentinel_sync.conformance.work import compact, expect_acknowledged

_TUS = {"Tus-Resumable": "1.0.0"}
_OFFSET_TYPE = "application/offset+octet-stream"
_PIECE = 1000
_ANNOTATIONS = {"frames": [{"number": number} for number in range(30)]}


async def announce(run: Run, name: str) -> httpx.Response:
    """A recording, as a vehicle announces it."""
    return await run.send("POST", "/scenarios", idempotency_key=f"scenario-{name}", json=announcement(name))


async def _video(run: Run, name: str, content: bytes) -> httpx.Response:
    files = {"bev.mp4": ("bev.mp4", content, "video/mp4")}
    return await run.send("POST", f"/scenarios/{name}/videos", idempotency_key=f"{name}-bev", files=files)


@check("scenario", "POST /scenarios → 201")
async def scenario(run: Run) -> None:
    """A recording is announced, and again where the answer was lost."""
    run.memory["scenario"] = name = scenario_id()
    answer = await announce(run, name)
    expect_status(answer, 201)
    expect_acknowledged(answer, "scenario_id", name)
    again = await announce(run, name)
    if again.status_code != 409:
        expect_acknowledged(again, "scenario_id", name)


@check("scenario that is none", "422, 400: this item can't succeed")
async def bad_scenario(run: Run) -> None:
    """Without metadata it is none."""
    answer = await run.send("POST", "/scenarios", json={"scenario_id": scenario_id(), "priority": "normal"})
    expect(400 <= answer.status_code < 500, f"answered {answer.status_code}, not 4xx")


@check("scenario with a fine place", "metadata.location and any coordinates: coarsened as trips' are", Level.OPTIONAL)
async def fine_scenario(run: Run) -> None:
    """As with trips."""
    name = scenario_id()
    body = announcement(name)
    body["metadata"]["location"] = "37.774929,-122.419416"
    answer = await run.send("POST", "/scenarios", idempotency_key=f"scenario-{name}", json=body)
    expect(400 <= answer.status_code < 500, f"answered {answer.status_code}, not 4xx")


@check("video", "POST /scenarios/{id}/videos → 201: multipart/form-data, one part")
async def video(run: Run) -> None:
    """A video goes in one request, and again where the answer was lost."""
    content = secrets.token_bytes(5000)
    name = run.memory["scenario"]
    answer = await _video(run, name, content)
    expect_status(answer, 201)
    expect_acknowledged(answer, "scenario_id", name)
    again = await _video(run, name, content)
    if again.status_code != 409:
        expect_acknowledged(again, "scenario_id", name)


@check("annotations", "POST /scenarios/{id}/annotations, Content-Encoding: gzip allowed → 201")
async def annotations(run: Run) -> None:
    """Packed, as a vehicle sends them."""
    answer = await run.send(
        "POST",
        f"/scenarios/{run.memory['scenario']}/annotations",
        idempotency_key=f"{run.memory['scenario']}-annotations",
        content=gzip.compress(compact(_ANNOTATIONS)),
        headers={"Content-Type": "application/json", "Content-Encoding": "gzip"},
    )
    expect_status(answer, 201)
    expect_acknowledged(answer, "scenario_id", run.memory["scenario"])


@check("part of nothing", "404, 400: this item can't succeed")
async def part_of_nothing(run: Run) -> None:
    """A part of a scenario that was never announced has no place."""
    answer = await _video(run, scenario_id(), b"nothing")
    expect(400 <= answer.status_code < 500, f"answered {answer.status_code}, not 4xx")


# --- tus ---


def _tus_metadata(name: str, content: bytes) -> str:
    facts = {"filename": name, "filetype": "video/mp4", "sha256": hashlib.sha256(content).hexdigest()}
    return ",".join(f"{key} {base64.b64encode(value.encode()).decode()}" for key, value in facts.items())


async def _tus(run: Run) -> tuple[str, dict[str, str]]:
    """Where an upload of a fresh scenario is made, and what the backend can."""
    name = scenario_id()
    expect_status(await announce(run, name), 201)
    answer = await run.send("OPTIONS", f"/scenarios/{name}/videos")
    facts = dict(answer.headers)
    if facts.get("tus-resumable") != "1.0.0" or "creation" not in facts.get("tus-extension", ""):
        raise AbsentError("OPTIONS offers no tus 1.0.0 with creation")
    return f"/scenarios/{name}/videos", facts


async def _create(run: Run, content: bytes) -> tuple[str, dict[str, str]]:
    path, facts = await _tus(run)
    answer = await run.send(
        "POST",
        path,
        headers={**_TUS, "Upload-Length": str(len(content)), "Upload-Metadata": _tus_metadata("bev.mp4", content)},
        content=b"",
    )
    expect_status(answer, 201)
    location = str(answer.headers.get("location", ""))
    expect(location, "there is no Location")
    return urljoin(str(answer.request.url), location), facts


async def _patch(run: Run, address: str, offset: int, piece: bytes, **headers: str) -> httpx.Response:
    sent = {**_TUS, "Upload-Offset": str(offset), "Content-Type": _OFFSET_TYPE, **headers}
    return await run.send("PATCH", "upload", address=address, headers=sent, content=piece)


async def _offset(run: Run, address: str) -> int:
    answer = await run.send("HEAD", "upload", address=address, headers=_TUS)
    expect_status(answer, 200, 204)
    offset = answer.headers.get("upload-offset", "")
    expect(offset.isdecimal(), f"Upload-Offset is {offset!r}")
    return int(offset)


@check("tus upload", "Extension: resumable uploads: POST, then HEAD and PATCH on the Location", Level.EXTENSION)
async def tus_upload(run: Run) -> None:
    """A video in two pieces, with a look in between."""
    content = secrets.token_bytes(2 * _PIECE)
    address, _ = await _create(run, content)
    expect(await _offset(run, address) == 0, "a new upload's offset is not 0")
    answer = await _patch(run, address, 0, content[:_PIECE])
    expect_status(answer, 204)
    expect(
        answer.headers.get("upload-offset") == str(_PIECE), f"Upload-Offset is {answer.headers.get('upload-offset')!r}"
    )
    expect(await _offset(run, address) == _PIECE, "HEAD tells another offset than PATCH")
    answer = await _patch(run, address, _PIECE, content[_PIECE:])
    expect_status(answer, 200, 201, 204)
    expect(
        answer.headers.get("upload-offset") == str(2 * _PIECE),
        f"Upload-Offset is {answer.headers.get('upload-offset')!r}",
    )


@check("tus offset", "an upload goes on from the offset the server reports; 409 on PATCH: HEAD again", Level.EXTENSION)
async def tus_offset(run: Run) -> None:
    """A piece for another place is not taken."""
    content = secrets.token_bytes(2 * _PIECE)
    address, _ = await _create(run, content)
    expect_status(await _patch(run, address, _PIECE, content[_PIECE:]), 409)
    expect(await _offset(run, address) == 0, "a PATCH that was refused has moved the offset")


@check("tus checksum", "checksum in Tus-Extension: Upload-Checksum (sha256 or sha1)", Level.EXTENSION)
async def tus_checksum(run: Run) -> None:
    """A piece that was damaged on the way is not kept (tus.io, 460 Checksum Mismatch)."""
    content = secrets.token_bytes(_PIECE)
    address, facts = await _create(run, content)
    if "checksum" not in facts.get("tus-extension", ""):
        raise AbsentError("checksum is not among its tus extensions")
    known = facts.get("tus-checksum-algorithm", "")
    algorithm = next((name for name in ("sha256", "sha1") if name in known.split(",")), None)
    expect(algorithm is not None, f"Tus-Checksum-Algorithm lists neither sha256 nor sha1: {known!r}")
    wrong = base64.b64encode(hashlib.new(str(algorithm), b"something else").digest()).decode()
    answer = await _patch(run, address, 0, content, **{"Upload-Checksum": f"{algorithm} {wrong}"})
    expect_status(answer, 460)
    expect(await _offset(run, address) == 0, "a damaged piece has moved the offset")


@check("tus gone", "404, 410 or 403 on a stored upload URL: create a new one", Level.EXTENSION)
async def tus_gone(run: Run) -> None:
    """An upload that nobody knows is told so."""
    address, _ = await _create(run, b"x" * _PIECE)
    answer = await run.send("HEAD", "upload", address=f"{address.rstrip('/')}{run.mark}", headers=_TUS)
    expect_status(answer, 403, 404, 410)


# --- the catalogue, and other addresses ---


@check("catalogue", 'scenario-catalogue: "upload": "on_request" in the answer to POST /scenarios', Level.EXTENSION)
async def catalogue(run: Run) -> None:
    """What is on request is on request until it is wanted; a vehicle knows no other word."""
    if "scenario-catalogue" not in run.extensions:
        raise AbsentError("/health does not list it")
    answer = await announce(run, scenario_id())
    expect_status(answer, 201)
    word = read_object(answer).get("upload")
    expect(word in {None, "on_request"}, f"`upload` is {word!r}")


@check(
    "direct uploads", "direct-uploads: addresses, GET /scenarios/{id}/uploads, POST …/complete → 201", Level.EXTENSION
)
async def direct_uploads(run: Run) -> None:
    """A video to the addresses that were given, without the credential, and told to be whole."""
    name, done = await _sent_directly(run)
    completed = await run.send("POST", f"/scenarios/{name}/videos/bev.mp4/complete", json=done)
    expect_status(completed, 201)
    expect_acknowledged(completed, "scenario_id", name)


@check("direct upload of other bytes", '"sha256" of the bytes as sent', Level.EXTENSION)
async def other_bytes(run: Run) -> None:
    """What arrived damaged is not acknowledged."""
    name, done = await _sent_directly(run)
    wrong = await run.send("POST", f"/scenarios/{name}/videos/bev.mp4/complete", json={**done, "sha256": "0" * 64})
    expect(400 <= wrong.status_code < 500, f"a completion with another hash was answered {wrong.status_code}")


async def _sent_directly(run: Run) -> tuple[str, dict[str, Any]]:
    """A scenario whose video is at the addresses it was given, and what completes it."""
    if "direct-uploads" not in run.extensions:
        raise AbsentError("/health does not list it")
    name, content = scenario_id(), secrets.token_bytes(5000)
    expect_status(await announce(run, name), 201)
    answer = await run.send("GET", f"/scenarios/{name}/uploads")
    expect_status(answer, 200)
    uploads = read_object(answer).get("uploads")
    target = uploads.get("bev.mp4") if isinstance(uploads, dict) else None
    if not isinstance(target, dict):
        raise MissedError("`uploads` has no address for bev.mp4")
    parts = await _put_directly(run, target, content)
    digest = hashlib.sha256(content).hexdigest()
    return name, {"size": len(content), "sha256": digest, **({"parts": parts} if parts else {})}


async def _put_directly(run: Run, target: dict[str, Any], content: bytes) -> list[dict[str, Any]]:
    if "url" in target:
        headers = {str(name): str(value) for name, value in (target.get("headers") or {}).items()}
        expect_status(await _bare_put(run, target["url"], content, headers), 200, 201, 204)
        return []
    size, parts = target.get("part_size"), target.get("parts")
    if not isinstance(size, int) or size < 1 or not isinstance(parts, list) or not parts:
        raise MissedError(f"no address can be read: {target!r:.200}")
    done = []
    for part in parts[: -(-len(content) // size)]:
        piece = content[(part["number"] - 1) * size : part["number"] * size]
        answer = await _bare_put(run, part["url"], piece, {})
        expect_status(answer, 200, 201, 204)
        done.append({"number": part["number"], "etag": answer.headers.get("etag", "")})
    return done


async def _bare_put(run: Run, url: object, content: bytes, headers: dict[str, str]) -> httpx.Response:
    if not isinstance(url, str):
        raise MissedError(f"an address is no text: {url!r}")
    address = urljoin(str(run.client.base_url), url)
    return await run.send("PUT", "upload", address=address, key="", headers=headers, content=content)
