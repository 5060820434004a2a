"""The attacks that the TUF specification lists (section 1.5.2), on a repository that is not the backend's: all refused.

Who attacks has the network and the mirror; where it says so, also some of the repository's keys. What a refusal leaves
alone besides, the installed model, is in tests/services/test_model_downloader_tuf.py.
"""

import json
from collections.abc import Callable, Iterator

import pytest
from blockbuster import blockbuster_ctx
from securesystemslib.signer._crypto_signer import CryptoSigner

from sentinel_sync.errors import UnreachableError, VerificationError
from tests.adapters.models.tuf_vehicle import (
    NAME,
    Vehicle,
    content_of,
    offer,
    repository_fixture,
    vehicle_fixture,
)
from tests.fakes.clock import FakeClock
from tests.fakes.cloud import Answer, FakeCloud, cloud_fixture, stranger_fixture
from tests.fakes.tuf_repository import DAY, TufRepository, sign
from tests.fakes.wire_rules import Seen

__all__ = ["cloud_fixture", "repository_fixture", "stranger_fixture", "vehicle_fixture"]

ROLES = ["timestamp", "snapshot", "targets"]
#: What reads metadata takes a quarter of a mebibyte of it at most; a socket's buffers hold some more.
MOST_PUSHED = 16 << 20


@pytest.fixture(autouse=True)
def _no_blocking_call_on_the_loop() -> Iterator[None]:
    with blockbuster_ctx("sentinel_sync"):
        yield


class HurryingClock(FakeClock):
    """Ten seconds pass whenever somebody looks."""

    def monotonic(self) -> float:
        self.tick(10.0)
        return super().monotonic()


async def refused(vehicle: Vehicle, match: str) -> None:
    """A process that starts now refuses the repository, says why, and keeps what it knew."""
    offers = await vehicle.start()
    before = offers.last
    with pytest.raises(VerificationError, match=match):
        await offers.ask()
    assert offers.last == before
    assert (await vehicle.start()).last == before


def newest(repository: TufRepository, role: str) -> str:
    """Where a role's newest metadata is served."""
    signed = {"timestamp": repository.timestamp, "snapshot": repository.snapshot, "targets": repository.targets}[role]
    return f"/metadata/{'' if role == 'timestamp' else f'{signed.version}.'}{role}.json"


def serve(path: str, content: bytes) -> Callable[[Seen], Answer | None]:
    """An attack: other content at one path."""
    return lambda seen: Answer(200, content) if seen.path == path else None


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
            with pytest.raises(VerificationError, match=r"10000 (signed bytes|are signed)"):
                await vehicle.fetch(offers, release)
            assert not vehicle.staging.exists()
        assert stranger.pushed < MOST_PUSHED


class TestFastForward:
    """A thief with the keys below root signs versions so high that the repository never reaches them."""

    async def forward(self, vehicle: Vehicle, repository: TufRepository) -> None:
        roles = (repository.timestamp, repository.snapshot, repository.targets)
        versions = [role.version for role in roles]
        for role in roles:
            role.version = 2**31
        repository.publish()
        assert await vehicle.versions() == ["v1"]
        for forwarded, version in zip(roles, versions, strict=True):
            forwarded.version = version

    @pytest.mark.parametrize("cache", ["kept", "lost"])
    async def test_new_keys_recover_from_it(self, vehicle: Vehicle, repository: TufRepository, cache: str) -> None:
        await self.forward(vehicle, repository)
        repository.set_keys("timestamp", 1)
        repository.set_keys("snapshot", 1)
        repository.publish_root()
        offer(repository, "v2")
        if cache == "lost":
            vehicle.lose_cache()
        assert await vehicle.versions() == ["v1", "v2"]

    @pytest.mark.parametrize("cache", ["kept", "lost"])
    async def test_without_new_keys_it_is_a_rollback(
        self, vehicle: Vehicle, repository: TufRepository, cache: str
    ) -> None:
        await self.forward(vehicle, repository)
        offer(repository, "v2")
        if cache == "lost":
            vehicle.lose_cache()
        await refused(vehicle, "version")

    async def test_the_thief_cannot_do_it_again_with_the_old_keys(
        self, vehicle: Vehicle, repository: TufRepository
    ) -> None:
        stolen = dict(repository.signers)
        repository.set_keys("timestamp", 1)
        repository.set_keys("snapshot", 1)
        repository.publish_root()
        repository.publish()
        assert await vehicle.versions() == ["v1"]
        repository.signers |= {role: stolen[role] for role in ("timestamp", "snapshot")}
        repository.timestamp.version = 2**31
        repository.publish("timestamp")
        await refused(vehicle, "timestamp was signed by 0/1 keys")


