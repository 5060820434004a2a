"""`models.source: tuf` on a vehicle that lacks what it needs, and on one that does not use it."""

import asyncio
import json
import sys
from functools import partial
from pathlib import Path

import pytest

from sentinel_sync import ConfigurationError
from sentinel_sync.settings import Settings
from tests.models.tuf.service.vehicle import NAME, Vehicle

pytestmark = pytest.mark.usefixtures("off_the_loop")

V10 = (NAME, "v10")


@pytest.mark.parametrize(
    ("block", "why"),
    [
        ("source: tuf", "source tuf needs metadata_url and root_file"),
        ('source: tuf, metadata_url: "https://models.example.com/metadata"', "needs metadata_url and root_file"),
        ("source: tuf, root_file: /etc/root.json", "needs metadata_url and root_file"),
        ('source: tuf, metadata_url: "http://models.example.com/", root_file: /r', "must be https"),
        ('source: tuf, metadata_url: "file:///srv/metadata/", root_file: /r', "must be https"),
        (
            'source: tuf, metadata_url: "https://m.example.com/", targets_url: "ftp://m/", root_file: /r',
            "must be https",
        ),
        ("source: uptane", "must be api or tuf"),
    ],
)
def test_settings_that_do_not_describe_a_repository(tmp_path: Path, block: str, why: str) -> None:
    config = tmp_path / "sentinel.yaml"
    config.write_text(f"cloud:\n  vehicle_id: v\n  fleet_id: f\n  models: {{{block}}}\n", encoding="utf-8")
    with pytest.raises(ConfigurationError, match=why):
        Settings.load(config)


@pytest.mark.parametrize("spoil", ["no root file", "no JSON", "no python-tuf"])
async def test_what_is_missing_on_the_vehicle_is_named_and_takes_nothing_out_of_use(
    vehicle: Vehicle, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, spoil: str
) -> None:
    why = "cloud.models.root_file"
    match spoil:
        case "no root file":
            (tmp_path / "root.json").unlink()
        case "no JSON":
            (tmp_path / "root.json").write_text("root", encoding="utf-8")
        case _:
            why = r"install sentinel-sync\[tuf\]"
            monkeypatch.delitem(sys.modules, "sentinel_sync.models.tuf.refresh", raising=False)
            monkeypatch.setitem(sys.modules, "tuf.api.exceptions", None)
    vehicle.downloader = vehicle.build()
    for attempt in (vehicle.downloader.check_for_updates, partial(vehicle.downloader.download_and_install_model, *V10)):
        with pytest.raises(ConfigurationError, match=why):
            await attempt()
    await vehicle.untouched()


#: Builds a downloader as an agent does before its first check, and names what of python-tuf is loaded by then.
_IDLE = """
import asyncio, sys
from sentinel_sync import CloudAPIClient, ModelDownloader, SyncAgent
from sentinel_sync.settings import CloudSettings
async def idle():
    settings = CloudSettings.model_validate_json(sys.argv[1])
    async with CloudAPIClient(settings=settings) as client:
        await ModelDownloader(client).prepare()
        print([name for name in ("tuf", "securesystemslib", "urllib3", "cryptography") if name in sys.modules])
asyncio.run(idle())
"""


@pytest.mark.parametrize("source", ["api", "tuf"])
async def test_nothing_of_python_tuf_is_loaded_before_a_check_needs_it(tmp_path: Path, source: str) -> None:
    """It takes some 14 MB of memory for good."""
    models = {"source": source, "metadata_url": "https://m.example.com/", "root_file": str(tmp_path / "root.json")}
    settings = {
        "api_url": "https://fleet.example.com",
        "api_key": "k",
        "vehicle_id": "v",
        "fleet_id": "f",
        "models": models,
        "state_dir": str(tmp_path / "state"),
        "models_dir": str(tmp_path / "models"),
    }
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-c", _IDLE, json.dumps(settings), stdout=asyncio.subprocess.PIPE
    )
    told, _ = await process.communicate()
    assert process.returncode == 0
    assert told.decode().strip() == "[]"
