"""Files in an object store that speaks S3: kept there once they are whole, and fetched from there without this process.

The credential and the endpoint are taken as the AWS tools take them: `AWS_ACCESS_KEY_ID`, `AWS_SECRET_ACCESS_KEY`,
`AWS_REGION`, `AWS_ENDPOINT_URL`.
"""

import os
from collections.abc import AsyncIterator, Iterable
from contextlib import asynccontextmanager
from datetime import timedelta
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import anyio
import anyio.to_thread
import obstore
from fastapi import Request
from obstore.exceptions import BaseError
from obstore.store import S3Store
from starlette.responses import RedirectResponse, Response

from sentinel_sync.backend.pieces import hidden
from sentinel_sync.backend.storage import BLOCK, fresh_name

SHOWN_SECONDS = 60.0
"""For which the address holds that an operator's GET of a part is sent on to."""
LISTED_AT_ONCE = 1000
CONNECTION_TIMEOUT, TIMEOUT, RETRIES = "5s", "120s", 2
"""A vehicle waits for the answer, and comes again: what does not work soon is told soon."""


def object_store_at(url: str) -> S3Store:
    """The bucket, and the prefix in it, that `s3://bucket/prefix` names.

    Raises:
        ValueError: It is no such URL.
    """
    parts = urlsplit(url)
    if parts.scheme != "s3" or not parts.netloc:
        raise ValueError("--files takes s3://bucket/prefix; without it a folder is used")
    endpoint = os.environ.get("AWS_ENDPOINT_URL")
    is_local = urlsplit(endpoint or "").hostname in {"127.0.0.1", "localhost", "::1"}
    options: dict[str, Any] = {} if endpoint is None else {"endpoint": endpoint}
    return S3Store(
        parts.netloc,
        prefix=parts.path.strip("/") or None,
        region=os.environ.get("AWS_REGION", "us-east-1"),
        virtual_hosted_style_request=False,
        client_options={"connect_timeout": CONNECTION_TIMEOUT, "timeout": TIMEOUT, "allow_http": is_local},
        retry_config={"max_retries": RETRIES, "retry_timeout": timedelta(seconds=30)},
        **options,
    )


class ObjectFiles:
    """Files of one kind in an object store; see `Files`."""

    def __init__(self, store: S3Store, kind: str, folder: Path) -> None:
        self._store = store
        self._kind = kind
        self._folder = folder

    async def keep(self, path: Path) -> None:
        """Puts it there, and removes it here."""
        with _as_os_error("put", path.name):
            await obstore.put_async(self._store, self._key(path.name), path)
        await anyio.to_thread.run_sync(path.unlink)

    async def send(self, request: Request, name: str, etag: str) -> Response:  # noqa: ARG002  # the store has its own
        """Sends the asker on to the store."""
        address = await self.address(name, SHOWN_SECONDS)
        return RedirectResponse(address, 307, {"Cache-Control": "no-store"})

    @asynccontextmanager
    async def local(self, name: str) -> AsyncIterator[Path]:
        """A copy, removed after the block."""
        copy = self._folder / fresh_name()
        try:
            async with await anyio.open_file(copy, "xb") as writing:
                with _as_os_error("get", name):
                    found = await obstore.get_async(self._store, self._key(name))
                    async for block in found.stream(min_chunk_size=BLOCK):
                        await writing.write(bytes(block))
            yield copy
        finally:
            with anyio.CancelScope(shield=True):
                await anyio.Path(copy).unlink(missing_ok=True)

    async def address(self, name: str, seconds: float) -> str:
        """A presigned GET."""
        return await obstore.sign_async(self._store, "GET", self._key(name), timedelta(seconds=seconds))

    async def remove(self, name: str) -> None:
        """Removes it."""
        with _as_os_error("delete", name):
            await obstore.delete_async(self._store, self._key(name))

    async def sizes(self, names: Iterable[str]) -> dict[str, int | None]:
        """By a listing of all that is there."""
        there: dict[str, int] = {}
        with _as_os_error("list", self._kind):
            async for page in obstore.list(self._store, f"{self._kind}/", chunk_size=LISTED_AT_ONCE):
                there |= {entry["path"].rpartition("/")[2]: entry["size"] for entry in page}
        return {name: there.get(name) for name in names}

    def _key(self, name: str) -> str:
        return f"{self._kind}/{name}"


class ObjectPieces:
    """Parts of files that vehicles put into the store themselves; see `Pieces`."""

    def __init__(self, store: S3Store) -> None:
        self._store = store

    async def there(self, scenario: int, name: str) -> dict[int, str]:
        """ETags by number."""
        found: dict[int, str] = {}
        with _as_os_error("list", name):
            async for page in obstore.list(self._store, _place(scenario, name), chunk_size=LISTED_AT_ONCE):
                found |= {int(entry["path"].rpartition("/")[2]): str(entry["e_tag"]) for entry in page}
        return found

    async def address(self, base: str, scenario: int, name: str, number: int, seconds: float) -> str:  # noqa: ARG002
        """A presigned PUT: the bytes never pass through here."""
        key = f"{_place(scenario, name)}{number}"
        return await obstore.sign_async(self._store, "PUT", key, timedelta(seconds=seconds))

    async def read(self, scenario: int, name: str, number: int) -> AsyncIterator[bytes]:
        """The bytes of one."""
        with _as_os_error("get", name):
            found = await obstore.get_async(self._store, f"{_place(scenario, name)}{number}")
            async for block in found.stream(min_chunk_size=BLOCK):
                yield bytes(block)

    async def remove(self, scenario: int, name: str) -> None:
        """Removes all of a file's."""
        with _as_os_error("delete", name):
            keys = [f"{_place(scenario, name)}{number}" for number in await self.there(scenario, name)]
            if keys:
                await obstore.delete_async(self._store, keys)


def _place(scenario: int, name: str) -> str:
    return f"direct/{scenario}/{hidden(name)}/"


class _as_os_error:  # noqa: N801  # reads as the function that it is
    """Makes what the store refuses an error of a disk, which it stands for: 503, and it is tried again."""

    def __init__(self, verb: str, name: str) -> None:
        self._what = f"the object store did not {verb} {name}"

    def __enter__(self) -> None:
        return None

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, _: object) -> None:
        if isinstance(error, FileNotFoundError):
            return
        if isinstance(error, BaseError):
            raise OSError(f"{self._what}: {type(error).__name__}") from error
