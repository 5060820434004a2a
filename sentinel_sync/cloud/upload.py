"""Sends a file by the first protocol that the backend takes it by: the seam for upload protocols.

Another protocol is a class with the methods of `UploadProtocol` in a file of its own, and a line in `Uploads`.
"""

import secrets
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from http import HTTPMethod
from typing import Protocol

from sentinel_sync.base.errors import CredentialError, UnreachableError
from sentinel_sync.cloud.client import CloudAPIClient
from sentinel_sync.cloud.file_body import BandwidthLimit, FileBody, OpenFile


@dataclass(frozen=True, slots=True)
class FileUpload:
    """A file that is to be sent.

    Attributes:
        path: Where files of its kind go, below `api_url`.
        key: `Idempotency-Key` of the work; a UUID.
        source: The file.
        name: What the backend knows it by.
        content_type: Of the file's bytes.
        sha256: Of the file's bytes, in hex.
        encoding: `Content-Encoding` of the bytes, or None.
        as_form: Whether one request that has it whole is a form with one field, named like the file.
        resume_url: Of an upload that was begun before, or None.
        may_send: Awaited before each request: raises HeldError where nothing may be sent any more.
        remember: Keeps the URL of an upload that can be resumed, or None for "there is none"; awaited before the first
            byte goes there.
        on_progress: Told how many of the file's bytes have arrived or were handed to the network.
    """

    path: str
    key: str
    source: OpenFile
    name: str
    content_type: str
    sha256: str
    encoding: str | None
    as_form: bool
    resume_url: str | None
    may_send: Callable[[], Awaitable[object]]
    remember: Callable[[str | None], Awaitable[None]]
    on_progress: Callable[[int], None]


class UploadProtocol(Protocol):
    """A way for files to get to the backend."""

    async def takes_encoding(self, path: str, encoding: str) -> bool | None:
        """Whether files that go to `path` may be packed so; None where the backend does not offer this protocol.

        Raises:
            CloudError: It does not say now.
        """
        ...

    async def send(self, upload: FileUpload) -> bool:
        """Send a file, or what the backend has not got of it; returns once the backend has acknowledged it.

        Returns:
            False where the backend does not take it by this protocol: nothing is left of the attempt.

        Raises:
            CloudError: It has not arrived whole.
            SentinelSyncError: The file cannot be read.
        """
        ...

    def forget(self, path: str) -> None:
        """Ask the backend again what it offers: whoever answered may not have been the backend."""
        ...


class SingleRequest:
    """The whole file in one POST; every backend takes it.

    Args:
        client: The backend.
        bandwidth: How fast.
    """

    def __init__(self, client: CloudAPIClient, bandwidth: BandwidthLimit) -> None:
        self._client = client
        self._bandwidth = bandwidth

    async def takes_encoding(self, path: str, encoding: str) -> bool | None:  # noqa: ARG002 - as the protocol has it
        """The contract allows gzip for annotations, the only files that are packed."""
        return True

    async def send(self, upload: FileUpload) -> bool:
        """Send it, whatever was sent of it before."""
        await upload.may_send()
        headers, before, after = _form(upload) if upload.as_form else _plain(upload)
        body = FileBody(
            upload.source,
            0,
            upload.source.size_bytes,
            before=before,
            after=after,
            bandwidth=self._bandwidth,
            on_progress=upload.on_progress,
        )
        await self._client.request(
            HTTPMethod.POST,
            upload.path,
            content=body,
            headers={**headers, "Content-Length": str(body.size_bytes)},
            idempotency_key=upload.key,
            bulk=True,
        )
        return True

    def forget(self, path: str) -> None:
        """There is nothing that the backend offers."""


class Uploads:
    """Sends files over one client, within its `upload_bandwidth_limit`.

    Args:
        protocols: In the order in which they are tried; the last takes every file.
    """

    def __init__(self, protocols: tuple[UploadProtocol, ...]) -> None:
        self._protocols = protocols

    async def takes_encoding(self, path: str, encoding: str) -> bool:
        """Whether files that go to `path` may be packed so.

        Raises:
            CloudError: The backend does not say now.
        """
        for protocol in self._protocols:
            taken = await protocol.takes_encoding(path, encoding)
            if taken is not None:
                return taken
        return False

    async def send(self, upload: FileUpload) -> None:
        """Send a file; returns once the backend has acknowledged it.

        Raises:
            CloudError: It has not arrived whole.
            HeldError: It may not be sent any more.
            SentinelSyncError: The file cannot be read.
        """
        passed_over: list[UploadProtocol] = []
        for protocol in self._protocols:
            try:
                if await protocol.send(upload):
                    return
            except (UnreachableError, CredentialError):
                # Whoever said that there is nothing better may have been a login page, or have refused us.
                for other in passed_over:
                    other.forget(upload.path)
                raise
            passed_over.append(protocol)


def _form(upload: FileUpload) -> tuple[dict[str, str], bytes, bytes]:
    """Headers of a `multipart/form-data` request of one part, what goes before the file, and what goes after it."""
    boundary = secrets.token_hex(16)
    # Names have no quotation marks, slashes or control characters, so they need no escaping.
    before = (
        f"--{boundary}\r\n"
        f'Content-Disposition: form-data; name="{upload.name}"; filename="{upload.name}"\r\n'
        f"Content-Type: {upload.content_type}\r\n\r\n"
    )
    headers = {"Content-Type": f"multipart/form-data; boundary={boundary}"}
    return headers, before.encode(), f"\r\n--{boundary}--\r\n".encode()


def _plain(upload: FileUpload) -> tuple[dict[str, str], bytes, bytes]:
    headers = {"Content-Type": upload.content_type}
    return (headers if upload.encoding is None else {**headers, "Content-Encoding": upload.encoding}), b"", b""
