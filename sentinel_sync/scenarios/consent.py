"""The driver's decisions about sending recordings: on disk, each with its time and the policy that it was about."""

import asyncio
import hashlib
import logging
import secrets
from collections.abc import Collection
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

from pydantic import TypeAdapter

from sentinel_sync.base.clock import Clock
from sentinel_sync.base.errors import StoreFullError
from sentinel_sync.base.files import file_error, make_folder, replace_file
from sentinel_sync.base.tasks import run_to_end
from sentinel_sync.network.policy import TransferPolicy
from sentinel_sync.network.rules.traffic import TrafficClass
from sentinel_sync.scenarios.recordings import folder_names, snapshot_of, storable
from sentinel_sync.scenarios.rules.plan import Consent, missing_consent
from sentinel_sync.settings import CloudSettings
from sentinel_sync.store.documents import Documents

logger: logging.Logger = logging.getLogger(__name__)

_KIND = "consent"
_KEY = "scenarios"
#: Every decision by itself; keys sort by the order in which they were made.
_HISTORY_KIND = "consent.scenarios"
#: Names of recordings that were made while a consent stood withdrawn.
_EXCLUDED_KEY = "made_while_withdrawn"
_SHAPE = TypeAdapter(Consent)
_NAMES = TypeAdapter(frozenset[str])


@dataclass(frozen=True, slots=True)
class _Note:
    """What a withdrawal leaves beside the recordings.

    Attributes:
        at: When it was, seconds since the epoch.
        present: Digests of what lay in the folder then.
    """

    at: float
    present: list[str]


_NOTE = TypeAdapter(_Note)


class WithdrawalMark:
    """A withdrawal outside the state folder: one that was put back from a backup brings no consent back with it.

    It lies with the recordings that it is about, and says which of them were there: whatever else is there at the next
    consent was made in between, and no clock has to be believed for that. Blocks: call it off the loop.

    Args:
        scenarios_dir: The folder of recordings.
    """

    def __init__(self, scenarios_dir: Path) -> None:
        self._folder = scenarios_dir
        self._path = scenarios_dir / ".consent-withdrawn.json"

    def stands(self) -> bool:
        """Whether a withdrawal stands: every consent takes the mark away. In doubt it does."""
        try:
            self._path.lstat()
        except FileNotFoundError:
            return False
        except OSError:
            return True
        return True

    def write(self, at: float, *, stood: bool) -> None:
        """Note a withdrawal; one that cannot be noted stands in the state folder all the same.

        Where one stands already, what was made since that one stays so.

        Args:
            at: When it was made, seconds since the epoch.
            stood: Whether one stood before. Where that could not be noted, nobody knows what was there then.
        """
        try:
            present = self._noted() if stood or self.stands() else sorted(self._present().values())
            make_folder(self._folder)
            replace_file(self._path, _NOTE.dump_json(_Note(at, present)), durable=True)
        except OSError as error:
            logger.warning("consent.mark: the withdrawal cannot be noted beside the recordings (%s)", error.strerror)

    def made_since(self, known: Collection[str]) -> frozenset[str]:
        """Names of the folders that were not there, or not so, when the withdrawal was noted; all where nobody knows.

        Args:
            known: Of those made while former ones stood; who is still there is among the result.
        """
        noted = set(self._noted())
        return frozenset(name for name, digest in self._present().items() if digest not in noted or name in known)

    def _noted(self) -> list[str]:
        try:
            return _NOTE.validate_json(self._path.read_bytes()).present
        except (OSError, ValueError):
            return []

    def _present(self) -> dict[str, str]:
        """A digest of name and content of each folder, by its name."""
        found: dict[str, str] = {}
        for name in folder_names(self._folder):
            seen = snapshot_of(self._folder / name)
            if seen is not None:
                found[storable(name)] = hashlib.sha256(f"{name!a} {seen.fingerprint}".encode()).hexdigest()[:32]
        return found

    def clear(self) -> None:
        """A consent was given.

        Raises:
            FileError: The mark cannot be taken away; the consent would not count.
        """
        try:
            self._path.unlink(missing_ok=True)
        except NotADirectoryError:
            return
        except OSError as error:
            raise file_error(error, self._path) from None


