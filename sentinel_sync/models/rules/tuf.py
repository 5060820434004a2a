"""Which releases of models are among the targets of a TUF repository."""

import re
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from typing import Any

from pydantic import ValidationError

from sentinel_sync.base.errors import VerificationError
from sentinel_sync.base.payloads import ModelRelease
from sentinel_sync.base.privacy import loggable_text
from sentinel_sync.models.rules.releases import EXTENSIONS, check_version, live_name

#: What goes into a URL as it is; signed or not, a path that climbs or asks has no place there.
_PATH = re.compile(r"[A-Za-z0-9][A-Za-z0-9._~+@=,%-]*(?:/[A-Za-z0-9][A-Za-z0-9._~+@=,%-]*)*")
_LONGEST_PATH = 512
#: In the order in which they are verified.
ROLES = ("root", "timestamp", "snapshot", "targets")


@dataclass(frozen=True, slots=True)
class SignedTarget:
    """One target, as signed.

    Attributes:
        path: Below the targets.
        size: Bytes.
        hashes: In hex, by algorithm.
        custom: What the repository says besides.
    """

    path: str
    size: int
    hashes: Mapping[str, str]
    custom: object


@dataclass(frozen=True, slots=True)
class FoundModel:
    """A release, and where its file lies below the targets."""

    release: ModelRelease
    path: str


def models_among(
    targets: Iterable[SignedTarget], *, consistent: bool
) -> tuple[tuple[FoundModel, ...], tuple[str, ...]]:
    """Find the models.

    Args:
        targets: Of the repository, sorted by path.
        consistent: Whether files lie under their hashes.

    Returns:
        The models, and what is said of targets that claim to be one and cannot be taken as one.
    """
    claims: dict[tuple[str, str], list[tuple[SignedTarget, ModelRelease]]] = {}
    left_aside: list[str] = []
    for target in targets:
        try:
            release = release_of(target)
        except VerificationError as error:
            left_aside.append(f"{loggable_text(target.path, 80)}: {error}")
        else:
            if release is not None:
                claims.setdefault((release.name, release.version), []).append((target, release))
    found: list[FoundModel] = []
    for (name, version), claimants in claims.items():
        if len({release.checksum for _, release in claimants}) > 1:
            paths = " and ".join(loggable_text(target.path, 80) for target, _ in claimants[:2])
            left_aside.append(f"{paths}: both are {name} {version}, and not the same file")
        else:
            target, release = claimants[0]
            found.append(
                FoundModel(release, _served_path(target.path, release.checksum) if consistent else target.path)
            )
    return tuple(found), tuple(left_aside)


def release_of(target: SignedTarget) -> ModelRelease | None:
    """Read one target. Where `custom` names no model, a path `{name}/{version}/{file}` does.

    Returns:
        The release, or None where the target is no model.

    Raises:
        VerificationError: It claims to be a model, and cannot be taken as one.
    """
    facts = _facts(target.path, target.custom)
    if facts is None:
        return None
    if len(target.path) > _LONGEST_PATH or not _PATH.fullmatch(target.path):
        raise VerificationError("its path is not one of a file below the targets")
    checksum = target.hashes.get("sha256") or target.hashes.get("sha512")
    if checksum is None:
        raise VerificationError("it has neither sha256 nor sha512 among its hashes")
    try:
        release = ModelRelease.model_validate({**facts, "size": target.size, "checksum": checksum.lower()})
    except ValidationError as error:
        places = {str(detail["loc"][0]) for detail in error.errors(include_input=False) if detail["loc"]}
        raise VerificationError(f"its {', '.join(sorted(places))} cannot be used") from None
    live_name(release.name, release.filename)
    check_version(release.version)
    return release


def _served_path(path: str, checksum: str) -> str:
    folder, slash, name = path.rpartition("/")
    return f"{folder}{slash}{checksum}.{name}"


def _facts(path: str, custom: object) -> dict[str, Any] | None:
    filename = path.rpartition("/")[2]
    is_model_file = filename.lower().endswith(EXTENSIONS)
    if isinstance(custom, dict) and ("name" in custom or "version" in custom):
        taken = {key: custom.get(key) for key in ("name", "version", "filename", "rollout", "released_at")}
        if taken["filename"] is None and is_model_file:
            taken["filename"] = filename
        return taken
    parts = path.split("/")
    if len(parts) != 3 or not is_model_file:
        return None
    return {"name": parts[0], "version": parts[1], "filename": filename}


