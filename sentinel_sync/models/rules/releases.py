"""Whether a release of a model is genuine: names, versions, signatures.

`cryptography` is imported when the first key is read: it takes 6 MB, which a vehicle without models need not hold.
"""

import base64
import binascii
import hashlib
import json
import re
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import NamedTuple, Protocol

from sentinel_sync.base.errors import VerificationError
from sentinel_sync.base.payloads import ModelReason, ModelRelease, ModelSignature

#: What the runtime opens (wire contract, Models).
EXTENSIONS = (".pt", ".pth", ".onnx", ".engine", ".tflite", ".safetensors", ".bin")
#: `type` of the signed manifest (wire contract, Models).
MANIFEST_TYPE = "application/vnd.sentinel.model.v1+json"
#: Version of a file that lay there before anybody recorded one: every release is newer.
UNKNOWN_VERSION = "v0"

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,127}")
_VERSION = re.compile(
    # [0-9], not \\d: that takes the digits of every script, and a version is part of a file's name.
    r"v?(?P<numbers>[0-9]{1,9}(?:\.[0-9]{1,9}){0,3})(?:-(?P<pre>[0-9A-Za-z.-]{1,60}))?(?:\+(?P<build>[0-9A-Za-z.-]{1,60}))?"
)
#: Names that some file systems take for devices, whatever follows the first dot.
_DEVICES = frozenset(
    {"con", "prn", "aux", "nul", "clock$"} | {f"{port}{n}" for port in ("com", "lpt") for n in range(10)}
)
_KEY_BYTES = 32
_SIGNATURE_BYTES = 64
_KEY_ID_DIGITS = 16
#: A release with more signatures than this is not looked at: each costs a tenth of a millisecond per trusted key.
_MOST_SIGNATURES = 32


class VersionOrder(NamedTuple):
    """A version as it compares: semver's precedence (semver.org, item 11), with up to four numbers."""

    numbers: tuple[int, ...]
    is_final: bool
    pre: tuple[tuple[bool, int, str], ...]


class VerifyingKey(Protocol):
    """What `cryptography`'s Ed25519PublicKey does for us."""

    def verify(self, signature: bytes, data: bytes) -> None:
        """Raise InvalidSignature where the signature is not this key's over `data`."""
        ...


@dataclass(frozen=True, slots=True)
class Trust:
    """Whose signatures count.

    Attributes:
        keys: The public keys by key id; revoked ones are not among them.
        threshold: So many different ones of them must have signed a release.
    """

    keys: Mapping[str, VerifyingKey]
    threshold: int = 1

    @classmethod
    def of(cls, keys: Iterable[bytes], revoked: Collection[str] = (), *, threshold: int = 1) -> "Trust":
        """Trust these raw keys, but those that are revoked (named by key id, or by the key itself in base64).

        Raises:
            ValueError: One is not a raw Ed25519 public key.
        """
        trusted: dict[str, VerifyingKey] = {}
        for raw in keys:
            name = key_id(raw)
            if name not in revoked and base64.b64encode(raw).decode() not in revoked:
                trusted[name] = _verifying_key(raw)
        return cls(trusted, threshold)


# --- names and versions ---


def check_name(name: str, what: str) -> str:
    """Let a name pass that is one file's on any system, and no device's.

    Raises:
        VerificationError: It is not.
    """
    if not _NAME.fullmatch(name) or name.endswith(".") or name.partition(".")[0].lower() in _DEVICES:
        raise VerificationError(f"{what} {name[:80]!a} is refused: letters, digits, dots, dashes and underscores only")
    return name


def check_version(version: str) -> str:
    """Let a version pass.

    Raises:
        VerificationError: It is not like v2.1.0.
    """
    if not _VERSION.fullmatch(version):
        raise VerificationError(f"the version {version[:80]!a} is refused: it must be like v2.1.0")
    return version


def version_order(version: str) -> VersionOrder:
    """Sort key of a version: v2.1 equals v2.1.0, v2.1.0-rc1 comes before v2.1.0, what follows a `+` does not count.

    Raises:
        VerificationError: It is not like v2.1.0.
    """
    match = _VERSION.fullmatch(version)
    if match is None:
        raise VerificationError(f"the version {version[:80]!a} is refused: it must be like v2.1.0")
    numbers = tuple(int(number) for number in match["numbers"].split("."))
    pre = tuple(
        (not part.isdigit(), int(part) if part.isdigit() else 0, "" if part.isdigit() else part)
        for part in (match["pre"] or "").split(".")
        if part
    )
    return VersionOrder((*numbers, 0, 0, 0)[:4], not match["pre"], pre)


