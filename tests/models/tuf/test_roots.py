"""New roots of a TUF repository: those that the one before vouches for, and no others."""

import pytest

from tests.fakes.cloud import FakeCloud
from tests.fakes.tuf_repository import TufRepository, sign
from tests.models.tuf.vehicle import Vehicle, offer, refused

pytestmark = pytest.mark.usefixtures("off_the_loop")


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
