"""Keeps a vehicle and its fleet backend in step over a bad network: trips, scenarios, models, profiles, statistics.

The public names below are imported on first use (PEP 562), so that `import sentinel_sync` costs a host next to nothing.
"""

from importlib import import_module
from typing import Any

__version__ = "0.1.0"

#: Public name → the module that defines it.
_HOME = {
    "APIResponse": "sentinel_sync.adapters.cloud.cloud_api_client",
    "CloudAPIClient": "sentinel_sync.adapters.cloud.cloud_api_client",
    "CloudError": "sentinel_sync.errors",
    "ConfigurationError": "sentinel_sync.errors",
    "ConnectivityStatus": "sentinel_sync.rules.connectivity",
    "ConsentError": "sentinel_sync.errors",
    "CredentialError": "sentinel_sync.errors",
    "FleetManager": "sentinel_sync.services.fleet_manager",
    "HeldError": "sentinel_sync.errors",
    "ModelDownloader": "sentinel_sync.services.model_downloader",
    "NotNowError": "sentinel_sync.errors",
    "OfflineManager": "sentinel_sync.services.offline_manager",
    "PreconditionError": "sentinel_sync.errors",
    "ProfileError": "sentinel_sync.errors",
    "ProfileSynchronizer": "sentinel_sync.services.profile_synchronizer",
    "RejectedError": "sentinel_sync.errors",
    "ScenarioError": "sentinel_sync.errors",
    "ScenarioUploader": "sentinel_sync.services.scenario_uploader",
    "SentinelSyncError": "sentinel_sync.errors",
    "Settings": "sentinel_sync.settings",
    "StateLockedError": "sentinel_sync.errors",
    "StoreError": "sentinel_sync.errors",
    "StoreFullError": "sentinel_sync.errors",
    "SyncAgent": "sentinel_sync.agent",
    "TripStateError": "sentinel_sync.errors",
    "TripUploader": "sentinel_sync.services.trip_uploader",
    "UnreachableError": "sentinel_sync.errors",
    "VerificationError": "sentinel_sync.errors",
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
