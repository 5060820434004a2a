"""A backend with signed models, and vehicles that take them: what the tests of `ModelDownloader` share."""

import base64
import hashlib
import json
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from random import Random
from typing import Any

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from sentinel_sync import ModelDownloader
from sentinel_sync.models.rules.releases import manifest
from tests.conftest import FIXTURES
from tests.fakes.cloud import Answer, FakeCloud, json_answer
from tests.fakes.wire_rules import Seen

KEY, OTHER_KEY = Ed25519PrivateKey.from_private_bytes(b"k" * 32), Ed25519PrivateKey.from_private_bytes(b"o" * 32)
TRUSTED = base64.b64encode(KEY.public_key().public_bytes_raw()).decode()
NAME = "yolov8m_automotive"
OLD = (FIXTURES / "models" / f"{NAME}.pt").read_bytes()


def content_of(version: str, size: int = 300_000) -> bytes:
    return Random(version).randbytes(size)


def sign(name: str, version: str, content: bytes, by: Ed25519PrivateKey = KEY) -> str:
    checksum = hashlib.sha256(content).hexdigest()
    return base64.b64encode(by.sign(manifest(name, version, len(content), checksum))).decode()


def listed(
    version: str,
    *,
    name: str = NAME,
    by: Ed25519PrivateKey | None = KEY,
    content: bytes | None = None,
    **more: Any,
) -> dict[str, Any]:
    """An entry of the listing."""
    content = content_of(version) if content is None else content
    entry = {
        "name": name,
        "version": version,
        "size": len(content),
        "checksum": hashlib.sha256(content).hexdigest(),
        "filename": f"{name}.pt",
    }
    if by is not None:
        entry["signature"] = sign(name, version, content, by)
    return entry | more


@dataclass
class ModelHost:
    """A backend with models; `spoil` has the first word."""

    entries: list[dict[str, Any]] = field(default_factory=list)
    spoil: Callable[[Seen], Answer | None] = lambda _: None
    base: str = ""
    addresses: int = 0

    def __call__(self, seen: Seen) -> Answer:
        return self.spoil(seen) or self.answer(seen)

    def answer(self, seen: Seen) -> Answer:
        if seen.path == "/models":
            etag = f'"{hashlib.sha256(json.dumps(self.entries).encode()).hexdigest()[:8]}"'
            if seen.headers.get("if-none-match") == etag:
                return Answer(304, headers={"ETag": etag})
            return json_answer(200, {"models": self.entries}, {"ETag": etag})
        if seen.path.endswith("/download"):
            self.addresses += 1
            version = seen.query["version"]
            entry = next((entry for entry in reversed(self.entries) if entry["version"] == version), None)
            if entry is None:
                return Answer(404)
            address = f"{self.base}/files/{version}/{self.addresses}"
            return json_answer(200, {"download_url": address, "version": version, "checksum": entry["checksum"]})
        content = content_of(seen.path.split("/")[2])
        start = int(seen.headers.get("range", "bytes=0-").removeprefix("bytes=").removesuffix("-"))
        if start:
            return Answer(206, content[start:], {"Content-Range": f"bytes {start}-{len(content) - 1}/{len(content)}"})
        return Answer(200, content)


Build = Callable[..., ModelDownloader]


def registry(models: Path) -> Any:
    return json.loads((models / "registry.json").read_text())


def live(models: Path) -> bytes:
    return (models / f"{NAME}.pt").read_bytes()


def leftovers(models: Path) -> list[str]:
    """What is half done, by name."""
    return sorted(path.name for path in models.rglob(".*"))


def fetched(cloud: FakeCloud) -> list[str]:
    return [seen.path for seen in cloud.to("GET") if seen.path != "/models"]
