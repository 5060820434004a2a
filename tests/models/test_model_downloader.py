"""Signed releases are installed whole or not at all, and can be taken back."""

import asyncio
import base64
import hashlib
import json
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path
from threading import Event
from typing import Any

import pytest

from sentinel_sync import CloudAPIClient, CloudError, ConfigurationError, ModelDownloader, StoreError, VerificationError
from sentinel_sync.backend import BackendSettings, ModelSignature, publish_model, running_server
from sentinel_sync.backend.deltas import make_delta
from sentinel_sync.backend.publishing import ModelRelease as Published
from sentinel_sync.models.rules.delta import FORMAT
from sentinel_sync.models.rules.installed import InstallResult
from sentinel_sync.models.rules.releases import key_id, manifest
from sentinel_sync.settings import CloudSettings
from tests.fakes.clock import FakeClock
from tests.fakes.cloud import API_KEY, Answer, FakeCloud, json_answer, problem
from tests.fakes.weights import all_moved, weights
from tests.fakes.wire_rules import Seen
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

WEIGHTS = weights(100_000, 1)


class TestWithTheReferenceBackend:
    async def test_a_published_release_is_found_fetched_verified_and_opened(
        self, tmp_path: Path, models: Path, build: Build
    ) -> None:
        folder, content = tmp_path / "backend", content_of("v2.1.0")
        (tmp_path / "new.pt").write_bytes(content)
        signature = ModelSignature(sign(NAME, "v2.1.0", content), key_id(KEY.public_key().public_bytes_raw()))
        release = Published(name=NAME, version="v2.1.0", signatures=[signature])
        publish_model(folder, tmp_path / "new.pt", release)
        async with running_server(BackendSettings(folder=folder, api_keys=(API_KEY,))) as url:
            downloader = build(url=url)
            (update,) = await downloader.check_for_updates()
            assert (update["name"], update["version"], update["current_version"]) == (NAME, "v2.1.0", "v2.0.0")
            assert live(models) == OLD
            result = await downloader.download_and_install_model(
                NAME, "v2.1.0", expected_checksum=update["checksum"], signature=update["signature"]
            )
            assert result
            assert result.reason is None
            assert live(models) == content
            assert await downloader.check_for_updates() == []
            status = await downloader.get_download_status(NAME)
            assert (status["status"], status["installed_version"]) == ("installed", "v2.1.0")

    async def test_the_specifications_snippet_runs(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.chdir(tmp_path)
        async with (
            running_server(BackendSettings(folder=tmp_path / "backend", api_keys=("your_api_key",))) as url,
            CloudAPIClient(
                api_url=url, api_key="your_api_key", vehicle_id="vehicle_001", fleet_id="fleet_alpha"
            ) as api_client,
        ):
            downloader = ModelDownloader(api_client, auto_install=True)
            await downloader.start_background_checks()
            updates = await downloader.check_for_updates()
            installed = await downloader.download_and_install_model(
                "yolov8m_automotive", "v2.1.0", expected_checksum="abc123...", signature="signature..."
            )
            assert updates == []
            assert not installed
            assert isinstance(installed.error, VerificationError)


class TestInstalling:
    async def test_the_previous_version_is_kept_and_the_registry_keeps_its_form(
        self, host: ModelHost, models: Path, build: Build, clock: FakeClock
    ) -> None:
        host.entries = [listed("v2.1.0")]
        assert await build().download_and_install_model(NAME, "v2.1.0")
        assert registry(models) == {
            NAME: {"version": "v2.1.0", "installed_at": clock.now(), "path": str(models / f"{NAME}.pt")}
        }
        assert (models / "versions" / NAME / "v2.0.0.pt").read_bytes() == OLD
        assert (models / f"{NAME}.pt").stat().st_mode & 0o777 == 0o644
        installed = (await build().get_installed_models())[NAME]
        assert (installed["version"], installed["previous_version"]) == ("v2.1.0", "v2.0.0")
        assert leftovers(models) == []

    async def test_only_the_installed_and_the_previous_version_stay(
        self, host: ModelHost, models: Path, build: Build
    ) -> None:
        downloader = build()
        for version in ("v2.1.0", "v2.2.0", "v2.3.0"):
            host.entries.append(listed(version))
            await downloader.check_for_updates()
            assert await downloader.download_and_install_model(NAME, version)
        assert sorted(path.name for path in (models / "versions" / NAME).iterdir()) == ["v2.2.0.pt", "v2.3.0.pt"]

    async def test_a_check_meanwhile_takes_nothing_from_a_download(
        self, host: ModelHost, models: Path, build: Build
    ) -> None:
        """A check deletes what nobody wants; neither the file that just begins nor its folder is that."""
        downloader, names = build(), [f"gaze{number}" for number in range(20)]
        host.entries = [listed("v1", name=name, filename=None) for name in names]

        async def install_all() -> list[InstallResult]:
            return [await downloader.download_and_install_model(name, "v1") for name in names]

        installing = asyncio.create_task(install_all())
        while not installing.done():
            await downloader.check_for_updates()
        assert [result.reason for result in await installing] == [None] * len(names)

    async def test_a_model_that_is_new_to_the_vehicle(self, host: ModelHost, build: Build, tmp_path: Path) -> None:
        host.entries = [listed("v1", name="gaze", filename=None)]
        downloader = build(folder=tmp_path / "none" / "yet")
        assert [update["name"] for update in await downloader.check_for_updates()] == ["gaze"]
        assert await downloader.download_and_install_model("gaze", "v1")
        assert (tmp_path / "none" / "yet" / "gaze.pth").read_bytes() == content_of("v1")

    @pytest.mark.parametrize("link", ["hand/v2.pt", "../elsewhere.pt"])
    async def test_of_a_symbolic_link_the_bytes_are_kept(
        self, host: ModelHost, models: Path, build: Build, link: str
    ) -> None:
        """E5: installed by hand, and linked to; a link that is kept elsewhere would lead nowhere."""
        installed_by_hand = models / link
        installed_by_hand.parent.mkdir(exist_ok=True)
        (models / f"{NAME}.pt").rename(installed_by_hand)
        (models / f"{NAME}.pt").symlink_to(link)
        host.entries = [listed("v2.1.0")]
        downloader = build()
        assert await downloader.download_and_install_model(NAME, "v2.1.0")
        assert (models / f"{NAME}.pt").read_bytes() == content_of("v2.1.0")
        assert installed_by_hand.read_bytes() == OLD
        installed_by_hand.write_bytes(b"edited in place")
        assert await downloader.rollback(NAME)
        assert (live(models), (models / f"{NAME}.pt").is_symlink()) == (OLD, False)

    async def test_a_file_that_nobody_registered_is_kept_as_well(
        self, host: ModelHost, models: Path, build: Build
    ) -> None:
        (models / "registry.json").unlink()
        host.entries = [listed("v2.1.0")]
        downloader = build()
        assert await downloader.download_and_install_model(NAME, "v2.1.0")
        assert await downloader.rollback(NAME)
        assert live(models) == OLD

    async def test_a_broken_registry_is_set_aside(self, host: ModelHost, models: Path, build: Build) -> None:
        (models / "registry.json").write_text("{ broken")
        host.entries = [listed("v2.1.0")]
        assert await build().download_and_install_model(NAME, "v2.1.0")
        assert (models / "registry.json.damaged").read_text() == "{ broken"
        assert registry(models)[NAME]["version"] == "v2.1.0"

    async def test_other_entries_of_the_registry_stay(self, host: ModelHost, models: Path, build: Build) -> None:
        entries = registry(models) | {"other": {"version": "v7", "note": "by hand"}, "odd": 3}
        (models / "registry.json").write_text(json.dumps(entries))
        host.entries = [listed("v2.1.0")]
        assert await build().download_and_install_model(NAME, "v2.1.0")
        assert {name: registry(models)[name] for name in ("other", "odd")} == {
            name: entries[name] for name in ("other", "odd")
        }

    async def test_what_is_installed_is_not_fetched_again(
        self, cloud: FakeCloud, host: ModelHost, build: Build
    ) -> None:
        host.entries = [listed("v2.1.0")]
        downloader = build()
        for _ in range(2):
            assert await downloader.download_and_install_model(NAME, "v2.1.0")
        assert len(fetched(cloud)) == 2

    async def test_a_folder_that_cannot_be_used_is_said(self, host: ModelHost, build: Build, tmp_path: Path) -> None:
        (tmp_path / "file").write_text("")
        host.entries = [listed("v2.1.0")]
        downloader = build(folder=tmp_path / "file" / "models")
        result = await downloader.download_and_install_model(NAME, "v2.1.0")
        assert not result
        assert isinstance(result.error, StoreError)
        status = await downloader.get_download_status(NAME)
        assert (status["status"], "cannot be used" in str(status["reason"])) == ("failed", True)

    async def test_room_is_looked_for_beforehand(
        self, cloud: FakeCloud, host: ModelHost, models: Path, build: Build
    ) -> None:
        entry = listed("v2.1.0", size=1 << 60)
        signed = manifest(NAME, "v2.1.0", 1 << 60, entry["checksum"])
        host.entries = [entry | {"signature": base64.b64encode(KEY.sign(signed)).decode()}]
        result = await build().download_and_install_model(NAME, "v2.1.0")
        assert "bytes free" in str(result.reason)
        assert fetched(cloud) == []
        assert live(models) == OLD


class TestTrust:
    @pytest.mark.parametrize(
        "entry",
        [
            listed("v2.1.0", by=None),
            listed("v2.1.0", by=OTHER_KEY),
            listed("v2.1.0") | {"version": "v2.2.0"},
            listed("v2.1.0") | {"size": 7},
            listed("v2.1.0") | {"checksum": "ab" * 32},
            listed("v2.1.0", key_id=key_id(OTHER_KEY.public_key().public_bytes_raw())),
            listed("v2.1.0", name="other") | {"name": NAME},
        ],
        ids=["unsigned", "stranger", "version", "size", "checksum", "key id", "for another name"],
    )
    async def test_what_is_not_genuine_is_refused_before_a_byte_is_fetched(
        self, cloud: FakeCloud, host: ModelHost, models: Path, build: Build, entry: dict[str, Any]
    ) -> None:
        host.entries = [entry]
        downloader = build(auto_install=True)
        assert await downloader.check_for_updates() == []
        result = await downloader.download_and_install_model(NAME, entry["version"])
        assert isinstance(result.error, VerificationError)
        assert result.reason == (await downloader.get_download_status(NAME))["reason"]
        assert fetched(cloud) == []
        assert live(models) == OLD
        assert registry(models)[NAME]["version"] == "v2.0.0"

    @pytest.mark.parametrize(
        "arguments",
        [{"expected_checksum": "abc123..."}, {"signature": "signature..."}, {"signature": sign(NAME, "v9", b"")}],
    )
    async def test_what_the_caller_expects_counts_too(
        self, cloud: FakeCloud, host: ModelHost, build: Build, arguments: dict[str, str]
    ) -> None:
        host.entries = [listed("v2.1.0")]
        result = await build().download_and_install_model(NAME, "v2.1.0", **arguments)
        assert isinstance(result.error, VerificationError)
        assert fetched(cloud) == []

    async def test_the_callers_signature_can_stand_in_for_a_missing_one(self, host: ModelHost, build: Build) -> None:
        host.entries = [listed("v2.1.0", by=None)]
        signature = sign(NAME, "v2.1.0", content_of("v2.1.0"))
        assert await build().download_and_install_model(NAME, "v2.1.0", signature=signature)

    async def test_bytes_that_are_not_the_signed_ones_are_refused_and_deleted(
        self, host: ModelHost, models: Path, build: Build
    ) -> None:
        host.entries = [listed("v2.1.0")]
        host.spoil = lambda seen: Answer(200, bytes(300_000)) if "/files/" in seen.path else None
        result = await build().download_and_install_model(NAME, "v2.1.0")
        assert isinstance(result.error, VerificationError)
        assert live(models) == OLD
        assert leftovers(models) == []

    @pytest.mark.parametrize("name", ["../evil", "CON", ".hidden", "a/b", ""])
    async def test_names_that_must_not_touch_a_path(
        self, cloud: FakeCloud, host: ModelHost, models: Path, build: Build, name: str
    ) -> None:
        host.entries = [listed("v1", name=name)]
        downloader = build()
        assert await downloader.check_for_updates() == []
        result = await downloader.download_and_install_model(name, "v1")
        assert isinstance(result.error, VerificationError)
        assert fetched(cloud) == []
        assert sorted(path.name for path in models.parent.iterdir()) == ["models", "state"]

    async def test_keys_lie_in_files_too_and_are_rotated_under_a_running_agent(
        self, host: ModelHost, build: Build, tmp_path: Path
    ) -> None:
        keys = tmp_path / "keys"
        keys.mkdir()
        (keys / "fleet.pub").write_text(TRUSTED + "\n")
        host.entries = [listed("v2.1.0"), listed("v2.2.0", by=OTHER_KEY)]
        downloader = build(model_trusted_keys=(), model_trusted_keys_dir=keys)
        assert [update["version"] for update in await downloader.check_for_updates()] == ["v2.1.0"]
        from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat  # noqa: PLC0415

        pem = OTHER_KEY.public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)
        (keys / "next.pem").write_bytes(pem)
        assert [update["version"] for update in await downloader.check_for_updates()] == ["v2.2.0"]
        (keys / "broken").write_text("not a key")
        with pytest.raises(ConfigurationError):
            await downloader.check_for_updates()

    async def test_a_revoked_key_counts_no_more(self, host: ModelHost, build: Build) -> None:
        host.entries = [listed("v2.1.0")]
        downloader = build(model_revoked_keys=(key_id(KEY.public_key().public_bytes_raw()),))
        assert await downloader.check_for_updates() == []

    async def test_on_a_bench_unsigned_passes_and_shouts(
        self, host: ModelHost, models: Path, build: Build, caplog: pytest.LogCaptureFixture
    ) -> None:
        host.entries = [listed("v2.1.0", by=None)]
        assert await build(allow_unsigned=True).download_and_install_model(NAME, "v2.1.0")
        assert live(models) == content_of("v2.1.0")
        assert [record.levelname for record in caplog.records if "unsigned" in record.message] == ["CRITICAL"] * 2

    async def test_off_the_bench_unsigned_cannot_be_allowed(self) -> None:
        with pytest.raises(ValueError, match="allow_unsigned"):
            CloudSettings(api_url="https://api.example.com", allow_unsigned=True)
        async with CloudAPIClient(settings=CloudSettings(api_url="https://api.example.com")) as client:
            with pytest.raises(ConfigurationError):
                ModelDownloader(client, allow_unsigned=True)


