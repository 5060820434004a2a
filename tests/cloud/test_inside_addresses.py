"""What others name (a download, a `Location`, a redirect) leads to the internet, or where the API itself is."""

from collections.abc import AsyncIterator
from http import HTTPMethod

import pytest

from sentinel_sync.base.errors import UnreachableError
from sentinel_sync.cloud.client import CloudAPIClient
from sentinel_sync.cloud.request import Request
from sentinel_sync.cloud.rules.answers import AddressGuard
from tests.fakes.cloud import FakeCloud, PrivateCA, redirect, settings_for


class TestRule:
    @pytest.mark.parametrize(
        "address",
        ["127.0.0.1", "127.8.8.8", "10.0.0.1", "172.16.0.9", "192.168.0.1", "169.254.169.254", "100.64.0.1", "0.0.0.0",
         "224.0.0.1", "::1", "::", "fe80::1%eth0", "fc00::1", "ff02::1", "::ffff:10.0.0.1", "2002:a00:1::"],
    )  # fmt: skip
    def test_inside(self, address: str) -> None:
        guard = AddressGuard("api.example.com")
        why = guard.refusal("cdn.example.com", address, False)
        assert why is not None
        assert address in why
        assert AddressGuard("localhost").refusal("cdn.example.com", address, False) is None
        assert AddressGuard("api.example.com", is_ours=False).refusal("cdn.example.com", address, False) is None

    @pytest.mark.parametrize("address", ["8.8.8.8", "2606:4700::1111", "::ffff:8.8.8.8", "", "a name"])
    def test_outside(self, address: str) -> None:
        assert AddressGuard("api.example.com").refusal("cdn.example.com", address, False) is None

    def test_where_the_api_is_inside_others_may_be(self) -> None:
        guard = AddressGuard("API.example.com")
        assert guard.refusal("store.example.com", "10.0.0.2", False) is not None
        # A login page's name server says that the API is inside, too.
        assert guard.refusal("api.example.com", "10.0.0.1", False) is None
        assert guard.refusal("store.example.com", "10.0.0.2", False) is not None
        assert guard.refusal("api.example.com", "10.0.0.1", True) is None
        assert guard.refusal("store.example.com", "10.0.0.2", False) is None

    @pytest.mark.parametrize("host", ["10.1.2.3", "[::1]", "127.0.0.1", "LOCALHOST"])
    def test_an_api_that_is_inside_by_its_name(self, host: str) -> None:
        assert AddressGuard(host).refusal("store.example.com", "10.0.0.2", False) is None


class _ApiOutside(AddressGuard):
    """As if the backend, which is on this machine, were on the internet."""

    def __init__(self, api_host: str) -> None:
        super().__init__(api_host)
        self._api_is_inside = False

    def refusal(self, host: str, address: str, is_verified: bool) -> str | None:
        return None if host == self._api_host else super().refusal(host, address, is_verified)


class TestOnTheWire:
    """Nothing is sent to an address inside, whoever named it: the connection is closed before a byte goes."""

    @pytest.fixture
    async def inside(self) -> AsyncIterator[FakeCloud]:
        async with FakeCloud(stranger=True, host="localhost") as cloud:
            yield cloud

    @pytest.fixture
    async def client(self, cloud: FakeCloud) -> AsyncIterator[CloudAPIClient]:
        async with CloudAPIClient(settings=settings_for(cloud)) as opened:
            opened._guard = _ApiOutside("127.0.0.1")
            yield opened

    async def test_a_download(self, client: CloudAPIClient, inside: FakeCloud) -> None:
        with pytest.raises(UnreachableError, match="is no address of the internet"):
            async with client.download(f"{inside.url}/model", {}):
                raise AssertionError("opened")
        assert inside.requests == []

    async def test_a_redirect(self, client: CloudAPIClient, cloud: FakeCloud, inside: FakeCloud) -> None:
        cloud.script("GET", "/fleet/f/statistics", redirect(f"{inside.url}/reboot"))
        with pytest.raises(UnreachableError, match="is no address of the internet"):
            await client.request(HTTPMethod.GET, "/fleet/f/statistics")
        assert inside.requests == []

    async def test_an_uploads_address(self, client: CloudAPIClient, cloud: FakeCloud, inside: FakeCloud) -> None:
        asked = Request(HTTPMethod.PATCH, f"{inside.url}/upload", "PATCH an upload", b"x", bulk=True)
        with pytest.raises(UnreachableError, match="is no address of the internet"):
            await client.ask(asked)
        assert inside.requests == []
        assert cloud.requests == []

    async def test_where_the_api_is_on_this_machine_it_is_followed(self, cloud: FakeCloud, inside: FakeCloud) -> None:
        async with (
            CloudAPIClient(settings=settings_for(cloud)) as client,
            client.download(f"{inside.url}/model", {}) as download,
        ):
            assert download.response.status_code == 200
        assert len(inside.requests) == 1

    @pytest.mark.parametrize("is_named", [True, False])
    async def test_where_the_api_is_counts_once_its_certificate_was_verified(
        self, private_ca: PrivateCA, *, is_named: bool
    ) -> None:
        async with FakeCloud(tls=private_ca.server()) as cloud:
            settings = settings_for(cloud, **({"ca_file": private_ca.ca_file} if is_named else {}))
            async with CloudAPIClient(settings=settings) as client:
                client._guard._api_is_inside = False
                assert await client.check_connectivity() is is_named
                assert client._guard._api_is_inside is is_named
