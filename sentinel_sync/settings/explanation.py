"""Why settings cannot be used, in words: which key, what was found there, what is allowed, and which key is near."""

import difflib
import json
import math
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cache
from typing import Any

from pydantic import ValidationError
from pydantic_core import ErrorDetails

from sentinel_sync.settings.cloud import CloudSettings

#: A key's path below `cloud`, or that of an entry of a list.
Place = tuple[str, ...]
_Schema = dict[str, Any]
#: Keys that are read under an older name too, by that.
OLDER_NAMES = {"trip_upload_interval": "sync_interval"}
#: Stands in a place of pydantic's for a key that a block with given names does not take.
_FOREIGN_KEY = "[key]"
#: What is found where the kind of value is right; nothing found is ever repeated: it may be a secret.
_OUT_OF_BOUNDS = {
    "greater_than": "a number too small",
    "greater_than_equal": "a number too small",
    "less_than": "a number too large",
    "less_than_equal": "a number too large",
    "finite_number": "no finite number",
    "int_from_float": "a fraction",
    "string_too_short": "an empty text",
    "string_too_long": "a text too long",
    "string_pattern_mismatch": "a text of another form",
    "literal_error": "another word",
}
_BOUNDS = (
    ("minimum", "at least"),
    ("exclusiveMinimum", "more than"),
    ("maximum", "at most"),
    ("exclusiveMaximum", "less than"),
)
_TYPES = {
    "integer": "a whole number",
    "number": "a number",
    "boolean": "true or false",
    "string": "a text",
    "object": "a block of keys",
    "null": "null",
}
#: So alike is a text to a word that is allowed to be taken for it, misspelled.
_ALIKE = 0.8
#: `10MB`, `5 min`, `30s`.
_WITH_A_UNIT = re.compile(r"\s*[\d.,_]+\s*[a-zA-Z]{1,7}\s*")


@dataclass(frozen=True, slots=True)
class Source:
    """Where each value comes from.

    Attributes:
        name: Of the file, for people.
        lines: Of each key in the file, counted from 1, by its path below `cloud`.
        variables: The environment's variable for a key, by its path below `cloud`.
    """

    name: str
    lines: Mapping[Place, int] = field(default_factory=dict)
    variables: Mapping[Place, str] = field(default_factory=dict)

    def of(self, place: Place) -> str:
        """Where a key was set; of one that was not set, where it belongs. Empty where nobody knows."""
        for length in range(len(place), -1, -1):
            if (variable := self.variables.get(place[:length])) is not None:
                return f"{variable}: "
            if (line := self.lines.get(place[:length])) is not None:
                return f"line {line}: "
        return ""


def explain(detail: ErrorDetails, source: Source | None = None) -> str:
    """Put one validation error into words: the key, what was found, what is allowed, the nearest of an unknown one.

    Args:
        detail: Its place holds keys and indexes only.
        source: Where values come from, where somebody knows.
    """
    place = tuple(map(str, detail["loc"]))
    key, where = ".".join(("cloud", *place)), (source or Source("")).of(place)
    if detail["type"] == "extra_forbidden":
        return f"{where}{key}: unknown key; {_known_instead(place)}"
    if detail["type"].endswith("_error") and detail["type"] != "literal_error":
        return f"{where}{key}: {detail['msg'].removeprefix('Value error, ')}"
    schemas, given = _schemas_at(place), detail.get("input")
    found = _found(detail["type"], given)
    said = f"{where}{key}: found {found}; must be {_allowed(schemas)}{_such_as(schemas)}"
    if given is None:
        return f"{said}; leave the key out for its default"
    choices = [str(choice) for schema in schemas for choice in schema.get("enum", ())]
    nearest = difflib.get_close_matches(str(given).lower(), choices, n=1, cutoff=_ALIKE)
    return f"{said}; did you mean {nearest[0]}?" if nearest else said


def explained(error: ValidationError, values: Mapping[str, Any], source: Source | None = None) -> str:
    """Put all that is wrong into words, each key once.

    Args:
        error: What `CloudSettings` says of the values.
        values: The values.
        source: Where they come from.
    """
    found: dict[Place, ErrorDetails] = {}
    for detail in error.errors(include_url=False):
        place = tuple(_places(detail["loc"], values))
        if detail["loc"][-1:] == (_FOREIGN_KEY,):
            found[place] = {**detail, "loc": place, "type": "extra_forbidden"}
        else:
            found.setdefault(place, {**detail, "loc": place})
    # Of a value that fits none of several kinds, what is said of its inside is nearer to what was meant.
    inner = {place[:length] for place in found for length in range(1, len(place))}
    return "; ".join(explain(detail, source) for place, detail in found.items() if place not in inner)


def _places(loc: Sequence[str | int], values: Any) -> Iterator[str]:
    """The keys and indexes of a place; pydantic puts names of alternatives between them."""
    for at, part in enumerate(loc):
        try:
            values = values[part]
        except (LookupError, TypeError):
            if at:  # the first is always a key, maybe one that was set by an older name
                continue
        yield str(part)


