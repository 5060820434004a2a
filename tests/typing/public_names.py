"""Right and wrong uses of every public name, for a type checker to read; nothing here is run.

Each wrong use carries the `type: ignore` of the error that it must be. mypy --strict (`make types`) reports an ignore
that nothing needs, so a name that decays to `Any` fails here.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import assert_type

from sentinel_sync import (
    APIResponse,
    CloudAPIClient,
    CloudError,
    ConfigurationError,
    ConnectivityStatus,
    ConsentError,
    CredentialError,
    CutError,
    FileError,
    FleetManager,
    HeldError,
    ModelDownloader,
    NotNowError,
    OfflineManager,
    PreconditionError,
    ProfileError,
    ProfileSynchronizer,
    RejectedError,
    ScenarioError,
    ScenarioUploader,
    SentinelSyncError,
    Settings,
    StateLockedError,
    StoreError,
    StoreFullError,
    SyncAgent,
    TransferStatus,
    TripStateError,
    TripSummary,
    TripUploader,
    UnacknowledgedError,
    UndecidedProfileError,
    UnreachableError,
    UnsettledError,
    VerificationError,
    __version__,
)

from sentinel_sync import no_such_name  # type: ignore[attr-defined]  # isort: skip


async def agent(path: Path) -> None:
    async with SyncAgent.from_config(path) as running:
        assert_type(running, SyncAgent)
        assert_type(running.trips, TripUploader)
        assert_type(running.scenarios, ScenarioUploader)
        assert_type(running.models, ModelDownloader)
        assert_type(running.profiles, ProfileSynchronizer)
        assert_type(running.fleet, FleetManager)
        assert_type(running.connectivity, OfflineManager)
        assert_type(running.client, CloudAPIClient)
        assert_type(running.settings, Settings)
        assert_type((await running.flush(timeout=5.0)).unsent, int)
        running.no_such_thing()  # type: ignore[attr-defined]
        await running.flush(timeout="ten")  # type: ignore[arg-type]
        running.set_power(1)  # type: ignore[arg-type]
    SyncAgent.from_config(12345)  # type: ignore[arg-type]
    SyncAgent(path)  # type: ignore[arg-type]


def settings(path: Path) -> None:
    loaded = Settings.load(path)
    assert_type(loaded, Settings)
    assert_type(loaded.cloud.api_url, str)
    print(loaded.clud)  # type: ignore[attr-defined]


async def client() -> CloudAPIClient:
    made = CloudAPIClient(api_url="https://fleet.example", api_key="key", vehicle_id="v", fleet_id="f")
    answer = await made.get("/health")
    assert_type(answer, APIResponse)
    assert_type(answer.success, bool)
    assert_type(answer.error, str | None)
    print(answer.sucess)  # type: ignore[attr-defined]
    await made.post("/trips", data={}, idempotency_key=7)  # type: ignore[arg-type]
    CloudAPIClient(api_url=1)  # type: ignore[arg-type]
    return made


async def trips(made: CloudAPIClient) -> None:
    uploader = TripUploader(made)
    assert_type(await uploader.start_trip(driver_id="d"), str)
    uploader.update_trip(distance_delta=1.0, speed=2.0)
    uploader.update_trip(distance="far")  # type: ignore[call-arg]
    uploader.updaet_trip()  # type: ignore[attr-defined]
    assert_type(await uploader.end_trip(), TripSummary | None)
    TripUploader("https://fleet.example")  # type: ignore[arg-type]


async def scenarios(made: CloudAPIClient, folder: Path) -> None:
    uploader = ScenarioUploader(made, upload_consent=True)
    assert_type(await uploader.queue_scenario(folder, "high"), str)
    assert_type(uploader.under_way(), TransferStatus | None)
    await uploader.set_consent("yes")  # type: ignore[arg-type]
    ScenarioUploader(made, consent=True)  # type: ignore[call-arg]


async def models(made: CloudAPIClient) -> None:
    downloader = ModelDownloader(made, auto_install=False)
    for update in await downloader.check_for_updates():
        assert_type(update["version"], str)
        update["verison"]  # type: ignore[typeddict-item]
    await downloader.rollback(1)  # type: ignore[arg-type]


async def profiles(made: CloudAPIClient, profile: Mapping[str, str]) -> None:
    synchronizer = ProfileSynchronizer(made)
    assert_type(await synchronizer.upload_profile("d", profile), bool)
    assert_type(await synchronizer.forget_profile("d"), bool)
    await synchronizer.resolve_profile("d", "local")
    await synchronizer.upload_profile("d", "profile")  # type: ignore[arg-type]


async def fleet(made: CloudAPIClient) -> None:
    manager = FleetManager(made)
    await manager.get_fleet_trends("safety_score", days=7)
    await manager.get_fleet_trends("safety_score", days="week")  # type: ignore[arg-type]


def connectivity(made: CloudAPIClient) -> None:
    manager = OfflineManager(made)
    assert_type(manager.get_status(), ConnectivityStatus)
    assert_type(manager.is_online(), bool)
    manager.register_connectivity_callback(print)
    manager.register_connectivity_callback(5)  # type: ignore[arg-type]


def errors(error: SentinelSyncError) -> str:
    match error:
        case NotNowError():
            assert_type(error.retry_after, float | None)
        case (
            PreconditionError()
            | RejectedError()
            | CredentialError()
            | HeldError()
            | CutError()
            | UnacknowledgedError()
            | UnreachableError()
        ):
            assert_type(error.status, int | None)
        case CloudError():
            assert_type(error.request_id, str | None)
        case StoreFullError() | StateLockedError() | FileError():
            stored: StoreError = error
            print(stored.status)  # type: ignore[attr-defined]
        case (
            ConfigurationError()
            | ConsentError()
            | ProfileError()
            | ScenarioError()
            | UndecidedProfileError()
            | UnsettledError()
            | TripStateError()
        ):
            print(error.retry_after)  # type: ignore[union-attr]
        case VerificationError():
            print(error.status)  # type: ignore[attr-defined]
    raise CloudError("gone", code=5)  # type: ignore[call-arg]


def version() -> None:
    assert_type(__version__, str)
    print(__version__.major)  # type: ignore[attr-defined]
    no_such_name()
