"""What /openapi.json says beyond what FastAPI sees by itself: bodies that are read by hand, headers, problems."""

from collections.abc import Mapping
from http import HTTPStatus
from typing import Any, Literal

from fastapi import FastAPI
from fastapi.openapi.utils import get_openapi
from pydantic import BaseModel
from pydantic.json_schema import models_json_schema

from sentinel_sync.backend.problems import CHECKSUM_MISMATCH, MEDIA_TYPE, ProblemBody

SCHEMA_REFERENCE = "#/components/schemas/{model}"

TITLE = "SENTINEL fleet backend"
DESCRIPTION = """
What a vehicle and its fleet backend say to each other. Operations marked **extension** are optional for a
backend: vehicles discover them and work without. Operations marked **reference only** are no part of the
contract: they let a person, a test or a demo look at what this reference backend stored.

Times are RFC 3339 with an offset, distances metres, speeds m/s, durations seconds. Every refusal is
`application/problem+json` (RFC 9457). No value of a refused body is ever echoed or logged.

**Once and only once.** Every POST carries an `Idempotency-Key`, the same for each retry of the same work. Where
the key or the thing itself is already there, the answer is 409 and means that the work is done.
"""

TAGS = [
    {"name": "health", "description": "Whether the backend is there. Costs it nothing."},
    {"name": "trips", "description": "Summaries of finished trips, one row each, exactly once."},
    {"name": "scenarios", "description": "Recorded scenarios: metadata, videos, annotations."},
    {"name": "direct uploads", "description": "Extension: signed addresses that take files without the credential."},
    {"name": "resumable uploads", "description": "Extension: tus 1.0.0 for the parts of a scenario."},
    {
        "name": "models",
        "description": "Signed models: list, download (deltas: extension), and (reference only) publish.",
    },
    {"name": "profiles", "description": "Driver profiles, encrypted by the vehicles."},
    {"name": "fleet", "description": "Computed from the trips that arrived."},
    {"name": "vehicles", "description": "When a vehicle was last heard."},
    {"name": "faults", "description": "Reference only: makes the backend fail on purpose. Absent unless switched on."},
]

REFERENCE_ONLY = "**Reference only**, not part of the contract; needs only the bearer key. "
EXTENSION = "**Extension**: a backend may leave it out. "

_CALLER_HEADERS = {
    "X-Fleet-ID": "The fleet that the vehicle belongs to.",
    "X-Vehicle-ID": "The vehicle.",
    "X-Request-ID": "A fresh UUID per attempt.",
}
_IDEMPOTENCY = {"Idempotency-Key": "The same on every retry of the same work."}
_PROBLEMS = {
    400: "A required header is missing or malformed, or the body is not JSON.",
    401: "The bearer key is missing or not accepted.",
    403: "Not allowed with this key or token.",
    404: "There is nothing of that name.",
    409: "Of a POST: this key or id is already there, the work is done. Of a PATCH: `Upload-Offset` is not the offset.",
    408: "No byte came for a while; what came is kept.",
    410: "It was here and is gone.",
    412: "A precondition does not hold.",
    413: "The body is too large.",
    415: "The body has the wrong type.",
    416: "The range lies outside of the file.",
    422: "The body or a parameter is not as the contract says; `errors` lists what and where.",
    423: "The upload is held for another connection; ask again.",
    429: "Too many requests are under way; `Retry-After` says when to come again.",
    CHECKSUM_MISMATCH: "The body does not have the checksum that its header says; nothing of it was kept.",
}