def _known_instead(place: Place) -> str:
    *outer, name = (*place[:-1], place[-1].lower())
    schemas = _schemas_at(outer)
    here = [key for schema in schemas for key in _names_in(schema)] + ([] if outer else list(OLDER_NAMES))
    if below := [key for key in here if any(name in _names_in(schema) for schema in _schemas_at((*outer, key)))]:
        path = ".".join(("cloud", *outer, below[0], name))
        return f"it belongs below {_listed(below)}{_such_as(schemas)}" if below[1:] else f"there is `{path}`"
    if outer and name in CloudSettings.model_fields:
        return f"there is `cloud.{name}`"
    if near := difflib.get_close_matches(name, here, n=1, cutoff=0.6 if outer else 0.0):
        return f"the nearest known one is `{near[0]}`"
    return f"known here are {_listed([f'`{key}`' for key in here])}{_such_as(schemas)}"


def _found(error: str, value: object) -> str:
    """What was found, by the kind of error where that says more; never the value, which may be a secret."""
    if isinstance(value, float) and math.isnan(value):
        return "nan, which is no number"
    is_other_kind = error == "literal_error" and not isinstance(value, str)
    return _kind(value) if is_other_kind else _OUT_OF_BOUNDS.get(error) or _kind(value)


def _kind(value: object) -> str:
    match value:
        case None:
            return "nothing (null)"
        case bool():
            return "true" if value else "false"
        case int() | float():
            return "a number"
        case str():
            return "a number with a unit" if _WITH_A_UNIT.fullmatch(value) else "a text" if value else "an empty text"
        case list() | tuple():
            return "a list"
        case dict():
            return "a block of keys"
    return "something else"


def _allowed(schemas: Sequence[_Schema]) -> str:
    phrases = list(dict.fromkeys(_phrase(schema) for schema in schemas))
    return (", or " if any("," in phrase for phrase in phrases) else " or ").join(phrases)


def _phrase(schema: _Schema) -> str:
    """What a schema allows."""
    if "enum" in schema:
        return _listed([str(choice) for choice in schema["enum"]])
    kind = schema.get("type")
    phrase = _TYPES.get(str(kind), "a value")
    if kind == "array":
        phrase = f"a list (each {_allowed(_resolved(schema.get('items', {})))})"
    elif schema.get("format") == "path":
        phrase = "a path"
    if "properties" not in schema:  # a model's description is that of its class
        phrase = schema.get("description", phrase)
    bounds = [f"{words} {_plain(schema[name])}" for name, words in _BOUNDS if name in schema]
    return f"{phrase}, {' and '.join(bounds)}" if bounds else phrase


def _listed(names: Sequence[str]) -> str:
    *most, last = names
    return f"{', '.join(most)} or {last}" if most else last


def _such_as(schemas: Sequence[_Schema]) -> str:
    """The default where it shows what may stand there, else an example."""
    defaults = [schema.get("default") for schema in schemas if "enum" not in schema]
    examples = [example for schema in schemas for example in schema.get("examples", ())]
    shown = [*(value for value in defaults if value and isinstance(value, str | float | int)), *examples][:1]
    return f", such as {_plain(shown[0])}" if shown else ""


def _plain(value: Any) -> str:
    """A value as a settings file has it: JSON is YAML."""
    return json.dumps(int(value) if isinstance(value, float) and value.is_integer() else value)


# --- the schema of the settings ---


@cache
def _schema() -> _Schema:
    return CloudSettings.model_json_schema()


def _resolved(schema: _Schema) -> list[_Schema]:
    """The alternatives that a schema stands for; what is said beside them goes with each."""
    beside = {key: value for key, value in schema.items() if key not in {"$ref", "anyOf"}}
    if "$ref" in schema:
        name = str(schema["$ref"]).rpartition("/")[2]
        return _resolved({**_schema()["$defs"][name], **beside})
    if "anyOf" in schema:
        return [{**inner, **beside} for one in schema["anyOf"] for inner in _resolved(one)]
    return [schema]


def _schemas_at(place: Sequence[str]) -> list[_Schema]:
    """What may stand at a place; nothing where no schema says so."""
    schemas = [_schema()]
    for part in place:
        schemas = [found for schema in schemas for inner in _below(schema, part) for found in _resolved(inner)]
    return schemas


def _below(schema: _Schema, part: str) -> Iterator[_Schema]:
    if part in schema.get("properties", {}):
        yield schema["properties"][part]
    elif isinstance(schema.get("additionalProperties"), dict):
        yield schema["additionalProperties"]
    elif part.isdecimal() and "items" in schema:
        yield schema["items"]


def _names_in(schema: _Schema) -> list[str]:
    """The keys that a block takes, where they are given ones."""
    return [*schema.get("properties", {}), *schema.get("propertyNames", {}).get("enum", ())]
