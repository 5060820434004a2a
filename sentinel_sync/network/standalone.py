"""What a component gets when it is built with nothing but an api_client, as the specification shows it."""

from sentinel_sync.base.clock import Clock
from sentinel_sync.cloud.client import CloudAPIClient
from sentinel_sync.network.policy import TransferPolicy
from sentinel_sync.store.store import Store


def store_of(client: CloudAPIClient, clock: Clock) -> Store:
    """The store on the client's `state_dir`, shared by all of its components and closed with it.

    It owns the folder as an agent does: a running agent and a component of its own do not send the same work.
    """
    settings = client.settings
    return client.shared(Store, lambda: Store(settings.state_dir, clock=clock, max_bytes=settings.outbox_max_bytes))


def transfer_policy_of(client: CloudAPIClient, store: Store, clock: Clock) -> TransferPolicy:
    """The traffic desk of a client's components: it charges all that the client sends and receives, and ends with it.

    Only on the client's own store it keeps the accounts: on one that was handed in, an agent may be running.
    """

    def make() -> TransferPolicy:
        owner = store is store_of(client, clock)
        desk = TransferPolicy(store.documents, client.settings, clock=clock, owner=owner)
        client.on_traffic(desk.count)
        return desk

    return client.shared(TransferPolicy, make)
