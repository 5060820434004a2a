"""`models.source: tuf` from the settings to the file that the runtime opens; each attack leaves that file as it was."""

import asyncio
from collections.abc import Callable

import pytest
from securesystemslib.signer._crypto_signer import CryptoSigner

from sentinel_sync import CloudError, UnreachableError, VerificationError
from sentinel_sync.cloud.download import FileHostError
from tests.fakes.clock import FakeClock
from tests.fakes.cloud import Answer, FakeCloud, portal, redirect
from tests.fakes.tuf_repository import DAY, TufRepository
from tests.fakes.wire_rules import Seen
from tests.models.tuf.service.vehicle import NAME, Vehicle, content_of, offer

pytestmark = pytest.mark.usefixtures("off_the_loop")


async def test_a_release_is_found_verified_and_installed(
    vehicle: Vehicle, repository: TufRepository, stranger: FakeCloud
) -> None:
    offer(repository, "v10")
    (update,) = await vehicle.downloader.check_for_updates()
    assert (update["name"], update["version"], update["current_version"]) == (NAME, "v10", "v9")
    assert await vehicle.downloader.download_and_install_model(NAME, "v10", update["checksum"])
    assert vehicle.live() == content_of("v10")
    # No key of the manifest's kind is trusted, and none was asked for; nor did our credential go to the repository.
    assert all("authorization" not in seen.headers for seen in stranger.requests)


async def test_a_rollout_is_honoured(vehicle: Vehicle, repository: TufRepository) -> None:
    offer(repository, "v10", rollout="0")
    assert await vehicle.downloader.check_for_updates() == []


async def test_an_older_release_under_newer_metadata(vehicle: Vehicle, repository: TufRepository) -> None:
    """Whoever has all online keys still brings no vehicle back to a version with a known fault."""
    repository.targets.targets.clear()
    offer(repository, "v8")
    assert await vehicle.downloader.check_for_updates() == []
    result = await vehicle.downloader.download_and_install_model(NAME, "v8")
    assert isinstance(result.error, VerificationError)
    await vehicle.untouched()


async def test_a_model_from_the_future_is_the_operators_to_undo(vehicle: Vehicle, repository: TufRepository) -> None:
    """Somebody had all keys below root for a while. New keys mend the metadata; the model's number stays seen."""
    offer(repository, "v999")
    assert [update["version"] for update in await vehicle.downloader.check_for_updates()] == ["v999"]
    for role in ("timestamp", "snapshot", "targets"):
        repository.set_keys(role, 1)
    repository.publish_root()
    del repository.targets.targets[f"{NAME}/v999/{NAME}.pt"]
    offer(repository, "v10")
    assert await vehicle.downloader.check_for_updates() == []
    result = await vehicle.downloader.download_and_install_model(NAME, "v10")
    assert "v999 was offered before" in str(result.reason)
    await vehicle.untouched()
    await vehicle.downloader.pin(NAME, "v10")
    assert await vehicle.downloader.download_and_install_model(NAME, "v10")
    assert await asyncio.to_thread(vehicle.live) == content_of("v10")


Attack = Callable[[TufRepository, FakeClock], None]


def wrong_key(repository: TufRepository, _: FakeClock) -> None:
    repository.signers["targets"] = [CryptoSigner.generate_ed25519()]
    offer(repository, "v10")


def unsigned(repository: TufRepository, _: FakeClock) -> None:
    repository.signers["timestamp"] = []
    offer(repository, "v10")


def threshold_not_met(repository: TufRepository, _: FakeClock) -> None:
    repository.set_keys("targets", 2, threshold=2)
    repository.publish_root()
    del repository.signers["targets"][0]
    offer(repository, "v10")


def foreign_root(repository: TufRepository, _: FakeClock) -> None:
    repository.set_keys("root", 1)
    repository.set_keys("targets", 1)
    repository.publish_root(signed_by=repository.signers["root"])
    offer(repository, "v10")


def rollback(repository: TufRepository, _: FakeClock) -> None:
    repository.timestamp.version -= 2
    repository.publish("timestamp")


def freeze(repository: TufRepository, clock: FakeClock) -> None:
    clock.set_wall(clock.now() + 2 * DAY)


def mix_and_match(repository: TufRepository, _: FakeClock) -> None:
    snapshot = repository.files[f"/metadata/{repository.snapshot.version}.snapshot.json"]
    offer(repository, "v10")
    repository.files[f"/metadata/{repository.snapshot.version}.snapshot.json"] = snapshot


def endless_metadata(repository: TufRepository, _: FakeClock) -> None:
    offer(repository, "v10")
    repository.attack = only("/metadata/", Answer(endless=b" " * 65536))


def only(part: str, answer: Answer) -> Callable[[Seen], Answer | None]:
    return lambda seen: answer if part in seen.path else None


