"""Settings: one YAML file, overridden by the environment; the `cloud:` keys are those of deployed vehicles."""

from sentinel_sync.settings.blocks import DataBudget, ModelSource
from sentinel_sync.settings.cloud import CloudSettings
from sentinel_sync.settings.reading import Settings, explain
from sentinel_sync.settings.values import is_key, is_loopback

__all__ = ["CloudSettings", "DataBudget", "ModelSource", "Settings", "explain", "is_key", "is_loopback"]
