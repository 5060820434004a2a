"""How many of our files does one piece of work run through? `python -m tests.architecture.journeys` prints them.

One trip from `end_trip` to its acknowledgement, one scenario from `queue_scenario` to the last part, one model from
`download_and_install_model` to the runtime's file, one profile's sync, and of the trip the share of its one request:
each by a component, as under an agent, against the reference backend on a real socket. Every Python frame that is
entered meanwhile, in any thread, counts with its file; the reference backend's own files do not.
"""

import argparse
import asyncio
import base64
import hashlib
import json
import shutil
import sys
import tempfile
import threading
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from types import FrameType

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
from pydantic import SecretStr

import sentinel_sync
from sentinel_sync import CloudAPIClient, ModelDownloader, ProfileSynchronizer, ScenarioUploader, TripUploader
from sentinel_sync.backend import BackendSettings, running_server
from sentinel_sync.backend.publishing import ModelRelease, ModelSignature, publish_model
from sentinel_sync.network.foundation import Foundation
from sentinel_sync.settings import CloudSettings

PACKAGE = Path(sentinel_sync.__file__).parent
FIXTURES = Path(__file__).parents[1] / "fixtures"
#: So many files at most; what the house was drawn for (docs/architecture.md).
LIMITS = {"trip": 18, "model": 26, "scenario": 36, "profile": 22, "request": 6}
_KEY = "journey"
_MODEL = "yolov8m_automotive"
_MODEL_TYPE = b"application/vnd.sentinel.model.v1+json"


class Trace:
    """The files of the package whose code runs in any thread: install it before there are threads."""

    def __init__(self) -> None:
        self._files: set[str] | None = None

    def install(self) -> None:
        """Watch this thread, and all that begin from now on."""
        threading.setprofile(self._entered)
        sys.setprofile(self._entered)

    @contextmanager
    def of(self, files: list[str]) -> Iterator[None]:
        """Add the paths below the package, sorted, of those whose code runs meanwhile."""
        entered = self._files = set()
        yield
        self._files = None
        ours = (str(Path(file).relative_to(PACKAGE)) for file in entered if file.startswith(f"{PACKAGE}/"))
        files += sorted(path for path in ours if not path.startswith("backend/"))

    def _entered(self, frame: FrameType, event: str, _: object) -> None:
        if self._files is not None and event == "call":
            self._files.add(frame.f_code.co_filename)


TRACE = Trace()


async def all_journeys(folder: Path) -> dict[str, list[str]]:
    """Make each journey once; the files that it ran through, by its name."""
    journeys: dict[str, Callable[[Foundation, list[str]], Awaitable[None]]] = {
        "trip": _trip,
        "scenario": _scenario,
        "model": _model,
        "profile": _profile,
    }
    shutil.copytree(FIXTURES / "profiles", folder / "profiles")
    shutil.copytree(FIXTURES / "scenarios", folder / "scenarios")
    key, file = Ed25519PrivateKey.generate(), folder / "new.pt"
    file.write_bytes(b"weights" * 1000)
    async with running_server(BackendSettings(folder=folder / "backend", api_keys=(_KEY,))) as url:
        publish_model(folder / "backend", file, _signed(key, file))
        public = base64.b64encode(key.public_key().public_bytes(Encoding.Raw, PublicFormat.Raw)).decode()
        found: dict[str, list[str]] = {}
        for name, journey in journeys.items():
            settings = CloudSettings(
                api_url=url,
                api_key=SecretStr(_KEY),
                state_dir=folder / f"state-{name}",
                scenarios_dir=folder / "scenarios",
                profiles_dir=folder / "profiles",
                models_dir=folder / "models",
                model_trusted_keys=(public,),
                upload_scenarios=True,
                rate_limit=0,
            )
            async with CloudAPIClient(settings=settings) as client:
                await client.get("/health")  # what is imported and opened at the first request is no part of a journey
                foundation = Foundation.of(client, supervised=True)
                await foundation.store.open()
                await foundation.policy.prepare()  # as an agent has, long before
                await journey(foundation, found.setdefault(name, []))
    found["request"] = [path for path in found["trip"] if path.startswith("cloud/")]
    return found


async def _trip(foundation: Foundation, files: list[str]) -> None:
    trips = TripUploader(foundation.client, foundation=foundation)
    await trips.prepare()
    await trips.start_trip()
    trips.update_trip(distance_delta=10.0, speed=5.0)
    with TRACE.of(files):
        await trips.end_trip()
        assert await trips.sync_now() == 1


async def _scenario(foundation: Foundation, files: list[str]) -> None:
    scenarios = ScenarioUploader(foundation.client, foundation=foundation)
    await scenarios.set_consent(True)
    with TRACE.of(files):
        await scenarios.queue_scenario(foundation.client.settings.scenarios_dir / "20241117_103045")
        assert await scenarios.sync_now() == 1
    await scenarios.close()


async def _model(foundation: Foundation, files: list[str]) -> None:
    models = ModelDownloader(foundation.client, auto_install=False, foundation=foundation)
    await models.prepare()
    with TRACE.of(files):
        (update,) = await models.check_for_updates()
        assert await models.download_and_install_model(update["name"], update["version"])
    await models.close()


async def _profile(foundation: Foundation, files: list[str]) -> None:
    profiles = ProfileSynchronizer(foundation.client, foundation=foundation)
    await profiles.prepare()
    with TRACE.of(files):
        assert await profiles.sync_all_profiles() > 0


def _signed(key: Ed25519PrivateKey, file: Path) -> ModelRelease:
    content = file.read_bytes()
    manifest = {
        "checksum": hashlib.sha256(content).hexdigest(),
        "name": _MODEL,
        "size": len(content),
        "version": "v2.1.0",
    }
    body = json.dumps(manifest, sort_keys=True, separators=(",", ":")).encode()
    envelope = b"DSSEv1 %d %s %d %s" % (len(_MODEL_TYPE), _MODEL_TYPE, len(body), body)
    signature = ModelSignature(base64.b64encode(key.sign(envelope)).decode())
    return ModelRelease(name=_MODEL, version="v2.1.0", filename=f"{_MODEL}.pt", signatures=[signature])


def main() -> None:
    """Print each journey's files."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0] if __doc__ else None)
    parser.add_argument("--files", action="store_true", help="name each file")
    parser.add_argument("--json", action="store_true", help="for programs")
    chosen = parser.parse_args()
    TRACE.install()
    with tempfile.TemporaryDirectory() as folder:
        found = asyncio.run(all_journeys(Path(folder)))
    if chosen.json:
        print(json.dumps(found))
        return
    for name, files in found.items():
        print(f"{name}: {len(files)} files (at most {LIMITS[name]})")
        if chosen.files:
            print("".join(f"  {file}\n" for file in files), end="")


if __name__ == "__main__":
    main()
