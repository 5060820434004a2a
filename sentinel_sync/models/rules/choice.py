"""Which of the listed releases of one model this vehicle takes."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

from sentinel_sync.base.errors import VerificationError
from sentinel_sync.base.payloads import ModelRelease
from sentinel_sync.models.rules.releases import Trust, check_version, live_name, newest, verify, version_order
from sentinel_sync.models.rules.standing import Standing, check_version_allowed, in_rollout


@dataclass(frozen=True, slots=True)
class Choice:
    """What a listing means for one model.

    Attributes:
        update: What to take, or None.
        newest_seen: The newest that was ever offered with a trusted signature, or None.
        refusals: Why releases were refused that are not simply the vehicle's past.
        withdrawn: What is odd about a listing that ends before what was offered once, or None: a release was taken
            back, or somebody shows an old listing (freeze attack).
    """

    update: ModelRelease | None
    newest_seen: str | None
    refusals: tuple[str, ...]
    withdrawn: str | None = None


def choose(
    releases: Sequence[ModelRelease], standing: Standing, trust: Trust | None, vehicle_id: str, *, allow_unsigned: bool
) -> Choice:
    """Choose among the releases of one model: the newest that is genuine, for this vehicle, and leads forward.

    What the operator has pinned is for this vehicle, whatever the rollout.

    Args:
        releases: All that is listed of one model.
        standing: What counts against them.
        trust: Whose signatures count, or None where the source has verified them itself.
        vehicle_id: For the rollout.
        allow_unsigned: For a bench.
    """
    genuine: list[ModelRelease] = []
    refusals: list[str] = []
    for release in releases:
        try:
            check_genuine(release, trust, allow_unsigned=allow_unsigned)
        except VerificationError as error:
            refusals.append(str(error))
        else:
            if release.version == standing.pinned or in_rollout(release, vehicle_id):
                genuine.append(release)
    seen = newest((standing.newest_seen, *(release.version for release in genuine)))
    now = replace(standing, newest_seen=seen)
    for release in sorted(genuine, key=lambda release: version_order(release.version), reverse=True):
        if release.version == standing.installed or release.version in standing.skipped:
            continue
        if release.checksum in standing.bad:
            continue  # known, and shown by itself
        try:
            check_version_allowed(release.name, release.version, now)
        except VerificationError as error:
            if standing.pinned is None and not is_history(release.version, standing.installed):
                refusals.append(str(error))
            continue
        return Choice(release, seen, tuple(refusals), _withdrawn(genuine, seen))
    return Choice(None, seen, tuple(refusals), _withdrawn(genuine, seen))


def _withdrawn(genuine: Sequence[ModelRelease], seen: str | None) -> str | None:
    offered = newest(release.version for release in genuine)
    if offered is None or seen is None or version_order(offered) >= version_order(seen):
        return None
    return f"{seen} was offered before, and now nothing newer than {offered}: withdrawn, or a listing from the past"


def choose_each(
    releases: Sequence[ModelRelease],
    standings: Mapping[str, Standing],
    trust: Trust | None,
    vehicle_id: str,
    *,
    allow_unsigned: bool,
) -> dict[str, Choice]:
    """Choose for every model that is listed; `standings` has those that something is known of.

    A signature takes a tenth of a millisecond, so a long listing is no work for a host's loop.
    """
    by_name: dict[str, list[ModelRelease]] = {}
    for release in releases:
        by_name.setdefault(release.name, []).append(release)
    return {
        name: choose(group, standings.get(name, Standing()), trust, vehicle_id, allow_unsigned=allow_unsigned)
        for name, group in by_name.items()
    }


def check_genuine(release: ModelRelease, trust: Trust | None, *, allow_unsigned: bool) -> None:
    """Let a release pass whose names may touch a path and that those trusted have signed.

    Args:
        release: Which.
        trust: Whose signatures count, or None where the source has verified it itself.
        allow_unsigned: For a bench.

    Raises:
        VerificationError: It may not.
    """
    live_name(release.name, release.filename)
    check_version(release.version)
    if trust is not None:
        verify(release, trust, allow_unsigned=allow_unsigned)


def is_history(version: str, installed: str | None) -> bool:
    """Whether a version is one that this vehicle has left behind, or has: listings have those too."""
    return installed is not None and version_order(version) <= version_order(installed)