class TestTheWayBack:
    async def test_a_refusal_is_said_once_and_not_at_each_check(
        self, host: ModelHost, build: Build, caplog: pytest.LogCaptureFixture
    ) -> None:
        host.entries = [listed("v9.9.9", by=OTHER_KEY)]
        downloader = build()
        for _ in range(3):
            assert await downloader.check_for_updates() == []
        host.entries.append(listed("v9.9.10", by=OTHER_KEY))
        assert await downloader.check_for_updates() == []
        said = [record.getMessage() for record in caplog.records if record.getMessage().startswith("model.refused")]
        assert len(said) == 2
        assert ["v9.9.10" in line for line in said] == [False, True]

    async def test_older_versions_are_refused(self, host: ModelHost, build: Build, models: Path) -> None:
        host.entries = [listed("v1.9.0"), listed("v2.0.0")]
        downloader = build()
        assert await downloader.check_for_updates() == []
        for version in ("v1.9.0", "v2.0.0"):
            result = await downloader.download_and_install_model(NAME, version)
            assert isinstance(result.error, VerificationError)
        assert live(models) == OLD

    async def test_a_listing_from_the_past_is_seen_through_after_a_restart(self, host: ModelHost, build: Build) -> None:
        host.entries = [listed("v2.1.0"), listed("v2.2.0")]
        assert [update["version"] for update in await build().check_for_updates()] == ["v2.2.0"]
        host.entries = [listed("v2.1.0")]
        downloader = build()
        assert await downloader.check_for_updates() == []
        result = await downloader.download_and_install_model(NAME, "v2.1.0")
        assert "offered before" in str(result.reason)

    async def test_the_operator_rolls_back_and_it_stays_so(
        self, cloud: FakeCloud, host: ModelHost, models: Path, build: Build
    ) -> None:
        host.entries = [listed("v2.1.0")]
        downloader = build(auto_install=True)
        assert await downloader.sync_now() == 1
        assert await downloader.rollback(NAME)
        assert live(models) == OLD
        assert registry(models)[NAME]["version"] == "v2.0.0"
        assert await build(auto_install=True).check_for_updates() == []
        # Until it is asked for, or a newer one comes.
        count = len(fetched(cloud))
        assert await downloader.download_and_install_model(NAME, "v2.1.0")
        assert len(fetched(cloud)) == count
        assert live(models) == content_of("v2.1.0")

    async def test_there_must_be_something_to_go_back_to(self, host: ModelHost, build: Build, models: Path) -> None:
        downloader = build()
        assert not await downloader.rollback(NAME)
        assert not await downloader.rollback("unknown")
        host.entries = [listed("v2.1.0")]
        assert await downloader.download_and_install_model(NAME, "v2.1.0")
        (models / "versions" / NAME / "v2.0.0.pt").write_bytes(b"rotten")
        result = await downloader.rollback(NAME)
        assert "damaged" in str(result.reason)
        assert live(models) == content_of("v2.1.0")

    async def test_a_pinned_version_is_wanted_and_no_other(self, host: ModelHost, models: Path, build: Build) -> None:
        host.entries = [listed("v1.9.0"), listed("v2.1.0")]
        downloader = build()
        await downloader.pin(NAME, "v1.9.0")
        assert [update["version"] for update in await downloader.check_for_updates()] == ["v1.9.0"]
        result = await downloader.download_and_install_model(NAME, "v2.1.0")
        assert "pinned" in str(result.reason)
        assert await downloader.download_and_install_model(NAME, "v1.9.0")
        assert live(models) == content_of("v1.9.0")
        assert await build().check_for_updates() == []
        await downloader.pin(NAME, None)
        assert [update["version"] for update in await downloader.check_for_updates()] == ["v2.1.0"]
        with pytest.raises(VerificationError):
            await downloader.pin("../x", "v1")

    async def test_a_version_may_be_written_otherwise_than_it_is_listed(
        self, host: ModelHost, models: Path, build: Build
    ) -> None:
        host.entries = [listed("v1.9.0"), listed("v2.1.0", rollout=0.0)]
        downloader = build()
        await downloader.pin(NAME, "1.9")
        result = await downloader.download_and_install_model(NAME, "v1.9")
        assert (result.installed, result.version, result.note) == (True, "v1.9.0", None)
        assert live(models) == content_of("v1.9.0")
        assert await build().check_for_updates() == []
        await downloader.pin(NAME, "v2.1")
        assert [update["version"] for update in await downloader.check_for_updates()] == ["v2.1.0"]
        (shown,) = downloader.snapshot()
        assert (shown.installed, shown.available) == ("v1.9.0", "v2.1.0")

    async def test_an_order_says_that_it_overrides_the_rollout(
        self, host: ModelHost, models: Path, build: Build
    ) -> None:
        host.entries = [listed("v2.1.0", rollout=0.0)]
        downloader = build()
        result = await downloader.download_and_install_model(NAME, "v2.1.0")
        assert live(models) == content_of("v2.1.0")
        assert (result.installed, result.note) == (
            True,
            "it is rolled out to 0 % of vehicles and this one is outside: the order overrides that",
        )

    async def test_a_refused_version_is_named_for_the_report(self, host: ModelHost, build: Build) -> None:
        host.entries = [
            listed("v2.1.0", by=OTHER_KEY),
            listed("v2.2.0", name="unreadable", size="large"),
            listed("driver_123", name="nonsense", size="large"),
        ]
        downloader = build()
        assert await downloader.check_for_updates() == []
        outcomes = {model.name: [(one.version, one.state) for one in model.outcomes] for model in downloader.snapshot()}
        assert outcomes == {
            NAME: [("v2.0.0", "installed"), ("v2.1.0", "refused")],
            "unreadable": [("v2.2.0", "refused")],
            "nonsense": [],
        }
        host.entries = [listed("v2.1.0")]
        await downloader.check_for_updates()
        (shown,) = downloader.snapshot()
        assert [one.version for one in shown.outcomes] == ["v2.0.0"]

    async def test_rollout_is_honoured(self, host: ModelHost, build: Build) -> None:
        host.entries = [listed("v2.2.0", rollout=0.0), listed("v2.1.0", rollout=1.0)]
        assert [update["version"] for update in await build().check_for_updates()] == ["v2.1.0"]

    async def test_a_long_listing_oldest_first_is_taken_whole(self, host: ModelHost, build: Build) -> None:
        host.entries = [listed(f"v1.0.{number}") for number in range(1200)] + [listed("v2.3.0")]
        assert [update["version"] for update in await build().check_for_updates()] == ["v2.3.0"]


