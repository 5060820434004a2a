"""What every route works with: the settings, the database, the folders, and what is known only in memory."""

import fcntl
import os
from collections.abc import AsyncIterator, Iterator
from contextlib import AsyncExitStack, asynccontextmanager, contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime
from importlib import import_module
from pathlib import Path
from typing import Annotated

import anyio.to_thread
from fastapi import Depends, Request

from sentinel_sync.backend.database import Connection, Database
from sentinel_sync.backend.deltas import Deltas
from sentinel_sync.backend.engines import database_at
from sentinel_sync.backend.files import Files, FolderFiles
from sentinel_sync.backend.keys import Keys
from sentinel_sync.backend.pieces import FolderPieces, Pieces
from sentinel_sync.backend.settings import BackendSettings
from sentinel_sync.backend.sightings import Sightings
from sentinel_sync.backend.storage import Folders
from sentinel_sync.backend.uploads import UploadSessions


@dataclass(frozen=True, slots=True)
class Backend:
    """One running backend."""

    settings: BackendSettings
    folders: Folders
    database: Database
    parts: Files
    """Finished parts of scenarios."""
    models: Files
    """Finished model files."""
    pieces: Pieces
    """Parts of files that vehicles put where they are told to, without a credential."""
    sightings: Sightings
    uploads: UploadSessions
    deltas: Deltas
    secret: bytes
    keys: Keys
    judged_at: dict[tuple[str, str], float] = field(default_factory=dict)
    """When each roll-out (name, version) was judged last by this process."""

    def now(self) -> float:
        """Seconds since the epoch, by the backend's clock."""
        return self.settings.clock()

    def today(self) -> datetime:
        """The same as a moment in UTC."""
        return datetime.fromtimestamp(self.now(), UTC)


@asynccontextmanager
async def open_backend(settings: BackendSettings) -> AsyncIterator[Backend]:
    """Opens the folder and its database, and closes them again.

    With a database that several processes use at once, they may share a folder too.

    Raises:
        RuntimeError: Another process has this folder open, the database is of another version, or what it needs is
            not installed.
        DatabaseUnavailableError: The database cannot be reached.
    """
    folders = Folders(settings.folder)
    await anyio.to_thread.run_sync(folders.create)
    async with AsyncExitStack() as stack:
        stack.enter_context(_locked(folders.lock, shared=settings.database is not None))
        database = database_at(settings.database, folders.database)
        sightings = Sightings()
        stack.push_async_callback(database.close)
        await database.open(sightings.flush)
        known = await database.read(_known_files)
        await anyio.to_thread.run_sync(folders.clean, known)
        uploads = UploadSessions(folders.uploads, shared=settings.database is not None)
        stack.push_async_callback(uploads.close)
        deltas = Deltas(folders.root / "deltas")
        stack.push_async_callback(deltas.close)
        secret = await anyio.to_thread.run_sync(folders.load_secret)
        parts, models, pieces = _kept(settings, folders, secret)
        yield Backend(
            settings=settings,
            folders=folders,
            database=database,
            parts=parts,
            models=models,
            pieces=pieces,
            sightings=sightings,
            uploads=uploads,
            deltas=deltas,
            secret=secret,
            keys=Keys(database, settings),
        )


def backend_of(request: Request) -> Backend:
    """The backend that answers this request."""
    backend: Backend = request.app.state.backend
    return backend


async def _backend(request: Request) -> Backend:
    return backend_of(request)


BackendHere = Annotated[Backend, Depends(_backend)]


def kept_files(address: str | None, folders: Folders) -> tuple[Files, Files]:
    """Where parts and models are kept: in the folder, or in the object store at `address`.

    Raises:
        ValueError: It is no object store's.
        RuntimeError: What it needs is not installed.
    """
    if address is None:
        return FolderFiles(folders.parts), FolderFiles(folders.models)
    try:
        stores = import_module("sentinel_sync.backend.object_store")
    except ModuleNotFoundError as error:
        raise RuntimeError(f"an object store needs {error.name}: pip install 'sentinel-sync[s3]'") from error
    store = stores.object_store_at(address)
    return stores.ObjectFiles(store, "parts", folders.parts), stores.ObjectFiles(store, "models", folders.models)


def _kept(settings: BackendSettings, folders: Folders, secret: bytes) -> tuple[Files, Files, Pieces]:
    files = kept_files(settings.files, folders)
    if settings.files is None:
        return *files, FolderPieces(folders.uploads, secret, settings.clock)
    stores = import_module("sentinel_sync.backend.object_store")
    return *files, stores.ObjectPieces(stores.object_store_at(settings.files))


def _known_files(connection: Connection) -> set[str]:
    rows = connection.execute(
        "SELECT file FROM parts UNION ALL SELECT file FROM models UNION ALL SELECT upload_id FROM uploads"
    )
    return {row[0] for row in rows}


@contextmanager
def _locked(path: Path, *, shared: bool) -> Iterator[None]:
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT, 0o600)
    try:
        try:
            fcntl.flock(descriptor, (fcntl.LOCK_SH if shared else fcntl.LOCK_EX) | fcntl.LOCK_NB)
        except BlockingIOError:
            raise RuntimeError(f"another backend runs on {path.parent}: stop it or choose another folder") from None
        yield
    finally:
        os.close(descriptor)  # and with it the lock, as also happens when the process is killed
