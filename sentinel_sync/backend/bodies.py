"""The request bodies of the contract, strict to the letter: a wrong type, a missing or an extra field is refused."""

import base64
import binascii
import re
from datetime import UTC, datetime
from typing import Annotated, Any, ClassVar, Literal, Self

from pydantic import (
    AfterValidator,
    AwareDatetime,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    JsonValue,
    model_validator,
)
from pydantic_core import PydanticCustomError

from sentinel_sync.backend.privacy import fine_coordinates, is_coarse

PRIVACY_ERROR = "privacy_violation"
LONGEST_NAME = 200

_RFC_3339 = re.compile(r"\d{4}-\d\d-\d\d[Tt]\d\d:\d\d:\d\d(\.\d+)?([Zz]|[+-]\d\d:\d\d)")
_FERNET_VERSION = 0x80
_FERNET_OVERHEAD = 57
_CIPHER_BLOCK = 16


def _rfc_3339(value: Any) -> Any:
    if not isinstance(value, str) or not _RFC_3339.fullmatch(value):
        raise PydanticCustomError("rfc_3339", "must be an RFC 3339 time with an offset")
    return value


def _within_utc(value: datetime) -> datetime:
    try:
        value.astimezone(UTC)
    except OverflowError:
        raise PydanticCustomError("time_range", "must be a time that UTC can say") from None
    return value


def _coarse(value: float) -> float:
    if not is_coarse(value):
        raise PydanticCustomError(PRIVACY_ERROR, "a coordinate may have two decimals at most")
    return value


def safe_name(value: str) -> str:
    """A name that can be shown, logged and be a file name anywhere.

    Raises:
        ValueError: It is empty, too long, starts with a dot, or has a slash, backslash or control character.
    """
    if not 1 <= len(value) <= LONGEST_NAME:
        raise ValueError(f"must have 1 to {LONGEST_NAME} characters")
    if value.startswith(".") or not value.isprintable() or "/" in value or "\\" in value:
        raise ValueError("must not start with a dot or contain a slash, a backslash or a control character")
    return value


def _fernet_token(value: str) -> str:
    try:
        raw = base64.b64decode(value, altchars=b"-_", validate=True)
    except (binascii.Error, ValueError):
        raw = b""
    shaped = raw[:1] == bytes([_FERNET_VERSION]) and len(raw) >= _FERNET_OVERHEAD + _CIPHER_BLOCK
    if not shaped or (len(raw) - _FERNET_OVERHEAD) % _CIPHER_BLOCK:
        raise PydanticCustomError("fernet", "must be a Fernet token: a profile never arrives in the clear")
    return value


# Not strict after the check of its form: a strict datetime would take no text at all.
Moment = Annotated[AwareDatetime, Field(strict=False), BeforeValidator(_rfc_3339), AfterValidator(_within_utc)]
# The upper bounds are far above anything that drives; they keep sums over a fleet finite.
Quantity = Annotated[float, Field(ge=0, le=1e15, allow_inf_nan=False)]
Count = Annotated[int, Field(ge=0, le=10**9)]
Bytes = Annotated[int, Field(ge=0, le=2**63 - 1)]
Risk = Annotated[float, Field(ge=0, le=1, allow_inf_nan=False)]
Name = Annotated[str, AfterValidator(safe_name)]


class StrictBody(BaseModel):
    """No conversions and no unknown fields: what is not in the contract must not travel."""

    model_config: ClassVar[ConfigDict] = ConfigDict(extra="forbid", strict=True, frozen=True)


class Location(StrictBody):
    """A place, coarsened to about 1 km."""

    lat: Annotated[float, Field(ge=-90, le=90, allow_inf_nan=False), AfterValidator(_coarse)]
    lon: Annotated[float, Field(ge=-180, le=180, allow_inf_nan=False), AfterValidator(_coarse)]


class Trip(StrictBody):
    """One trip's summary. Times are RFC 3339, distances metres, speeds m/s, durations seconds."""

    trip_id: str = Field(
        pattern=r"^trip_[0-9a-f]{12}7[0-9a-f]{3}[89ab][0-9a-f]{15}$", description="`trip_` and a UUIDv7 in hex."
    )
    start_time: Moment
    end_time: Moment = Field(description="May lie before `start_time`: vehicle clocks are set while driving.")
    duration: Quantity
    distance: Quantity
    average_speed: Quantity
    max_speed: Quantity
    alert_count: Count = Field(description="The sum of the three below.")
    critical_alert_count: Count
    warning_alert_count: Count
    info_alert_count: Count
    average_risk_score: Risk
    max_risk_score: Risk
    driver_id: Annotated[str, Field(pattern=r"^d_[0-9a-f]{32}$")] | None = Field(
        description="A pseudonym: `d_` and 32 hex digits."
    )
    start_location: Location | None
    end_location: Location | None
    interrupted: bool
    schema_version: Literal[1]

    @model_validator(mode="after")
    def _alerts_add_up(self) -> Self:
        if self.alert_count != self.critical_alert_count + self.warning_alert_count + self.info_alert_count:
            raise PydanticCustomError("alert_sum", "alert_count must be the sum of the other three counts")
        return self