class TestTheNetwork:
    async def test_the_file_comes_from_another_host_that_sees_no_credential(
        self, host: ModelHost, stranger: FakeCloud, models: Path, build: Build
    ) -> None:
        host.entries, host.base = [listed("v2.1.0")], stranger.url
        stranger.handler = host.answer
        assert await build().download_and_install_model(NAME, "v2.1.0")
        assert live(models) == content_of("v2.1.0")
        assert len(stranger.requests) == 1

    @pytest.mark.parametrize("status", [403, 410])
    async def test_an_expired_address_is_asked_for_anew(
        self, cloud: FakeCloud, host: ModelHost, build: Build, status: int
    ) -> None:
        host.entries = [listed("v2.1.0")]
        host.spoil = lambda seen: problem(status) if seen.path == "/files/v2.1.0/1" else None
        assert await build().download_and_install_model(NAME, "v2.1.0")
        assert fetched(cloud)[-1] == "/files/v2.1.0/2"

    async def test_a_host_that_only_knows_expired_addresses_is_given_up(
        self, cloud: FakeCloud, host: ModelHost, build: Build
    ) -> None:
        host.entries = [listed("v2.1.0")]
        host.spoil = lambda seen: problem(403) if "/files/" in seen.path else None
        assert not await build().download_and_install_model(NAME, "v2.1.0")
        assert len(fetched(cloud)) == 6

    async def test_an_address_of_another_release_is_refused(
        self, cloud: FakeCloud, host: ModelHost, build: Build
    ) -> None:
        host.entries = [listed("v2.1.0")]
        other = {"download_url": "/files/v9/1", "version": "v9", "checksum": "ab" * 32}
        host.spoil = lambda seen: json_answer(200, other) if seen.path.endswith("/download") else None
        result = await build().download_and_install_model(NAME, "v2.1.0")
        assert isinstance(result.error, VerificationError)
        assert len(fetched(cloud)) == 1

    async def test_a_cut_download_goes_on_after_a_restart(
        self, cloud: FakeCloud, host: ModelHost, models: Path, build: Build
    ) -> None:
        host.entries = [listed("v2.1.0")]
        half = content_of("v2.1.0")[:150_000]
        head = b"HTTP/1.1 200 OK\r\nContent-Length: 300000\r\n\r\n"
        host.spoil = lambda seen: Answer(raw=head + half) if "/files/" in seen.path else None
        result = await build().download_and_install_model(NAME, "v2.1.0")
        assert isinstance(result.error, CloudError)
        assert leftovers(models) == [".v2.1.0.pt.part"]
        host.spoil = lambda _: None
        assert await build().download_and_install_model(NAME, "v2.1.0")
        assert cloud.requests[-1].headers["range"] == "bytes=150000-"
        assert leftovers(models) == []

    async def test_what_is_half_done_of_a_release_that_is_gone_is_deleted(
        self, host: ModelHost, models: Path, build: Build
    ) -> None:
        staging = models / "versions" / NAME / ".v2.1.0.pt.part"
        staging.parent.mkdir(parents=True)
        staging.write_bytes(b"half")
        staging.with_name(".v2.1.0.pt.part.etag").write_text('"x"')
        (models / f".{NAME}.pt.switch").write_bytes(b"half")
        host.entries = [listed("v2.1.0")]
        downloader = build()
        await downloader.check_for_updates()
        host.entries = []
        await downloader.check_for_updates()
        assert leftovers(models) == []
        assert live(models) == OLD

    @pytest.mark.parametrize(
        "answer", [problem(503), problem(404), Answer(200, b"<html>"), json_answer(200, []), json_answer(200, {})]
    )
    async def test_a_backend_that_gives_no_listing_is_an_error(
        self, cloud: FakeCloud, build: Build, models: Path, answer: Answer
    ) -> None:
        cloud.handler = lambda _: answer
        with pytest.raises(CloudError):
            await build().check_for_updates()
        assert live(models) == OLD

    async def test_a_broken_entry_does_not_hide_the_others(self, host: ModelHost, build: Build) -> None:
        host.entries = [{"name": NAME}, None, 7, listed("v2.1.0", size="large"), listed("v2.2.0")]  # type: ignore[list-item]
        assert [update["version"] for update in await build().check_for_updates()] == ["v2.2.0"]

    @pytest.mark.parametrize("missing", ["version", "size", "checksum"])
    async def test_why_an_entry_cannot_be_read_is_shown_also_after_a_restart(
        self, cloud: FakeCloud, host: ModelHost, models: Path, build: Build, missing: str
    ) -> None:
        entry = listed("v2.1.0", name="other_model")
        del entry[missing]
        host.entries = [entry]
        await build(auto_install=True).step()
        downloader = build(auto_install=True)
        await downloader.check_for_updates()
        (shown, _) = downloader.snapshot()
        reason = f"its entry in the listing cannot be read: {missing}"
        assert (shown.name, shown.status, shown.reason) == ("other_model", "failed", reason)
        assert fetched(cloud) == []
        assert live(models) == OLD

    async def test_a_second_entry_for_a_version_does_not_stand_in_the_genuine_ones_way(
        self, host: ModelHost, models: Path, build: Build
    ) -> None:
        host.entries = [listed("v2.1.0", content=b"evil", by=None), listed("v2.1.0")]
        assert await build(auto_install=True).sync_now() == 1
        assert live(models) == content_of("v2.1.0")

    async def test_an_unchanged_listing_does_not_travel_again_also_after_a_restart(
        self, cloud: FakeCloud, host: ModelHost, build: Build
    ) -> None:
        host.entries = [listed("v2.1.0")]
        for _ in range(3):
            assert len(await build().check_for_updates()) == 1
        asked = ["if-none-match" in seen.headers for seen in cloud.to("GET", "/models")]
        assert asked == [False, True, True]


