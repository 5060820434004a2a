"""Attacks on the contract's own source by somebody who has stolen a signing key; what keys do not help with is tested
in test_attacks.py, and the same on a TUF repository in tests/models/tuf/test_attacks.py.
"""

import base64
from pathlib import Path
from typing import Any

import pytest

from sentinel_sync import ModelDownloader, UnreachableError
from sentinel_sync.models.rules.releases import key_id
from tests.fakes.cloud import Answer, FakeCloud
from tests.models.vehicle import (
    KEY,
    NAME,
    OLD,
    OTHER_KEY,
    TRUSTED,
    Build,
    ModelHost,
    content_of,
    fetched,
    leftovers,
    listed,
    live,
    registry,
    sign,
)

pytestmark = pytest.mark.usefixtures("off_the_loop")

NEW = "v2.1.0"
#: Both count, and both must sign; the thief has the second.
BOTH = (TRUSTED, base64.b64encode(OTHER_KEY.public_key().public_bytes_raw()).decode())
STOLEN = key_id(OTHER_KEY.public_key().public_bytes_raw())


def by_both(version: str) -> dict[str, Any]:
    """A genuine release."""
    return listed(version, signatures=[{"signature": sign(NAME, version, content_of(version), OTHER_KEY)}])


async def offered(downloader: ModelDownloader) -> list[str]:
    """The versions that a vehicle would take."""
    return [update["version"] for update in await downloader.check_for_updates()]


class TestFewerKeysThanTheThreshold:
    @pytest.mark.parametrize("version", [NEW, "v999.0.0"], ids=["arbitrary software", "fast-forward"])
    async def test_what_one_stolen_key_has_signed(
        self, cloud: FakeCloud, host: ModelHost, models: Path, build: Build, version: str
    ) -> None:
        host.entries = [listed(version, by=OTHER_KEY)]
        downloader = build(auto_install=True, model_trusted_keys=BOTH, model_signature_threshold=2)
        await downloader.step()
        result = await downloader.download_and_install_model(NAME, version)
        assert "1 of the trusted keys signed it, and 2 must" in str(result.reason)
        assert fetched(cloud) == []
        assert live(models) == OLD
        assert registry(models)[NAME]["version"] == "v2.0.0"
        assert leftovers(models) == []
        # Nor did it move what counts as seen: the genuine one is still wanted.
        host.entries = [by_both(NEW)]
        assert await offered(downloader) == [NEW]
        assert await downloader.download_and_install_model(NAME, NEW)

    async def test_a_genuine_signature_beside_the_thiefs_counts_for_its_own_bytes_only(
        self, cloud: FakeCloud, host: ModelHost, models: Path, build: Build
    ) -> None:
        genuine, planted = by_both(NEW), listed("v2.2.0", by=OTHER_KEY)
        planted["signatures"] = [
            {"signature": genuine["signature"], "key_id": key_id(KEY.public_key().public_bytes_raw())}
        ]
        host.entries = [planted]
        downloader = build(model_trusted_keys=BOTH, model_signature_threshold=2)
        result = await downloader.download_and_install_model(NAME, "v2.2.0")
        assert "1 of the trusted keys signed it, and 2 must" in str(result.reason)
        assert fetched(cloud) == []
        assert live(models) == OLD


class TestAllKeysThatAreNeeded:
    async def test_a_revoked_key_is_of_no_more_use(self, host: ModelHost, models: Path, build: Build) -> None:
        host.entries = [listed(NEW, by=OTHER_KEY), listed("v2.2.0")]
        downloader = build(model_trusted_keys=BOTH, model_revoked_keys=(STOLEN,))
        assert not await downloader.download_and_install_model(NAME, NEW)
        assert live(models) == OLD
        assert await offered(downloader) == ["v2.2.0"]

    async def test_a_fast_forward_is_the_operators_to_undo(self, host: ModelHost, models: Path, build: Build) -> None:
        """Nothing in the contract says that a version was never meant, but an operator can."""
        host.entries = [listed("v999.0.0", by=OTHER_KEY)]
        assert await offered(build(model_trusted_keys=BOTH)) == ["v999.0.0"]
        host.entries = [listed(NEW)]
        downloader = build(model_trusted_keys=BOTH, model_revoked_keys=(STOLEN,))
        assert await offered(downloader) == []
        result = await downloader.download_and_install_model(NAME, NEW)
        assert "v999.0.0 was offered before" in str(result.reason)
        await downloader.pin(NAME, NEW)
        assert await downloader.download_and_install_model(NAME, NEW)
        assert live(models) == content_of(NEW)


async def test_only_what_is_asked_for_is_fetched(cloud: FakeCloud, host: ModelHost, build: Build) -> None:
    """Extraneous dependencies: whatever a listing says that a release needs, nothing else comes."""
    host.entries = [listed(NEW, depends=["other_model"], requires={"other_model": "v1.0.0"})]
    host.entries.append(listed("v1.0.0", name="other_model", by=OTHER_KEY))
    assert await build().download_and_install_model(NAME, NEW)
    assert fetched(cloud) == [f"/models/{NAME}/download", f"/files/{NEW}/1"]


async def test_a_listing_by_the_drop(host: ModelHost, models: Path, build: Build) -> None:
    """Slow retrieval of the listing: the whole answer has a deadline, however steadily it drips."""
    host.spoil = lambda _: Answer(200, b"[" * 5000, {"Content-Type": "application/json"}, drip=0.02)
    # The first byte has to come within the time-out also on a machine that is busy with other tests.
    downloader = build(timeout=0.5)
    with pytest.raises(UnreachableError, match="no whole answer within"):
        await downloader.check_for_updates()
    assert live(models) == OLD
