"""Where profile keys come from, and what opens what."""

import asyncio
import base64
import hashlib
import logging
import os
from pathlib import Path

import pytest
from cryptography.fernet import Fernet
from pydantic import ValidationError

from sentinel_sync.base.errors import ConfigurationError, ProfileError
from sentinel_sync.profiles.keys import (
    COMMAND_INTERVAL,
    MAX_SEALED,
    DerivedKey,
    GivenKeys,
    KeyCommand,
    KeyFile,
    Keyring,
    LegacyKeys,
    ProfileCipher,
    checked,
    key_provider,
)
from sentinel_sync.settings import CloudSettings, Settings
from tests.fakes.clock import FakeClock

OLD, NEW, FOREIGN = (base64.urlsafe_b64encode(bytes([number]) * 32).decode() for number in (1, 2, 3))


def test_the_first_source_given_counts(clock: FakeClock, tmp_path: Path) -> None:
    every = {"profile_keys": [NEW], "profile_keys_file": tmp_path / "keys", "profile_keys_command": ["print-keys"]}
    kinds = [GivenKeys, KeyFile, KeyCommand, DerivedKey]
    names = list(every)
    for number, kind in enumerate(kinds):
        given = {name: every[name] for name in names[number:]}
        assert isinstance(key_provider(CloudSettings.model_validate(given), clock), kind)