class TripBatch(StrictBody):
    """Several trips; each is read by itself, as if it had come alone."""

    trips: list[JsonValue] = Field(description="At most 500, each as `POST /trips` takes it.")


class ReportedAgent(StrictBody):
    """Which agent reports, since when, how often it was started, how its life before this one ended."""

    version: Name
    started_at: Moment
    starts: Count
    last_stop: Literal["clean", "crash", "power", "unknown"]


class ReportedOutbox(StrictBody):
    """What waits to be sent: items, the oldest one's age in seconds, bytes."""

    waiting: Count
    set_aside: Count
    oldest_age: Quantity
    bytes: Bytes


class ReportedDisk(StrictBody):
    """The file system of the agent's state folder, bytes."""

    free: Bytes
    used: Bytes


class ReportedScenarios(StrictBody):
    """How many recordings stand how."""

    waiting: Count
    on_request: Count
    set_aside: Count
    uploaded: Count


class ReportedModel(StrictBody):
    """One version of one model."""

    name: Name
    version: Name
    state: Literal["installed", "downloading", "staged", "on_probation", "rolled_back", "refused", "failed"]
    since: Moment
    reason: Literal["validator", "probation", "operator", "damaged", "attempt"] | None = Field(
        default=None,
        description="`validator`: it failed before it was in use; `probation`: after it; `operator`: a person took it "
        "back, or a newer one that is in its way; `damaged`: its bytes are not what was installed; `attempt`: the last "
        "attempt at it came to nothing.",
    )


class ReportedUsage(StrictBody):
    """Bytes over all links, of this day and month (UTC)."""

    day: Bytes
    month: Bytes


class VehicleReport(StrictBody):
    """What a vehicle says of itself. Nothing in it tells a place, a driver or a path."""

    schema_version: Literal[1]
    reported_at: Moment
    agent: ReportedAgent
    outbox: ReportedOutbox
    disk: ReportedDisk
    scenarios: ReportedScenarios
    models: list[ReportedModel]
    data_used: ReportedUsage
    certificate_expires_at: Moment | None = None


class Consent(StrictBody):
    """Under which consent a recording is sent."""

    granted_at: Moment
    policy_version: str | int


class Trigger(BaseModel):
    """Why the recorder recorded."""

    model_config: ClassVar[ConfigDict] = ConfigDict(extra="allow", strict=True, frozen=True)

    type: str
    reason: str


class ScenarioMetadata(BaseModel):
    """The recorder's metadata.json: more fields may come, but no coordinate finer than two decimals."""

    model_config: ClassVar[ConfigDict] = ConfigDict(extra="allow", strict=True, frozen=True)

    timestamp: str
    duration: Quantity
    num_frames: Count
    trigger: Trigger
    files: dict[str, Name] = Field(description="Camera to file name; these are the videos that are awaited.")


class ScenarioRegistration(StrictBody):
    """What announces a recorded scenario."""

    scenario_id: Name = Field(description="The name of the recording's folder; unique for its vehicle.")
    metadata: ScenarioMetadata
    priority: Literal["high", "normal", "low"]
    consent: Consent

    @model_validator(mode="before")
    @classmethod
    def _coarse_everywhere(cls, value: Any) -> Any:
        if isinstance(value, dict):
            fine = list(fine_coordinates(value.get("metadata"), "metadata"))
            if fine:
                raise PydanticCustomError(
                    PRIVACY_ERROR, "coordinates finer than two decimals in: {fields}", {"fields": ", ".join(fine[:20])}
                )
        return value


class Profile(StrictBody):
    """A driver profile that the backend can't read."""

    driver_id: str = Field(min_length=1, max_length=1024, description="The same as in the address.")
    encrypted_data: Annotated[str, AfterValidator(_fernet_token)] = Field(description="A Fernet token.")
    updated_at: Quantity = Field(description="Seconds since the epoch.")


def day_of(moment: datetime) -> str:
    """The calendar day of a moment in UTC, as `2026-11-01`."""
    return moment.astimezone(UTC).date().isoformat()
