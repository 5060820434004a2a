"""Reading the settings: one YAML file, overridden by the environment; each error says where it comes from."""

import difflib
import json
import logging
import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, Self, TypeVar, cast

from pydantic import JsonValue, ValidationError
from pydantic_settings import BaseSettings, SettingsConfigDict

from sentinel_sync.base.errors import ConfigurationError
from sentinel_sync.settings.cloud import CloudSettings
from sentinel_sync.settings.explanation import OLDER_NAMES, Place, Source, explained

logger: logging.Logger = logging.getLogger(__name__)

_PREFIX = "SENTINEL_CLOUD"
_NESTED = "__"
#: A line of the file, or a variable of the environment.
_Origin = TypeVar("_Origin", int, str)
#: So alike has another block's name to be to be taken for ours, misspelled.
_ALIKE = 0.7


class Settings(BaseSettings):
    """All settings. Other blocks of a vehicle's file are not ours, and are left alone."""

    model_config: ClassVar[SettingsConfigDict] = SettingsConfigDict(
        frozen=True,
        extra="ignore",
        env_prefix="SENTINEL_",
        env_nested_delimiter=_NESTED,
        env_ignore_empty=True,  # an empty variable is how container tools spell one that is not set
        hide_input_in_errors=True,
    )

    cloud: CloudSettings = CloudSettings()

    @classmethod
    def load(cls, path: str | Path | None = None, **overrides: Any) -> Self:
        """Read a YAML file (or none: defaults), then the environment, then `overrides` of the `cloud:` block.

        Blocks: reads a file.

        Raises:
            ConfigurationError: Missing file, broken YAML, a key that is there twice, unknown or unusable keys; the
                message names each with its line or variable, and holds no value of any.
        """
        # Not built by its constructor: that would read the environment once more, in its own way.
        return cast("Self", cls.model_construct(cloud=_read(path, overrides)[0]))


@dataclass(frozen=True, slots=True)
class Setting:
    """One key as it counts.

    Attributes:
        key: With its blocks, such as `cloud.models.source`.
        value: As JSON; secrets are stars.
        origin: The file's line or the environment's variable that sets it; None where nothing does.
        is_default: Whether its value is the default, whoever sets it.
    """

    key: str
    value: JsonValue
    origin: str | None
    is_default: bool


def explained_settings(path: str | Path | None) -> list[Setting]:
    """Every key, as it counts, and where its value comes from. Blocks: reads a file.

    Raises:
        ConfigurationError: As `Settings.load`.
    """
    read, source, said = _read(path, {})
    values, defaults = _leaves(read.model_dump()), _leaves(CloudSettings().model_dump())
    return [
        Setting(
            ".".join(("cloud", *place)),
            value,
            (source.of(place).removesuffix(": ") or None) if _is_said(said, place) else None,
            # Compared as they are: as JSON all secrets are the same stars.
            place in defaults and values[place] == defaults[place],
        )
        for place, value in _leaves(read.model_dump(mode="json")).items()
    ]


def _leaves(value: Any, place: Place = ()) -> dict[Place, Any]:
    """Each value that is no block of others, by its place; an empty block is one."""
    if not isinstance(value, dict) or not value:
        return {place: value}
    return {leaf: found for key, inner in value.items() for leaf, found in _leaves(inner, (*place, key)).items()}


def _is_said(values: Any, place: Place) -> bool:
    """Whether somebody says what stands at a place, be it by a text or a list in a block's stead."""
    for part in place:
        if not isinstance(values, dict):
            return True
        if part not in values:
            return False
        values = values[part]
    return True


def _read(path: str | Path | None, overrides: Mapping[str, Any]) -> tuple[CloudSettings, Source, dict[str, Any]]:
    """The settings, where they come from, and what was said of them: by the file, the environment and `overrides`."""
    document, lines = ({}, {}) if path is None else _read_yaml(Path(path))
    cloud = document.get("cloud") or {}
    if not isinstance(cloud, dict):
        raise ConfigurationError(f"{path}: `cloud:` must be a block of keys")
    values, variables = _environment()
    said = _joined({**cloud}, values) | dict(overrides)
    for older, name in OLDER_NAMES.items():
        if older in said and name not in said:
            said[name] = said.pop(older)
            lines, variables = _renamed(lines, older, name), _renamed(variables, older, name)
    source = Source("the settings" if path is None else str(path), lines, variables)
    try:
        return CloudSettings.model_validate(said), source, said
    except ValidationError as error:
        raise ConfigurationError(f"{source.name} cannot be used: {explained(error, said, source)}") from None


def _renamed(places: dict[Place, _Origin], older: str, name: str) -> dict[Place, _Origin]:
    return {(name,) if place == (older,) else place: origin for place, origin in places.items()}


