"""Settings: one YAML file, overridden by the environment; the `cloud:` keys are those of deployed vehicles."""

from sentinel_sync.settings.cloud import CloudSettings, DataBudget, ModelSource, TransferWindow, is_key, is_loopback
from sentinel_sync.settings.explanation import explain
from sentinel_sync.settings.reading import Settings, settings_from

__all__ = [
    "CloudSettings",
    "DataBudget",
    "ModelSource",
    "Settings",
    "TransferWindow",
    "explain",
    "is_key",
    "is_loopback",
    "settings_from",
]
