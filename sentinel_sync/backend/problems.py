"""Every refusal in one form: RFC 9457 `application/problem+json`, never echoing what was sent."""

import logging
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass
from http import HTTPStatus
from typing import Any

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse, Response
from pydantic import BaseModel, Field
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect

from sentinel_sync.backend.database import DatabaseUnavailableError, UnstorableError

PROBLEM_TYPE_PREFIX = "urn:sentinel:problem:"
MEDIA_TYPE = "application/problem+json"
CHECKSUM_MISMATCH = 460
"""The status that tus 1.0.0 defines for a PATCH whose `Upload-Checksum` does not fit."""

logger: logging.Logger = logging.getLogger("sentinel_sync.backend")


@dataclass(frozen=True, slots=True)
class FieldError:
    """One thing wrong with a body: where it is and what is wrong, without the value itself."""

    field: str
    message: str


class FieldErrorBody(BaseModel):
    """One thing wrong with the request."""

    field: str = Field(description="Where it is, dotted: `start_location.lat`.")
    message: str


class ProblemBody(BaseModel):
    """RFC 9457 problem details."""

    type: str = Field(description=f"`{PROBLEM_TYPE_PREFIX}` and a word that stays the same between versions.")
    title: str
    status: int
    detail: str
    errors: list[FieldErrorBody] | None = Field(default=None, description="What is wrong, field by field.")


class Problem(Exception):  # noqa: N818  # RFC 9457 calls it a problem, and so do its readers
    """A request that is refused. Raise it anywhere below a route."""

    def __init__(
        self,
        status: int,
        kind: str,
        detail: str,
        *,
        errors: Iterable[FieldError] = (),
        headers: Mapping[str, str] | None = None,
    ) -> None:
        super().__init__(f"{status} {kind}: {detail}")
        self.status = status
        self.kind = kind
        self.detail = detail
        self.errors: tuple[FieldError, ...] = tuple(errors)
        self.headers: dict[str, str] = dict(headers or {})

    def response(self) -> Response:
        """The answer that says so."""
        body: dict[str, Any] = {
            "type": PROBLEM_TYPE_PREFIX + self.kind,
            "title": _title(self.status),
            "status": self.status,
            "detail": self.detail,
        }
        if self.errors:
            body["errors"] = [asdict(error) for error in self.errors]
        return JSONResponse(body, self.status, self.headers, MEDIA_TYPE)


def _title(status: int) -> str:
    return "Checksum Mismatch" if status == CHECKSUM_MISMATCH else HTTPStatus(status).phrase


def field_errors(errors: Iterable[Any]) -> tuple[FieldError, ...]:
    """Pydantic's error list without the values: they may be what must not be shown."""
    return tuple(FieldError(".".join(str(step) for step in error["loc"]) or "body", error["msg"]) for error in errors)


def install_problem_handlers(app: FastAPI) -> None:
    """Makes every error of the application leave as problem+json."""

    async def problem(request: Request, error: Exception) -> Response:
        assert isinstance(error, Problem)  # noqa: S101  # Starlette hands over only the class it was registered for
        _log(request, error)
        return error.response()

    async def framework(request: Request, error: Exception) -> Response:
        assert isinstance(error, HTTPException)  # noqa: S101  # as above
        kind = HTTPStatus(error.status_code).phrase.lower().replace(" ", "-")
        detail = f"{request.method} is not answered here" if error.status_code == HTTPStatus.METHOD_NOT_ALLOWED else ""
        return await problem(
            request,
            Problem(error.status_code, kind, detail or "there is nothing at this address", headers=error.headers),
        )

    async def invalid_parameters(request: Request, error: Exception) -> Response:
        assert isinstance(error, RequestValidationError)  # noqa: S101  # as above
        found = field_errors(error.errors())
        return await problem(
            request, Problem(422, "invalid-parameters", "the query or path is not as it must be", errors=found)
        )

    async def storage_unavailable(request: Request, error: Exception) -> Response:
        # A full or broken disk: nothing was acknowledged, and the same request may succeed later.
        logger.error("the disk or the database refused its work: %s", error)
        return await problem(
            request,
            Problem(503, "storage-unavailable", "nothing could be stored just now", headers={"Retry-After": "5"}),
        )

    async def unstorable(request: Request, _: Exception) -> Response:
        return await problem(
            request, Problem(422, "invalid-parameters", "the request holds a character that cannot be stored")
        )

    async def disconnected(_: Request, __: Exception) -> Response:
        return Response(status_code=400)  # nobody is there to read it

    async def unexpected(_: Request, __: Exception) -> Response:
        # Starlette raises the error again once this is sent, so that the server logs its traceback.
        return Problem(500, "internal-error", "the backend made a mistake; the request may be sent again").response()

    app.add_exception_handler(Problem, problem)
    app.add_exception_handler(HTTPException, framework)
    app.add_exception_handler(RequestValidationError, invalid_parameters)
    app.add_exception_handler(DatabaseUnavailableError, storage_unavailable)
    app.add_exception_handler(OSError, storage_unavailable)
    app.add_exception_handler(UnstorableError, unstorable)
    app.add_exception_handler(ClientDisconnect, disconnected)
    app.add_exception_handler(Exception, unexpected)


def _log(request: Request, problem: Problem) -> None:
    # The route's template, not the address: that may hold a driver's id or the token of a download.
    route = getattr(request.scope.get("route"), "path", "(no route)")
    logger.info("refused %s %s: %d %s", request.method, route, problem.status, problem.kind)
    if problem.kind == "privacy-violation":
        fields = ", ".join(error.field for error in problem.errors)
        logger.warning("a vehicle tried to send what must not leave it, in: %s", fields)
