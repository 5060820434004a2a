"""Attacks that the TUF specification lists (section 1.5.2), on a repository that is not the backend's: all refused.

Here those with content that is not the repository's; those with its own past are in test_replays.py, those with its
root in test_roots.py. Who attacks has the network and the mirror; where it says so, also some of the repository's
keys. What a refusal leaves alone besides, the installed model, is in tests/models/tuf/service/test_model_downloader.py.
"""

import json
from collections.abc import Callable

import pytest
from securesystemslib.signer._crypto_signer import CryptoSigner

from sentinel_sync.base.errors import UnreachableError, VerificationError
from sentinel_sync.cloud.download import FileHostError
from tests.fakes.clock import FakeClock
from tests.fakes.cloud import Answer, FakeCloud
from tests.fakes.tuf_repository import TufRepository
from tests.fakes.wire_rules import Seen
from tests.models.tuf.vehicle import NAME, Vehicle, content_of, newest, offer, refused, serve

pytestmark = pytest.mark.usefixtures("off_the_loop")

ROLES = ["timestamp", "snapshot", "targets"]
#: What reads metadata takes a quarter of a mebibyte of it at most; a socket's buffers hold some more.
MOST_PUSHED = 16 << 20


class HurryingClock(FakeClock):
    """Ten seconds pass whenever somebody looks."""

    def monotonic(self) -> float:
        self.tick(10.0)
        return super().monotonic()


def only_targets(answer: Answer) -> Callable[[Seen], Answer | None]:
    """An attack on the files alone."""
    return lambda seen: answer if "/targets/" in seen.path else None


class TestArbitrarySoftware:
    async def test_another_file_where_the_signed_one_should_be(
        self, vehicle: Vehicle, repository: TufRepository
    ) -> None:
        offers = await vehicle.start()
        (release,) = (await offers.ask()).releases
        repository.attack = only_targets(Answer(200, b"m" * release.size))
        with pytest.raises(VerificationError, match="not those that were signed"):
            await vehicle.fetch(offers, release)
        assert not vehicle.staging.exists()

    @pytest.mark.parametrize("role", ROLES)
    async def test_metadata_that_nobody_signed(self, vehicle: Vehicle, repository: TufRepository, role: str) -> None:
        repository.pinned = False
        repository.signers[role] = []
        offer(repository, "v2")
        await refused(vehicle, f"{role} was signed by 0/1 keys")

    @pytest.mark.parametrize("pinned", [True, False], ids=["hashes in snapshot", "versions only"])
    async def test_metadata_that_was_changed_after_it_was_signed(
        self, vehicle: Vehicle, repository: TufRepository, pinned: bool
    ) -> None:
        repository.pinned = pinned
        offer(repository, "v2")
        path = newest(repository, "targets")
        metadata = json.loads(repository.files[path])
        for target in metadata["signed"]["targets"].values():
            target["hashes"]["sha256"] = "0" * 64
        repository.files[path] = json.dumps(metadata, separators=(",", ":")).encode()
        await refused(vehicle, "Observed hash" if pinned else "targets was signed by 0/1 keys")

    async def test_a_release_that_only_the_mirror_has(self, vehicle: Vehicle, repository: TufRepository) -> None:
        """Extraneous dependencies: what is not signed for is not even seen, and nothing that nobody asked for comes."""
        repository.files[f"/targets/{NAME}/v9/{NAME}.pt"] = b"planted"
        assert await vehicle.versions() == ["v1"]


async def test_extraneous_dependencies_are_not_fetched(
    vehicle: Vehicle, repository: TufRepository, stranger: FakeCloud
) -> None:
    repository.add("tools/root-shell.bin", b"x" * 5000)
    repository.add("other/v1/other.pt", b"x" * 5000, {"name": "other", "version": "v1", "depends": ["tools"]})
    offer(repository, "v2")
    offers = await vehicle.start()
    wanted = next(each for each in (await offers.ask()).releases if each.version == "v2")
    assert await vehicle.fetch(offers, wanted) == content_of("v2")
    assert [seen.path for seen in stranger.requests if "/targets/" in seen.path] == [
        f"/targets/{NAME}/v2/{wanted.checksum}.{NAME}.pt"
    ]


