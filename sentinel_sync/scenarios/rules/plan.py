"""What a recorded scenario consists of, which part goes next, and under which consent."""

import hashlib
import hmac
import re
import uuid
from dataclasses import dataclass, field, replace
from enum import StrEnum
from typing import Self

from sentinel_sync.base.errors import ScenarioError
from sentinel_sync.base.transfer import TransferAttempts

METADATA_NAME = "metadata.json"
ANNOTATIONS_NAME = "annotations.json"
#: Longer names fit no file system that a recorder writes to (255 bytes with what is put around them).
LONGEST_NAME = 200
#: A folder's name that is a time stamp, and says nothing else.
_TIME_STAMP = re.compile(r"[0-9_TZ-]+")
#: How a name begins that stands for a folder's (wire contract, Scenarios).
OUTGOING_PREFIX = "s_"
#: Namespace of the keys below: a random UUID, fixed for ever, because the same work must have the same key for ever.
_KEYS = uuid.UUID("6f0c2f4e-53a4-4c39-9d0b-3d1c1d1c7e55")


class Priority(StrEnum):
    """How much a recording matters."""

    HIGH = "high"
    NORMAL = "normal"
    LOW = "low"

    @property
    def rank(self) -> int:
        """Its place in the outbox: 0 goes first."""
        return list(Priority).index(self)


class PartKind(StrEnum):
    """What a part is, in the order in which parts go."""

    METADATA = "metadata"
    VIDEO = "video"
    ANNOTATIONS = "annotations"


_QUARTER_NS = 900 * 10**9
#: From the westernmost zone to the easternmost, summer time included.
_WIDEST_NS = 27 * 3600 * 10**9
_FAT_NS = 2 * 10**9


@dataclass(frozen=True, slots=True)
class Consent:
    """A decision about sending recordings.

    Attributes:
        at: When it was made, seconds since the epoch.
        policy_version: The policy that it was made about.
    """

    granted: bool
    at: float
    policy_version: str


@dataclass(frozen=True, slots=True)
class PartFile:
    """The bytes that go for a part: the recording's own file, or one made of it.

    Attributes:
        derived_name: Of the file in the derived folder, or None where the recording's own goes.
        size_bytes: What it has.
        sha256: Of its bytes, lower-case hex.
        encoding: `gzip` where it is packed, else None.
        note: Why the recording's own file goes although it was to be compressed, or another codec was taken; or None.
    """

    derived_name: str | None
    size_bytes: int
    sha256: str
    encoding: str | None = None
    note: str | None = None


@dataclass(frozen=True, slots=True)
class Part:
    """One file of a recording, acknowledged by itself.

    Attributes:
        size_bytes: When it was queued.
        modified_ns: Its time of modification then: a file that changed since is not what was queued.
        began_at: When sending it was last begun, seconds since the epoch, or None.
        acknowledged_at: When the backend took it, or None.
        consent: The consent that it was sent under, set before its first byte goes; None where none has gone.
        file: What goes for it, once that was made; None for metadata, and before.
        upload_url: Where a resumable upload of `file` goes on, or None.
        sent_as: What a video is called when it goes: by its camera. None for the other parts, which have their names.
        attempts: What attempts at it have come to.
    """

    kind: PartKind
    name: str
    size_bytes: int
    modified_ns: int
    acknowledged_at: float | None = None
    consent: Consent | None = None
    file: PartFile | None = None
    upload_url: str | None = None
    began_at: float | None = None
    sent_as: str | None = None
    attempts: TransferAttempts = field(default_factory=TransferAttempts)

    @property
    def outgoing_name(self) -> str:
        """What the backend knows the file by."""
        return self.sent_as or self.name

    def is_same_file(self, other: "Part") -> bool:
        """Whether both were queued of the same file, unchanged."""
        return (self.kind, self.name) == (other.kind, other.name) and self.is_of(other.size_bytes, other.modified_ns)

    def is_of(self, size_bytes: int, modified_ns: int) -> bool:
        """Whether a file that looks so now is the one that was queued, unchanged.

        FAT keeps local time, to two seconds: where the zone or the summer time changed, each file's time has moved by
        whole quarters of an hour, and nobody has written it.
        """
        moved = abs(modified_ns - self.modified_ns)
        past_quarter = moved % _QUARTER_NS
        is_zones = _QUARTER_NS - _FAT_NS <= moved <= _WIDEST_NS and (
            min(past_quarter, _QUARTER_NS - past_quarter) <= _FAT_NS
        )
        return size_bytes == self.size_bytes and (moved == 0 or is_zones)


