"""Every body of the wire contract, as pydantic models, and the one function that reads JSON from outside.

What is sent refuses extras; what comes ignores them.
"""

import contextlib
import math
import re
from collections.abc import Iterator
from enum import StrEnum
from typing import Annotated, ClassVar, Literal, Self

import pydantic_core
from pydantic import (
    AwareDatetime,
    BaseModel,
    ConfigDict,
    Field,
    JsonValue,
    ValidationError,
    ValidatorFunctionWrapHandler,
    WrapValidator,
    field_validator,
    model_validator,
)

TRIP_SCHEMA_VERSION = 1

_BOM = b"\xef\xbb\xbf"
#: What may be a number that no arithmetic should meet. Looked for in the text, because to walk every answer's values
#: would hold the loop for longer than to parse them.
_LONG_NUMBER = re.compile(rb"[0-9]{19}")
_LARGE_EXPONENT = re.compile(rb"[eE]\+?[0-9]{3}")


class MalformedJSONError(ValueError):
    """The text is no JSON that can be used; says where, and nothing of what it holds."""


def read_json(text: bytes | str, *, refuse_odd_numbers: bool = False) -> JsonValue:
    """Read a JSON text (RFC 8259) from outside.

    A byte order mark is skipped. Of a key that is there twice the last counts, as in every common reader. `NaN`,
    `Infinity` and numbers too large for a float, which Python's own writer makes, become null.

    Args:
        text: UTF-8.
        refuse_odd_numbers: Refuse such numbers instead: for files that are written back, where null would be a change.

    Raises:
        MalformedJSONError: No JSON, or nested deeper than 200 levels (the parser's limit).
    """
    data = (text.encode("utf-8", "surrogatepass") if isinstance(text, str) else text).removeprefix(_BOM)
    try:
        value: JsonValue = pydantic_core.from_json(data)
    except ValueError as error:
        raise MalformedJSONError(str(error)) from None
    if b"NaN" in data or b"Infinity" in data or _LONG_NUMBER.search(data) or _LARGE_EXPONENT.search(data):
        return _bounded(value, refuse=refuse_odd_numbers)
    return value


def _bounded(value: JsonValue, *, refuse: bool) -> JsonValue:
    match value:
        case bool():
            return value
        case int() | float() if not is_finite(value):
            if refuse:
                raise MalformedJSONError("it holds a number that is not finite or too large")
            return None
        case list():
            return [_bounded(inner, refuse=refuse) for inner in value]
        case dict():
            return {key: _bounded(inner, refuse=refuse) for key, inner in value.items()}
    return value


def is_finite(number: float) -> bool:
    """Whether a number can be used in arithmetic; also of an int that no float can hold."""
    try:
        return math.isfinite(number)
    except OverflowError:
        return False


NonNegative = Annotated[float, Field(ge=0.0, allow_inf_nan=False)]
Fraction = Annotated[float, Field(ge=0.0, le=1.0)]
Count = Annotated[int, Field(ge=0)]


class Payload(BaseModel):
    """A body that the agent sends: frozen, and no field that the contract does not name."""

    model_config: ClassVar[ConfigDict] = ConfigDict(frozen=True, extra="forbid", hide_input_in_errors=True)


class Answer(BaseModel):
    """A body that a backend sends: it may add fields, and leave out any that the contract does not call required.

    What reads one is built when the first is read: an agent that is never asked about the fleet need not hold it.
    """

    model_config: ClassVar[ConfigDict] = ConfigDict(
        frozen=True, extra="ignore", hide_input_in_errors=True, defer_build=True
    )


class Location(Payload):
    """A coarse place, degrees WGS 84: it rounds itself, so a finer one cannot be spelled."""

    lat: Annotated[float, Field(ge=-90.0, le=90.0)]
    lon: Annotated[float, Field(ge=-180.0, le=180.0)]

    @field_validator("lat", "lon")
    @classmethod
    def _coarse(cls, degrees: float) -> float:
        # Two decimals are about 1 km (wire contract, Privacy); + 0.0 turns the negative zero into zero.
        return round(degrees, 2) + 0.0