def newest(versions: Iterable[str | None]) -> str | None:
    """The newest of these versions, or None where there is none."""
    return max((version for version in versions if version is not None), key=version_order, default=None)


def same_version(one: str, other: str) -> bool:
    """Whether two words mean one version: v2.0 and 2.0.0 do; two builds (`+…`) are two. What is none is only itself."""
    first, second = _VERSION.fullmatch(one), _VERSION.fullmatch(other)
    if first is None or second is None:
        return one == other
    return (version_order(one), first["build"]) == (version_order(other), second["build"])


def meant_by(word: str, versions: Iterable[str | None]) -> str:
    """Which of these versions a person's word means: the one that is written so before the same one written otherwise.

    It is the word itself where none of them is meant.
    """
    same = [version for version in versions if version is not None and same_version(word, version)]
    return word if word in same or not same else same[0]


def live_name(name: str, filename: str | None) -> str:
    """File name, below `models_dir`, that the runtime opens (wire contract, Models).

    Raises:
        VerificationError: A name that must not touch a path, or an ending that the contract does not know.
    """
    check_name(name, "the model's name")
    if filename is None:
        return name + (".pt" if "yolo" in name.lower() else ".pth")
    check_name(filename, "the file name")
    ending = next((ending for ending in EXTENSIONS if filename.lower().endswith(ending)), None)
    if ending is None:
        raise VerificationError(f"the file name {filename[:80]!a} is refused: it must end with {' '.join(EXTENSIONS)}")
    return name + ending


# --- signatures ---


def manifest(name: str, version: str, size: int, checksum: str) -> bytes:
    """The bytes that are signed: DSSE's pre-authentication encoding of the release's manifest (wire contract)."""
    facts = {"checksum": checksum, "name": name, "size": size, "version": version}
    body = json.dumps(facts, sort_keys=True, separators=(",", ":"), ensure_ascii=False).encode()
    return b" ".join((b"DSSEv1", b"%d" % len(MANIFEST_TYPE), MANIFEST_TYPE.encode(), b"%d" % len(body), body))


def key_id(raw: bytes) -> str:
    """Name of a key: the first 16 hex digits of the SHA-256 of the raw public key.

    Raises:
        ValueError: These are not 32 bytes.
    """
    if len(raw) != _KEY_BYTES:
        raise ValueError(f"an Ed25519 public key has {_KEY_BYTES} bytes, not {len(raw)}")
    return hashlib.sha256(raw).hexdigest()[:_KEY_ID_DIGITS]


def verify(release: ModelRelease, trust: Trust, *, allow_unsigned: bool = False) -> tuple[str, ...]:
    """Let a release pass that enough of those trusted have signed: name, version, size and checksum, all at once.

    Returns:
        The ids of the keys; none where the release is unsigned and that is allowed.

    Raises:
        VerificationError: It is unsigned, or too few of those trusted have signed just this.
    """
    what = f"{release.name} {release.version}"
    signed = _signatures(release)
    if not signed:
        if allow_unsigned:
            return ()
        raise VerificationError(f"{what} is refused: it is not signed")
    if not trust.keys:
        raise VerificationError(f"{what} is refused: no key is trusted: set cloud.model_trusted_keys")
    if len(signed) > _MOST_SIGNATURES:
        raise VerificationError(f"{what} is refused: it has {len(signed)} signatures, more than {_MOST_SIGNATURES}")
    body = manifest(release.name, release.version, release.size, release.checksum)
    faults: list[str] = []
    # By key, not by signature: one key that signs twice, or is listed twice, is still one signer.
    signers: dict[str, None] = {}
    for signature in signed:
        try:
            signers[_signer(signature, trust, body)] = None
        except VerificationError as error:
            faults.append(str(error))
    if not signers:
        raise VerificationError(f"{what} is refused: {faults[0]}")
    if len(signers) < trust.threshold:
        raise VerificationError(
            f"{what} is refused: {len(signers)} of the trusted keys signed it, and {trust.threshold} must"
        )
    return tuple(signers)


