"""The extension `direct-uploads`: files go to signed addresses of object stores, without the credential."""

import hashlib
import math
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx
import pytest

from sentinel_sync.backend import BackendSettings
from sentinel_sync.backend.settings import Extensions
from sentinel_sync.base.errors import HeldError, NotNowError
from tests.fakes.cloud import API_KEY, Answer, FakeCloud, json_answer, problem, redirect, well_behaved
from tests.fakes.reference_backend import reference_backend
from tests.fakes.wire_rules import Seen
from tests.scenarios.recorded_part import ANNOTATIONS, SCENARIO, VIDEOS, RecordedPart, noise
from tests.scenarios.sending import MEBIBYTE, Sender, vehicle
from tests.servers.s3 import ObjectStore, object_store

#: The least that S3 takes as a part that is not the last.
PART = 5 * MEBIBYTE
VIDEO = noise(12 * MEBIBYTE)
UPLOADS = f"/scenarios/{SCENARIO}/uploads"


class Backend:
    """A backend whose files lie on an object store; it remembers what was put where, as it would from the store."""

    def __init__(self, cloud: FakeCloud, store: ObjectStore, *, parts: bool) -> None:
        self.cloud = cloud
        self.store = store
        self.parts = parts
        self.upload_ids: dict[str, str] = {}
        self.there: dict[str, list[dict[str, Any]]] = {}
        self.completed: list[dict[str, Any]] = []
        self.lifetime = 600
        self.given = 0
        cloud.handler = self.answer

    def answer(self, seen: Seen) -> Answer:
        match seen.method, seen.path:
            case "GET", "/health":
                return json_answer(200, {"status": "ok", "extensions": ["direct-uploads"]})
            case "GET", path if path == UPLOADS:
                return json_answer(200, {"uploads": self.targets()})
            case "POST", "/scenarios":
                return json_answer(201, {"scenario_id": SCENARIO, "uploads": self.targets()})
            case "POST", path if path.endswith("/complete"):
                return self.complete(path, seen.json)
        return well_behaved(seen)

    def targets(self) -> dict[str, object]:
        self.given += 1
        return {name: self.target(name) for name in ("bev.mp4", "annotations.json")}

    def target(self, name: str) -> dict[str, object]:
        if not self.parts:
            return {"method": "PUT", "url": self.store.address(name, lifetime=self.lifetime)}
        upload_id = self.upload_ids.get(name) or self.store.begin_multipart(name)
        self.upload_ids[name] = upload_id
        numbers = range(1, math.ceil(len(VIDEO) / PART) + 1)
        urls = [
            {"number": number, "url": self.store.address(name, partNumber=str(number), uploadId=upload_id)}
            for number in numbers
        ]
        return {"part_size": PART, "parts": urls, "done": self.there.get(name, [])}

    def complete(self, path: str, body: dict[str, Any]) -> Answer:
        name = "annotations.json" if path == f"{ANNOTATIONS}/complete" else path.split("/")[-2]
        self.completed.append(body)
        if self.parts:
            self.store.complete_multipart(name, self.upload_ids[name], body["parts"])
        content = self.store.content(name)
        if (len(content), hashlib.sha256(content).hexdigest()) != (body["size"], body["sha256"]):
            return problem(422, "these are other bytes")
        return json_answer(201, {})


