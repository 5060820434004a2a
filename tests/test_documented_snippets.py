"""Every Python block of README.md and docs/components.md runs as it is documented, against the reference backend."""

import ast
import base64
import hashlib
import inspect
import json
import re
import shutil
from collections.abc import AsyncIterator
from pathlib import Path
from types import CodeType
from typing import Any

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
from pydantic import SecretStr

from sentinel_sync import CloudAPIClient
from sentinel_sync.backend.publishing import ModelRelease, ModelSignature, publish_model
from sentinel_sync.backend.server import running_server
from sentinel_sync.backend.settings import BackendSettings
from sentinel_sync.settings import CloudSettings
from tests.conftest import FIXTURES

ROOT = Path(__file__).parent.parent
DOCUMENTED_URL = "https://api.sentinel-fleet.com"
KEY = "your_api_key"
MODEL_TYPE = b"application/vnd.sentinel.model.v1+json"


def blocks(page: str) -> list[str]:
    found = re.findall(r"^```python\n(.*?)^```$", (ROOT / page).read_text(encoding="utf-8"), re.DOTALL | re.MULTILINE)
    assert found, f"{page} has no Python block"
    return found


def compiled(block: str, name: str) -> CodeType:
    code = compile(block, name, "exec", flags=ast.PyCF_ALLOW_TOP_LEVEL_AWAIT)
    assert isinstance(code, CodeType)
    return code


async def run(block: str, name: str, namespace: dict[str, Any]) -> None:
    result = eval(compiled(block, name), namespace)
    if inspect.iscoroutine(result):
        await result


def signed_release(key: Ed25519PrivateKey, file: Path) -> ModelRelease:
    """Sign as the contract says; spelled out here, so that it is not our own code that agrees with itself."""
    content = file.read_bytes()
    manifest = {
        "checksum": hashlib.sha256(content).hexdigest(),
        "name": "yolov8m_automotive",
        "size": len(content),
        "version": "v2.1.0",
    }
    body = json.dumps(manifest, sort_keys=True, separators=(",", ":"), ensure_ascii=False).encode()
    pae = b"DSSEv1 %d %s %d %s" % (len(MODEL_TYPE), MODEL_TYPE, len(body), body)
    signature = ModelSignature(base64.b64encode(key.sign(pae)).decode())
    return ModelRelease(
        name="yolov8m_automotive", version="v2.1.0", filename="yolov8m_automotive.pt", signatures=[signature]
    )


@pytest.fixture
async def backend(tmp_path: Path) -> AsyncIterator[tuple[str, Path]]:
    folder = tmp_path / "backend"
    async with running_server(BackendSettings(folder=folder, api_keys=(KEY,))) as url:
        yield url, folder


@pytest.fixture
def vehicle_files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A working directory as on a vehicle."""
    folder = tmp_path / "vehicle"
    folder.mkdir()
    monkeypatch.chdir(folder)
    shutil.copytree(FIXTURES / "scenarios" / "20241117_132640", folder / "scenarios" / "2024-11-17_10-30-45")
    shutil.copytree(FIXTURES / "profiles", folder / "profiles")
    shutil.copytree(FIXTURES / "models", folder / "models")
    shutil.copytree(ROOT / "configs", folder / "configs")
    return folder


async def test_every_component_runs_as_documented(
    backend: tuple[str, Path], vehicle_files: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    url, folder = backend
    key = Ed25519PrivateKey.generate()
    file = tmp_path / "new.pt"
    file.write_bytes(b"weights" * 1000)
    checksum = publish_model(folder, file, signed := signed_release(key, file))
    public = base64.b64encode(key.public_key().public_bytes(Encoding.Raw, PublicFormat.Raw)).decode()
    settings = CloudSettings(api_url=url, api_key=SecretStr(KEY), model_trusted_keys=(public,), rate_limit=0)
    profile = json.loads((vehicle_files / "profiles" / "driver_123.json").read_text())
    namespace: dict[str, Any] = {"profile_data": profile, "local_profile": profile}
    for number, block in enumerate(blocks("docs/components.md")):
        text = block.replace(DOCUMENTED_URL, url)
        text = text.replace("abc123...", checksum).replace("signature...", signed.signatures[0].signature)
        await run(text, f"docs/components.md, block {number + 1}", namespace)
        if text == "api_client = client\n":
            # The page's client, but one that trusts the key that the test signs with.
            namespace["api_client"] = CloudAPIClient(settings=settings)
    await namespace["api_client"].close()

    assert namespace["response"].success
    assert namespace["trip_id"] == namespace["summary"].trip_id
    assert namespace["status"] is not None
    assert [update["version"] for update in namespace["updates"]] == ["v2.1.0"]
    assert (vehicle_files / "models" / "yolov8m_automotive.pt").read_bytes() == file.read_bytes()
    assert namespace["profile"]["driver_id"] == "driver_123"
    assert namespace["merged"]["total_distance"] == profile["total_distance"]
    assert "Total vehicles: " in capsys.readouterr().out


async def test_the_readme_runs_as_documented(
    backend: tuple[str, Path], vehicle_files: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    url, _ = backend
    monkeypatch.setenv("SENTINEL_CLOUD__ENABLED", "true")
    monkeypatch.setenv("SENTINEL_CLOUD__API_URL", url)
    monkeypatch.setenv("SENTINEL_CLOUD__API_KEY", KEY)
    namespace: dict[str, Any] = {}
    for number, block in enumerate(blocks("README.md")):
        await run(block, f"README.md, block {number + 1}", namespace)
    async with CloudAPIClient(api_url=url, api_key=KEY, vehicle_id="vehicle_001", fleet_id="fleet_alpha") as client:
        arrived = await client.get(f"/trips/{namespace['summary'].trip_id}")
    assert arrived.success
    assert vehicle_files.joinpath("state").is_dir()
