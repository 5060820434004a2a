"""A copy of what a backend keeps, made while it runs, that a backend can be started on."""

import os
import shutil
from contextlib import closing
from pathlib import Path

from sentinel_sync.backend.database import Connection
from sentinel_sync.backend.sqlite import connect
from sentinel_sync.backend.storage import Folders, sync_folder

#: A file is written before its row and never changed after, so rows that are read first have all of their files.
_FILES = (("parts", "parts", "file"), ("models", "models", "file"), ("uploads", "uploads", "upload_id"))


def copy_files(connection: Connection, source: Folders, target: Folders) -> int:
    """Copies the files that the rows name, and the keys; how many files there were. Blocks.

    Uploads that are still under way are copied as far as they have come: their vehicles go on from there.
    """
    copied = 0
    for table, folder, column in _FILES:
        for row in connection.execute(f"SELECT {column} AS file FROM {table}").fetchall():  # noqa: S608  # constants
            file = getattr(source, folder) / row["file"]
            if file.exists() or table != "uploads":  # one that has been completed since has no file any more
                _copy(file, getattr(target, folder) / row["file"])
                copied += 1
    for key, copy in ((source.secret, target.secret), (source.api_key, target.api_key)):
        if key.exists():
            _copy(key, copy)
    return copied


def backup(source: Folders, target: Path, rows: Connection | None = None) -> int:
    """Copies a backend into a new folder; how many files there were. Blocks.

    Args:
        source: The backend's folders; it may be running.
        target: Must not exist yet. It is there under this name once all of it is durable.
        rows: Of the database elsewhere, whose own tools copy it: before this, so that each row there has its file
            here. None: the file in the folder is copied, too.

    Raises:
        FileExistsError: The target is there already.
        FileNotFoundError: A file that a row names is missing: see `backend check`.
    """
    if target.exists():
        raise FileExistsError(17, "it is there already: a backup is never written over", str(target))
    unfinished = target.with_name(f"{target.name}.unfinished")
    shutil.rmtree(unfinished, ignore_errors=True)
    folders = Folders(unfinished)
    folders.create()
    if rows is None:
        with closing(connect(source.database)) as connection:
            connection.execute("VACUUM INTO ?", (str(folders.database),))
        folders.database.chmod(0o600)
        with closing(connect(folders.database)) as connection:
            copied = copy_files(connection, source, folders)
    else:
        copied = copy_files(rows, source, folders)
    for folder in (folders.parts, folders.models, folders.uploads, unfinished):
        sync_folder(folder)
    unfinished.rename(target)
    sync_folder(target.parent)
    return copied


def _copy(source: Path, target: Path) -> None:
    descriptor = os.open(target, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    with source.open("rb") as reading, os.fdopen(descriptor, "wb") as writing:
        shutil.copyfileobj(reading, writing, 1 << 20)
        writing.flush()
        os.fsync(writing.fileno())
