"""Keeps a vehicle and its fleet backend in step over a bad network: trips, scenarios, models, profiles, statistics.

The public names are imported on first use (PEP 562), so that `import sentinel_sync` costs a host next to nothing.
Type checkers read `__init__.pyi` instead, which names the same objects; a test holds the two together.
"""

from importlib import import_module

__version__ = "0.1.0"

#: Module → the public names that it defines.
_NAMES = {
    "sentinel_sync.agent": ("SyncAgent",),
    "sentinel_sync.base.errors": (
        "CloudError",
        "ConfigurationError",
        "ConsentError",
        "CredentialError",
        "CutError",
        "FileError",
        "HeldError",
        "NotNowError",
        "PreconditionError",
        "ProfileError",
        "RejectedError",
        "ScenarioError",
        "SentinelSyncError",
        "StateLockedError",
        "StoreError",
        "StoreFullError",
        "TripStateError",
        "UnacknowledgedError",
        "UnreachableError",
        "UndecidedProfileError",
        "UnsettledError",
        "VerificationError",
    ),
    "sentinel_sync.base.payloads": ("TripSummary",),
    "sentinel_sync.base.transfer": ("TransferStatus",),
    "sentinel_sync.cloud.client": ("APIResponse", "CloudAPIClient"),
    "sentinel_sync.cloud.offline_manager": ("OfflineManager",),
    "sentinel_sync.cloud.rules.connectivity": ("ConnectivityStatus",),
    "sentinel_sync.fleet.fleet_manager": ("FleetManager",),
    "sentinel_sync.models.model_downloader": ("ModelDownloader",),
    "sentinel_sync.profiles.profile_synchronizer": ("ProfileSynchronizer",),
    "sentinel_sync.scenarios.scenario_uploader": ("ScenarioUploader",),
    "sentinel_sync.settings": ("Settings",),
    "sentinel_sync.trips.trip_uploader": ("TripUploader",),
}
_HOME = {name: module for module, names in _NAMES.items() for name in names}

__all__ = sorted(["__version__", *_HOME])  # noqa: PLE0605 - strings, all of them


def __getattr__(name: str) -> object:
    """Import a public name on its first use."""
    home = _HOME.get(name)
    if home is None:
        raise AttributeError(f"module 'sentinel_sync' has no attribute {name!r}")
    value: object = getattr(import_module(home), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    """List the public names, for completion."""
    return sorted(__all__)
