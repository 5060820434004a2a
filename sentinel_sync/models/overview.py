"""Puts together what there is to say of each model: its record, what is being done about it, why it waits."""

from sentinel_sync.models.installed import InstalledModels
from sentinel_sync.models.installer import ModelInstaller
from sentinel_sync.models.releases import ReleaseSelector
from sentinel_sync.models.rules.answers import (
    DownloadStatus,
    InstalledModel,
    download_status,
    installed_model,
    model_shown,
)
from sentinel_sync.models.rules.status import ModelStatus
from sentinel_sync.models.updater import ModelUpdater


class ModelOverview:
    """All that is known of the models now; plain calls.

    Args:
        shelf: What is installed.
        releases: What is offered, and what was refused.
        installer: What is being done.
        keeper: What waits.
    """

    def __init__(
        self, shelf: InstalledModels, releases: ReleaseSelector, installer: ModelInstaller, keeper: ModelUpdater
    ) -> None:
        self._shelf = shelf
        self._releases = releases
        self._installer = installer
        self._keeper = keeper

    def installed(self) -> dict[str, InstalledModel]:
        """What the runtime opens, by name."""
        return {
            name: installed_model(record, installed, str(self._shelf.files.live(installed.live_name)))
            for name, record in self._shelf.records.items()
            if (installed := record.installed) is not None
        }

    def status(self, name: str) -> DownloadStatus:
        """What is being done about a model, or what became of it."""
        return download_status(
            self._shelf.records.get(name),
            name,
            progress=self._installer.progress(name),
            refusal=self._releases.refusal(name),
            held=self._keeper.blocked_reason(name),
        )

    def shown(self) -> list[ModelStatus]:
        """What the agent's status shows, also of a model that only its refusal is known of."""
        return [
            model_shown(
                self._shelf.record(name),
                self.status(name),
                self._installer.progress(name),
                self._releases.available(name),
            )
            for name in sorted({*self._shelf.records, *self._releases.refused()})
        ]