class TripSummary(Payload):
    """A closed trip, as `POST /trips` takes it. Metres, m/s, seconds."""

    trip_id: Annotated[str, Field(pattern=r"^trip_[0-9a-f]{32}$")]
    start_time: AwareDatetime
    end_time: AwareDatetime
    duration: NonNegative
    distance: NonNegative
    average_speed: NonNegative
    max_speed: NonNegative
    alert_count: Count
    critical_alert_count: Count
    warning_alert_count: Count
    info_alert_count: Count
    average_risk_score: Fraction
    max_risk_score: Fraction
    driver_id: Annotated[str, Field(pattern=r"^d_[0-9a-f]{32}$")] | None
    start_location: Location | None
    end_location: Location | None
    interrupted: bool
    schema_version: int = TRIP_SCHEMA_VERSION

    @model_validator(mode="after")
    def _counts_agree(self) -> Self:
        if self.alert_count != self.critical_alert_count + self.warning_alert_count + self.info_alert_count:
            raise ValueError("alert_count must be the sum of the critical, warning and info counts")
        return self


class TripResult(Answer):
    """What became of one trip of a batch: as its own `POST` would have been answered."""

    trip_id: str
    status: Annotated[int, Field(strict=True)]
    detail: Annotated[str | None, Field(default=None)]


class TripBatchReceipt(Answer):
    """Answer to `POST /trips/batch`. Each result is read by itself."""

    results: list[JsonValue]

    def read(self) -> Iterator[TripResult]:
        """The results that can be read."""
        for result in self.results:
            with contextlib.suppress(ValidationError):
                yield TripResult.model_validate(result)


def _or_none(value: object, validate: ValidatorFunctionWrapHandler) -> object:
    """Read what is not as the contract says as if it had been left out: the rest of the answer still counts."""
    try:
        return validate(value)
    except ValidationError:
        return None


def _or_nothing(value: object, validate: ValidatorFunctionWrapHandler) -> object:
    """The same for what there may be several of."""
    return _or_none(value, validate) or ()


def _or_empty(value: object, validate: ValidatorFunctionWrapHandler) -> object:
    """The same for what there may be several of, by name."""
    return _or_none(value, validate) or {}


class Health(Answer):
    """Answer to `GET /health`."""

    status: Annotated[str | None, WrapValidator(_or_none)] = None
    time: Annotated[str | None, WrapValidator(_or_none)] = None
    min_interval: Annotated[NonNegative | None, WrapValidator(_or_none)] = None
    extensions: Annotated[tuple[JsonValue, ...], WrapValidator(_or_nothing)] = ()


class Problem(Answer):
    """An error body, RFC 9457."""

    type: Annotated[str | None, WrapValidator(_or_none)] = None
    title: Annotated[str | None, WrapValidator(_or_none)] = None
    status: Annotated[int | None, WrapValidator(_or_none)] = None
    detail: Annotated[str | None, WrapValidator(_or_none)] = None


class ConsentGiven(Payload):
    """Under which consent a recording is sent."""

    granted_at: AwareDatetime
    policy_version: str


class ScenarioAnnouncement(Payload):
    """What announces a recording, as `POST /scenarios` takes it."""

    scenario_id: str
    metadata: dict[str, JsonValue]
    priority: Literal["high", "normal", "low"]
    consent: ConsentGiven


class ScenarioReceipt(Answer):
    """Answer to `POST /scenarios`: `upload` is "on_request" where only the announcement is wanted for now."""

    upload: Annotated[str | None, WrapValidator(_or_none)] = None
    uploads: Annotated[dict[str, JsonValue], WrapValidator(_or_empty)] = Field(default_factory=dict)