class TestByItself:
    async def test_the_background_installs_what_it_finds(
        self, cloud: FakeCloud, host: ModelHost, models: Path, build: Build
    ) -> None:
        host.entries = [listed("v2.1.0")]
        downloader = build(auto_install=True)
        await downloader.start_background_checks()
        await cloud.received(3)
        await downloader.stop_background_checks()
        assert live(models) == content_of("v2.1.0")

    async def test_without_auto_install_it_only_looks(
        self, cloud: FakeCloud, host: ModelHost, models: Path, build: Build
    ) -> None:
        host.entries = [listed("v2.1.0")]
        assert await build().sync_now() == 0
        assert fetched(cloud) == []
        assert live(models) == OLD

    async def test_the_last_check_is_remembered_across_restarts(
        self, cloud: FakeCloud, host: ModelHost, build: Build, clock: FakeClock
    ) -> None:
        wait = await build().step()
        assert 0.9 * 86_400.0 <= wait <= 1.1 * 86_400.0
        clock.tick(3600.0)
        assert 0.9 * 86_400.0 - 3600.0 <= await build().step() <= 1.1 * 86_400.0 - 3600.0
        assert len(cloud.requests) == 1
        clock.tick(1.2 * 86_400.0)
        await build().step()
        assert len(cloud.requests) == 2

    async def test_the_operators_pin_is_followed_at_once(self, host: ModelHost, models: Path, build: Build) -> None:
        host.entries = [listed("v1.9.0")]
        downloader = build(auto_install=True)
        assert await downloader.sync_now() == 0
        await downloader.pin(NAME, "v1.9.0")
        assert downloader.check.wake.is_set()
        assert await downloader.sync_now() == 1
        assert live(models) == content_of("v1.9.0")

    async def test_a_failed_download_is_tried_again_and_goes_on(
        self, cloud: FakeCloud, host: ModelHost, models: Path, build: Build, clock: FakeClock
    ) -> None:
        host.entries = [listed("v2.1.0")]
        host.spoil = lambda seen: Answer(cut=0) if "/files/" in seen.path else None
        downloader = build(auto_install=True)
        wait = await downloader.step()
        assert 1.0 <= wait <= 30.0
        host.spoil = lambda _: None
        clock.tick(wait)
        await downloader.step()
        assert live(models) == content_of("v2.1.0")

    async def test_a_file_host_that_is_down_is_tried_ever_later_though_the_listing_comes(
        self, cloud: FakeCloud, host: ModelHost, models: Path, build: Build, clock: FakeClock
    ) -> None:
        host.entries = [listed("v2.1.0")]
        asked: list[float] = []

        def down(seen: Seen) -> Answer | None:
            if "/files/" not in seen.path:
                return None
            asked.append(clock.monotonic())
            return Answer(503)

        host.spoil = down
        downloader = build(auto_install=True)
        while len(asked) < 12:
            clock.tick(await downloader.step())
        pauses = [after - before for before, after in pairwise(asked)]
        assert pauses[0] <= 60.0
        assert 1800.0 <= pauses[-1] <= 3700.0
        status = await downloader.get_download_status(NAME)
        assert "its host answered 503" in str(status["reason"])
        host.spoil = lambda _: None
        clock.tick(3600.0)
        await downloader.step()
        assert live(models) == content_of("v2.1.0")

    async def test_a_refused_release_is_not_asked_for_again_before_the_next_check(
        self, cloud: FakeCloud, host: ModelHost, build: Build, clock: FakeClock
    ) -> None:
        host.entries = [listed("v2.1.0")]
        host.spoil = lambda seen: Answer(200, bytes(300_000)) if "/files/" in seen.path else None
        downloader = build(auto_install=True)
        assert await downloader.step() > 70_000.0
        count = len(cloud.requests)
        clock.tick(3600.0)
        await downloader.step()
        assert len(cloud.requests) == count


