"""Where releases come from, as the settings say."""

from sentinel_sync.base.clock import Clock
from sentinel_sync.cloud.client import CloudAPIClient
from sentinel_sync.models.catalogue import ModelOffers, ReleaseSource
from sentinel_sync.store.store import Store
from sentinel_sync.store.timekeeper import Timekeeper

#: Folder within the state folder for what a TUF repository's metadata is kept in.
TUF_NAME = "tuf"


def source_of(client: CloudAPIClient, store: Store, clock: Clock, timekeeper: Timekeeper | None) -> ReleaseSource:
    """The backend's listing, or a TUF repository.

    Raises:
        ConfigurationError: The repository is not described whole.
    """
    source = client.settings.models
    if source.source == "api":
        return ModelOffers(client, store.documents, clock)
    # Not before it is wanted: a vehicle without a TUF repository need not have any of it.
    from sentinel_sync.models.tuf.source import TufOffers  # noqa: PLC0415

    folder = store.state_dir / TUF_NAME
    return TufOffers(client, store.documents, clock, source=source, folder=folder, timekeeper=timekeeper)