@dataclass(frozen=True, slots=True)
class ScenarioPlan:
    """What is to be sent of one recording, and what has arrived.

    Attributes:
        folder: Where it lies on the vehicle; never sent.
        queued_at: Seconds since the epoch.
        parts: In the order in which they go.
        uploaded_at: When the last part was acknowledged, or None.
        refused: Why it cannot be queued at all, or None.
        fingerprint: Of a refused folder (names, sizes and times of its files): it is looked at again once that changes.
        in_queue: Whether its item was put into the outbox; False where that was cut off, and it has to be done again.
        dropped: Why it was taken out of the queue, or was never to be in it, or None.
        warning: What else a person should know, or None.
        deleted_at: When the retention setting deleted the recording, or began to, or None.
        outgoing_id: What the backend knows it by, set when the first of it goes; it stays when the key changes.
        on_request_at: When the backend had its announcement, and its files were left to be asked for; or None.
        wanted: The files that were asked for, by the names that the backend knows (none: all); None: nobody has asked.
    """

    scenario_id: str
    folder: str
    priority: Priority
    queued_at: float
    parts: tuple[Part, ...]
    uploaded_at: float | None = None
    refused: str | None = None
    fingerprint: str | None = None
    in_queue: bool = True
    dropped: str | None = None
    warning: str | None = None
    deleted_at: float | None = None
    outgoing_id: str | None = None
    on_request_at: float | None = None
    wanted: tuple[str, ...] | None = None

    def next_part(self) -> Part | None:
        """The part that goes next, or None where all that may go have arrived."""
        return next((part for part in self.parts if part.acknowledged_at is None and self._may_go(part)), None)

    def _may_go(self, part: Part) -> bool:
        if self.on_request_at is None or part.kind is PartKind.METADATA:
            return True
        return self.wanted is not None and (not self.wanted or part.outgoing_name in self.wanted)

    @property
    def waits_for_request(self) -> bool:
        """Whether it has been announced, and nothing more goes until somebody asks for it."""
        is_over = self.uploaded_at is not None or self.deleted_at is not None or self.dropped is not None
        return self.on_request_at is not None and not is_over and self.next_part() is None

    def on_request(self, at: float) -> Self:
        """The plan once the backend has its announcement, and its files are to be asked for."""
        return replace(self, on_request_at=self.on_request_at or at)

    def asked_for(self, files: tuple[str, ...]) -> Self:
        """The plan once the backend asks for some of its files, or for all."""
        return replace(self, wanted=files)

    def acknowledged(self, part: Part, at: float, consent: Consent) -> Self:
        """The plan once `part` has arrived."""
        plan = self.with_part(replace(part, acknowledged_at=at, consent=consent, upload_url=None))
        whole = all(known.acknowledged_at is not None for known in plan.parts)
        return replace(plan, uploaded_at=at if whole else None)

    def without_files(self) -> Self:
        """The plan once nothing made of the recording is left: what was not acknowledged is made anew.

        Of a part whose sending was begun, what went stays on record.
        """
        return replace(
            self,
            parts=tuple(
                part
                if part.acknowledged_at is not None
                else replace(part, file=None if part.began_at is None else part.file, upload_url=None)
                for part in self.parts
            ),
        )

    def with_part(self, part: Part) -> Self:
        """The plan with what is known of one part now."""
        return replace(self, parts=tuple(part if known.is_same_file(part) else known for known in self.parts))

    def going_on_from(self, before: Self) -> Self:
        """This plan with what `before` knows of its parts, as far as those files are the same."""
        known = {part.name: part for part in before.parts}
        return replace(
            self,
            outgoing_id=before.outgoing_id,
            on_request_at=before.on_request_at,
            wanted=before.wanted,
            parts=tuple(
                old if (old := known.get(part.name)) is not None and old.is_same_file(part) else part
                for part in self.parts
            ),
        )

    @property
    def known_as(self) -> str:
        """What the backend knows it by.

        Raises:
            ValueError: That was not decided yet, and the folder's name may say who or where.
        """
        if self.outgoing_id is None and not _TIME_STAMP.fullmatch(self.scenario_id):
            raise ValueError("the scenario has no name to go by yet")
        return self.outgoing_id or self.scenario_id

    @property
    def derived_names(self) -> frozenset[str]:
        """Files in the derived folder that are still to be sent."""
        return frozenset(
            part.file.derived_name
            for part in self.parts
            if part.acknowledged_at is None and part.file is not None and part.file.derived_name is not None
        )

    @property
    def consent(self) -> Consent | None:
        """The consent that its newest part was sent under, or None where nothing was sent."""
        sent = [part for part in self.parts if part.acknowledged_at is not None]
        return max(sent, key=lambda part: part.acknowledged_at or 0.0).consent if sent else None

    @property
    def size_bytes(self) -> int:
        """What it takes on disk."""
        return sum(part.size_bytes for part in self.parts)

    @property
    def arrived_bytes(self) -> int:
        """What of it the backend has."""
        return sum(part.size_bytes for part in self.parts if part.acknowledged_at is not None)