class ConsentRecord:
    """Reads the decision from disk each time: another process (the CLI) may have written it.

    Args:
        documents: Where decisions are kept.
        mark: Where a withdrawal is kept besides; None for nowhere.
    """

    def __init__(self, documents: Documents, clock: Clock, mark: WithdrawalMark | None = None) -> None:
        self._documents = documents
        self._clock = clock
        self._mark = mark

    async def load(self) -> Consent | None:
        """The decision in force, or None where none was ever made."""
        decided = await self._stored()
        if decided is None or not decided.granted or self._mark is None:
            return decided
        return replace(decided, granted=False) if await run_to_end(self._mark.stands) else decided

    async def _stored(self) -> Consent | None:
        decided = await self._documents.load(_KIND, _KEY, _SHAPE)
        if decided is not None:
            return decided
        # No decision in force, but there were some: it was withdrawn while the disk was full.
        past = await self._past()
        if not past:
            return None
        # Unless the first of them was made between these two looks.
        decided = await self._documents.load(_KIND, _KEY, _SHAPE)
        return decided or Consent(granted=False, at=past[-1].at, policy_version=past[-1].policy_version)

    async def history(self) -> list[Consent]:
        """All decisions, oldest first."""
        past, decided = await self._past(), await self.load()
        # One that was made before there was a history, or cut off between the two writes.
        return past if decided is None or decided in past else [*past, decided]

    async def made_while_withdrawn(self) -> frozenset[str]:
        """Names of the recordings (as `storable`) that a consent found which were made while it stood withdrawn."""
        return await self._documents.load(_KIND, _EXCLUDED_KEY, _NAMES) or frozenset()

    async def record(self, *, granted: bool, policy_version: str) -> Consent:
        """Write a decision; returns once it is on disk.

        Raises:
            StoreFullError: A consent cannot be written. A withdrawal uses the reserve, and where that is gone as well
                it takes the consent away; only the first word of a driver, a no, may find nowhere to stand.
        """
        consent, before = Consent(granted, self._clock.now(), policy_version), await self._stored()
        if self._mark is not None and granted:
            await self._exclude(self._mark)
        elif self._mark is not None:
            await run_to_end(partial(self._mark.write, consent.at, stood=before is not None and not before.granted))
        past = await self._past()
        events = [consent] if before is None or before in past else [before, consent]
        # Two processes may decide at one instant: both are kept.
        numbered = [
            (_HISTORY_KIND, f"{number:08d}.{secrets.token_hex(4)}", decision)
            for number, decision in enumerate(events, len(past))
        ]
        try:
            # All or none: half of a consent would be taken for one that was withdrawn.
            await self._documents.save_all([(_KIND, _KEY, consent), *numbered], _SHAPE, urgent=not granted)
        except StoreFullError:
            if granted or (before is None and not await self._is_marked()):
                raise  # of the first word of a driver nothing would be known
            await self._documents.delete(_KIND, _KEY)
            logger.error("consent.recorded: withdrawn, but the disk is too full to write down when")
            return consent
        if self._mark is not None and granted:
            # Not before the consent stands: of one that is refused, the no before it would be forgotten.
            await run_to_end(self._mark.clear)
        logger.info("consent.recorded: %s, policy %s", "granted" if granted else "withdrawn", policy_version)
        return consent

    async def _is_marked(self) -> bool:
        return self._mark is not None and await run_to_end(self._mark.stands)

    async def _exclude(self, mark: WithdrawalMark) -> None:
        """Write down, before a consent counts, what it does not reach back to."""
        before = await self.load()
        # The mark alone tells of a withdrawal where the state folder was lost.
        if (before is None or before.granted) and not await run_to_end(mark.stands):
            return
        known = await self.made_while_withdrawn()
        made_since = await run_to_end(mark.made_since, known)
        if made_since != known:
            await self._documents.save(_KIND, _EXCLUDED_KEY, made_since, _NAMES)

    async def _past(self) -> list[Consent]:
        keys = await self._documents.keys(_HISTORY_KIND)
        found = await asyncio.gather(*(self._past_decision(key) for key in keys))
        return [decision for decision in found if decision is not None]

    async def _past_decision(self, key: str) -> Consent | None:
        return await self._documents.load(_HISTORY_KIND, key, _SHAPE)


class UploadPermission:
    """The settings' word, the driver's consent, and what the network may cost.

    Args:
        settings: `upload_scenarios` and the policy in force.
        record: The driver's decisions.
        policy: The network's condition and the data budget.
    """

    def __init__(self, settings: CloudSettings, record: ConsentRecord, policy: TransferPolicy) -> None:
        self._settings = settings
        self._record = record
        self._policy = policy

    async def consent(self) -> Consent | None:
        """The decision in force, or None where none was ever made."""
        return await self._record.load()

    async def forbidden_reason(self) -> str | None:
        """Why nothing may be done with recordings at all, or None."""
        if not self._settings.upload_scenarios:
            return "cloud.upload_scenarios is false"
        return missing_consent(await self._record.load(), self._settings.policy_version)

    async def blocked_reason(self) -> str | None:
        """Why no recording may leave now, or None."""
        return await self.forbidden_reason() or await self._policy.blocked_reason(TrafficClass.SCENARIOS)
