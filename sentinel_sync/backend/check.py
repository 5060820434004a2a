"""Whether what a backend keeps fits together: its figures against a recount, its rows against its files."""

import math
from collections.abc import Iterator
from typing import Any

from sentinel_sync.backend.database import Connection
from sentinel_sync.backend.scoring import SUMS
from sentinel_sync.backend.storage import Folders
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


def missing_files(connection: Connection, folders: Folders) -> Iterator[str]:
    """Rows whose file is not there, or has another size."""
    for table, folder in (("parts", folders.parts), ("models", folders.models)):
        for row in connection.execute(f"SELECT file, size FROM {table}"):  # noqa: S608  # constants
            path = folder / row["file"]
            size = path.stat().st_size if path.exists() else None
            if size != row["size"]:
                state = "is not there" if size is None else f"has {size} bytes"
                yield f"{path} of {table} {state}, {row['size']} bytes were stored"


def findings(connection: Connection, folders: Folders) -> list[str]:
    """All that does not fit together, at most a hundred of each kind."""
    found: list[str] = []
    for source in (recounted(connection), missing_files(connection, folders)):
        found += [finding for finding, _ in zip(source, range(_MOST), strict=False)]
    return found


def recount(connection: Connection) -> None:
    """Makes the sums anew from the trips; no trip may be stored meanwhile."""
    connection.execute("DELETE FROM totals")
    for statement in ADD_UP_ALL.split(";"):
        connection.execute(statement)