class DirectUploadTarget(Answer):
    """Where a file's bytes go: in one request (`url`), or in parts of `part_size` bytes, the last one shorter."""

    method: Literal["PUT"] = "PUT"
    url: str | None = None
    headers: Annotated[dict[str, str], WrapValidator(_or_empty)] = Field(default_factory=dict)
    expires_at: Annotated[str | None, WrapValidator(_or_none)] = None
    part_size: Annotated[int | None, Field(gt=0)] = None
    parts: Annotated[tuple[JsonValue, ...], WrapValidator(_or_nothing)] = ()
    done: Annotated[tuple[JsonValue, ...], WrapValidator(_or_nothing)] = ()

    @model_validator(mode="after")
    def _leads_somewhere(self) -> Self:
        if self.url is None and self.part_size is None:
            raise ValueError("an upload needs an address, or parts")
        return self

    def part(self, number: int) -> str | None:
        """The address of a part, where one was given."""
        for part in self.parts:
            if isinstance(part, dict) and part.get("number") == number and isinstance(part.get("url"), str):
                return str(part["url"])
        return None

    def there(self) -> dict[int, str]:
        """ETags of the parts that are there, by number."""
        found: dict[int, str] = {}
        for part in self.done:
            match part:
                case {"number": int(number), "etag": str(etag)}:
                    found[number] = etag
        return found

    def addresses(self) -> list[str]:
        """All that were given."""
        urls = [part.get("url") for part in self.parts if isinstance(part, dict)]
        return [url for url in (self.url, *urls) if isinstance(url, str)]


class UploadTargets(Answer):
    """Where the files of a scenario go, by name; each is read by itself."""

    uploads: dict[str, JsonValue]

    def target(self, name: str) -> DirectUploadTarget | None:
        """Where a file goes; None where that is not said, or cannot be read."""
        try:
            return DirectUploadTarget.model_validate(self.uploads[name])
        except (KeyError, ValidationError):
            return None


class DirectUploadPart(Payload):
    """A part that is there."""

    number: Annotated[int, Field(gt=0)]
    etag: str


class DirectUploadComplete(Payload):
    """`POST …/complete`: size and SHA-256 of the bytes as sent."""

    size: Count
    sha256: Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]
    encoding: str | None = None
    parts: list[DirectUploadPart] | None = None


class WantedScenario(Answer):
    """A recording that the backend asks for: all of its files, or those that are named."""

    scenario_id: Annotated[str, Field(min_length=1)]
    files: Annotated[tuple[str, ...], WrapValidator(_or_nothing)] = ()


class ModelSignature(Answer):
    """One signature over a release's manifest: base64, and the key that made it where that is said."""

    signature: str
    key_id: str | None = None


class ModelRelease(Answer):
    """One version of a model, as `GET /models` lists it. `size` in bytes, `checksum` SHA-256 in lower-case hex.

    A TUF repository's may be SHA-512 (`base.files.digest_like`).
    `signatures` is an extension (docs/models.md): further ones beside `signature`, or all of them.
    """

    name: str
    version: str
    size: Annotated[int, Field(gt=0)]
    checksum: Annotated[str, Field(pattern=r"^(?:[0-9a-f]{64}|[0-9a-f]{128})$")]
    signature: str | None = None
    key_id: str | None = None
    released_at: str | None = None
    rollout: Fraction | None = None
    filename: str | None = None
    signatures: Annotated[tuple[ModelSignature, ...], WrapValidator(_or_nothing)] = ()


class ModelCatalogue(Answer):
    """Answer to `GET /models`. Each entry is read by itself: one that is broken must not hide the others."""

    models: list[JsonValue]


class DeltaOffer(Answer):
    """What leads from a file that the vehicle has to the one that it asked for (docs/deltas.md).

    Attributes:
        download_url: Where the delta is for a while.
        format: How it is written.
        size: Of the delta itself, bytes.
        checksum: Of the delta itself, SHA-256 in lower-case hex.
    """

    download_url: str
    format: str
    size: Annotated[int, Field(gt=0)]
    checksum: Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]


