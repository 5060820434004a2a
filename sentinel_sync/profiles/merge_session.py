"""Opens, merges and seals profiles: the work between fetching and sending. Blocks: call it off the loop."""

import logging
import secrets
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from enum import StrEnum
from typing import Any

from sentinel_sync.base.errors import ProfileError
from sentinel_sync.base.payloads import SealedProfile
from sentinel_sync.profiles.backend_copy import RemoteProfile
from sentinel_sync.profiles.commands import ForgetCommand
from sentinel_sync.profiles.keys import Keyring
from sentinel_sync.profiles.records import ProfileRecord
from sentinel_sync.profiles.rules.descent import Keep, Known, Origin, Resolution, base_of, confirmed, dropped
from sentinel_sync.profiles.rules.envelope import (
    begun_anew,
    envelope,
    forgotten_known,
    known_bytes,
    known_from,
    opened,
    profile_in,
    removed_here,
    state_digest,
    time_of_forgetting,
)
from sentinel_sync.profiles.rules.fields import CREATED, digest, moment_of, read_profile
from sentinel_sync.profiles.rules.history import Merged, MergeInput, merge, taken_in
from sentinel_sync.profiles.rules.merge import ProfileState, join, render
from sentinel_sync.profiles.rules.state_folders import Cloud, begun, name_of, shared_vehicle_ids

logger: logging.Logger = logging.getLogger(__name__)

#: What tells two state folders of one vehicle id, or two changes by copies of one, apart.
_TOKEN_BYTES = 6


@dataclass(frozen=True, slots=True)
class ClockReading:
    """What the clocks say, microseconds since the epoch.

    Attributes:
        now: Put right where the true time is known.
        here: As this vehicle's programs read it.
        is_true: Whether the true time is known.
    """

    now: int
    here: int
    is_true: bool

    @classmethod
    def of(cls, here: float, skew: float | None) -> "ClockReading":
        """The reading at this vehicle's wall time; `skew` is by how much that is ahead, seconds, or None."""
        return cls(_microseconds(here - (skew or 0.0)), _microseconds(here), skew is not None)

    @property
    def true_now(self) -> int | None:
        """The true time; None where it is not known."""
        return self.now if self.is_true else None

    @property
    def ahead(self) -> int:
        """By how much the vehicle's own clock is known to be ahead."""
        return self.here - self.now if self.is_true else 0


@dataclass(frozen=True, slots=True)
class MergeResult:
    """What came of merging.

    Attributes:
        record: What is to be kept before anything is sent.
        profile: The merged profile.
        state: The same in the form that merges.
        digest: Of that state.
        body: What is to be sent; None where the backend has all of it.
        sealed: What this vehicle knows once the backend has it all, and is about to be left with the merged profile.
        leaves: Whether that is another one than it has.
        origin: What the vehicle's profile was to the ones before it; None where it has none.
        shared_vehicle_ids: The vehicle ids under which two vehicles write.
    """

    record: ProfileRecord
    profile: dict[str, Any]
    state: ProfileState
    digest: str
    body: SealedProfile | None
    sealed: str
    leaves: bool
    origin: Origin | None
    shared_vehicle_ids: list[str]

    def settled(self, etag: str | None) -> ProfileRecord:
        """What is to be kept once the backend has it all, as version `etag`."""
        return ProfileRecord(self.sealed, etag, self.digest, whose=self.record.whose, unsettled=self.leaves)


@dataclass(frozen=True, slots=True)
class Forgotten:
    """The driver was forgotten, and this vehicle's profile is the forgotten one.

    Attributes:
        record: What is to be kept instead of all else.
    """

    record: ProfileRecord


class MissingInput(StrEnum):
    """What is missing to merge."""

    WHOLE = "the whole copy: what this vehicle knew of it is gone"
    LEGACY = "the older module's keys: nothing else may open the copy"


