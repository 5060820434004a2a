"""Keeps a vehicle and its fleet backend in step over a bad network: trips, scenarios, models, profiles, statistics.

The public names below are imported on first use (PEP 562), so that `import sentinel_sync` costs a host next to nothing.
"""

from importlib import import_module
from typing import Any

__version__ = "0.1.0"

#: Public name → the module that defines it.
_HOME = {
    "APIResponse": "sentinel_sync.cloud.client",
    "CloudAPIClient": "sentinel_sync.cloud.client",
    "CloudError": "sentinel_sync.base.errors",
    "ConfigurationError": "sentinel_sync.base.errors",
    "ConnectivityStatus": "sentinel_sync.cloud.rules.connectivity",
    "ConsentError": "sentinel_sync.base.errors",
    "CredentialError": "sentinel_sync.base.errors",
    "FleetManager": "sentinel_sync.fleet.fleet_manager",
    "HeldError": "sentinel_sync.base.errors",
    "ModelDownloader": "sentinel_sync.models.model_downloader",
    "NotNowError": "sentinel_sync.base.errors",
    "OfflineManager": "sentinel_sync.cloud.offline_manager",
    "PreconditionError": "sentinel_sync.base.errors",
    "ProfileError": "sentinel_sync.base.errors",
    "ProfileSynchronizer": "sentinel_sync.profiles.profile_synchronizer",
    "RejectedError": "sentinel_sync.base.errors",
    "ScenarioError": "sentinel_sync.base.errors",
    "ScenarioUploader": "sentinel_sync.scenarios.scenario_uploader",
    "SentinelSyncError": "sentinel_sync.base.errors",
    "Settings": "sentinel_sync.settings",
    "StateLockedError": "sentinel_sync.base.errors",
    "StoreError": "sentinel_sync.base.errors",
    "StoreFullError": "sentinel_sync.base.errors",
    "SyncAgent": "sentinel_sync.agent",
    "TripStateError": "sentinel_sync.base.errors",
    "TripUploader": "sentinel_sync.trips.trip_uploader",
    "UnreachableError": "sentinel_sync.base.errors",
    "VerificationError": "sentinel_sync.base.errors",
}

__all__ = [
    "APIResponse",
    "CloudAPIClient",
    "CloudError",
    "ConfigurationError",
    "ConnectivityStatus",
    "ConsentError",
    "CredentialError",
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
    "TripStateError",
    "TripUploader",
    "UnreachableError",
    "VerificationError",
    "__version__",
]


def __getattr__(name: str) -> Any:
    """Import a public name on its first use."""
    home = _HOME.get(name)
    if home is None:
        raise AttributeError(f"module 'sentinel_sync' has no attribute {name!r}")
    value = getattr(import_module(home), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    """List the public names, for completion."""
    return sorted(__all__)
