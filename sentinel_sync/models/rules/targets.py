"""Which releases of models are among the targets of a TUF repository."""

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from pydantic import ValidationError

from sentinel_sync.base.errors import VerificationError
from sentinel_sync.base.payloads import ModelRelease
from sentinel_sync.base.privacy import loggable_text
from sentinel_sync.models.rules.releases import EXTENSIONS, check_version, live_name

#: What goes into a URL as it is; signed or not, a path that climbs or asks has no place there.
_PATH = re.compile(r"[A-Za-z0-9][A-Za-z0-9._~+@=,%-]*(?:/[A-Za-z0-9][A-Za-z0-9._~+@=,%-]*)*")
_LONGEST_PATH = 512


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
    if "sha256" not in target.hashes:
        raise VerificationError("it has no sha256 among its hashes")
    try:
        release = ModelRelease.model_validate(
            {**facts, "size": target.size, "checksum": target.hashes["sha256"].lower()}
        )
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