@dataclass(frozen=True, slots=True)
class MergeSession:
    """One driver's profile on one vehicle, opened to be merged.

    Attributes:
        driver_id: Whose.
        vehicle: This vehicle's id.
        keyring: The keys in use.
        legacy: The older module's, this vehicle's first; None where nobody has asked for them yet.
    """

    driver_id: str
    vehicle: str
    keyring: Keyring
    legacy: tuple[Keyring, ...] | None = None

    def merge(
        self,
        copy: RemoteProfile,
        record: ProfileRecord | None,
        local: Mapping[str, Any] | None,
        clock_reading: ClockReading,
        *,
        keeps_local: bool,
        resolution: Resolution | None = None,
    ) -> MergeResult | Forgotten | MissingInput:
        """Merge this vehicle's profile with what was fetched.

        Args:
            copy: What was fetched.
            record: What is kept.
            local: This vehicle's profile; None where it has none now.
            clock_reading: What the clocks say.
            keeps_local: True where the vehicle stays with `local`.
            resolution: What a person decided, or None.

        Raises:
            ProfileError: Something cannot be opened or used.
            UndecidedProfileError: Nothing tells what the local totals mean.
        """
        known = self._known(record)
        if known is None and copy.unchanged:
            return MissingInput.WHOLE
        cloud = self._cloud(copy, record, known, clock_reading.now)
        if isinstance(cloud, MissingInput):
            return cloud
        plain = None if cloud is None or cloud.plain is None else digest(cloud.plain)
        held = record.cloud if copy.unchanged and record is not None else None
        if cloud is not None and plain is None and not copy.gone:
            held = state_digest(cloud.state)
        if known is not None and plain is not None and record is not None and record.plain == plain:
            cloud = None  # merged already, but not yet replaced by what came of it
        forgotten = self._forgotten(known, cloud, local, clock_reading)
        if forgotten is not None:
            # Only where nothing was begun since: what others began is not in what is kept, so it is fetched again.
            whole = cloud is not None and cloud.state.is_tombstone
            record = replace(forgotten.record, etag=copy.etag, cloud=held) if whole else forgotten.record
            return Forgotten(record)
        if known is not None and cloud is not None and known.state.forgotten < cloud.state.forgotten:
            known = forgotten_known(known, cloud.state.forgotten)
        token = secrets.token_hex(_TOKEN_BYTES)
        if local is None:
            merged = taken_in(known, cloud, self.vehicle, token)
        else:
            told = MergeInput(
                driver_id=self.driver_id,
                vehicle=self.vehicle,
                now=clock_reading.now,
                token=token,
                ahead=clock_reading.ahead,
                is_true=clock_reading.is_true,
                keeps_local=keeps_local,
                resolution=resolution,
            )
            merged = merge(known, cloud, local, told)
        return self._result(copy, record, known, merged, held, plain, clock_reading.now)

    def _result(
        self,
        copy: RemoteProfile,
        record: ProfileRecord | None,
        known: Known | None,
        merged: Merged,
        held: str | None,
        plain: str | None,
        now: int,
    ) -> MergeResult:
        state, before, name = merged.known.state, merged.before, state_digest(merged.known.state)
        same = record is not None and record.whose is not None and known == before
        sealed = record.sealed if same and record is not None else self.keyring.seal(known_bytes(before))
        body = None if name == held or (copy.gone and state.is_tombstone) else self._body(state, now)
        return MergeResult(
            ProfileRecord(sealed, copy.etag, held, plain, self._whose(record)),
            merged.profile,
            state,
            name,
            body,
            sealed if before == merged.known else self.keyring.seal(known_bytes(merged.known)),
            leaves=merged.known.pending is not None,
            origin=merged.origin,
            shared_vehicle_ids=shared_vehicle_ids(state),
        )

    def resolution(self, keep: Keep, local: Mapping[str, Any] | None) -> Resolution:
        """A person's decision about this vehicle's profile as it is now.

        Raises:
            ProfileError: The profile cannot be used.
        """
        of = None if local is None else base_of(read_profile(local, self.driver_id))
        return Resolution(secrets.token_hex(_TOKEN_BYTES), keep, of)

    def tombstone(self, at: int, now: int) -> SealedProfile:
        """What is left at a backend that keeps no tombstones itself: sealed like a profile, for the other vehicles."""
        return self._body(ProfileState(forgotten=at), now)

    def order(self, record: ProfileRecord | None, local: Mapping[str, Any] | None, now: int) -> ForgetCommand:
        """The order to forget this driver now."""
        known = self._known(record)
        at = time_of_forgetting(known, _created(local), now)
        return ForgetCommand(self.driver_id, at, 0 if known is None else known.state.forgotten)

    def forgotten(self, record: ProfileRecord | None, at: int, local: Mapping[str, Any] | None, here: int) -> Forgotten:
        """What is kept of a driver who is to be forgotten, whatever the profile says."""
        known = removed_here(forgotten_known(self._known(record), at), _created(local), here)
        return Forgotten(ProfileRecord(self.keyring.seal(known_bytes(known))))

    def was_forgotten(self, record: ProfileRecord, local: Mapping[str, Any], clock_reading: ClockReading) -> bool:
        """Whether a file is the one of a driver that is known here as forgotten.

        Raises:
            ProfileError: The file cannot be used.
        """
        known = self._known(record)
        if known is None or known.state.forgotten == 0:
            return False
        return not begun_anew(moment_of(local, CREATED), known, known.state.forgotten, clock_reading.true_now)

    def knows_exactly(self, record: ProfileRecord, at: int) -> bool:
        """Whether it is that time at which this vehicle knows that the driver was forgotten."""
        known = self._known(record)
        return known is not None and known.state.forgotten == at

    def knows_of(self, record: ProfileRecord | None, at: int) -> bool:
        """Whether this vehicle knows that the driver was forgotten at that time or later."""
        known = self._known(record)
        return known is not None and known.state.forgotten >= at

    def has_forgotten(self, copy: RemoteProfile, at: int) -> bool:
        """Whether what was fetched says that the driver was forgotten at that time or later.

        Raises:
            ProfileError: It cannot be opened.
        """
        if copy.sealed is None:
            return False
        return opened(self.keyring.open(copy.sealed), self.driver_id, own=False).state.forgotten >= at

    def offer(
        self, copy: RemoteProfile, record: ProfileRecord | None
    ) -> tuple[dict[str, Any], ProfileRecord | None] | MissingInput:
        """Open what was fetched for a caller; also what is to be kept, so that a file made of it is recognised.

        Raises:
            ProfileError: It cannot be opened or used.
        """
        known = self._known(record)
        cloud = self._cloud(copy, record, known, 0)
        if isinstance(cloud, MissingInput):
            return cloud
        if cloud is None:
            raise ProfileError("the backend's copy holds no profile")
        if cloud.plain is not None:
            return dict(cloud.plain), None
        profile = render(cloud.state)
        mine = known is not None and name_of(known, self.vehicle) in known.state.contributions
        if known is None:
            start = begun(cloud, None, self.vehicle, secrets.token_hex(_TOKEN_BYTES))
        else:
            start = replace(known, state=join(known.state, cloud.state))
        if mine or not profile or start.elders:
            return profile, None
        offered = replace(start, pending=base_of(read_profile(profile, None)))
        sealed, held = self.keyring.seal(known_bytes(offered)), state_digest(cloud.state)
        return profile, ProfileRecord(sealed, copy.etag, held, whose=self._whose(record))

    def holds(self, copy: RemoteProfile, merged_result: MergeResult) -> bool:
        """Whether what was fetched has all of what was sent.

        Raises:
            ProfileError: It cannot be opened.
        """
        if copy.sealed is None:
            return False
        cloud = opened(self.keyring.open(copy.sealed), self.driver_id, own=False)
        return cloud.plain is None and join(cloud.state, merged_result.state) == cloud.state

    def left(self, record: ProfileRecord, *, replaced: bool) -> ProfileRecord:
        """Note whether the vehicle's file was replaced by the merged profile.

        Raises:
            ProfileError: The record cannot be opened.
        """
        known = known_from(self.keyring.open(record.sealed))
        after = confirmed(known) if replaced else dropped(known)
        return replace(record, sealed=self.keyring.seal(known_bytes(after)), unsettled=False)

    def settled(self, record: ProfileRecord, local: Mapping[str, Any]) -> ProfileRecord:
        """Note with which profile the vehicle was left when something was cut off, where its file is still that one.

        Raises:
            ProfileError: The record, or the file, cannot be used.
        """
        known, base = known_from(self.keyring.open(record.sealed)), base_of(read_profile(local, None))
        if base == known.pending:
            return self.left(record, replaced=True)
        return self.left(record, replaced=False) if known.bases[-1:] == (base,) else record

    def _body(self, state: ProfileState, now: int) -> SealedProfile:
        at = now if state.updated is None else max(0, state.updated.us)
        sealed = self.keyring.seal(envelope(state, self.driver_id))
        return SealedProfile(driver_id=self.driver_id, encrypted_data=sealed, updated_at=at / 1_000_000)

    def _whose(self, record: ProfileRecord | None) -> str:
        return self.keyring.seal(self.driver_id.encode()) if record is None or record.whose is None else record.whose

    def _forgotten(
        self, known: Known | None, cloud: Cloud | None, local: Mapping[str, Any] | None, clock_reading: ClockReading
    ) -> Forgotten | None:
        """What to keep where the driver was forgotten and `local` is not a profile begun since."""
        mine, theirs = 0 if known is None else known.state.forgotten, 0 if cloud is None else cloud.state.forgotten
        at = max(mine, theirs)
        if at == 0:
            return None
        if local is None:
            if mine >= at:
                return None
        elif begun_anew(moment_of(local, CREATED), known, at, clock_reading.true_now):
            return None
        left = removed_here(forgotten_known(known, at), _created(local), clock_reading.here)
        return Forgotten(ProfileRecord(self.keyring.seal(known_bytes(left))))

    def _known(self, record: ProfileRecord | None) -> Known | None:
        if record is None:
            return None
        try:
            return known_from(self.keyring.open(record.sealed))
        except ProfileError as error:
            # Its key is gone, or it is damaged: the backend's copy has this vehicle's contribution too.
            logger.warning("profiles.unreadable_record: begun anew from the backend's copy: %s", error)
            return None

    def _cloud(
        self, copy: RemoteProfile, record: ProfileRecord | None, known: Known | None, now: int
    ) -> Cloud | MissingInput | None:
        if copy.gone:
            return Cloud(ProfileState(forgotten=_generation(copy, record, known, now)))
        if copy.sealed is None:
            return None
        try:
            content, own = self.keyring.open(copy.sealed), False
        except ProfileError:
            if record is not None and record.plain is None:
                raise
            if self.legacy is None:
                return MissingInput.LEGACY
            if not self.legacy:
                raise
            content, number = open_any(self.legacy, copy.sealed)
            own = number == 0
        return opened(content, self.driver_id, own=own)


