"""Files that have arrived whole, the parts of scenarios and models: each under a name of its own, never changed after.

They are received on a local disk, whatever they are kept on: only there can they be hashed and looked through first.
"""

from collections.abc import AsyncIterator, Iterable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from pathlib import Path
from typing import Protocol

import anyio.to_thread
from fastapi import Request
from starlette.responses import Response

from sentinel_sync.backend.downloads import send_file


class Files(Protocol):
    """Where finished files of one kind are."""

    async def keep(self, path: Path) -> None:
        """Takes a durable local file of the kind's folder, under its name.

        Raises:
            OSError: It is not kept.
        """

    async def send(self, request: Request, name: str, etag: str) -> Response:
        """Answers a GET or HEAD with a file.

        Raises:
            Problem: 416, the range starts after the end.
            OSError: It cannot be read.
        """

    def local(self, name: str) -> AbstractAsyncContextManager[Path]:
        """The file on a local disk, for as long as the block lasts.

        Raises:
            OSError: It cannot be read.
        """

    async def address(self, name: str, seconds: float) -> str | None:
        """A URL that gives the file for so many seconds without this process; None where there is none."""

    async def remove(self, name: str) -> None:
        """Removes a file that no row names."""

    async def sizes(self, names: Iterable[str]) -> dict[str, int | None]:
        """The size of each in bytes, None where it is not there."""


class FolderFiles:
    """Files in a folder, where they have been received; see `Files`."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    async def keep(self, path: Path) -> None:
        """Nothing: it is where it is to be."""

    async def send(self, request: Request, name: str, etag: str) -> Response:
        """Answers with the file, or a range of it."""
        return await send_file(request, self._folder / name, etag)

    @asynccontextmanager
    async def local(self, name: str) -> AsyncIterator[Path]:
        """The file itself."""
        yield self._folder / name

    async def address(self, name: str, seconds: float) -> str | None:  # noqa: ARG002  # as `Files`
        """There is none but through this process."""
        return None

    async def remove(self, name: str) -> None:
        """Removes it."""
        await anyio.to_thread.run_sync(lambda: (self._folder / name).unlink(missing_ok=True))

    async def sizes(self, names: Iterable[str]) -> dict[str, int | None]:
        """By a look at each."""
        paths = {name: self._folder / name for name in names}
        return {name: path.stat().st_size if path.exists() else None for name, path in paths.items()}
