"""The driver's decisions about sending recordings: on disk, each with its time and the policy that it was about."""

import asyncio
import json
import logging
import secrets
from dataclasses import replace
from pathlib import Path

from pydantic import TypeAdapter

from sentinel_sync.base.clock import Clock
from sentinel_sync.base.errors import StoreFullError
from sentinel_sync.base.files import file_error, make_folder, replace_file
from sentinel_sync.base.tasks import run_to_end
from sentinel_sync.network.policy import TransferPolicy
from sentinel_sync.network.rules.traffic import TrafficClass
from sentinel_sync.scenarios.rules.plan import Consent, missing_consent
from sentinel_sync.settings import CloudSettings
from sentinel_sync.store.documents import Documents

logger: logging.Logger = logging.getLogger(__name__)

_KIND = "consent"
_KEY = "scenarios"
#: Every decision by itself; keys sort by the order in which they were made.
_HISTORY_KIND = "consent.scenarios"
_SHAPE = TypeAdapter(Consent)
_MARK = TypeAdapter(dict[str, float])


class WithdrawalMark:
    """A withdrawal outside the state folder: one that was put back from a backup brings no consent back with it.

    It lies with the recordings that it is about. Blocks: call it off the loop.

    Args:
        scenarios_dir: The folder of recordings.
    """

    def __init__(self, scenarios_dir: Path) -> None:
        self._path = scenarios_dir / ".consent-withdrawn.json"

    def read(self) -> float | None:
        """When consent was last withdrawn, seconds since the epoch; None where no withdrawal stands.

        One that cannot be read counts as newer than any consent: in doubt there is none.
        """
        try:
            return _MARK.validate_json(self._path.read_bytes())["at"]
        except FileNotFoundError:
            return None
        except (OSError, ValueError, KeyError):
            return float("inf")

    def write(self, at: float) -> None:
        """Note a withdrawal; one that cannot be noted stands in the state folder all the same."""
        try:
            make_folder(self._path.parent)
            replace_file(self._path, json.dumps({"at": at}).encode(), durable=True)
        except OSError as error:
            logger.warning("consent.mark: the withdrawal cannot be noted beside the recordings (%s)", error.strerror)

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
        withdrawn_at = await run_to_end(self._mark.read)
        if withdrawn_at is None or withdrawn_at < decided.at:
            return decided
        return replace(decided, granted=False)

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

    async def record(self, *, granted: bool, policy_version: str) -> Consent:
        """Write a decision; returns once it is on disk.

        Raises:
            StoreFullError: A consent cannot be written. A withdrawal can always: it takes the consent away.
        """
        consent = Consent(granted, self._clock.now(), policy_version)
        if self._mark is not None:
            await run_to_end(self._mark.clear) if granted else await run_to_end(self._mark.write, consent.at)
        past, before = await self._past(), await self._stored()
        events = [consent] if before is None or before in past else [before, consent]
        # Submitted within one turn of the loop, so they share a transaction.
        outcomes = await asyncio.gather(
            self._documents.save(_KIND, _KEY, consent, _SHAPE),
            *(
                # Two processes may decide at one instant: both are kept.
                self._documents.save(_HISTORY_KIND, f"{number:08d}.{secrets.token_hex(4)}", decision, _SHAPE)
                for number, decision in enumerate(events, len(past))
            ),
            return_exceptions=True,
        )
        fault = next((outcome for outcome in outcomes if outcome is not None), None)
        if isinstance(fault, StoreFullError) and not granted:
            if outcomes[0] is not None:
                # Deleting may use the headroom.
                await self._documents.delete(_KIND, _KEY)
            logger.error("consent.recorded: withdrawn, but the disk is too full to write down when")
            return consent
        if fault is not None:
            raise fault
        logger.info("consent.recorded: %s, policy %s", "granted" if granted else "withdrawn", policy_version)
        return consent

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
