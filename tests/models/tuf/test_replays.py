"""Attacks that the TUF specification lists (section 1.5.2) by which a vehicle is shown the repository's past: refused.

The clock's part in it is in test_tuf_time.py.
"""

import pytest

from tests.fakes.cloud import Answer
from tests.fakes.tuf_repository import DAY, TufRepository
from tests.models.tuf.vehicle import Vehicle, newest, offer, refused, serve

pytestmark = pytest.mark.usefixtures("off_the_loop")

ROLES = ["timestamp", "snapshot", "targets"]


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
        await refused(vehicle, "its timestamp version 2 has expired.*what is in use stays")

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
