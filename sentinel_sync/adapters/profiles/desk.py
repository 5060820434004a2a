"""Opens, merges and seals profiles: the work between fetching and sending. Blocks: call it off the loop."""

import logging
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from sentinel_sync.adapters.profiles.cipher import Keyring
from sentinel_sync.adapters.profiles.cloud import SealedCopy
from sentinel_sync.adapters.profiles.records import ProfileRecord
from sentinel_sync.errors import ProfileError
from sentinel_sync.payloads import SealedProfile
from sentinel_sync.rules.profiles.changes import merge, settled
from sentinel_sync.rules.profiles.descent import Cloud, Known, base_of, confirmed, dropped
from sentinel_sync.rules.profiles.envelope import envelope, known_bytes, known_from, opened, profile_in, state_digest
from sentinel_sync.rules.profiles.fields import digest, read_profile
from sentinel_sync.rules.profiles.merge import ProfileState, join, render

logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Woven:
    """What came of merging.

    Attributes:
        record: What is to be kept before anything is sent.
        profile: The merged profile.
        state: The same in the form that merges.
        digest: Of that state.
        body: What is to be sent; None where the backend has all of it.
        sealed: What this vehicle knows once the backend has it all, and is about to be left with the merged profile.
    """

    record: ProfileRecord
    profile: dict[str, Any]
    state: ProfileState
    digest: str
    body: SealedProfile | None
    sealed: str

    def settled(self, etag: str | None) -> ProfileRecord:
        """What is to be kept once the backend has it all, as version `etag`."""
        return ProfileRecord(self.sealed, etag, self.digest)


@dataclass(frozen=True, slots=True)
class ProfileDesk:
    """One driver's profile on one vehicle's desk.

    Attributes:
        driver_id: Whose.
        vehicle: This vehicle's id.
        keyring: The keys in use.
        legacy: The older module's, this vehicle's first; where its profile may be what was fetched.
    """

    driver_id: str
    vehicle: str
    keyring: Keyring
    legacy: tuple[Keyring, ...] = ()

    def weave(
        self,
        copy: SealedCopy,
        record: ProfileRecord | None,
        local: Mapping[str, Any],
        now: int,
        *,
        keeps_local: bool,
    ) -> Woven | None:
        """Merge this vehicle's profile with what was fetched; None where the whole copy is needed for that.

        Args:
            copy: What was fetched.
            record: What is kept.
            local: This vehicle's profile.
            now: Wall time, microseconds since the epoch.
            keeps_local: True where the vehicle stays with `local`.

        Raises:
            ProfileError: Something cannot be opened or used.
        """
        known = self._known(record)
        if known is None and copy.unchanged:
            return None
        cloud = self._cloud(copy, record)
        plain = None if cloud is None or cloud.plain is None else digest(cloud.plain)
        held = record.cloud if copy.unchanged and record is not None else None
        if cloud is not None and plain is None:
            held = state_digest(cloud.state)
        if known is not None and plain is not None and record is not None and record.plain == plain:
            cloud = None  # merged already, but not yet replaced by what came of it
        result = merge(
            known,
            cloud,
            local,
            driver_id=self.driver_id,
            vehicle=self.vehicle,
            now=now,
            keeps_local=keeps_local,
        )
        state, before = result.known.state, dropped(result.known)
        same = record is not None and known == before
        woven = state_digest(state)
        sealed = record.sealed if same and record is not None else self.keyring.seal(known_bytes(before))
        body = None
        if woven != held:
            at = now if state.updated is None else max(0, state.updated.us)
            sealed_state = self.keyring.seal(envelope(state, self.driver_id))
            body = SealedProfile(driver_id=self.driver_id, encrypted_data=sealed_state, updated_at=at / 1_000_000)
        after = sealed if before == result.known else self.keyring.seal(known_bytes(result.known))
        return Woven(ProfileRecord(sealed, copy.etag, held, plain), result.profile, state, woven, body, after)

    def offer(self, sealed: str, record: ProfileRecord | None) -> tuple[dict[str, Any], ProfileRecord | None]:
        """Open what was fetched for a caller; also what is to be kept, so that a file made of it is recognised.

        Raises:
            ProfileError: It cannot be opened or used.
        """
        known = self._known(record)
        cloud = self._cloud(SealedCopy(sealed), record)
        if cloud is None:
            raise ProfileError("the backend's copy holds no profile")
        if cloud.plain is not None:
            return dict(cloud.plain), None
        profile = render(cloud.state)
        if self.vehicle in cloud.state.contributions or (
            known is not None and self.vehicle in known.state.contributions
        ):
            return profile, None
        state = cloud.state if known is None else join(known.state, cloud.state)
        offered = settled(Known(state), base_of(read_profile(profile, None)), self.vehicle, state)
        return profile, ProfileRecord(self.keyring.seal(known_bytes(offered)))

    def holds(self, copy: SealedCopy, woven: Woven) -> bool:
        """Whether what was fetched has all of what was sent.

        Raises:
            ProfileError: It cannot be opened.
        """
        cloud = self._cloud(copy, None)
        return cloud is not None and cloud.plain is None and join(cloud.state, woven.state) == cloud.state

    def left(self, record: ProfileRecord, *, replaced: bool) -> ProfileRecord:
        """Note whether the vehicle's file was replaced by the merged profile.

        Raises:
            ProfileError: The record cannot be opened.
        """
        known = known_from(self.keyring.open(record.sealed))
        after = confirmed(known) if replaced else dropped(known)
        return ProfileRecord(self.keyring.seal(known_bytes(after)), record.etag, record.cloud, record.plain)

    def _known(self, record: ProfileRecord | None) -> Known | None:
        if record is None:
            return None
        try:
            return known_from(self.keyring.open(record.sealed))
        except ProfileError as error:
            # Its key is gone, or it is damaged: the backend's copy has this vehicle's contribution too.
            logger.warning("profiles.unreadable_record: begun anew from the backend's copy: %s", error)
            return None

    def _cloud(self, copy: SealedCopy, record: ProfileRecord | None) -> Cloud | None:
        if copy.sealed is None:
            return None
        try:
            content, own = self.keyring.open(copy.sealed), False
        except ProfileError:
            if not self.legacy or (record is not None and record.plain is None):
                raise
            content, number = open_any(self.legacy, copy.sealed)
            own = number == 0
        return opened(content, self.driver_id, own=own)


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