@pytest.mark.parametrize(
    "attack",
    [
        wrong_key,
        unsigned,
        threshold_not_met,
        foreign_root,
        rollback,
        freeze,
        mix_and_match,
        endless_metadata,
    ],
    ids=lambda attack: attack.__name__,
)
async def test_metadata_that_is_refused_touches_nothing(
    vehicle: Vehicle, repository: TufRepository, clock: FakeClock, attack: Attack
) -> None:
    attack(repository, clock)
    with pytest.raises(VerificationError, match="the TUF repository is refused"):
        await vehicle.downloader.check_for_updates()
    result = await vehicle.downloader.download_and_install_model(NAME, "v10")
    assert isinstance(result.error, VerificationError)
    assert (await vehicle.downloader.get_download_status(NAME))["reason"] == str(result.error)
    await vehicle.untouched()


@pytest.mark.parametrize(
    "answer",
    [
        Answer(200, b"m" * 300_000),
        Answer(200, content_of("v9")),
        Answer(200, content_of("v10") + b"and more"),
        Answer(endless=b"m" * 65536),
    ],
    ids=["arbitrary", "another version", "longer", "endless"],
)
async def test_a_file_that_is_not_the_signed_one_touches_nothing(
    vehicle: Vehicle, repository: TufRepository, answer: Answer
) -> None:
    offer(repository, "v10")
    (update,) = await vehicle.downloader.check_for_updates()
    repository.attack = only("/targets/", answer)
    result = await vehicle.downloader.download_and_install_model(NAME, update["version"])
    whole = answer.body and len(answer.body) == 300_000
    assert isinstance(result.error, VerificationError if whole else FileHostError)
    await vehicle.untouched()
    repository.attack = lambda _: None
    assert await vehicle.downloader.download_and_install_model(NAME, "v10")
    assert vehicle.live() == content_of("v10")


async def test_a_file_that_was_cut_off_is_gone_on_from_by_the_next_process(
    vehicle: Vehicle, repository: TufRepository, stranger: FakeCloud
) -> None:
    offer(repository, "v10")
    content, ranges = content_of("v10"), list[str]()

    def cutting(seen: Seen) -> Answer | None:
        if "/targets/" not in seen.path:
            return None
        wanted = seen.headers.get("range")
        if wanted is None:
            head = b'HTTP/1.1 200 OK\r\nContent-Length: 300000\r\nETag: "one"\r\n\r\n'
            return Answer(raw=head + content[:100_000])
        ranges.append(wanted)
        if len(ranges) == 1:
            return Answer(503)
        start = int(wanted.removeprefix("bytes=").removesuffix("-"))
        assert seen.headers["if-range"] == '"one"'
        return Answer(206, content[start:], {"Content-Range": f"bytes {start}-299999/300000", "ETag": '"one"'})

    repository.attack = cutting
    result = await vehicle.downloader.download_and_install_model(NAME, "v10")
    assert isinstance(result.error, UnreachableError)
    assert await asyncio.to_thread(vehicle.live) == content_of("v9")
    assert await vehicle.build().download_and_install_model(NAME, "v10")
    assert await asyncio.to_thread(vehicle.live) == content
    assert ranges == ["bytes=100000-"] * 2


@pytest.mark.parametrize(
    "answer",
    [Answer(404, b"no such file"), Answer(403), Answer(410), Answer(503), portal(), redirect("file:///etc/passwd")],
    ids=["404", "403", "410", "503", "a page", "file:"],
)
async def test_a_mirror_that_does_not_give_the_file_touches_nothing(
    vehicle: Vehicle, repository: TufRepository, answer: Answer
) -> None:
    offer(repository, "v10")
    repository.attack = only("/targets/", answer)
    result = await vehicle.downloader.download_and_install_model(NAME, "v10")
    assert isinstance(result.error, CloudError)
    assert await asyncio.to_thread(vehicle.live) == content_of("v9")
    repository.attack = lambda _: None
    assert await vehicle.downloader.download_and_install_model(NAME, "v10")
    assert await asyncio.to_thread(vehicle.live) == content_of("v10")


async def test_a_repository_out_of_reach_touches_nothing(vehicle: Vehicle, stranger: FakeCloud) -> None:
    await stranger.stop()
    with pytest.raises(UnreachableError):
        await vehicle.downloader.check_for_updates()
    await vehicle.untouched()


async def test_what_is_installed_stays_in_use_whatever_the_clock_says(
    vehicle: Vehicle, repository: TufRepository, clock: FakeClock
) -> None:
    """Years without an update: all metadata has expired, and the model is what it was."""
    await clock.advance(3 * 365 * DAY)
    with pytest.raises(VerificationError, match="what is in use stays"):
        await vehicle.downloader.check_for_updates()
    await vehicle.untouched()
    repository.now = clock.now()
    repository.publish_root()
    offer(repository, "v10")
    assert await vehicle.downloader.download_and_install_model(NAME, "v10")