class TestMixAndMatch:
    """Pieces of the repository of different days, each genuine."""

    @pytest.mark.parametrize("pinned", [True, False], ids=["hashes", "versions only"])
    @pytest.mark.parametrize("role", ["snapshot", "targets"])
    async def test_an_older_piece_under_a_newer_one(
        self, vehicle: Vehicle, repository: TufRepository, role: str, pinned: bool
    ) -> None:
        repository.pinned = pinned
        offer(repository, "v2")
        older = repository.files[newest(repository, role)]
        offer(repository, "v3")
        repository.attack = serve(newest(repository, role), older)
        await refused(vehicle, "Observed (hash|length)" if pinned else f"Expected {role}")

    async def test_a_newer_piece_under_an_older_one(self, vehicle: Vehicle, repository: TufRepository) -> None:
        repository.pinned = False
        offer(repository, "v2")
        timestamp, path = repository.files["/metadata/timestamp.json"], newest(repository, "snapshot")
        offer(repository, "v3")
        newer = repository.files[newest(repository, "snapshot")]
        repository.attack = lambda seen: (
            Answer(200, timestamp)
            if seen.path.endswith("timestamp.json")
            else Answer(200, newer)
            if seen.path == path
            else None
        )
        await refused(vehicle, "Expected snapshot version")

    async def test_a_snapshot_that_forgot_the_targets(self, vehicle: Vehicle, repository: TufRepository) -> None:
        assert await vehicle.versions() == ["v1"]
        del repository.snapshot.meta["targets.json"]
        repository.publish("snapshot", "timestamp")
        await refused(vehicle, "missing info for 'targets.json'")


class TestRollback:
    """The repository of an earlier day, whole and genuine, or with keys that were stolen since."""

    @pytest.mark.parametrize("cache", ["kept", "lost"])
    async def test_the_whole_repository_as_it_was(
        self, vehicle: Vehicle, repository: TufRepository, cache: str
    ) -> None:
        earlier = dict(repository.files)
        offer(repository, "v2")
        assert await vehicle.versions() == ["v1", "v2"]
        if cache == "lost":
            vehicle.lose_cache()
        now, repository.files = repository.files, earlier
        await refused(vehicle, "timestamp")
        repository.files = now
        assert await vehicle.versions() == ["v1", "v2"]

    @pytest.mark.parametrize("cache", ["kept", "lost"])
    @pytest.mark.parametrize("role", ["snapshot", "targets"])
    async def test_an_older_version_below_a_new_timestamp(
        self, vehicle: Vehicle, repository: TufRepository, role: str, cache: str
    ) -> None:
        """Who has the keys of timestamp and snapshot signs anew what points to the past."""
        repository.pinned = False
        repository.publish()
        versions = {"targets": repository.targets.version, "snapshot": repository.snapshot.version}
        older = repository.files[newest(repository, "targets")]
        offer(repository, "v2")
        assert await vehicle.versions() == ["v1", "v2"]
        if role == "snapshot":
            repository.snapshot.version = versions["snapshot"] - 1
        repository.snapshot.meta["targets.json"].version = versions["targets"]
        repository.files[f"/metadata/{versions['targets']}.targets.json"] = older
        repository.publish("snapshot", "timestamp")
        if cache == "lost":
            vehicle.lose_cache()
        await refused(vehicle, "version")

    async def test_a_root_that_is_hidden_after_the_cache_was_lost(
        self, vehicle: Vehicle, repository: TufRepository
    ) -> None:
        """The keys that it took away would count again."""
        earlier = dict(repository.files)
        repository.set_keys("targets", 1)
        repository.set_keys("timestamp", 1)
        repository.publish_root()
        repository.publish()
        assert await vehicle.versions() == ["v1"]
        now, repository.files = repository.files, earlier
        vehicle.lose_cache()
        await refused(vehicle, "its root is version 1, and version 2 was seen before")
        repository.files = now
        assert await vehicle.versions() == ["v1"]

    @pytest.mark.parametrize("name", ["root.json", "timestamp.json", "snapshot.json", "targets.json"])
    async def test_a_cache_that_a_power_cut_emptied(
        self, vehicle: Vehicle, repository: TufRepository, name: str
    ) -> None:
        """Renamed, and not yet written: no rollback through that hole, and no dead end."""
        earlier = dict(repository.files)
        offer(repository, "v2")
        assert await vehicle.versions() == ["v1", "v2"]
        for path in vehicle.folder.rglob(name):
            path.write_bytes(b"")
        now, repository.files = repository.files, earlier
        await refused(vehicle, "the TUF repository is refused")
        repository.files = now
        assert await vehicle.versions() == ["v1", "v2"]