def environment_says_any() -> bool:
    """Whether any variable of the environment sets a key."""
    return bool(_environment()[0])


def _environment() -> tuple[dict[str, Any], dict[Place, str]]:
    """What SENTINEL_CLOUD__… variables say, by key, and which variable says it.

    A value that begins like JSON is JSON; any other is a text, in which lists have commas.
    """
    values: dict[str, Any] = {}
    variables: dict[Place, str] = {}
    for name, text in sorted(os.environ.items()):
        upper = name.upper()
        if not text or (upper != _PREFIX and not upper.startswith(_PREFIX + _NESTED)):
            continue
        place = tuple(part.lower() for part in name[len(_PREFIX) :].split(_NESTED)[1:])
        value: Any = text
        if text.lstrip()[:1] in {"{", "["}:
            try:
                value = json.loads(text)
            except ValueError:  # its text would repeat the value
                raise ConfigurationError(f"{name} holds JSON that cannot be read") from None
        nested = value
        for part in reversed(place):
            nested = {part: nested}
        if not isinstance(nested, dict):
            raise ConfigurationError(f"{name} must be a JSON object of keys")
        values = _joined(values, nested)
        variables |= {place: name, **dict.fromkeys(_leaves(nested), name)}
    return values, variables


def _joined(values: dict[str, Any], over: dict[str, Any]) -> dict[str, Any]:
    """Values with others over them, block by block."""
    joined = dict(values)
    for key, value in over.items():
        before = joined.get(key)
        joined[key] = _joined(before, value) if isinstance(before, dict) and isinstance(value, dict) else value
    return joined


def _read_yaml(path: Path) -> tuple[dict[str, Any], dict[Place, int]]:
    """A settings file's blocks, and the line of each key of ours."""
    import yaml  # noqa: PLC0415 - almost 1 MB, for nothing where the host gives the settings

    try:
        text = path.read_text(encoding="utf-8")
        document = yaml.safe_load(text)
        root = yaml.compose(text, Loader=yaml.SafeLoader)
    except OSError as error:
        raise ConfigurationError(f"cannot read the settings file {path}: {error.strerror}") from None
    except (yaml.YAMLError, UnicodeDecodeError, ValueError, RecursionError) as error:
        mark = getattr(error, "problem_mark", None)
        place = f" in line {mark.line + 1}" if mark else ""
        raise ConfigurationError(f"the settings file {path} is not YAML{place}") from None
    if document is None:
        return {}, {}
    if not isinstance(document, dict):
        raise ConfigurationError(f"the settings file {path} must hold blocks such as `cloud:`")
    lines: dict[Place, int] = {}
    _note_lines(root, (), lines, path)
    if "cloud" not in document:
        _look_for_ours(document, lines, path)
    return document, {place[1:]: line for place, line in lines.items() if place[:1] == ("cloud",)}


def _note_lines(node: Any, place: Place, lines: dict[Place, int], path: Path) -> None:
    """Note down the line of each key of a YAML node; one that is there twice would silently hide the other."""
    if node is None or not node.tag.endswith(":map"):
        return
    for key, value in node.value:
        name = (*place, str(key.value))
        line = key.start_mark.line + 1
        if name in lines:
            raise ConfigurationError(f"{path}: `{'.'.join(name)}` is there twice, in lines {lines[name]} and {line}")
        lines[name] = line
        if name[0] == "cloud":
            _note_lines(value, name, lines, path)


def _look_for_ours(document: dict[str, Any], lines: Mapping[Place, int], path: Path) -> None:
    nearest = difflib.get_close_matches("cloud", [str(key).lower() for key in document], n=1, cutoff=_ALIKE)
    if nearest:
        name = next(str(key) for key in document if str(key).lower() == nearest[0])
        line = lines.get((name,), 0)
        raise ConfigurationError(f"{path} has no block `cloud:`, but `{name}:` in line {line}: is that meant?")
    logger.warning("settings.no_block: %s has no block `cloud:`: the defaults count", path)


def settings_from(settings: CloudSettings | None, arguments: Mapping[str, Any]) -> CloudSettings:
    """The settings as such, or made of single ones that a caller gave: those that are not None.

    Raises:
        ConfigurationError: Both are given, or they cannot be used.
    """
    given = {name: value for name, value in arguments.items() if value is not None}
    if settings is not None:
        if given:
            raise ConfigurationError(f"CloudAPIClient takes settings or {', '.join(given)}, not both")
        return settings
    try:
        return CloudSettings(**given)
    except ValidationError as error:
        raise ConfigurationError(f"CloudAPIClient cannot be built: {explained(error, given)}") from None
