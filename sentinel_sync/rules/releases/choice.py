"""Which of the listed releases of one model this vehicle takes."""

from collections.abc import Sequence
from dataclasses import dataclass

from sentinel_sync.errors import VerificationError
from sentinel_sync.payloads import ModelRelease
from sentinel_sync.rules.releases.releases import (
    Standing,
    Trust,
    check_version,
    check_version_allowed,
    in_rollout,
    live_name,
    newest,
    verify,
    version_order,
)


@dataclass(frozen=True, slots=True)
class Choice:
    """What a listing means for one model.

    Attributes:
        update: What to take, or None.
        newest_seen: The newest that was ever offered with a trusted signature, or None.
        refusals: Why releases were refused that are not simply the vehicle's past.
    """

    update: ModelRelease | None
    newest_seen: str | None
    refusals: tuple[str, ...]


def choose(
    releases: Sequence[ModelRelease], standing: Standing, trust: Trust, vehicle_id: str, *, allow_unsigned: bool
) -> Choice:
    """Choose among the releases of one model: the newest that is genuine, for this vehicle, and leads forward."""
    genuine: list[ModelRelease] = []
    refusals: list[str] = []
    for release in releases:
        try:
            check_genuine(release, trust, allow_unsigned=allow_unsigned)
        except VerificationError as error:
            refusals.append(str(error))
        else:
            if in_rollout(release, vehicle_id):
                genuine.append(release)
    seen = newest((standing.newest_seen, *(release.version for release in genuine)))
    now = Standing(standing.installed, seen, standing.pinned, standing.skipped)
    for release in sorted(genuine, key=lambda release: version_order(release.version), reverse=True):
        if release.version == standing.installed or release.version in standing.skipped:
            continue
        try:
            check_version_allowed(release.name, release.version, now)
        except VerificationError as error:
            if standing.pinned is None and not is_history(release.version, standing.installed):
                refusals.append(str(error))
            continue
        return Choice(release, seen, tuple(refusals))
    return Choice(None, seen, tuple(refusals))


def check_genuine(release: ModelRelease, trust: Trust, *, allow_unsigned: bool) -> None:
    """Let a release pass whose names may touch a path and that somebody trusted has signed.

    Raises:
        VerificationError: It may not.
    """
    live_name(release.name, release.filename)
    check_version(release.version)
    verify(release, trust, allow_unsigned=allow_unsigned)


def is_history(version: str, installed: str | None) -> bool:
    """Whether a version is one that this vehicle has left behind, or has: listings have those too."""
    return installed is not None and version_order(version) <= version_order(installed)