class TestFreeze:
    async def test_a_repository_that_stands_still_is_believed_until_its_timestamp_expires(
        self, vehicle: Vehicle, repository: TufRepository
    ) -> None:
        assert await vehicle.versions() == ["v1"]
        await vehicle.clock.advance(DAY - 1.0)
        assert await vehicle.versions() == ["v1"]
        await vehicle.clock.advance(1.0)
        await refused(vehicle, "its timestamp version 2 has expired.*what is installed stays in use")

    @pytest.mark.parametrize("role", ["root", "timestamp", "snapshot", "targets"])
    async def test_whatever_has_expired(self, vehicle: Vehicle, repository: TufRepository, role: str) -> None:
        assert await vehicle.versions() == ["v1"]
        await vehicle.clock.advance({"root": 366, "timestamp": 2, "snapshot": 8, "targets": 91}[role] * DAY)
        repository.now = vehicle.clock.now()
        fresh = {"root": ROLES, "timestamp": ["targets", "snapshot"], "snapshot": ["timestamp"], "targets": ROLES[:2]}
        for each in ("targets", "snapshot", "timestamp"):
            if each in fresh[role]:
                repository.publish(each)
        await refused(vehicle, f"its {role} version . has expired")
        if role == "root":
            repository.publish_root()
        repository.publish()
        assert await vehicle.versions() == ["v1"]

    async def test_a_root_on_the_way_to_a_newer_one_may_have_expired(
        self, vehicle: Vehicle, repository: TufRepository
    ) -> None:
        repository.set_keys("root", 1)
        repository.publish_root()
        await vehicle.clock.advance(400 * DAY)
        repository.now = vehicle.clock.now()
        repository.publish_root()
        repository.publish()
        assert await vehicle.versions() == ["v1"]


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


class TestRootRotation:
    async def test_a_chain_of_roots(self, vehicle: Vehicle, repository: TufRepository) -> None:
        for _ in range(5):
            repository.set_keys("root", 2, threshold=2)
            repository.publish_root()
        repository.publish()
        assert await vehicle.versions() == ["v1"]

    async def test_one_that_the_old_keys_did_not_sign(self, vehicle: Vehicle, repository: TufRepository) -> None:
        repository.set_keys("root", 1)
        repository.publish_root(signed_by=repository.signers["root"])
        await refused(vehicle, "root was signed by 0/1 keys")

    async def test_one_that_its_own_keys_did_not_sign(self, vehicle: Vehicle, repository: TufRepository) -> None:
        old = list(repository.signers["root"])
        repository.set_keys("root", 1)
        repository.publish_root(signed_by=old)
        await refused(vehicle, "root was signed by 0/1 keys")

    async def test_one_that_too_few_of_the_old_keys_signed(self, vehicle: Vehicle, repository: TufRepository) -> None:
        repository.set_keys("root", 3, threshold=2)
        repository.publish_root()
        repository.publish()
        assert await vehicle.versions() == ["v1"]
        one_old = repository.signers["root"][:1]
        repository.set_keys("root", 1)
        repository.publish_root(signed_by=[*one_old, *repository.signers["root"]])
        await refused(vehicle, "root was signed by 1/2 keys")

    @pytest.mark.parametrize("version", [1, 3])
    async def test_one_with_another_number_than_its_name(
        self, vehicle: Vehicle, repository: TufRepository, version: int
    ) -> None:
        repository.root.version = version
        repository.files["/metadata/2.root.json"] = sign(repository.root, repository.signers["root"])
        await refused(vehicle, "Expected root version 2")

    async def test_another_repositorys(self, vehicle: Vehicle, repository: TufRepository) -> None:
        other = TufRepository(repository.now)
        other.publish_root()
        repository.files = other.files
        await refused(vehicle, "root was signed by 0/1 keys")

    async def test_the_operator_may_deliver_another_root(
        self, vehicle: Vehicle, repository: TufRepository, stranger: FakeCloud
    ) -> None:
        """Another anchor is another repository: versions count anew, and the old one's cache goes."""
        repository.publish()
        assert await vehicle.versions() == ["v1"]
        stranger.handler = other = TufRepository(repository.now)
        offer(other, "v7")
        assert vehicle.source.root_file is not None
        vehicle.source.root_file.write_bytes(other.anchor)
        assert (await vehicle.start()).last is None
        assert await vehicle.versions() == ["v7"]
        assert len(list(vehicle.folder.iterdir())) == 1
