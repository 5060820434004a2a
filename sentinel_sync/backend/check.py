"""Whether what a backend keeps fits together: its figures against a recount, its rows against its files."""

import math
from collections.abc import Iterator
from typing import Any

from sentinel_sync.backend.database import Connection, Database
from sentinel_sync.backend.files import Files
from sentinel_sync.backend.scoring import SUMS
from sentinel_sync.backend.trip_store import ADD_UP_ALL

_KEY = "fleet_id, kind, name"
_MOST = 100
"""Findings of one kind that are told; one is bad enough, and a thousand say no more."""


def recounted(connection: Connection) -> Iterator[str]:
    """The sums that are not what the trips add up to; counts are compared exactly, sums to a billionth.

    Reads every trip: minutes for a hundred million.
    """
    summed = ", ".join(f"CAST(sum({name}) AS {kind}) AS {name}" for name, kind in SUMS.items())
    kept: dict[tuple[str, ...], Any] = {
        tuple(row[name] for name in ("fleet_id", "kind", "name")): row
        for row in connection.execute(f"SELECT {_KEY}, {summed} FROM totals GROUP BY {_KEY}")  # noqa: S608  # constants
    }
    for statement in ADD_UP_ALL.split(";"):
        for row in connection.execute(statement[statement.index("SELECT") :]):
            whose = (row[0], row[1], row[2])
            there = kept.pop(whose, None)
            counted = tuple(row)[4 : 4 + len(SUMS)]
            if there is None or not all(
                math.isclose(there[name], value, rel_tol=1e-9, abs_tol=1e-6)
                for name, value in zip(SUMS, counted, strict=True)
            ):
                yield f"the sums of {whose[1]} {whose[2]} in fleet {whose[0]} are not what its trips add up to"
    for fleet, kind, name in kept:
        yield f"there are sums of {kind} {name} in fleet {fleet}, and no trip"


def _missing(kind: str, named: dict[str, int], there: dict[str, int | None]) -> Iterator[str]:
    """Rows whose file is not there, or has another size."""
    for file, size in named.items():
        if there[file] != size:
            state = "is not there" if there[file] is None else f"has {there[file]} bytes"
            yield f"{file} of {kind} {state}, {size} bytes were stored"


async def findings(database: Database, parts: Files, models: Files) -> list[str]:
    """All that does not fit together, at most a hundred of each kind.

    Raises:
        OSError: The files cannot be looked at.
    """

    def look(connection: Connection) -> tuple[list[str], dict[str, int], dict[str, int]]:
        wrong = [finding for finding, _ in zip(recounted(connection), range(_MOST), strict=False)]
        return wrong, _named(connection, "parts"), _named(connection, "models")

    found, of_parts, of_models = await database.read(look)
    for kind, named, files in (("parts", of_parts, parts), ("models", of_models, models)):
        there = await files.sizes(named)
        found += [finding for finding, _ in zip(_missing(kind, named, there), range(_MOST), strict=False)]
    return found


def _named(connection: Connection, table: str) -> dict[str, int]:
    rows = connection.execute(f"SELECT file, size FROM {table}")  # noqa: S608  # constants
    return {row["file"]: row["size"] for row in rows}


def recount(connection: Connection) -> None:
    """Makes the sums anew from the trips; no trip may be stored meanwhile."""
    connection.execute("DELETE FROM totals")
    for statement in ADD_UP_ALL.split(";"):
        connection.execute(statement)
