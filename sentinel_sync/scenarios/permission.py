"""May a recording leave now? Asked before each request and while one is under way."""

from sentinel_sync.network.policy import TransferPolicy
from sentinel_sync.network.rules.traffic import TrafficClass
from sentinel_sync.scenarios.consent import ConsentRecord
from sentinel_sync.scenarios.rules.plan import Consent, missing_consent
from sentinel_sync.settings import CloudSettings


class Permission:
    """The settings' word, the driver's consent, and what the network may cost.

    Args:
        settings: `upload_scenarios` and the policy in force.
        record: The driver's decisions.
        desk: The network's condition and the data budget.
    """

    def __init__(self, settings: CloudSettings, record: ConsentRecord, desk: TransferPolicy) -> None:
        self._settings = settings
        self._record = record
        self._desk = desk

    async def consent(self) -> Consent | None:
        """The decision in force, or None where none was ever made."""
        return await self._record.load()

    async def why_forbidden(self) -> str | None:
        """Why nothing may be done with recordings at all, or None."""
        if not self._settings.upload_scenarios:
            return "cloud.upload_scenarios is false"
        return missing_consent(await self._record.load(), self._settings.policy_version)

    async def blocked_reason(self) -> str | None:
        """Why no recording may leave now, or None."""
        return await self.why_forbidden() or await self._desk.blocked_reason(TrafficClass.SCENARIOS)