def operation(
    *problems: int,
    caller: bool = True,
    credential: bool = True,
    idempotent: bool = False,
    body: type[BaseModel] | Mapping[str, Any] | None = None,
    headers: Mapping[str, str] | None = None,
    also: Mapping[int, type[BaseModel]] | None = None,
) -> dict[str, Any]:
    """The keyword arguments of a route decorator that document what FastAPI can't see.

    Args:
        problems: The statuses of refusals, besides those that follow from the other arguments.
        caller: The headers of a vehicle are required.
        credential: A bearer key is required.
        idempotent: `Idempotency-Key` is required.
        body: What is read from the request: a model for JSON, or an OpenAPI `content` object.
        headers: Further request headers and what they mean; all optional.
        also: Further statuses of success, and what each answers.
    """
    statuses = {*problems, *([413, 415] if body else [])}
    statuses |= {400, 401, 403, 429} if caller else {401, 403, 429} if credential else set()
    required = {**(_CALLER_HEADERS if caller else {}), **(_IDEMPOTENCY if idempotent else {})}
    parameters = [_header(name, text, required=True) for name, text in required.items()]
    parameters += [_header(name, text, required=False) for name, text in (headers or {}).items()]
    extra: dict[str, Any] = {"parameters": parameters}
    if credential:
        extra["security"] = [{"bearer": []}]
    if isinstance(body, type):
        content: Mapping[str, Any] = {"application/json": {"schema": {"$ref": _reference(body)}}}
        extra["requestBody"] = {"required": True, "content": content}
    elif body is not None:
        extra["requestBody"] = {"required": True, "content": dict(body)}
    answers: dict[int, dict[str, Any]] = {status: {"model": answer} for status, answer in (also or {}).items()}
    if "If-None-Match" in (headers or {}):
        answers[304] = {"description": "What the client has still holds."}
    return {"openapi_extra": extra, "responses": answers | {status: _problem(status) for status in sorted(statuses)}}


def install_documentation(app: FastAPI, bodies: tuple[type[BaseModel], ...]) -> None:
    """Makes the document at /openapi.json whole: adds the bodies that are read by hand and the bearer scheme."""

    def document() -> dict[str, Any]:
        if app.openapi_schema is None:
            whole = get_openapi(
                title=app.title,
                version=app.version,
                description=app.description,
                routes=app.routes,
                tags=app.openapi_tags,
            )
            every: tuple[type[BaseModel], ...] = (*bodies, ProblemBody)
            wanted: list[tuple[type[BaseModel], Literal["validation"]]] = [(body, "validation") for body in every]
            _, definitions = models_json_schema(wanted, ref_template=SCHEMA_REFERENCE)
            components = whole.setdefault("components", {})
            components.setdefault("schemas", {}).update(definitions.get("$defs", {}))
            _drop_framework_errors(whole)
            for path, operations in whole["paths"].items():
                for described in operations.values() if "{" in path else ():
                    # What cannot stand in an address, such as a line feed, leads nowhere.
                    described["responses"].setdefault("404", _problem(404))
            components["securitySchemes"] = {"bearer": {"type": "http", "scheme": "bearer"}}
            app.openapi_schema = whole
        return app.openapi_schema

    app.openapi = document  # type: ignore[method-assign]  # the way FastAPI documents for this


def _drop_framework_errors(document: dict[str, Any]) -> None:
    # FastAPI adds its own form of 422 wherever there are parameters; here it leaves as a problem like all others.
    for operations in document["paths"].values():
        for described in operations.values():
            schema = described["responses"].get("422", {}).get("content", {}).get("application/json", {}).get("schema")
            if schema == {"$ref": "#/components/schemas/HTTPValidationError"}:
                described["responses"]["422"] = _problem(422)
    for name in ("HTTPValidationError", "ValidationError"):
        document["components"]["schemas"].pop(name, None)


def _reference(body: type[BaseModel]) -> str:
    return SCHEMA_REFERENCE.format(model=body.__name__)


def _header(name: str, description: str, *, required: bool) -> dict[str, Any]:
    return {
        "name": name,
        "in": "header",
        "required": required,
        "description": description,
        "schema": {"type": "string"},
    }


def _problem(status: int) -> dict[str, Any]:
    phrase = "Checksum Mismatch" if status == CHECKSUM_MISMATCH else HTTPStatus(status).phrase
    return {
        "description": _PROBLEMS.get(status, phrase),
        "content": {MEDIA_TYPE: {"schema": {"$ref": _reference(ProblemBody)}}},
    }
