"""A repository of The Update Framework with real keys and signatures, made with python-tuf's Metadata API.

Called with a request it answers like the static files of such a repository; a test serves it on a real socket, and lets
the attacker speak first (`attack`).
"""

from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any

from securesystemslib.signer._crypto_signer import CryptoSigner  # where mypy finds them: the packages export by name
from securesystemslib.signer._signer import Signer
from tuf.api._payload import (
    DelegatedRole,
    Delegations,
    MetaFile,
    Root,
    Signed,
    Snapshot,
    TargetFile,
    Targets,
    Timestamp,
)
from tuf.api.metadata import Metadata

from tests.fakes.cloud import Answer
from tests.fakes.wire_rules import Seen

DAY = 86_400.0
#: How long each role's metadata holds, seconds.
LIVES = {"root": 365 * DAY, "timestamp": DAY, "snapshot": 7 * DAY, "targets": 90 * DAY}


@dataclass
class TufRepository:
    """All that a repository is.

    Attributes:
        now: The publisher's clock, seconds since the epoch.
        consistent: Whether it serves consistent snapshots.
        pinned: Whether timestamp and snapshot name lengths and hashes of what is below them.
        files: What is served, by path.
        attack: Answers in the repository's place, where it wants to.
        signers: Who signs, by role.
        root_signers: Who signed the newest root.
        delegated: Roles that the targets role lets speak for some paths.
        asked: What was asked for.
    """

    now: float
    consistent: bool = True
    pinned: bool = True
    files: dict[str, bytes] = field(default_factory=dict)
    attack: Callable[[Seen], Answer | None] = lambda _: None
    signers: dict[str, list[Signer]] = field(default_factory=dict)
    root_signers: list[Signer] = field(default_factory=list)
    delegated: dict[str, Targets] = field(default_factory=dict)
    asked: list[Seen] = field(default_factory=list)
    root: Root = field(init=False)
    timestamp: Timestamp = field(init=False)
    snapshot: Snapshot = field(init=False)
    targets: Targets = field(init=False)

    def __post_init__(self) -> None:
        self.root = Root(expires=self.until("root"), consistent_snapshot=self.consistent)
        self.timestamp, self.snapshot, self.targets = Timestamp(), Snapshot(), Targets()
        for signed in (self.timestamp, self.snapshot, self.targets):
            signed.version = 0  # publishing counts
        for role in LIVES:
            self.set_keys(role, 1)
        self.publish_root(first=True)
        self.publish()

    # --- serving ---

    def __call__(self, seen: Seen) -> Answer:
        self.asked.append(seen)
        attack = self.attack(seen)
        if attack is not None:
            return attack
        content = self.files.get(seen.path)
        return Answer(404, b"no such file") if content is None else Answer(200, content)

    @property
    def anchor(self) -> bytes:
        """The first root, as it is delivered with the vehicle."""
        return self.files["/metadata/1.root.json"]

    # --- publishing ---

    def until(self, role: str) -> datetime:
        """When what is signed now expires."""
        return datetime.fromtimestamp(int(self.now + LIVES.get(role, LIVES["targets"])), UTC)

    def set_keys(self, role: str, count: int, threshold: int = 1) -> None:
        """Give a role new keys; the next root says so."""
        if role in self.root.roles:
            for keyid in list(self.root.roles[role].keyids):
                self.root.revoke_key(keyid, role)
        signers = [CryptoSigner.generate_ed25519() for _ in range(count)]
        for signer in signers:
            self.root.add_key(signer.public_key, role)
        self.root.roles[role].threshold = threshold
        self.signers[role] = list(signers)

    def publish_root(self, *, first: bool = False, signed_by: list[Signer] | None = None) -> None:
        """Publish the next root, signed by the keys of the one before and its own."""
        if not first:
            self.root.version += 1
            self.root.expires = self.until("root")
        before = [] if first else self.root_signers
        signers = [*before, *(each for each in self.signers["root"] if each not in before)]
        content = sign(self.root, signers if signed_by is None else signed_by)
        self.files[f"/metadata/{self.root.version}.root.json"] = content
        self.root_signers = list(self.signers["root"])

    def delegate(self, role: str, paths: list[str], *, terminating: bool = False) -> None:
        """Let a role with a key of its own speak for some paths."""
        signer = CryptoSigner.generate_ed25519()
        self.signers[role], self.delegated[role] = [signer], Targets()
        self.delegated[role].version = 0
        if self.targets.delegations is None:
            self.targets.delegations = Delegations({}, {})
        assert self.targets.delegations.roles is not None
        self.targets.delegations.roles[role] = DelegatedRole(role, [], 1, terminating, paths)
        self.targets.add_key(signer.public_key, role)

    def add(
        self,
        path: str,
        content: bytes,
        custom: dict[str, Any] | None = None,
        *,
        role: str | None = None,
        **changed: Any,
    ) -> TargetFile:
        """Make `content` a target; `changed` says what is signed instead of the truth (`length`, `hashes`)."""
        target = TargetFile.from_data(path, content, ["sha256"])
        if custom is not None:
            target.unrecognized_fields["custom"] = custom
        for name, value in changed.items():
            setattr(target, name, value)
        (self.targets if role is None else self.delegated[role]).targets[path] = target
        folder, slash, name = path.rpartition("/")
        checksum = target.hashes.get("sha256") or target.hashes.get("sha512")
        prefix = f"{checksum}." if self.consistent and checksum is not None else ""
        self.files[f"/targets/{folder}{slash}{prefix}{name}"] = content
        return target

    def publish(self, *roles: str) -> None:
        """Sign and publish these roles (all below root by default), each as its next version."""
        roles = roles or ("targets", "snapshot", "timestamp")
        for role, signed in self.delegated.items() if "targets" in roles else ():
            self.snapshot.meta[f"{role}.json"] = self._meta(signed, self._sign(role, signed))
        if "targets" in roles:
            content = self._sign("targets", self.targets)
            self.snapshot.meta["targets.json"] = self._meta(self.targets, content)
        if "snapshot" in roles:
            content = self._sign("snapshot", self.snapshot)
            self.timestamp.snapshot_meta = self._meta(self.snapshot, content)
        if "timestamp" in roles:
            self._sign("timestamp", self.timestamp)

    def _sign(self, role: str, signed: Signed) -> bytes:
        signed.version += 1
        signed.expires = self.until(role)
        content = sign(signed, self.signers[role])
        versioned = self.consistent and role != "timestamp"
        self.files[f"/metadata/{f'{signed.version}.' if versioned else ''}{role}.json"] = content
        return content

    def _meta(self, signed: Signed, content: bytes) -> MetaFile:
        return MetaFile.from_data(signed.version, content, ["sha256"]) if self.pinned else MetaFile(signed.version)


def sign(signed: Signed, signers: list[Signer]) -> bytes:
    """The metadata file of what is signed."""
    metadata: Metadata[Any] = Metadata(signed)
    for signer in signers:
        metadata.sign(signer, append=True)
    return metadata.to_bytes()