def test_keys_are_read_from_the_environment_and_shown_nowhere(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SENTINEL_CLOUD__PROFILE_KEYS", f'["{NEW}", "{OLD}"]')
    cloud = Settings.load().cloud
    assert [key.get_secret_value() for key in cloud.profile_keys] == [NEW, OLD]
    assert NEW not in repr(cloud)
    assert NEW not in repr(GivenKeys([NEW]))


def test_keys_and_a_command_may_be_one_text() -> None:
    cloud = CloudSettings.model_validate({"profile_keys": f"{NEW}, {OLD}", "profile_keys_command": "tool --read 'a b'"})
    assert [key.get_secret_value() for key in cloud.profile_keys] == [NEW, OLD]
    assert cloud.profile_keys_command == ("tool", "--read", "a b")


@pytest.mark.parametrize("key", ["", "short", NEW[:-4], "*" * 44])
def test_what_is_no_fernet_key_is_refused_without_being_repeated(key: str) -> None:
    with pytest.raises(ValidationError, match="Fernet key") as caught:
        CloudSettings.model_validate({"profile_keys": [key]})
    assert not key or key not in str(caught.value)
    with pytest.raises(ConfigurationError, match="Fernet key"):
        checked([key], "here")


async def test_a_key_file_is_read_again_when_it_changes_and_kept_while_it_is_away(tmp_path: Path) -> None:
    path = tmp_path / "keys"
    provider = KeyFile(path)
    with pytest.raises(ConfigurationError, match="cannot read the profile keys"):
        await provider.keys()
    path.write_text(f"# the fleet's\n{OLD}\n\n")
    assert await provider.keys() == (OLD.encode(),)
    beside = tmp_path / "keys.new"
    beside.write_text(f"{NEW}\n{OLD}\n")
    beside.rename(path)
    assert await provider.keys() == (NEW.encode(), OLD.encode())
    path.unlink()
    assert await provider.keys() == (NEW.encode(), OLD.encode())
    path.write_text("nonsense")
    assert await provider.keys() == (NEW.encode(), OLD.encode())


def _command(path: Path, text: str) -> tuple[str, ...]:
    path.write_text(f"#!/bin/sh\n{text}\n")
    path.chmod(0o755)
    return (os.fspath(path),)


async def test_a_command_gives_keys_and_is_asked_again_after_an_hour(tmp_path: Path, clock: FakeClock) -> None:
    provider = KeyCommand(_command(tmp_path / "keys", f"echo {OLD}"), clock)
    assert await provider.keys() == (OLD.encode(),)
    _command(tmp_path / "keys", f"echo {NEW}; echo {OLD}")
    assert await provider.keys() == (OLD.encode(),)
    clock.tick(COMMAND_INTERVAL)
    assert await provider.keys() == (NEW.encode(), OLD.encode())
    _command(tmp_path / "keys", "exit 3")
    clock.tick(COMMAND_INTERVAL)
    assert await provider.keys() == (NEW.encode(), OLD.encode())


@pytest.mark.parametrize("script", ["exit 3", "echo secret-thing", "true"])
async def test_a_command_that_gives_no_key_is_an_error_that_repeats_nothing(
    script: str, tmp_path: Path, clock: FakeClock
) -> None:
    provider = KeyCommand(_command(tmp_path / "keys", f"echo secret-thing >&2; {script}"), clock)
    with pytest.raises(ConfigurationError, match="profile_keys_command") as caught:
        await provider.keys()
    assert "secret-thing" not in str(caught.value)


async def test_a_command_ends_with_whoever_waited_for_its_keys(tmp_path: Path, clock: FakeClock) -> None:
    os.mkfifo(tmp_path / "started")
    command = _command(tmp_path / "keys", f"echo $$ > {tmp_path}/started; exec sleep 1000")
    waiting = asyncio.create_task(KeyCommand(command, clock).keys())
    process_id = int(await asyncio.to_thread((tmp_path / "started").read_text))
    waiting.cancel()
    with pytest.raises(asyncio.CancelledError):
        await waiting
    with pytest.raises(ProcessLookupError):
        os.kill(process_id, 0)


async def test_a_command_that_is_not_there_is_an_error(tmp_path: Path, clock: FakeClock) -> None:
    with pytest.raises(ConfigurationError, match="cannot be started"):
        await KeyCommand((os.fspath(tmp_path / "none"),), clock).keys()


async def test_the_default_key_differs_by_vehicle_and_fleet_and_says_what_it_cannot_do(
    caplog: pytest.LogCaptureFixture,
) -> None:
    with caplog.at_level(logging.WARNING):
        provider = DerivedKey("vehicle_001", "fleet_alpha")
        (key,) = await provider.keys()
        assert await provider.keys() == (key,)
    assert [record.levelname for record in caplog.records] == ["WARNING"]
    assert "no other vehicle can read" in caplog.text
    assert key.decode() not in caplog.text
    assert (key,) != await DerivedKey("vehicle_001", "fleet_beta").keys()
    assert key == base64.urlsafe_b64encode(
        hashlib.pbkdf2_hmac("sha256", b"vehicle_001", b"sentinel-sync profile v1 fleet_alpha", 600_000)
    )


def test_the_newest_key_seals_and_all_open() -> None:
    keyring = Keyring.of((NEW.encode(), OLD.encode()))
    assert Fernet(NEW).decrypt(keyring.seal(b"x")) == b"x"
    assert keyring.open(Fernet(OLD).encrypt(b"y").decode()) == b"y"


def test_what_was_tampered_with_cut_off_or_sealed_elsewhere_does_not_open() -> None:
    keyring = Keyring.of((NEW.encode(),))
    sealed = keyring.seal(b"content")
    broken = sealed[:40] + ("A" if sealed[40] != "A" else "B") + sealed[41:]
    foreign = Fernet(FOREIGN).encrypt(b"x").decode()
    for token in (
        broken,
        sealed[:-8],
        sealed[: len(sealed) // 2],
        foreign,
        "",
        "gAAAAA",
        "zażółć",
        "x" * (MAX_SEALED + 1),
    ):
        with pytest.raises(ProfileError):
            keyring.open(token)


async def test_what_the_older_module_sealed_opens_with_its_vehicles_key() -> None:
    key = base64.urlsafe_b64encode(hashlib.pbkdf2_hmac("sha256", b"vehicle_001", b"sentinel_salt", 100_000))
    # The older module wrapped the token in base64 once more.
    sealed = base64.b64encode(Fernet(key).encrypt(b"{}")).decode()
    cipher = ProfileCipher(GivenKeys([NEW]), LegacyKeys(["vehicle_002", "vehicle_001"]))
    with pytest.raises(ProfileError):
        (await cipher.keyring()).open(sealed)
    second, first = await cipher.legacy_keyrings()
    assert first.open(sealed) == b"{}"
    with pytest.raises(ProfileError):
        second.open(sealed)


async def test_rotated_keys_are_taken_up(tmp_path: Path) -> None:
    path = tmp_path / "keys"
    path.write_text(OLD)
    cipher = ProfileCipher(KeyFile(path), LegacyKeys(()))
    sealed = (await cipher.keyring()).seal(b"x")
    path.write_text(f"{NEW}\n{OLD}")
    keyring = await cipher.keyring()
    assert keyring.open(sealed) == b"x"
    assert Fernet(NEW).decrypt(keyring.seal(b"y")) == b"y"