def outgoing_scenario_id(name: str, key: bytes) -> str:
    """What the backend knows a scenario by (wire contract, Scenarios): the folder's name where it is a time stamp.

    Any other name may say who or where: then `s_` + 32 hex digits of HMAC-SHA256 over it.
    """
    if _TIME_STAMP.fullmatch(name):
        return name
    return OUTGOING_PREFIX + hmac.new(key, name.encode(), hashlib.sha256).hexdigest()[:32]


def part_key(vehicle_id: str, scenario_id: str, part: Part) -> str:
    """`Idempotency-Key` of a part: the same on every attempt, after restarts and without any memory of them.

    The vehicle is in it because two recorders may start within one second, and so use one scenario id.
    """
    return str(uuid.uuid5(_KEYS, f"{vehicle_id}\0{scenario_id}\0{part.kind}\0{part.name}"))


def waits_for_request(setting: str, backend_says: str | None) -> bool:
    """Whether only the announcement of a recording is to go, until its files are asked for.

    Args:
        setting: `scenario_upload`: "all", "on_request", or "auto" (as the backend says).
        backend_says: `upload` in the answer to the announcement, or None.
    """
    return setting == "on_request" or (setting == "auto" and backend_says == "on_request")


def missing_consent(consent: Consent | None, policy_version: str) -> str | None:
    """Why `consent` does not allow sending under the policy in force, or None where it does."""
    if consent is None:
        return "the driver has not consented to sending recordings"
    if not consent.granted:
        return "the driver has withdrawn the consent to sending recordings"
    if consent.policy_version != policy_version:
        return f"the driver consented to policy {consent.policy_version}, but policy {policy_version} is in force"
    return None


def check_name(name: str, what: str) -> str:
    """Let a name pass that can be shown, logged, sent in a header and be one file's name on any system.

    Raises:
        ScenarioError: It is empty, too long, begins with a dot, or has a slash, quote or control character.
    """
    if not 1 <= len(name) <= LONGEST_NAME:
        raise ScenarioError(f"{what} must have 1 to {LONGEST_NAME} characters")
    if name.startswith(".") or not name.isprintable():
        raise ScenarioError(f"{what} {name!a} begins with a dot or has a control character")
    if set(name) & set('/\\"'):
        raise ScenarioError(f"{what} {name!a} has a slash or a quotation mark")
    return name
