"""The driver's decision about sending recordings: on disk, with its time and the policy that it was about."""

import logging

from pydantic import TypeAdapter

from sentinel_sync.adapters.store.documents import Documents
from sentinel_sync.clock import Clock
from sentinel_sync.rules.scenarios.plan import Consent

logger = logging.getLogger(__name__)

_KIND = "consent"
_KEY = "scenarios"
_SHAPE = TypeAdapter(Consent)


class ConsentRecord:
    """Reads the decision from disk each time: another process (the CLI) may have written it."""

    def __init__(self, documents: Documents, clock: Clock) -> None:
        self._documents = documents
        self._clock = clock

    async def load(self) -> Consent | None:
        """The decision in force, or None where none was ever made."""
        return await self._documents.load(_KIND, _KEY, _SHAPE)

    async def record(self, *, granted: bool, policy_version: str) -> Consent:
        """Write a decision; returns once it is on disk."""
        consent = Consent(granted, self._clock.now(), policy_version)
        await self._documents.save(_KIND, _KEY, consent, _SHAPE)
        logger.info("consent.recorded: %s, policy %s", "granted" if granted else "withdrawn", policy_version)
        return consent
