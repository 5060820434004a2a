# The public names as type checkers see them; at run time __init__.py imports each on its first use.

from sentinel_sync.agent import SyncAgent
from sentinel_sync.base.errors import (
    CloudError,
    ConfigurationError,
    ConsentError,
    CredentialError,
    CutError,
    FileError,
    HeldError,
    NotNowError,
    PreconditionError,
    ProfileError,
    RejectedError,
    ScenarioError,
    SentinelSyncError,
    StateLockedError,
    StoreError,
    StoreFullError,
    TripStateError,
    UnacknowledgedError,
    UndecidedProfileError,
    UnreachableError,
    UnsettledError,
    VerificationError,
)
from sentinel_sync.base.payloads import TripSummary
from sentinel_sync.base.transfer import TransferStatus
from sentinel_sync.cloud.client import APIResponse, CloudAPIClient
from sentinel_sync.cloud.offline_manager import OfflineManager
from sentinel_sync.cloud.rules.connectivity import ConnectivityStatus
from sentinel_sync.fleet.fleet_manager import FleetManager
from sentinel_sync.models.model_downloader import ModelDownloader
from sentinel_sync.profiles.profile_synchronizer import ProfileSynchronizer
from sentinel_sync.scenarios.scenario_uploader import ScenarioUploader
from sentinel_sync.settings import Settings
from sentinel_sync.trips.trip_uploader import TripUploader

__all__ = [
    "APIResponse",
    "CloudAPIClient",
    "CloudError",
    "ConfigurationError",
    "ConnectivityStatus",
    "ConsentError",
    "CredentialError",
    "CutError",
    "FileError",
    "FleetManager",
    "HeldError",
    "ModelDownloader",
    "NotNowError",
    "OfflineManager",
    "PreconditionError",
    "ProfileError",
    "ProfileSynchronizer",
    "RejectedError",
    "ScenarioError",
    "ScenarioUploader",
    "SentinelSyncError",
    "Settings",
    "StateLockedError",
    "StoreError",
    "StoreFullError",
    "SyncAgent",
    "TransferStatus",
    "TripStateError",
    "TripSummary",
    "TripUploader",
    "UnacknowledgedError",
    "UndecidedProfileError",
    "UnreachableError",
    "UnsettledError",
    "VerificationError",
    "__version__",
]

__version__: str
_HOME: dict[str, str]
