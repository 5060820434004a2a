"""Which engine a database's address names; what an engine needs is imported only where it is used."""

from importlib import import_module
from pathlib import Path

from sentinel_sync.backend.database import Database
from sentinel_sync.backend.sqlite import SqliteDatabase


def database_at(address: str | None, path: Path) -> Database:
    """The database of a backend, not yet open: PostgreSQL at `address`, or the file at `path` where that is None.

    Raises:
        ValueError: There is no such engine.
        RuntimeError: What the engine needs is not installed.
    """
    if address is None:
        return SqliteDatabase(path)
    if not address.startswith(("postgresql://", "postgres://")):
        raise ValueError("--database takes postgresql://…; without it a file in the folder is used")
    try:
        engine = import_module("sentinel_sync.backend.postgresql")
    except ModuleNotFoundError as error:
        raise RuntimeError(f"PostgreSQL needs {error.name}: pip install 'sentinel-sync[postgresql]'") from error
    database: Database = engine.PostgresqlDatabase(address)
    return database
