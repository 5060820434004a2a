"""Keys, files, encryption and merging never block the host's loop."""

import asyncio
import hashlib
import json
import sys
import threading
from pathlib import Path
from typing import Any

import pytest
from blockbuster import blockbuster_ctx

from sentinel_sync.cloud.client import CloudAPIClient
from sentinel_sync.network.foundation import Foundation
from sentinel_sync.profiles.keys import Keyring
from sentinel_sync.profiles.profile_synchronizer import ProfileSynchronizer
from sentinel_sync.settings import CloudSettings
from sentinel_sync.store.store import Store
from tests.fakes.scripted_server import Asked, Said, scripted
from tests.profiles.fleet import KEY

_SOURCES: dict[str, dict[str, Any]] = {
    "derived from the vehicle's id": {},
    "from a file": {"profile_keys_file": "keys"},
    "from a command": {"profile_keys_command": [sys.executable, "-c", f"print('{KEY}')"]},
}


@pytest.mark.parametrize("source", _SOURCES)
async def test_not_one_call_blocks_the_loop(source: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    heavy = [(hashlib, "pbkdf2_hmac"), (Keyring, "seal"), (Keyring, "open"), (Keyring, "of")]
    threads = {name: threads_of(monkeypatch, owner, name) for owner, name in heavy}
    folder = tmp_path / "profiles"
    folder.mkdir()
    (tmp_path / "keys").write_text(KEY)
    file = folder / "d.json"
    file.write_text('{"total_distance": 1}')
    held: dict[str, Any] = {}

    def answer(asked: Asked) -> Said:
        match asked.method:
            case "PUT":
                held["body"] = json.loads(asked.body)
                return Said.json({})
            case "DELETE":
                return Said(405)
        return Said.json(held["body"]) if held else Said(404)

    async with scripted(answer) as server:
        keys = {name: tmp_path / value if name.endswith("file") else value for name, value in _SOURCES[source].items()}
        settings = CloudSettings.model_validate(
            {"api_url": server.url, "api_key": "key", "rate_limit": 0, "profiles_dir": folder} | keys
        )
        # What is opened before the watch begins is the agent's, and watched with it (tests/test_agent_blocking.py).
        async with Store(tmp_path / "state") as store, CloudAPIClient(settings=settings) as client:
            profiles = ProfileSynchronizer(client, foundation=Foundation.of(client, store, supervised=True))
            with blockbuster_ctx():
                assert await profiles.sync_all_profiles() == 1
                await asyncio.to_thread(file.write_text, '{"total_distance": 5}')
                await profiles.step()
                assert await profiles.download_profile("d") == {"total_distance": 5}
                sealed = await profiles.encrypt_profile({"total_distance": 5})
                assert await profiles.decrypt_profile(sealed) == {"total_distance": 5}
                await profiles.encrypt_profile({"total_distance": 5})
                assert all(threading.get_ident() not in seen for seen in threads.values())
                assert threads["seal"]
                assert threads["open"]
                assert bool(threads["pbkdf2_hmac"]) is source.startswith("derived")
                await profiles.forget_profile("d")
                await profiles.step()
            assert not file.exists()


def threads_of(monkeypatch: pytest.MonkeyPatch, owner: Any, name: str) -> set[int]:
    """In which threads a function is called."""
    seen, function = set[int](), getattr(owner, name)

    def watched(*args: Any, **kwargs: Any) -> Any:
        seen.add(threading.get_ident())
        return function(*args, **kwargs)

    monkeypatch.setattr(owner, name, watched)
    return seen
