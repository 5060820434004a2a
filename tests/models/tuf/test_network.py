"""python-tuf's fetches are our client's: counted, cut off with all else, without the credential, and judged alike."""

import asyncio

import pytest

from sentinel_sync.base.errors import HeldError, RejectedError, SentinelSyncError, UnreachableError
from tests.fakes.cloud import Answer, FakeCloud, portal, redirect
from tests.fakes.tuf_repository import TufRepository
from tests.fakes.wire_rules import Seen
from tests.models.tuf.vehicle import Vehicle, content_of, offer

pytestmark = pytest.mark.usefixtures("off_the_loop")

ROLES = ["timestamp", "snapshot", "targets"]


async def test_every_byte_is_counted(vehicle: Vehicle, repository: TufRepository) -> None:
    """For the data budget: metadata and files, what goes out and what comes in."""
    sent, received = 0, 0

    def count(more_sent: int, more_received: int) -> None:
        nonlocal sent, received
        sent, received = sent + more_sent, received + more_received

    vehicle.client.on_traffic(count)
    offers = await vehicle.start()
    (release,) = (await offers.ask()).releases
    metadata = sum(len(repository.files[f"/metadata/{name}.json"]) for name in ("timestamp", "2.snapshot", "2.targets"))
    assert received > metadata
    assert sent > 0
    before = received
    await vehicle.fetch(offers, release)
    assert received - before > len(content_of("v1"))


@pytest.mark.parametrize("role", ROLES)
async def test_a_fetch_under_way_is_cut_off_with_all_else(
    vehicle: Vehicle, repository: TufRepository, stranger: FakeCloud, role: str
) -> None:
    reached = asyncio.Event()

    def stalls(seen: Seen) -> Answer | None:
        if not seen.path.endswith(f"{role}.json"):
            return None
        reached.set()
        return Answer(200, declared=100)

    repository.attack = stalls
    offers = await vehicle.start()
    async with asyncio.timeout(10.0):
        asking = asyncio.create_task(offers.ask())
        await reached.wait()
        vehicle.client.halt("test", "consent was withdrawn")
        with pytest.raises(HeldError, match="consent was withdrawn"):
            await asking
    asked = len(stranger.requests)
    with pytest.raises(HeldError):
        await offers.ask()
    assert len(stranger.requests) == asked
    vehicle.client.resume("test")
    repository.attack = lambda _: None
    assert (await offers.ask()).releases


async def test_a_client_that_is_closed_ends_the_fetch_under_way(
    vehicle: Vehicle, repository: TufRepository, stranger: FakeCloud
) -> None:
    reached = asyncio.Event()

    def silent(_: Seen) -> Answer:
        reached.set()
        return Answer(silent=True)

    repository.attack = silent
    offers = await vehicle.start()
    async with asyncio.timeout(10.0):
        asking = asyncio.create_task(offers.ask())
        await reached.wait()
        await vehicle.client.close()
        with pytest.raises(UnreachableError):
            await asking
    assert len(stranger.requests) == 1


@pytest.mark.parametrize("part", ["/metadata/", "/targets/"])
async def test_the_credential_goes_to_no_host_of_the_repository(
    vehicle: Vehicle, repository: TufRepository, stranger: FakeCloud, part: str
) -> None:
    """Neither to the repository nor where that redirects; each of these hosts fails the test where one comes."""
    async with FakeCloud(stranger=True) as mirror:
        mirror.handler = TufRepository.__call__.__get__(repository)
        stranger.handler = lambda seen: (
            redirect(f"{mirror.url.replace('://', '://user:secret@')}{seen.path}") if part in seen.path
            else repository(seen)
        )  # fmt: skip
        offers = await vehicle.start()
        (release,) = (await offers.ask()).releases
        assert await vehicle.fetch(offers, release) == content_of("v1")
        assert [seen for seen in mirror.requests if part in seen.path]
        for seen in (*mirror.requests, *stranger.requests):
            assert "authorization" not in seen.headers


@pytest.mark.parametrize("role", ROLES)
@pytest.mark.parametrize(
    ("answer", "error"),
    [
        (Answer(404, b"no such file"), RejectedError),
        (portal(), UnreachableError),
        (Answer(200, portal().body), UnreachableError),
        (Answer(200), UnreachableError),
        (Answer(200, b"[]"), UnreachableError),
    ],
    ids=["404", "a page", "a page that says it is none", "nothing", "other JSON"],
)
async def test_what_is_no_metadata(
    vehicle: Vehicle, repository: TufRepository, role: str, answer: Answer, error: type[SentinelSyncError]
) -> None:
    repository.pinned = False
    offer(repository, "v2")
    offers = await vehicle.start()
    repository.attack = lambda seen: answer if seen.path.endswith(f"{role}.json") else None
    with pytest.raises(error):
        await offers.ask()
    assert offers.last is None
    repository.attack = lambda _: None
    assert await vehicle.versions() == ["v1", "v2"]


async def test_a_page_where_the_next_root_would_be(vehicle: Vehicle, repository: TufRepository) -> None:
    """A host that answers everything with a page: it must not pass for 'there is no newer root'."""
    for answer in (portal(), Answer(200, portal().body)):
        repository.attack = lambda seen, it=answer: it if "root" in seen.path else None  # type: ignore[misc]
        with pytest.raises(UnreachableError):
            await vehicle.versions()


@pytest.mark.parametrize("content", [b"", b"{", b"<!doctype html>"], ids=["empty", "torn", "a page"])
async def test_roots_of_the_cache_that_a_power_cut_spoilt(
    vehicle: Vehicle, repository: TufRepository, content: bytes
) -> None:
    repository.set_keys("targets", 1)
    repository.publish_root()
    offer(repository, "v2")
    assert await vehicle.versions() == ["v1", "v2"]
    (cache,) = vehicle.folder.iterdir()
    for root in (cache / "root_history").iterdir():
        root.write_bytes(content)
    assert await vehicle.versions() == ["v1", "v2"]