def _signatures(release: ModelRelease) -> tuple[ModelSignature, ...]:
    """All that a release brings: the contract's one, and those of the extension."""
    first = () if release.signature is None else (ModelSignature(signature=release.signature, key_id=release.key_id),)
    # A backend may list the first one among the others as well.
    return tuple(dict.fromkeys((*first, *release.signatures)))


def _signer(signature: ModelSignature, trust: Trust, body: bytes) -> str:
    """The id of the trusted key that made a signature."""
    from cryptography.exceptions import InvalidSignature  # noqa: PLC0415 - see the top; a key is there, so it is loaded

    raw = _signature(signature.signature)
    candidates: Iterable[tuple[str, VerifyingKey]] = trust.keys.items()
    if signature.key_id is not None:
        if signature.key_id not in trust.keys:
            raise VerificationError("it is signed by a key that is not trusted")
        candidates = [(signature.key_id, trust.keys[signature.key_id])]
    for name, key in candidates:
        try:
            key.verify(raw, body)
        except InvalidSignature:
            continue
        return name
    raise VerificationError("the signature is not one of a trusted key over this release")


def _verifying_key(raw: bytes) -> VerifyingKey:
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey  # noqa: PLC0415 - see the top

    return Ed25519PublicKey.from_public_bytes(raw)


def _signature(text: str) -> bytes:
    try:
        signature = base64.b64decode(text, validate=True)
    except (binascii.Error, ValueError):
        signature = b""
    if len(signature) != _SIGNATURE_BYTES:
        raise VerificationError(f"its signature is not base64 of {_SIGNATURE_BYTES} bytes")
    return signature


def in_rollout(release: ModelRelease, vehicle_id: str) -> bool:
    """Whether this vehicle belongs to the share that a release is for: the same answer each time it is asked."""
    if release.rollout is None:
        return True
    digest = hashlib.sha256(f"{vehicle_id}\0{release.name}\0{release.version}".encode()).digest()
    # 53 bits: what a float holds exactly, so that 1.0 is never reached.
    return (int.from_bytes(digest[:8]) >> 11) / 2.0**53 < release.rollout


@dataclass(frozen=True, slots=True)
class ReleaseConstraints:
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


def check_version_allowed(name: str, version: str, standing: ReleaseConstraints) -> None:
    """Let a version pass that leads forward, or that the operator has pinned (rollback and freeze attacks).

    Raises:
        VerificationError: It is not newer than what is installed, older than what was seen, or not the pinned one.
    """
    if standing.pinned is not None:
        if same_version(version, standing.pinned):
            return
        raise VerificationError(f"{name} {version} is refused: the operator has pinned {standing.pinned}")
    order = version_order(version)
    if standing.installed is not None and order <= version_order(standing.installed):
        raise VerificationError(f"{name} {version} is refused: it is not newer than {standing.installed}, in use")
    if standing.newest_seen is not None and order < version_order(standing.newest_seen):
        raise VerificationError(
            f"{name} {version} is refused: {standing.newest_seen} was offered before: a listing from the past?"
        )


def check_not_bad(release: ModelRelease, standing: ReleaseConstraints) -> None:
    """Let a release pass whose bytes have not failed here; a pin does not help, only that the operator clears it.

    Raises:
        VerificationError: They have.
    """
    why = standing.bad.get(release.checksum)
    if why is not None:
        raise VerificationError(
            f"{release.name} {release.version} is refused: it was found bad on this vehicle ({why}); to try it again,"
            " clear it first (models clear-bad)"
        )


@dataclass(frozen=True, slots=True)
class ReleaseChoice:
    """What a listing means for one model.

    Attributes:
        update: What to take, or None.
        newest_seen: The newest that was ever offered with a trusted signature, or None.
        refusals: Why releases were refused that are not simply the vehicle's past.
        refused: The versions of these, as far as they are any, with what the vehicle's report says of each.
        withdrawn: What is odd about a listing that ends before what was offered once, or None: a release was taken
            back, or somebody shows an old listing (freeze attack).
    """

    update: ModelRelease | None
    newest_seen: str | None
    refusals: tuple[str, ...]
    withdrawn: str | None = None
    refused: Mapping[str, ModelReason | None] = field(default_factory=dict)


def why_not_for(release: ModelRelease, vehicle_id: str) -> str | None:
    """Why a release is not for this vehicle for now, in a person's words; None where it is."""
    if release.rollout is None or in_rollout(release, vehicle_id):
        return None
    return f"not for this vehicle: rollout {100.0 * release.rollout:g} %"