class TestWrongKeys:
    @pytest.mark.parametrize("role", ROLES)
    async def test_a_key_that_the_root_does_not_name(
        self, vehicle: Vehicle, repository: TufRepository, role: str
    ) -> None:
        repository.signers[role] = [CryptoSigner.generate_ed25519()]
        offer(repository, "v2")
        await refused(vehicle, f"{role} was signed by 0/1 keys")

    @pytest.mark.parametrize("role", ROLES)
    async def test_a_key_that_the_root_names_no_longer(
        self, vehicle: Vehicle, repository: TufRepository, role: str
    ) -> None:
        stolen = repository.signers[role]
        repository.set_keys(role, 1)
        repository.publish_root()
        repository.publish()
        assert await vehicle.versions() == ["v1"]
        repository.signers[role] = stolen
        offer(repository, "v2")
        await refused(vehicle, f"{role} was signed by 0/1 keys")

    @pytest.mark.parametrize("role", ROLES)
    async def test_fewer_keys_than_the_root_wants(self, vehicle: Vehicle, repository: TufRepository, role: str) -> None:
        repository.set_keys(role, 3, threshold=2)
        repository.publish_root()
        repository.signers[role] = repository.signers[role][:1]
        repository.publish()
        await refused(vehicle, f"{role} was signed by 1/2 keys")

    async def test_one_key_twice_is_one_key(self, vehicle: Vehicle, repository: TufRepository) -> None:
        repository.set_keys("timestamp", 2, threshold=2)
        repository.publish_root()
        repository.publish()
        path = newest(repository, "timestamp")
        metadata = json.loads(repository.files[path])
        metadata["signatures"][1]["sig"] = metadata["signatures"][0]["sig"]
        repository.files[path] = json.dumps(metadata).encode()
        await refused(vehicle, "timestamp was signed by 1/2 keys")

    async def test_one_roles_metadata_in_another_ones_place(self, vehicle: Vehicle, repository: TufRepository) -> None:
        repository.files[newest(repository, "timestamp")] = repository.files[newest(repository, "snapshot")]
        await refused(vehicle, "Expected 'timestamp', got 'snapshot'")


class TestEndlessData:
    @pytest.mark.parametrize("said", [True, False], ids=["and says so", "and does not say so"])
    @pytest.mark.parametrize("role", ROLES)
    @pytest.mark.parametrize("pinned", [True, False], ids=["lengths signed", "lengths not signed"])
    async def test_metadata_without_end(
        self, vehicle: Vehicle, repository: TufRepository, stranger: FakeCloud, role: str, pinned: bool, said: bool
    ) -> None:
        repository.pinned = pinned
        offer(repository, "v2")
        path = newest(repository, role)
        endless = Answer(200, b" ", declared=1 << 40) if said else Answer(endless=b" " * 65536)
        repository.attack = lambda seen: endless if seen.path == path else None
        await refused(vehicle, f"{role}.json has more than the")
        assert stranger.pushed < MOST_PUSHED

    @pytest.mark.parametrize("role", ["snapshot", "targets"])
    async def test_a_length_that_a_thief_of_keys_has_signed(
        self, vehicle: Vehicle, repository: TufRepository, stranger: FakeCloud, role: str
    ) -> None:
        if role == "targets":
            repository.snapshot.meta["targets.json"].length = 1 << 50
            repository.publish("snapshot")
        else:
            repository.timestamp.snapshot_meta.length = 1 << 50
        repository.publish("timestamp")
        path = newest(repository, role)
        repository.attack = lambda seen: Answer(endless=b" " * 65536) if seen.path == path else None
        await refused(vehicle, f"{role}.json has more than the 262144 bytes")
        assert stranger.pushed < MOST_PUSHED

    async def test_the_next_root_without_end(self, vehicle: Vehicle, repository: TufRepository) -> None:
        repository.attack = serve("/metadata/2.root.json", b" " * (3 << 20))
        await refused(vehicle, "2.root.json has more than the")

    async def test_roots_without_end_are_asked_for_up_to_a_bound(
        self, vehicle: Vehicle, repository: TufRepository, stranger: FakeCloud
    ) -> None:
        """Each would have to be signed by the one before: the first that is not ends it."""
        repository.attack = lambda seen: Answer(200, repository.anchor) if "root" in seen.path else None
        await refused(vehicle, "Expected root version 2")
        assert len(stranger.requests) == 1

    async def test_a_file_without_end(self, vehicle: Vehicle, repository: TufRepository, stranger: FakeCloud) -> None:
        offers = await vehicle.start()
        (release,) = (await offers.ask()).releases
        for answer in (Answer(endless=content_of("v1")), Answer(200, content_of("v1") * 2)):
            repository.attack = only_targets(answer)
            with pytest.raises(FileHostError, match=r"10000 (signed bytes|are signed)"):
                await vehicle.fetch(offers, release)
            assert not vehicle.staging.exists()
        assert stranger.pushed < MOST_PUSHED


class TestSlowRetrieval:
    async def test_metadata_by_the_drop(self, vehicle: Vehicle, repository: TufRepository) -> None:
        clock = HurryingClock(vehicle.clock.now())
        offers = await vehicle.start(clock=clock)
        content = repository.files["/metadata/timestamp.json"]
        repository.attack = lambda seen: (
            Answer(200, content, drip=0.002) if seen.path.endswith("timestamp.json") else None
        )
        with pytest.raises(UnreachableError, match=r"GET timestamp.json: only \d+ bytes came in \d+ s"):
            await offers.ask()
        repository.attack = lambda _: None
        assert (await offers.ask()).releases

    async def test_a_file_by_the_drop(self, vehicle: Vehicle, repository: TufRepository) -> None:
        offers = await vehicle.start()
        (release,) = (await offers.ask()).releases
        repository.attack = only_targets(Answer(200, content_of("v1"), drip=0.002))
        with pytest.raises(UnreachableError):
            await vehicle.fetch(offers, release, HurryingClock(vehicle.clock.now()))
