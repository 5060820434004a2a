"""What a request may look like: a path below `api_url`, ids percent-encoded, JSON without a fine coordinate."""

import json
from collections.abc import Mapping
from typing import Any
from urllib.parse import parse_qsl, quote

import pydantic_core

from sentinel_sync.base.payloads import Payload
from sentinel_sync.base.privacy import coarse_path, coarsen

#: Characters that a path keeps as they are (RFC 3986 section 3.3), `%` because ids come encoded.
_PATH_SAFE = "/%=&,:;@!$'()*+~-._"


def quote_id(identifier: str) -> str:
    """Percent-encode an id for use as one segment of a path; `.` and `..` would otherwise climb."""
    quoted = quote(identifier, safe="")
    return quoted.replace(".", "%2E") if set(quoted) == {"."} else quoted


def target_of(endpoint: str, params: Mapping[str, Any] | None) -> tuple[str, dict[str, Any]]:
    """Split an endpoint into its path and its query, both without a fine coordinate.

    Args:
        endpoint: As '/fleet/fleet_alpha/statistics', also without the first slash, also with a query.
        params: Joins the query; entries that are None are left out.

    Raises:
        ValueError: Not a path below `api_url`: the credential goes nowhere else.
    """
    path, _, query = endpoint.partition("?")
    if "://" in path or path.startswith("//") or "#" in endpoint:
        raise ValueError("endpoint must be a path below api_url, such as '/health'; the credential goes nowhere else")
    if not {".", ".."}.isdisjoint(path.split("/")):
        raise ValueError("endpoint must not climb with '.' or '..'; encode an id with quote_id")
    joined: dict[str, Any] = {}
    for name, value in parse_qsl(query, keep_blank_values=True):
        joined.setdefault(name, []).append(value)
    joined.update(params or {})
    path = path if path.startswith("/") else f"/{path}"
    return coarse_path(quote(path, safe=_PATH_SAFE)), coarse_query(joined)


def coarse_query(params: Mapping[str, Any]) -> dict[str, Any]:
    """Return a query's parameters coarsened, and without those that are None."""
    coarse: dict[str, Any] = coarsen(pydantic_core.to_jsonable_python(params))
    return {name: value for name, value in coarse.items() if value is not None}


def json_body(data: Any) -> bytes | None:
    """Serialize what a caller gave as JSON, every coordinate in it coarsened; None is no body.

    Raises:
        ValueError: It holds what JSON cannot say, such as NaN.
    """
    if data is None:
        return None
    if isinstance(data, Payload):
        return data.model_dump_json().encode()
    # First made plain, so that a place inside an object of the caller's own is seen as well.
    plain = pydantic_core.to_jsonable_python(data, inf_nan_mode="constants")
    return json.dumps(coarsen(plain), ensure_ascii=False, allow_nan=False, separators=(",", ":")).encode()
