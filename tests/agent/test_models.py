"""Models in a running agent: orders from another process, a trip under way, and what the status says meanwhile."""

import asyncio
import shutil
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from sentinel_sync.agent import SyncAgent
from sentinel_sync.backend import BackendSettings, ModelSignature, publish_model, running_server
from sentinel_sync.backend.publishing import ModelRelease
from sentinel_sync.base.transfer import TransferStatus
from sentinel_sync.cli.offline import last_said, opened
from sentinel_sync.cli.ui.status_text import facts_of
from sentinel_sync.models.commands import CommandOutcome, ModelCommand, ModelCommands
from sentinel_sync.settings import CloudSettings, Settings
from tests.conftest import FIXTURES
from tests.fakes.patience import until, until_true
from tests.models.vehicle import KEY, NAME, OLD, TRUSTED, content_of, live, sign

NEW = "v2.1.0"


@pytest.fixture
async def cloud_block(tmp_path: Path) -> AsyncIterator[CloudSettings]:
    """The settings of a vehicle of a fleet whose backend has no release yet."""
    shutil.copytree(FIXTURES / "models", tmp_path / "models")
    async with running_server(BackendSettings(folder=tmp_path / "backend", api_keys=("key",))) as url:
        yield CloudSettings.model_validate(
            {
                "enabled": True,
                "api_url": url,
                "api_key": "key",
                "rate_limit": 0,
                "network": "unmetered",
                "reconnect_spread": 0.05,
                "state_dir": tmp_path / "state",
                "trip_queue_file": tmp_path / "trip_queue.json",
                "scenarios_dir": tmp_path / "scenarios",
                "profiles_dir": tmp_path / "profiles",
                "models_dir": tmp_path / "models",
                "model_trusted_keys": [TRUSTED],
            }
        )


def publish(tmp_path: Path, version: str, by: Ed25519PrivateKey = KEY) -> None:
    content, file = content_of(version), tmp_path / f"{version}.pt"
    file.write_bytes(content)
    signatures = [ModelSignature(sign(NAME, version, content, by))]
    publish_model(tmp_path / "backend", file, ModelRelease(name=NAME, version=version, signatures=signatures))


async def ordered(settings: CloudSettings, order: ModelCommand) -> CommandOutcome:
    """Place an order as another process does, and wait for what becomes of it."""
    async with opened(settings, writable=True) as folder:
        orders = ModelCommands(folder.documents)
        key = await orders.place(order)
        await until_true(lambda: _is_done(orders, key), f"the order to {order.action}")
        outcome = await orders.outcome(key)
    assert outcome is not None
    return outcome


async def _is_done(orders: ModelCommands, key: str) -> bool:
    return await orders.outcome(key) is not None


async def test_an_operators_orders_are_carried_out_by_the_running_agent(
    tmp_path: Path, cloud_block: CloudSettings
) -> None:
    models, told = tmp_path / "models", list[TransferStatus]()
    await asyncio.to_thread(publish, tmp_path, NEW)
    async with SyncAgent(Settings(cloud=cloud_block)) as agent:
        agent.models.on_progress(told.append)
        assert (await ordered(cloud_block, ModelCommand("install", NAME, NEW))).message == f"{NAME} {NEW} is in use"
        assert live(models) == content_of(NEW)
        await until(lambda: bool(told) and told[-1].done_bytes == 300_000, "news of the download")
        (shown,) = (await agent.status()).models
        assert (shown.installed, shown.previous, shown.status) == (NEW, "v2.0.0", "installed")
        assert (await ordered(cloud_block, ModelCommand("rollback", NAME))).done
        assert live(models) == OLD
        assert (await ordered(cloud_block, ModelCommand("pin", NAME, "v2.0.0"))).done
        refused = await ordered(cloud_block, ModelCommand("install", NAME, NEW))
        assert (refused.done, "pinned v2.0.0" in refused.message) == (False, True)
        (shown,) = (await agent.status()).models
        assert (shown.installed, shown.pinned) == ("v2.0.0", "v2.0.0")


async def test_a_new_model_waits_for_the_trips_end_and_says_so(tmp_path: Path, cloud_block: CloudSettings) -> None:
    models = tmp_path / "models"
    await asyncio.to_thread(publish, tmp_path, NEW)
    settings = cloud_block.model_copy(update={"auto_install_models": True})
    async with SyncAgent(Settings(cloud=settings)) as agent:
        await agent.trips.start_trip()
        await until_true(lambda: _is(agent, status="held", available=NEW), "the download")
        (shown,) = (await agent.status()).models
        assert (shown.installed, "trip under way" in str(shown.reason)) == ("v2.0.0", True)
        assert live(models) == OLD
        await agent.trips.end_trip()
        await until_true(lambda: _is(agent, status="installed", installed=NEW), "the switch")
        assert live(models) == content_of(NEW)


async def _is(agent: SyncAgent, **facts: Any) -> bool:
    shown = next(iter((await agent.status()).models), None)
    return shown is not None and all(getattr(shown, name) == value for name, value in facts.items())


async def test_why_a_release_is_refused_is_there_to_be_read_beside_the_agent(
    tmp_path: Path, cloud_block: CloudSettings
) -> None:
    stranger = Ed25519PrivateKey.from_private_bytes(b"s" * 32)
    await asyncio.to_thread(publish, tmp_path, NEW, stranger)
    async with SyncAgent(Settings(cloud=cloud_block)) as agent:
        await until_true(lambda: _is(agent, status="failed"), "the refusal")
    said = await asyncio.to_thread(last_said, cloud_block)
    assert said is not None
    facts = dict(facts_of(said, said.outbox, age=0.0))
    assert facts[f"model {NAME}"] == (
        f"v2.0.0 in use; {NAME} {NEW} is refused: the signature is not one of a trusted key over this release"
    )
    assert said.model_check is not None
    assert said.model_check.checked_at is not None


async def test_a_source_that_fails_is_shown(tmp_path: Path, cloud_block: CloudSettings) -> None:
    settings = cloud_block.model_copy(update={"model_trusted_keys_dir": tmp_path / "missing"})
    await asyncio.to_thread(publish, tmp_path, NEW)
    async with SyncAgent(Settings(cloud=settings)) as agent:
        await until_true(lambda: _fails(agent, "cannot read the trusted keys"), "the failure")
        facts = dict(facts_of(await agent.status(), (await agent.status()).outbox, age=0.0))
        assert facts["model check"].startswith("failed: cannot read the trusted keys")
        assert facts["parts"] == "all well"
        assert live(tmp_path / "models") == OLD
    # Also where no check is due: what was seen before is looked at again at each start.
    (tmp_path / "missing").mkdir()
    async with SyncAgent(Settings(cloud=settings)) as agent:
        await until_true(lambda: _is(agent, available=NEW), "the check")
    (tmp_path / "missing").rmdir()
    async with SyncAgent(Settings(cloud=settings)) as agent:
        await until_true(lambda: _fails(agent, "cannot read the trusted keys"), "the failure again")


async def _fails(agent: SyncAgent, why: str) -> bool:
    check = (await agent.status()).model_check
    return check is not None and why in str(check.failure)
