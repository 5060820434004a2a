"""Reading the settings: one YAML file, overridden by the environment."""

import difflib
from pathlib import Path
from typing import Any, ClassVar, Self

from pydantic import ValidationError
from pydantic_core import ErrorDetails
from pydantic_settings import BaseSettings, EnvSettingsSource, SettingsConfigDict, SettingsError

from sentinel_sync.base.errors import ConfigurationError
from sentinel_sync.settings.cloud import CloudSettings


class Settings(BaseSettings):
    """All settings. Other blocks of a vehicle's file are not ours, and are left alone."""

    model_config: ClassVar[SettingsConfigDict] = SettingsConfigDict(
        frozen=True,
        extra="ignore",
        env_prefix="SENTINEL_",
        env_nested_delimiter="__",
        env_ignore_empty=True,  # an empty variable is how container tools spell one that is not set
        hide_input_in_errors=True,
    )

    cloud: CloudSettings = CloudSettings()

    @classmethod
    def load(cls, path: str | Path | None = None, **overrides: Any) -> Self:
        """Read a YAML file (or none: defaults), then the environment, then `overrides` of the `cloud:` block.

        Blocks: reads a file.

        Raises:
            ConfigurationError: Missing file, broken YAML, unknown or unusable keys; the message names each, and holds
                no value of any.
        """
        document = {} if path is None else _read_yaml(Path(path))
        cloud = document.get("cloud") or {}
        if not isinstance(cloud, dict):
            raise ConfigurationError(f"{path}: `cloud:` must be a block of keys")
        try:
            return cls(cloud=CloudSettings.model_validate({**cloud, **_environment(), **overrides}))
        except ValidationError as error:
            lines = "; ".join(explain(detail) for detail in error.errors(include_input=False, include_url=False))
            source = "the settings" if path is None else str(path)
            raise ConfigurationError(f"{source} cannot be used: {lines}") from None


def explain(detail: ErrorDetails) -> str:
    """Put one validation error into words: the key, what is wrong, and the nearest known key for an unknown one."""
    place = ".".join(("cloud", *(str(part) for part in detail["loc"]))) if detail["loc"] else "cloud"
    if detail["type"] != "extra_forbidden":
        return f"{place}: {detail['msg']}"
    key = str(detail["loc"][-1])
    known = [*CloudSettings.model_fields, "trip_upload_interval"]
    nearest = difflib.get_close_matches(key.lower(), known, n=1, cutoff=0.0)
    return f"{place}: unknown key; the nearest known one is `{nearest[0]}`"


def _environment() -> dict[str, Any]:
    """What SENTINEL_CLOUD__… variables say, by key."""
    try:
        cloud = EnvSettingsSource(Settings)().get("cloud", {})
    except SettingsError:  # its text would repeat the value
        raise ConfigurationError("a SENTINEL_CLOUD variable holds JSON that cannot be read") from None
    return cloud if isinstance(cloud, dict) else {}


def _read_yaml(path: Path) -> dict[str, Any]:
    import yaml  # noqa: PLC0415 - almost 1 MB, for nothing where the host gives the settings

    try:
        document = yaml.safe_load(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise ConfigurationError(f"cannot read the settings file {path}: {error.strerror}") from None
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        mark = getattr(error, "problem_mark", None)
        place = f" in line {mark.line + 1}" if mark else ""
        raise ConfigurationError(f"the settings file {path} is not YAML{place}") from None
    if document is None:
        return {}
    if not isinstance(document, dict):
        raise ConfigurationError(f"the settings file {path} must hold blocks such as `cloud:`")
    return document