class TestDeltas:
    """Only what changed travels, where the backend offers that; whatever is wrong with it, the whole file comes."""

    @pytest.fixture
    def wanted(self, models: Path) -> bytes:
        """The next version of what is installed: weights that moved a little."""
        (models / f"{NAME}.pt").write_bytes(WEIGHTS)
        return all_moved(WEIGHTS, 2)

    @pytest.fixture
    def delta(self, tmp_path: Path, wanted: bytes) -> bytes:
        (tmp_path / "old").write_bytes(WEIGHTS)
        (tmp_path / "new").write_bytes(wanted)
        make_delta(tmp_path / "old", tmp_path / "new", tmp_path / "delta", Event())
        return (tmp_path / "delta").read_bytes()

    @pytest.fixture
    def offering(self, host: ModelHost, wanted: bytes, delta: bytes) -> Callable[[bytes], None]:
        host.entries = [listed("v2.1.0", content=wanted)]

        def offer(served: bytes) -> None:
            """Offer the delta, and serve this where it lies."""

            def answer(seen: Seen) -> Answer | None:
                if seen.path.endswith("/download"):
                    assert seen.query["from"] == hashlib.sha256(WEIGHTS).hexdigest()
                    offered = {
                        "download_url": "/delta",
                        "format": FORMAT,
                        "size": len(delta),
                        "checksum": hashlib.sha256(delta).hexdigest(),
                    }
                    return json_answer(200, {"download_url": "/whole", "version": "v2.1.0", "delta": offered})
                files = {"/delta": served, "/whole": wanted}
                return Answer(200, files[seen.path]) if seen.path in files else None

            host.spoil = answer

        return offer

    async def test_only_what_changed_travels(
        self,
        cloud: FakeCloud,
        models: Path,
        build: Build,
        wanted: bytes,
        delta: bytes,
        offering: Callable[[bytes], None],
    ) -> None:
        offering(delta)
        assert await build().download_and_install_model(NAME, "v2.1.0")
        assert live(models) == wanted
        assert fetched(cloud) == [f"/models/{NAME}/download", "/delta"]
        assert len(delta) < 0.6 * len(wanted)
        assert leftovers(models) == []

    @pytest.mark.parametrize("doubt", ["damaged", "cut", "old"])
    async def test_any_doubt_means_the_whole_file(
        self,
        cloud: FakeCloud,
        models: Path,
        build: Build,
        wanted: bytes,
        delta: bytes,
        offering: Callable[[bytes], None],
        doubt: str,
    ) -> None:
        offering({"damaged": bytes(len(delta)), "cut": delta[:-1], "old": delta}[doubt])
        downloader = build()
        assert (await downloader.get_installed_models())[NAME]["version"] == "v2.0.0"
        if doubt == "old":
            # Somebody changed what the runtime opens since it was hashed.
            (models / f"{NAME}.pt").write_bytes(bytes(len(WEIGHTS)))
        assert await downloader.download_and_install_model(NAME, "v2.1.0")
        assert live(models) == wanted
        assert fetched(cloud)[-1] == "/whole"
        assert leftovers(models) == []

    async def test_where_they_are_switched_off_none_is_asked_for(
        self, cloud: FakeCloud, host: ModelHost, build: Build
    ) -> None:
        host.entries = [listed("v2.1.0")]
        assert await build(model_deltas=False).download_and_install_model(NAME, "v2.1.0")
        (asked,) = [seen for seen in cloud.requests if seen.path.endswith("/download")]
        assert "from" not in asked.query