class ModelAddress(Answer):
    """Answer to `GET /models/{name}/download`: where the file is for a while, and perhaps a shorter way to it."""

    download_url: str
    version: str | None = None
    checksum: str | None = None
    delta: Annotated[DeltaOffer | None, WrapValidator(_or_none)] = None


# --- driver profiles ---


class SealedProfile(Payload):
    """`PUT /drivers/{id}/profile`: the caller's own id of the driver, and what only the fleet's keys open.

    Attributes:
        encrypted_data: A Fernet token.
        updated_at: Seconds since the epoch.
    """

    driver_id: Annotated[str, Field(min_length=1)]
    encrypted_data: Annotated[str, Field(min_length=1)]
    updated_at: NonNegative


class StoredProfile(Answer):
    """Answer to `GET /drivers/{id}/profile`."""

    driver_id: str | None = None
    encrypted_data: str


# --- vehicle report ---


class LastStop(StrEnum):
    """How the agent's life before this one ended."""

    CLEAN = "clean"
    CRASH = "crash"
    POWER = "power"
    UNKNOWN = "unknown"


class ModelState(StrEnum):
    """Where a version of a model stands on a vehicle."""

    INSTALLED = "installed"
    DOWNLOADING = "downloading"
    STAGED = "staged"
    ON_PROBATION = "on_probation"
    ROLLED_BACK = "rolled_back"
    REFUSED = "refused"
    FAILED = "failed"


class ModelReason(StrEnum):
    """Why a version stands so: what a report may say of it, never free text."""

    VALIDATOR = "validator"
    PROBATION = "probation"
    OPERATOR = "operator"
    DAMAGED = "damaged"
    ATTEMPT = "attempt"


class ReportedAgent(Payload):
    """Which agent reports, since when, and how often it was started."""

    version: str
    started_at: AwareDatetime
    starts: Count
    last_stop: LastStop


class ReportedOutbox(Payload):
    """What waits to be sent: items, seconds, bytes."""

    waiting: Count
    set_aside: Count
    oldest_age: NonNegative
    bytes: Count


class ReportedDisk(Payload):
    """The file system that the state folder lies on, bytes."""

    free: Count
    used: Count


class ReportedScenarios(Payload):
    """How many recordings stand how."""

    waiting: Count
    on_request: Count
    set_aside: Count
    uploaded: Count


class ReportedModel(Payload):
    """One version of one model."""

    name: str
    version: str
    state: ModelState
    since: AwareDatetime
    reason: ModelReason | None = None


class ReportedUsage(Payload):
    """Bytes over all links, of this day and month (UTC)."""

    day: Count
    month: Count


class VehicleReport(Payload):
    """What a vehicle says of itself, as `PUT /vehicles/{id}/status` takes it. No place, driver or path is in it."""

    schema_version: Literal[1] = 1
    reported_at: AwareDatetime
    agent: ReportedAgent
    outbox: ReportedOutbox
    disk: ReportedDisk
    scenarios: ReportedScenarios
    models: tuple[ReportedModel, ...]
    data_used: ReportedUsage
    certificate_expires_at: AwareDatetime | None = None


class VehicleReportReceipt(Answer):
    """Answer to a vehicle's report. Intervals in seconds; each wish is read by itself."""

    time: Annotated[str | None, WrapValidator(_or_none)] = None
    probe_interval: Annotated[NonNegative | None, WrapValidator(_or_none)] = None
    report_interval: Annotated[NonNegative | None, WrapValidator(_or_none)] = None
    wanted: Annotated[tuple[JsonValue, ...], WrapValidator(_or_nothing)] = ()

    def wishes(self) -> Iterator[WantedScenario]:
        """The recordings that the backend asks for."""
        for wish in self.wanted:
            with contextlib.suppress(ValidationError):
                yield WantedScenario.model_validate(wish)


class StatusModel(BaseModel):
    """Something to be shown. It holds no secret and no personal data."""

    model_config: ClassVar[ConfigDict] = ConfigDict(frozen=True, extra="ignore")