@dataclass(frozen=True, slots=True)
class SeenMetadata:
    """The newest metadata of one role that was verified here.

    Attributes:
        version: Its version.
        expires: Until when it was signed for, seconds since the epoch.
        expired: Whether it was seen after that. Only a newer version will do then, whatever a clock says later.
    """

    version: int
    expires: float
    expired: bool = False

    @property
    def lowest(self) -> int:
        """The lowest version that is still taken."""
        return self.version + self.expired


@dataclass(frozen=True, slots=True)
class Verified:
    """What a refresh has verified, all of it or up to where it failed.

    Attributes:
        keys: Ids of the keys that `root` names for `timestamp` and `snapshot`.
        marks: By role; always with `root`.
    """

    keys: tuple[str, ...]
    marks: Mapping[str, SeenMetadata]

    @property
    def expires(self) -> float:
        """When the first of it expires, seconds since the epoch."""
        return min(mark.expires for mark in self.marks.values())


@dataclass(frozen=True, slots=True)
class RepositoryState:
    """What is remembered of one repository.

    Attributes:
        anchor: SHA-256 of the root metadata that the vehicle was delivered with; another one is another repository.
        time: The latest time that is known to have passed, seconds since the epoch.
        keys: As in `Verified`, when the marks were made.
        marks: By role.
    """

    anchor: str
    time: float = 0.0
    keys: tuple[str, ...] = ()
    marks: Mapping[str, SeenMetadata] = field(default_factory=dict)

    def reference(self, now: float) -> float:
        """The time to judge expiry by: a clock that was set back, or forgot the date, is not followed."""
        return max(now, self.time)

    def aged(self, now: float) -> "RepositoryState":
        """Note that the timestamp has expired, where it has by now, also while the repository is out of reach.

        Only the timestamp: whoever replays the past needs it, and a repository signs a new one every few days. Were the
        others marked as well, one wrong glance at a clock would shut the repository out until its next root.
        """
        mark = self.marks.get("timestamp")
        if mark is None or mark.expired or mark.expires > now:
            return self
        return replace(self, marks={**self.marks, "timestamp": replace(mark, expired=True)})

    def check(self, verified: Verified) -> None:
        """Let metadata pass that is no older than what was seen here.

        Raises:
            VerificationError: It is older, or it was seen expired.
        """
        self._check_role("root", verified)
        if verified.keys == self.keys:
            for role in ROLES[1:]:
                self._check_role(role, verified)

    def learned(self, verified: Verified, expired: Collection[str] = ()) -> "RepositoryState":
        """The memory after a refresh, also after one that failed.

        Where `root` has new keys for `timestamp` or `snapshot`, the versions below it count anew (TUF specification,
        5.3.11): this is how a repository recovers from a thief who has signed versions far ahead.

        Args:
            verified: What was verified.
            expired: The roles in it that had expired.
        """
        root = self.marks.get("root")
        if root is not None and verified.marks["root"].version < root.version:
            return self  # a root from the past, and so are the keys that it names
        kept = (
            self.marks if verified.keys == self.keys else {role: m for role, m in self.marks.items() if role == "root"}
        )
        marks = dict(kept)
        for role, mark in verified.marks.items():
            before = marks.get(role)
            if before is None or mark.version > before.version:
                marks[role] = mark
            if role in expired and marks[role].version == mark.version:
                marks[role] = replace(marks[role], expired=True)
        return replace(self, keys=verified.keys, marks=marks)

    def _check_role(self, role: str, verified: Verified) -> None:
        mark, seen = verified.marks.get(role), self.marks.get(role)
        if mark is None or seen is None or mark.version >= seen.lowest:
            return
        if mark.version == seen.version:
            raise VerificationError(
                f"the TUF repository is refused: its {role} version {mark.version} was seen to have expired on"
                f" {utc_text(seen.expires)}, whatever this vehicle's clock says now; sign a newer one"
            )
        raise VerificationError(
            f"the TUF repository is refused: its {role} is version {mark.version}, and version {seen.version} was seen"
            " before: a repository from the past?"
        )


def utc_text(time: float) -> str:
    """A time as people read it, UTC."""
    return datetime.fromtimestamp(time, UTC).strftime("%Y-%m-%d %H:%M UTC")


def passed(verified: Verified, reference: float, stamps: Collection[float]) -> float:
    """The latest time that a whole, valid set of metadata proves to have passed.

    Args:
        verified: The set.
        reference: The time by which none of it had expired. It cannot poison the memory: a clock that ran ahead by
            more than the timestamp's life would have found it expired.
        stamps: Dates in the past that the repository has signed (`released_at`). One after the set's own expiry is a
            plan, and proves nothing.
    """
    return max(reference, *(stamp for stamp in stamps if stamp < verified.expires), 0.0)
