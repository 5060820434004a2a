"""How a recording gets into the queue: consent asked, folder looked at, refusal remembered."""

from pathlib import Path

from sentinel_sync.base.errors import ConsentError, ScenarioError
from sentinel_sync.base.threads import run_to_end
from sentinel_sync.scenarios.consent import ConsentRecord
from sentinel_sync.scenarios.recordings import absolute, read_recording
from sentinel_sync.scenarios.records import ScenarioRecords
from sentinel_sync.scenarios.rules.plan import Priority, missing_consent


class Intake:
    """Takes recordings by name.

    Args:
        ledger: Where they are recorded.
        record: The driver's decisions.
        policy_version: The policy in force.
    """

    def __init__(self, ledger: ScenarioRecords, record: ConsentRecord, policy_version: str) -> None:
        self._ledger = ledger
        self._record = record
        self._policy_version = policy_version

    async def take(self, path: str | Path, priority: Priority) -> str:
        """Queue a recording; returns its id once that is on disk.

        Raises:
            ConsentError: The driver has not consented.
            ScenarioError: It cannot be uploaded as it is; the ledger keeps the reason.
            StoreError: It cannot be written; nothing was queued.
        """
        if missing := missing_consent(await self._record.load(), self._policy_version):
            raise ConsentError(f"a scenario was not queued: {missing}")
        folder = await run_to_end(absolute, path)
        try:
            recording = await run_to_end(read_recording, folder)
        except ScenarioError as error:
            await self._ledger.refuse(folder, str(error))
            raise ScenarioError(f"scenario {folder.name!a} was not queued: {error}") from None
        try:
            await self._ledger.queue(recording, priority)
        except ScenarioError as error:
            raise ScenarioError(f"scenario {folder.name!a} was not queued: {error}") from None
        return recording.scenario_id