def _generation(copy: RemoteProfile, record: ProfileRecord | None, known: Known | None, now: int) -> int:
    """When the driver of a profile that is gone was forgotten, as far as this vehicle can tell."""
    before = 0 if known is None else known.state.forgotten
    if record is not None and record.cloud is not None:
        # The backend has held a copy that was begun after the last forgetting, so there was one more since.
        return max(before + 1, now if copy.forgotten is None else copy.forgotten)
    if copy.forgotten is not None:
        return copy.forgotten
    return before or max(1, now)


def _created(local: Mapping[str, Any] | None) -> Any:
    if local is None:
        return None
    try:
        return moment_of(local, CREATED)
    except ProfileError:
        return None  # a profile that is to go need not be a good one


def open_any(keyrings: Iterable[Keyring], sealed: str) -> tuple[bytes, int]:
    """Open with whichever keyring can, and say with which (counted from 0).

    Raises:
        ProfileError: None can.
    """
    fault = ProfileError("the encrypted profile cannot be opened")
    for number, keyring in enumerate(keyrings):
        try:
            return keyring.open(sealed), number
        except ProfileError as error:
            fault = error
    raise fault


def open_profile(keyrings: Iterable[Keyring], sealed: str) -> dict[str, Any]:
    """Open a profile, whoever sealed it.

    Raises:
        ProfileError: No key fits, or it is no profile.
    """
    return profile_in(open_any(keyrings, sealed)[0])


def _microseconds(seconds: float) -> int:
    return max(0, round(seconds * 1_000_000))