@pytest.fixture(scope="module", params=["nanio", "localbucket"])
def store(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[ObjectStore]:
    with object_store(request.param, tmp_path_factory.mktemp("store")) as running:
        yield running


@pytest.fixture
async def car(cloud: FakeCloud, tmp_path: Path) -> AsyncIterator[Sender]:
    async with vehicle(cloud.url, tmp_path, max_parallel_parts=3) as sender:
        yield sender


@pytest.mark.parametrize("parts", [False, True], ids=["in-one", "in-parts"])
async def test_a_file_arrives_whole_and_the_backend_is_told(
    parts: bool, store: ObjectStore, cloud: FakeCloud, tmp_path: Path, car: Sender
) -> None:
    backend = Backend(cloud, store, parts=parts)
    recorded = await RecordedPart.video(tmp_path, VIDEO)
    await car.client.probe()
    await recorded.announce(car.parts)
    await car.send(recorded)
    assert store.content("bev.mp4") == VIDEO
    (told,) = backend.completed
    assert told["size"] == len(VIDEO)
    assert len(told.get("parts", [])) == (3 if parts else 0)
    assert [seen.path for seen in cloud.to("POST")] == ["/scenarios", f"{VIDEOS}/bev.mp4/complete"]
    assert cloud.to("GET", UPLOADS) == [], "the addresses came with the answer to the announcement"
    assert recorded.progress[-1] == len(VIDEO)


async def test_annotations_go_packed_and_that_is_said(
    store: ObjectStore, cloud: FakeCloud, tmp_path: Path, car: Sender
) -> None:
    backend = Backend(cloud, store, parts=False)
    recorded = await RecordedPart.annotations(tmp_path, b'{"frames": []}' + b" " * 10_000)
    await car.client.probe()
    await car.send(recorded)
    assert store.content("annotations.json") == recorded.content
    assert backend.completed[0]["encoding"] == "gzip"
    assert [seen.path for seen in cloud.to("POST")] == [f"{ANNOTATIONS}/complete"]


async def test_after_a_restart_only_the_parts_go_that_are_missing(
    store: ObjectStore, cloud: FakeCloud, tmp_path: Path
) -> None:
    backend = Backend(cloud, store, parts=True)
    recorded = await RecordedPart.video(tmp_path, VIDEO)
    async with vehicle(cloud.url, tmp_path, max_parallel_parts=1) as first:
        await first.client.probe()
        recorded.may_be_sent_until = 2  # the addresses, and one part
        with pytest.raises(HeldError):
            await first.send(recorded)
    content = VIDEO[:PART]
    backend.there["bev.mp4"] = [{"number": 1, "etag": f'"{hashlib.md5(content, usedforsecurity=False).hexdigest()}"'}]
    recorded.may_be_sent_until = None
    async with vehicle(cloud.url, tmp_path) as second:
        await second.client.probe()
        await second.send(recorded)
        assert second.sent_bytes < len(VIDEO) - PART + 100_000
    assert store.content("bev.mp4") == VIDEO
    assert "direct-uploads:" in recorded.remembered


async def test_addresses_that_expire_in_mid_upload_are_asked_for_anew(
    cloud: FakeCloud, tmp_path: Path, stranger: FakeCloud, car: Sender
) -> None:
    parts: dict[int, bytes] = {}
    given: list[int] = []

    def targets() -> dict[str, object]:
        given.append(len(parts))
        return {
            "bev.mp4": {
                "part_size": PART,
                "parts": [{"number": n, "url": f"{stranger.url}/{len(given)}/{n}"} for n in (1, 2, 3)],
                "done": [{"number": n, "etag": f'"{n}"'} for n in parts],
            }
        }

    def far(seen: Seen) -> Answer:
        _, generation, number = seen.path.split("/")
        if len([key for key in parts if key]) >= int(generation):
            return problem(403, "expired")
        parts[int(number)] = seen.body
        return Answer(200, b"", {"ETag": f'"{number}"'})

    stranger.handler = far
    cloud.handler = lambda seen: (
        json_answer(200, {"status": "ok", "extensions": ["direct-uploads"]})
        if seen.path == "/health"
        else json_answer(200, {"uploads": targets()})
        if seen.path == UPLOADS
        else well_behaved(seen)
    )
    recorded = await RecordedPart.video(tmp_path, VIDEO)
    await car.client.probe()
    await car.send(recorded)
    assert b"".join(parts[number] for number in sorted(parts)) == VIDEO
    assert len(given) >= 3
    told = cloud.to("POST", f"{VIDEOS}/bev.mp4/complete")
    assert [part["etag"] for part in told[0].json["parts"]] == ['"1"', '"2"', '"3"']


class TestReferenceBackend:
    """The one that gives addresses on its own host."""

    async def test_a_long_file_goes_in_parts_beside_each_other_and_short_ones_too(self, tmp_path: Path) -> None:
        content = noise(20 * MEBIBYTE)
        recorded = await RecordedPart.video(tmp_path, content)
        with self.running(tmp_path) as url:
            async with vehicle(url, tmp_path, max_parallel_parts=3) as sender:
                await sender.client.probe()
                await recorded.announce(sender.parts)
                await sender.send(recorded)
            async with vehicle(url, tmp_path) as sender:
                await sender.client.probe()
                await sender.send(recorded)
                assert sender.sent_bytes < 10_000, "it is there, and the backend says so"
        (kept,) = (tmp_path / "backend" / "parts").iterdir()
        assert kept.read_bytes() == content
        assert list((tmp_path / "backend" / "uploads").iterdir()) == []

    async def test_what_was_there_before_a_cut_is_not_sent_again(self, tmp_path: Path) -> None:
        recorded = await RecordedPart.video(tmp_path, noise(20 * MEBIBYTE))
        with self.running(tmp_path) as url:
            async with vehicle(url, tmp_path, max_parallel_parts=1) as sender:
                await sender.client.probe()
                await recorded.announce(sender.parts)
                recorded.may_be_sent_until = 3
                with pytest.raises(HeldError):
                    await sender.send(recorded)
            recorded.may_be_sent_until = None
            async with vehicle(url, tmp_path) as sender:
                await sender.client.probe()
                await sender.send(recorded)
                assert sender.sent_bytes < 13 * MEBIBYTE

    async def test_only_its_own_addresses_take_bytes_and_only_the_right_bytes_are_taken(self, tmp_path: Path) -> None:
        with self.running(tmp_path) as url:
            async with vehicle(url, tmp_path) as sender, httpx.AsyncClient() as stranger:
                await sender.client.probe()
                recorded = await RecordedPart.video(tmp_path, noise(1000))
                await recorded.announce(sender.parts)
                shown = await sender.client.get(UPLOADS)
                address = shown.data["uploads"]["bev.mp4"]["parts"][0]["url"]
                assert (await stranger.put(address + "x", content=b"x")).status_code == 403
                assert (await stranger.put(address.replace("/1?", "/2?"), content=b"x")).status_code == 403
                put = await stranger.put(address, content=b"other bytes")
                assert put.status_code == 200
                parts = [{"number": 1, "etag": put.headers["ETag"]}]
                said = {"size": 1000, "sha256": "0" * 64, "parts": parts}
                wrong = await sender.client.post(f"{VIDEOS}/bev.mp4/complete", said)
                assert (wrong.status_code, (await stranger.put(address, content=b"")).status_code) == (422, 200)

    @staticmethod
    @contextmanager
    def running(tmp_path: Path) -> Iterator[str]:
        settings = BackendSettings(
            folder=tmp_path / "backend", api_keys=(API_KEY,), extensions=Extensions(direct_uploads=True)
        )
        with reference_backend(settings) as url:
            yield url


def offering(uploads: Callable[[], object], *, complete: Answer | None = None) -> Callable[[Seen], Answer]:
    def handler(seen: Seen) -> Answer:
        match seen.method, seen.path:
            case "GET", "/health":
                return json_answer(200, {"status": "ok", "extensions": ["direct-uploads"]})
            case "GET", path if path == UPLOADS:
                return json_answer(200, {"uploads": uploads()})
            case "POST", path if path.endswith("/complete") and complete is not None:
                return complete
        return well_behaved(seen)

    return handler


@pytest.mark.parametrize(
    "target",
    [
        {},
        {"url": 7},
        {"url": "http://files.example.com/x"},
        {"url": "ftp://files.example.com/x"},
        {"url": "https:///x"},
        {"url": "no address"},
        {"part_size": 0, "parts": []},
        "nonsense",
    ],
)
async def test_what_is_no_address_is_passed_over_and_the_file_goes_another_way(
    target: object, cloud: FakeCloud, tmp_path: Path, car: Sender
) -> None:
    cloud.handler = offering(lambda: {"bev.mp4": target})
    recorded = await RecordedPart.video(tmp_path, noise(1000))
    await car.client.probe()
    await car.send(recorded)
    assert [seen.path for seen in cloud.to("POST")] == [VIDEOS]


@pytest.mark.parametrize("status", [404, 405, 501])
async def test_a_backend_that_has_it_no_more_gets_the_file_another_way(
    status: int, cloud: FakeCloud, tmp_path: Path, car: Sender
) -> None:
    usual = offering(dict)
    cloud.handler = lambda seen: problem(status) if seen.path == UPLOADS else usual(seen)
    recorded = await RecordedPart.video(tmp_path, noise(1000))
    await car.client.probe()
    await car.send(recorded)
    assert [seen.path for seen in cloud.to("POST")] == [VIDEOS]
    assert not car.client.offers("direct-uploads")


@pytest.mark.parametrize("answer", [problem(400), problem(404), problem(413), redirect("https://elsewhere.example/")])
async def test_a_store_that_does_not_take_it_is_no_reason_to_set_the_file_aside(
    answer: Answer, cloud: FakeCloud, stranger: FakeCloud, tmp_path: Path, car: Sender
) -> None:
    stranger.handler = lambda _: answer
    cloud.handler = offering(lambda: {"bev.mp4": {"url": f"{stranger.url}/x"}})
    recorded = await RecordedPart.video(tmp_path, noise(1000))
    await car.client.probe()
    if answer.status < 400:
        faults = await car.send_until_there(recorded, between=lambda: setattr(stranger, "handler", well_behaved))
        assert len(faults) == 1
        return
    await car.send(recorded)
    assert [seen.path for seen in cloud.to("POST")] == [VIDEOS]
    assert recorded.remembered[-1] is None


async def test_a_store_that_refuses_every_address_is_given_time_and_moves_no_gate(
    cloud: FakeCloud, stranger: FakeCloud, tmp_path: Path, car: Sender
) -> None:
    stranger.handler = lambda _: problem(403, "SignatureDoesNotMatch")
    cloud.handler = offering(lambda: {"bev.mp4": {"url": f"{stranger.url}/x"}})
    recorded = await RecordedPart.video(tmp_path, noise(1000))
    await car.client.probe()
    with pytest.raises(NotNowError, match="fresh address"):
        await car.send(recorded)
    assert len(stranger.to("PUT", "/x")) == 3
    assert car.client.gate.passage(car.clock.monotonic()).open


async def test_an_address_on_the_backends_own_host_gets_no_credential_either(
    cloud: FakeCloud, tmp_path: Path, car: Sender
) -> None:
    cloud.handler = offering(lambda: {"bev.mp4": {"url": f"{cloud.url}/direct/x"}})
    recorded = await RecordedPart.video(tmp_path, noise(1000))
    await car.client.probe()
    await car.send(recorded)
    (put,) = cloud.to("PUT", "/direct/x")
    assert put.body == noise(1000)
    assert not {"authorization", "x-vehicle-id", "x-fleet-id"} & put.headers.keys()
    assert "vehicle" not in put.headers["user-agent"]


async def test_a_complete_that_is_lost_is_told_again_under_the_same_key(
    cloud: FakeCloud, stranger: FakeCloud, tmp_path: Path, car: Sender
) -> None:
    cloud.handler = offering(
        lambda: {"bev.mp4": {"url": f"{stranger.url}/x"}}, complete=Answer(201, b"{}", cut=5, reset=True)
    )
    recorded = await RecordedPart.video(tmp_path, noise(1000))
    await car.client.probe()

    def mend() -> None:
        cloud.handler = offering(lambda: {"bev.mp4": {"url": f"{stranger.url}/x"}}, complete=problem(409))

    assert len(await car.send_until_there(recorded, between=mend)) == 1
    keys = {seen.key for seen in cloud.to("POST", f"{VIDEOS}/bev.mp4/complete")}
    assert len(keys) == 1


@pytest.mark.parametrize("status", [400, 410, 422])
@pytest.mark.parametrize("where", ["uploads", "complete"])
async def test_a_backend_that_refuses_it_gets_the_file_another_way_and_nothing_is_set_aside(
    where: str, status: int, cloud: FakeCloud, stranger: FakeCloud, tmp_path: Path, car: Sender
) -> None:
    usual = offering(lambda: {"bev.mp4": {"url": f"{stranger.url}/x"}})
    cloud.handler = lambda seen: problem(status) if seen.path.endswith(f"/{where}") else usual(seen)
    recorded = await RecordedPart.video(tmp_path, noise(1000))
    await car.client.probe()
    await car.send(recorded)
    assert cloud.to("POST")[-1].path == VIDEOS
    assert car.client.offers("direct-uploads"), "it was about this file"
    assert recorded.part.upload_url is None