def choose(
    releases: Sequence[ModelRelease],
    standing: ReleaseConstraints,
    trust: Trust | None,
    vehicle_id: str,
    *,
    allow_unsigned: bool,
) -> ReleaseChoice:
    """Choose among the releases of one model: the newest that is genuine, for this vehicle, and leads forward.

    What the operator has pinned is for this vehicle, whatever the rollout: v2.0 is v2.0.0, unless both are listed.

    Args:
        releases: All that is listed of one model.
        standing: What counts against them.
        trust: Whose signatures count, or None where the source has verified them itself.
        vehicle_id: For the rollout.
        allow_unsigned: For a bench.
    """
    genuine, refusals, refused = _sorted_out(releases, standing, trust, allow_unsigned=allow_unsigned)
    pinned = standing.pinned
    if pinned is not None:  # what is installed first: the same version under another name is no news
        pinned = meant_by(pinned, (standing.installed, *(release.version for release in genuine)))
    genuine = [release for release in genuine if release.version == pinned or in_rollout(release, vehicle_id)]
    seen = newest((standing.newest_seen, *(release.version for release in genuine)))
    now = replace(standing, newest_seen=seen)
    for release in sorted(genuine, key=lambda release: version_order(release.version), reverse=True):
        if release.version == standing.installed or release.version in standing.skipped:
            continue
        if pinned not in {None, release.version}:
            continue
        if release.checksum in standing.bad:
            continue  # known, and shown by itself
        try:
            check_version_allowed(release.name, release.version, now)
        except VerificationError as error:
            if not is_history(release.version, standing.installed):
                refusals.append(str(error))
                # A newer one that a person took back is in its way: that is nothing against this release.
                refused[release.version] = ModelReason.OPERATOR if seen in standing.skipped else None
            continue
        return ReleaseChoice(release, seen, tuple(refusals), _withdrawn(genuine, seen), refused)
    return ReleaseChoice(None, seen, tuple(refusals), _withdrawn(genuine, seen), refused)


def _sorted_out(
    releases: Sequence[ModelRelease], standing: ReleaseConstraints, trust: Trust | None, *, allow_unsigned: bool
) -> tuple[list[ModelRelease], list[str], dict[str, ModelReason | None]]:
    """Those that are genuine, why the others are not, and which versions that are news those are."""
    genuine: list[ModelRelease] = []
    refusals: list[str] = []
    refused: dict[str, ModelReason | None] = {}
    for release in releases:
        try:
            check_genuine(release, trust, allow_unsigned=allow_unsigned)
        except VerificationError as error:
            refusals.append(str(error))
            if may_be_reported(release.name, release.version) and not is_history(release.version, standing.installed):
                refused[release.version] = None
        else:
            genuine.append(release)
    for release in genuine:  # listed twice, once well
        refused.pop(release.version, None)
    return genuine, refusals, refused


def _withdrawn(genuine: Sequence[ModelRelease], seen: str | None) -> str | None:
    offered = newest(release.version for release in genuine)
    if offered is None or seen is None or version_order(offered) >= version_order(seen):
        return None
    return f"{seen} was offered before, and now nothing newer than {offered}: withdrawn, or a listing from the past"


def choose_each(
    releases: Sequence[ModelRelease],
    standings: Mapping[str, ReleaseConstraints],
    trust: Trust | None,
    vehicle_id: str,
    *,
    allow_unsigned: bool,
) -> dict[str, ReleaseChoice]:
    """Choose for every model that is listed; `standings` has those that something is known of.

    A signature takes a tenth of a millisecond, so a long listing is no work for a host's loop.
    """
    by_name: dict[str, list[ModelRelease]] = {}
    for release in releases:
        by_name.setdefault(release.name, []).append(release)
    return {
        name: choose(group, standings.get(name, ReleaseConstraints()), trust, vehicle_id, allow_unsigned=allow_unsigned)
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


def may_be_reported(name: str, version: str) -> bool:
    """Whether a listing's words are a name and a version: others could hold anything, and leave the vehicle nowhere."""
    return bool(_NAME.fullmatch(name) and _VERSION.fullmatch(version))


def is_history(version: str, installed: str | None) -> bool:
    """Whether a version is one that this vehicle has left behind, or has: listings have those too."""
    return installed is not None and version_order(version) <= version_order(installed)
