"""How new the metadata of a TUF repository must be on this vehicle: neither versions nor time go back.

python-tuf compares with the files of its cache. This memory is kept apart from them, where a power cut does not reach,
and it remembers two more things: until when time is known to have passed, and what was once seen expired.
"""

from collections.abc import Collection, Mapping
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime

from sentinel_sync.base.errors import VerificationError

#: In the order in which they are verified.
ROLES = ("root", "timestamp", "snapshot", "targets")


@dataclass(frozen=True, slots=True)
class Mark:
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
    marks: Mapping[str, Mark]

    @property
    def expires(self) -> float:
        """When the first of it expires, seconds since the epoch."""
        return min(mark.expires for mark in self.marks.values())


@dataclass(frozen=True, slots=True)
class Memory:
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
    marks: Mapping[str, Mark] = field(default_factory=dict)

    def reference(self, now: float) -> float:
        """The time to judge expiry by: a clock that was set back, or forgot the date, is not followed."""
        return max(now, self.time)

    def aged(self, now: float) -> "Memory":
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

    def learned(self, verified: Verified, expired: Collection[str] = ()) -> "Memory":
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
