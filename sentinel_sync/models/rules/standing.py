"""What counts against a release on this vehicle: what is installed, what was seen, and the operator's word."""

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from sentinel_sync.base.errors import VerificationError
from sentinel_sync.base.payloads import ModelRelease
from sentinel_sync.models.rules.releases import version_order


def in_rollout(release: ModelRelease, vehicle_id: str) -> bool:
    """Whether this vehicle belongs to the share that a release is for: the same answer each time it is asked."""
    if release.rollout is None:
        return True
    digest = hashlib.sha256(f"{vehicle_id}\0{release.name}\0{release.version}".encode()).digest()
    # 53 bits: what a float holds exactly, so that 1.0 is never reached.
    return (int.from_bytes(digest[:8]) >> 11) / 2.0**53 < release.rollout


@dataclass(frozen=True, slots=True)
class Standing:
    """What counts against a release on this vehicle.

    Attributes:
        installed: The version in use, or None.
        newest_seen: The newest that was ever offered to this vehicle with a trusted signature, or None.
        pinned: The only version that the operator wants, or None.
        skipped: Versions that the operator has rolled back from: not taken again without being asked for.
        bad: Why what failed on this vehicle did, by SHA-256 in hex: not taken again even when asked for.
    """

    installed: str | None = None
    newest_seen: str | None = None
    pinned: str | None = None
    skipped: Sequence[str] = ()
    bad: Mapping[str, str] = field(default_factory=dict)


def check_version_allowed(name: str, version: str, standing: Standing) -> None:
    """Let a version pass that leads forward, or that the operator has pinned (rollback and freeze attacks).

    Raises:
        VerificationError: It is not newer than what is installed, older than what was seen, or not the pinned one.
    """
    if standing.pinned is not None:
        if version == standing.pinned:
            return
        raise VerificationError(f"{name} {version} is refused: the operator has pinned {standing.pinned}")
    order = version_order(version)
    if standing.installed is not None and order <= version_order(standing.installed):
        raise VerificationError(f"{name} {version} is refused: it is not newer than {standing.installed}, in use")
    if standing.newest_seen is not None and order < version_order(standing.newest_seen):
        raise VerificationError(
            f"{name} {version} is refused: {standing.newest_seen} was offered before: a listing from the past?"
        )


def check_not_bad(release: ModelRelease, standing: Standing) -> None:
    """Let a release pass whose bytes have not failed here; a pin does not help, only that the operator forgives it.

    Raises:
        VerificationError: They have.
    """
    why = standing.bad.get(release.checksum)
    if why is not None:
        raise VerificationError(
            f"{release.name} {release.version} is refused: it was found bad on this vehicle ({why}); to try it again,"
            " forgive it first"
        )
