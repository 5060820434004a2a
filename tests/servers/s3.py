"""Object stores by other people, with addresses signed as S3 has it (AWS Signature Version 4, in the query)."""

import hashlib
import hmac
import os
import re
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from urllib.parse import quote, urlsplit

import httpx
import pytest

from tests.fakes.cloud import closed_port

ACCESS_KEY, SECRET_KEY, REGION, BUCKET = "AKIATESTTESTTEST", "secret-of-the-tests-store", "us-east-1", "recordings"
_PATIENCE = 20.0


@dataclass(frozen=True, slots=True)
class ObjectStore:
    """A running store with an empty bucket."""

    url: str

    def address(self, key: str, method: str = "PUT", *, lifetime: int = 600, **query: str) -> str:
        """A presigned address of an object."""
        return presigned(self.url, method, f"/{BUCKET}/{key}", lifetime=lifetime, query=query)

    def begin_multipart(self, key: str) -> str:
        """Begin an upload in parts; returns its id."""
        answer = httpx.post(self.address(key, "POST", uploads=""), timeout=_PATIENCE).raise_for_status()
        found = re.search(r"<UploadId>([^<]+)</UploadId>", answer.text)
        assert found is not None
        return found.group(1)

    def complete_multipart(self, key: str, upload_id: str, parts: list[dict[str, object]]) -> None:
        listed = "".join(
            f"<Part><PartNumber>{part['number']}</PartNumber><ETag>{part['etag']}</ETag></Part>" for part in parts
        )
        body = f"<CompleteMultipartUpload>{listed}</CompleteMultipartUpload>"
        httpx.post(self.address(key, "POST", uploadId=upload_id), content=body, timeout=_PATIENCE).raise_for_status()

    def content(self, key: str) -> bytes:
        return httpx.get(self.address(key, "GET"), timeout=_PATIENCE).raise_for_status().content


@contextmanager
def object_store(kind: str, folder: Path) -> Iterator[ObjectStore]:
    """Run nanio, which checks signatures and their time, or localbucket, which checks neither."""
    program = shutil.which(kind, path=str(Path(sys.executable).parent))
    if program is None:
        pytest.skip(f"no {kind} in this environment")
    data, port = folder / kind, closed_port()
    data.mkdir()
    words = [program, str(data), "--host", "127.0.0.1", "--port", str(port)]
    if kind == "nanio":
        words = [program, "serve", "--data-dir", *words[1:], "--no-access-log", "--log-level", "error"]
    keys = {"NANIO_ACCESS_KEY": ACCESS_KEY, "NANIO_SECRET_KEY": SECRET_KEY}
    process = subprocess.Popen(words, env=os.environ | keys, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        store = ObjectStore(f"http://127.0.0.1:{port}")
        _make_bucket(store)
        yield store
    finally:
        process.terminate()
        process.wait(_PATIENCE)


def _make_bucket(store: ObjectStore) -> None:
    deadline = time.monotonic() + _PATIENCE
    while True:
        try:
            httpx.put(presigned(store.url, "PUT", f"/{BUCKET}", lifetime=60), timeout=5.0).raise_for_status()
        except httpx.TransportError:
            assert time.monotonic() < deadline, "the store did not start"
            time.sleep(0.05)
        else:
            return


def presigned(
    url: str, method: str, path: str, *, lifetime: int, query: dict[str, str] | None = None, now: float | None = None
) -> str:
    """An address with a signature in its query (docs.aws.amazon.com: Authenticating Requests, Query Parameters).

    Args:
        lifetime: Seconds.
        now: When it is signed, seconds since the epoch.
    """
    at = datetime.fromtimestamp(time.time() if now is None else now, UTC)
    stamp, day = at.strftime("%Y%m%dT%H%M%SZ"), at.strftime("%Y%m%d")
    scope = f"{day}/{REGION}/s3/aws4_request"
    fields = {
        "X-Amz-Algorithm": "AWS4-HMAC-SHA256",
        "X-Amz-Credential": f"{ACCESS_KEY}/{scope}",
        "X-Amz-Date": stamp,
        "X-Amz-Expires": str(lifetime),
        "X-Amz-SignedHeaders": "host",
        **(query or {}),
    }
    canonical = "&".join(f"{quote(name, safe='')}={quote(fields[name], safe='')}" for name in sorted(fields))
    host = urlsplit(url).netloc
    request = "\n".join([method, quote(path), canonical, f"host:{host}", "", "host", "UNSIGNED-PAYLOAD"])
    to_sign = "\n".join(["AWS4-HMAC-SHA256", stamp, scope, hashlib.sha256(request.encode()).hexdigest()])
    key = f"AWS4{SECRET_KEY}".encode()
    for word in (day, REGION, "s3", "aws4_request"):
        key = hmac.digest(key, word.encode(), "sha256")
    signature = hmac.new(key, to_sign.encode(), "sha256").hexdigest()
    return f"{url}{quote(path)}?{canonical}&X-Amz-Signature={signature}"
