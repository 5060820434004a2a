"""The console over a real socket: what it shows, who may change something, and what becomes of bad input."""

import asyncio
import json
import re
import shutil
import socket
import threading
from collections import deque
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from typing import Any, Self

import httpx
import pytest

from sentinel_sync.agent import SyncAgent
from sentinel_sync.base.errors import ConfigurationError, ScenarioError
from sentinel_sync.console import ConsoleAddress, running_console
from sentinel_sync.console import server as server_module
from sentinel_sync.settings import Settings
from sentinel_sync.store.outbox import NewItem
from tests.conftest import FIXTURES
from tests.fakes.cloud import Answer, FakeCloud, json_answer, settings_for

PATIENCE = 10.0
DOCUMENTED = Path(__file__).parents[2] / "docs" / "console-api.md"


@asynccontextmanager
async def _console(folder: Path, cloud: FakeCloud, **overrides: Any) -> AsyncIterator[tuple[SyncAgent, ConsoleAddress]]:
    known = {
        "enabled": True,
        "state_dir": folder / "state",
        "trip_queue_file": folder / "trip_queue.json",
        "scenarios_dir": folder / "scenarios",
        "profiles_dir": folder / "profiles",
        "models_dir": folder / "models",
        "compress_videos": False,
    }
    settings = Settings(cloud=settings_for(cloud, **(known | overrides)))
    async with SyncAgent(settings) as agent, running_console(agent, "127.0.0.1", 0) as address:
        yield agent, address


@pytest.fixture
async def console(tmp_path: Path, cloud: FakeCloud) -> AsyncIterator[tuple[SyncAgent, ConsoleAddress]]:
    async with _console(tmp_path, cloud) as both:
        yield both


@pytest.fixture
async def page(console: tuple[SyncAgent, ConsoleAddress]) -> AsyncIterator[httpx.AsyncClient]:
    """A browser without the token."""
    async with httpx.AsyncClient(base_url=console[1].url, trust_env=False, timeout=PATIENCE) as client:
        yield client


def _token(address: ConsoleAddress) -> dict[str, str]:
    return {"Authorization": f"Bearer {address.url_with_token.partition('token=')[2]}"}


def _names(answer: Any) -> set[str]:
    """The names of all fields of an answer."""
    if isinstance(answer, list):
        return set().union(*map(_names, answer))
    return set(answer) | set().union(*map(_names, answer.values())) if isinstance(answer, dict) else set()


class TestLooking:
    async def test_the_page_and_its_files_come_with_a_strict_policy(self, page: httpx.AsyncClient) -> None:
        for path, kind in (("/", "text/html"), ("/console.js", "text/javascript"), ("/console.css", "text/css")):
            answer = await page.get(path)
            assert answer.status_code == 200
            assert answer.headers["Content-Type"].startswith(kind)
            policy = answer.headers["Content-Security-Policy"]
            assert "default-src 'none'" in policy
            assert "unsafe" not in policy

    async def test_no_page_asks_another_host(self, page: httpx.AsyncClient) -> None:
        for path in ("/", "/console.js", "/console.css", "/chart.js"):
            text = (await page.get(path)).text.replace("http://www.w3.org/2000/svg", "")
            assert "http:" not in text
            assert "https:" not in text
            assert "//cdn" not in text

    async def test_a_long_list_is_paged_and_looked_through(
        self, page: httpx.AsyncClient, console: tuple[SyncAgent, ConsoleAddress]
    ) -> None:
        outbox = console[0].store.outbox
        for number in range(120):
            await outbox.put(NewItem("other", f"item-{number}", b"{}"))
        (odd, *_) = await outbox.items(kind="other")
        await outbox.defer(odd.seq, 60.0, "the Server was busy", connectivity=False)
        waiting = (await page.get("/api/outbox")).json()["waiting"]
        assert (len(waiting["rows"]), waiting["total"]) == (50, 120)
        waiting = (await page.get("/api/outbox", params={"limit": "1000", "find": "ITEM-1"})).json()["waiting"]
        assert (len(waiting["rows"]), waiting["total"]) == (31, 31)
        (found,) = (await page.get("/api/outbox", params={"find": "server was"})).json()["waiting"]["rows"]
        assert found["key"] == odd.key
        for limit in ("0", "1001", "-1", "many"):
            assert (await page.get("/api/outbox", params={"limit": limit})).status_code == 400
        nothing = (await page.get("/api/recordings", params={"find": "no such"})).json()
        assert nothing == {"rows": [], "total": 0}

    async def test_the_last_day_tells_of_connection_and_of_what_was_done(
        self, page: httpx.AsyncClient, console: tuple[SyncAgent, ConsoleAddress]
    ) -> None:
        agent = console[0]
        for _ in range(2):
            await agent.trips.start_trip()
            await agent.trips.end_trip()
        await agent.flush(timeout=20)
        day = (await page.get("/api/day")).json()
        assert day["end"] - day["begin"] == 86_400.0
        assert [span["status"] for span in day["connection"]] == ["online"]
        assert day["connection"][0]["to"] == day["end"]
        rows = {row["name"]: row["marks"] for row in day["rows"]}
        assert sum(mark["count"] for mark in rows["Trips"]) == 2
        assert (rows["Recordings"], rows["Models"]) == ([], [])
        (today,) = (await page.get("/api/status")).json()["traffic"]["days"]
        assert today["used_bytes"] > 0

    async def test_no_secret_is_in_any_answer(
        self, page: httpx.AsyncClient, console: tuple[SyncAgent, ConsoleAddress]
    ) -> None:
        token = _token(console[1])["Authorization"].removeprefix("Bearer ")
        for path in ("/", "/console.js", "/api/status", "/api/outbox", "/api/connectivity", "/api/fleet"):
            text = (await page.get(path)).text
            assert token not in text
            assert "key-of-the-tests" not in text

    async def test_events_begin_with_the_status_and_go_on_with_what_changes(
        self, page: httpx.AsyncClient, console: tuple[SyncAgent, ConsoleAddress]
    ) -> None:
        agent, _ = console
        async with asyncio.timeout(PATIENCE), page.stream("GET", "/api/events") as stream:
            statuses = (json.loads(line[6:]) async for line in stream.aiter_lines() if line.startswith("data: "))
            assert (await anext(statuses))["vehicle_id"] == "vehicle_001"
            trip_id = await agent.trips.start_trip()
            async for status in statuses:
                if status["trip_id"] == trip_id:
                    break

    async def test_a_status_is_looked_at_once_for_all_viewers(
        self, page: httpx.AsyncClient, console: tuple[SyncAgent, ConsoleAddress], monkeypatch: pytest.MonkeyPatch
    ) -> None:
        agent, _ = console
        looks = 0
        look = agent.status

        async def counted() -> Any:
            nonlocal looks
            looks += 1
            return await look()

        monkeypatch.setattr(agent, "status", counted)
        async with asyncio.timeout(PATIENCE), asyncio.TaskGroup() as group:
            for _ in range(5):
                group.create_task(_first_event(page))
        assert looks < 5

    async def test_each_answer_has_no_field_that_is_not_documented(
        self, page: httpx.AsyncClient, console: tuple[SyncAgent, ConsoleAddress]
    ) -> None:
        await console[0].store.outbox.put(NewItem("other", "item-1", b"{}"))
        await console[0].scenarios.set_consent(True)
        text = DOCUMENTED.read_text(encoding="utf-8")
        rows = dict(re.findall(r"^\| `GET (/api/\w+)` \| (.*) \|$", text, re.MULTILINE))
        assert len(rows) == 8
        for path in rows.keys() - {"/api/status", "/api/events"}:
            said = set(re.findall(r'"(\w+)"', rows[path])) | set(re.findall(r"`(stale|age)`", rows[path]))
            there = _names((await page.get(path)).json())
            assert there - said == set(), path


class TestRecordings:
    async def test_each_recording_says_where_it_stands_and_why(
        self, page: httpx.AsyncClient, console: tuple[SyncAgent, ConsoleAddress], tmp_path: Path
    ) -> None:
        scenarios = console[0].scenarios
        await scenarios.set_consent(True)
        empty = tmp_path / "scenarios" / "empty"
        empty.mkdir(parents=True)
        with pytest.raises(ScenarioError):
            await scenarios.queue_scenario(empty)
        shown = (await page.get("/api/recordings")).json()
        assert shown["total"] == 1
        ((name, status, _, size_bytes, why),) = shown["rows"]
        assert (name, status, size_bytes) == ("empty", "set aside", 0)
        assert "metadata.json" in why
        assert str(tmp_path) not in why

    async def test_decisions_come_with_what_was_sent_under_them(
        self, page: httpx.AsyncClient, console: tuple[SyncAgent, ConsoleAddress], tmp_path: Path
    ) -> None:
        scenarios = console[0].scenarios
        await scenarios.set_consent(True)
        recording = shutil.copytree(min((FIXTURES / "scenarios").iterdir()), tmp_path / "scenarios" / "first")
        await scenarios.queue_scenario(recording)
        await scenarios.sync_now()
        await scenarios.set_consent(False)
        shown = (await page.get("/api/consents")).json()
        assert [(one["granted"], one["parts"]) for one in shown["decisions"]] == [(False, 0), (True, 6)]
        assert shown["total"] == 6
        assert {(row[1], row[4]) for row in shown["sent"]} == {("first", True)}
        assert {row[5] for row in shown["sent"]} == {shown["decisions"][1]["at"]}


class TestChanging:
    @pytest.mark.parametrize("path", ["/api/consent", "/api/outbox/retry", "/api/models/rollback", "/api/sync"])
    async def test_without_the_token_nothing_changes(self, page: httpx.AsyncClient, path: str) -> None:
        answer = await page.post(path, json={"granted": True})
        assert answer.status_code == 401
        assert "token" in answer.json()["error"]

    async def test_another_origin_changes_nothing_even_with_the_token(
        self, page: httpx.AsyncClient, console: tuple[SyncAgent, ConsoleAddress]
    ) -> None:
        agent, address = console
        headers = {**_token(address), "Origin": "https://evil.example"}
        answer = await page.post("/api/consent", json={"granted": True}, headers=headers)
        assert answer.status_code == 403
        assert await agent.scenarios.get_consent() is None

    @pytest.mark.parametrize("host", ["evil.example", "evil.example:80", ""])
    async def test_a_name_that_somebody_points_here_is_refused(self, page: httpx.AsyncClient, host: str) -> None:
        assert (await page.get("/api/status", headers={"Host": host})).status_code in {400, 421}

    async def test_consent_is_given_and_withdrawn(
        self, page: httpx.AsyncClient, console: tuple[SyncAgent, ConsoleAddress]
    ) -> None:
        agent, address = console
        for granted in (True, False):
            answer = await page.post("/api/consent", json={"granted": granted}, headers=_token(address))
            assert answer.status_code == 200
            consent = await agent.scenarios.get_consent()
            assert consent is not None
            assert consent.granted is granted
            shown = (await page.get("/api/status")).json()
            assert shown["scenarios"]["consent"] is granted

    async def test_an_item_set_aside_is_shown_and_tried_again(
        self, page: httpx.AsyncClient, console: tuple[SyncAgent, ConsoleAddress]
    ) -> None:
        agent, address = console
        await agent.store.outbox.put(NewItem("other", "item-1", b"{}"))
        (item,) = await agent.store.outbox.items(kind="other")
        await agent.store.outbox.set_aside(item.seq, "answered 422")
        (shown,) = (await page.get("/api/outbox")).json()["set_aside"]["rows"]
        assert (shown["key"], shown["reason"]) == ("item-1", "answered 422")
        answer = await page.post("/api/outbox/retry", json={"key": "item-1"}, headers=_token(address))
        assert answer.json() == {"retried": 1}
        assert (await page.get("/api/outbox")).json()["set_aside"] == {"rows": [], "total": 0}
        answer = await page.post("/api/outbox/retry", json={"key": "nobody"}, headers=_token(address))
        assert answer.status_code == 404

    async def test_a_rollback_that_leads_nowhere_says_why(
        self, page: httpx.AsyncClient, console: tuple[SyncAgent, ConsoleAddress]
    ) -> None:
        answer = await page.post("/api/models/rollback", json={"name": "nobody"}, headers=_token(console[1]))
        assert answer.status_code == 409
        assert answer.json()["error"]

    async def test_sync_now_asks_the_backend(
        self, page: httpx.AsyncClient, console: tuple[SyncAgent, ConsoleAddress], cloud: FakeCloud
    ) -> None:
        before = len(cloud.to("GET", "/health"))
        answer = await page.post("/api/sync", json={}, headers=_token(console[1]))
        assert answer.json() == {"online": True}
        assert len(cloud.to("GET", "/health")) > before

    @pytest.mark.parametrize(
        "body", [b"", b"[]", b"null", b"{", b'{"granted": "yes"}', b"[" * 4000, b"x" * 5000], ids=len
    )
    async def test_bad_words_are_refused_and_the_console_goes_on(
        self, page: httpx.AsyncClient, console: tuple[SyncAgent, ConsoleAddress], body: bytes
    ) -> None:
        answer = await page.post("/api/consent", content=body, headers=_token(console[1]))
        assert answer.status_code in {400, 413}
        assert answer.json()["error"]
        assert (await page.get("/api/status")).status_code == 200


class TestFleet:
    async def test_figures_come_with_units_and_what_failed_says_why(
        self, page: httpx.AsyncClient, cloud: FakeCloud
    ) -> None:
        cloud.script("GET", "/fleet/fleet_alpha/statistics", json_answer(data={"total_distance": 2_500.0}))
        cloud.script("GET", "/fleet/fleet_alpha/alerts", json_answer(data={"alerts": 5}))
        fleet = (await page.get("/api/fleet")).json()
        assert ["Total distance", "2.5 km"] in fleet["statistics"]["figures"]
        assert fleet["alerts"]["error"]

    @pytest.mark.parametrize("query", ["days=0", "days=x", "days=1000000000", "metric=a/b", "metric="])
    async def test_a_question_that_cannot_be_is_refused(self, page: httpx.AsyncClient, query: str) -> None:
        assert (await page.get(f"/api/fleet?{query}")).status_code == 400

    @pytest.mark.parametrize(
        "body",
        [
            b"<html>",
            b"null",
            b'{"alerts": 5}',
            b'{"rankings": {}}',
            pytest.param(b'{"trend": "' + b"x" * 10_000_000 + b'"}', id="10 MB"),
            pytest.param(b'{"alerts": [' + b"{}," * 2_000_000 + b"{}]}", id="two million alerts"),
        ],
    )
    async def test_a_backend_out_of_its_mind_leaves_the_page_alive(
        self, page: httpx.AsyncClient, cloud: FakeCloud, body: bytes
    ) -> None:
        for path in ("statistics", "trends", "rankings", "alerts"):
            cloud.script("GET", f"/fleet/fleet_alpha/{path}", Answer(200, body))
        fleet = (await page.get("/api/fleet")).json()
        # An answer may leave out every field, and then lists nothing; one that is none is an error.
        spoilt = [
            part for part in ("trend", "rankings", "alerts") if not body.startswith(b"{") or part.encode() in body
        ]
        if b"[{}" not in body:
            assert all("error" in fleet[part] for part in spoilt)
        assert fleet.keys() >= {"trend", "rankings", "alerts"}
        if len(body) > 1_000_000:
            assert "100,000 values" in fleet["alerts"]["error"] or "8388608 bytes" in fleet["alerts"]["error"]
        assert (await page.get("/api/status")).status_code == 200


class TestItsAddress:
    async def test_the_token_lies_in_a_file_for_its_owner_and_outlives_a_restart(
        self, tmp_path: Path, cloud: FakeCloud
    ) -> None:
        seen = []
        for _ in range(2):
            async with _console(tmp_path, cloud) as (_, address):
                assert address.token_file.stat().st_mode & 0o777 == 0o600
                seen.append(_token(address))
        assert seen[0] == seen[1]

    async def test_a_token_that_others_can_read_is_replaced(self, tmp_path: Path, cloud: FakeCloud) -> None:
        async with _console(tmp_path, cloud) as (_, address):
            before, file = _token(address), address.token_file
        file.chmod(0o644)
        async with _console(tmp_path, cloud) as (_, address):
            assert _token(address) != before

    @pytest.mark.parametrize("host", ["0.0.0.0", "192.168.1.1", "example.com"])
    async def test_only_this_machine_is_served(self, tmp_path: Path, cloud: FakeCloud, host: str) -> None:
        async with _console(tmp_path, cloud) as (agent, _):
            with pytest.raises(ConfigurationError, match="loopback"):
                async with running_console(agent, host, 0):
                    pytest.fail("it serves others")

    async def test_a_taken_port_is_said(self, tmp_path: Path, cloud: FakeCloud) -> None:
        with socket.socket() as taken:
            taken.bind(("127.0.0.1", 0))
            taken.listen()
            async with _console(tmp_path, cloud) as (agent, _):
                with pytest.raises(ConfigurationError, match="another port"):
                    async with running_console(agent, "127.0.0.1", taken.getsockname()[1]):
                        pytest.fail("two on one port")

    async def test_leaving_ends_a_stream_that_is_being_read(self, tmp_path: Path, cloud: FakeCloud) -> None:
        async with _console(tmp_path, cloud) as (_, address):
            client = httpx.AsyncClient(base_url=address.url, trust_env=False)
            stream = await client.send(client.build_request("GET", "/api/events"), stream=True)
            assert stream.status_code == 200
            lines = stream.aiter_lines()
            assert await anext(lines)
        # Ended in order, not cut off: nothing is raised.
        assert all([not line.startswith("garbage") async for line in lines])
        await client.aclose()


async def _first_event(page: httpx.AsyncClient) -> None:
    async with page.stream("GET", "/api/events") as stream:
        async for line in stream.aiter_lines():
            if line.startswith("data: "):
                return


def _open_files() -> int:
    return len(list(Path("/proc/self/fd").iterdir()))


def _connect_until_refused(host: str, port: int, came: deque[socket.socket], many: threading.Event) -> None:
    while True:
        if len(came) == came.maxlen:
            many.set()
            came.popleft().close()
        try:
            came.append(socket.create_connection((host, port), timeout=PATIENCE))
        except OSError:
            return


class Intruders:
    """Connections to the console's port that stay open as far as it is up to them."""

    def __init__(self) -> None:
        self._writers: list[asyncio.StreamWriter] = []
        self.reading: list[asyncio.Task[None]] = []

    async def open(self, address: ConsoleAddress, number: int, said: bytes) -> None:
        """So many, each with what it says at once."""
        url = httpx.URL(address.url)
        for _ in range(number):
            reader, writer = await asyncio.open_connection(url.host, url.port)
            self._writers.append(writer)
            writer.write(said)
            self.reading.append(asyncio.create_task(_until_ended(reader)))

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        for writer in self._writers:
            writer.close()
        await asyncio.gather(*self.reading)
        for writer in self._writers:
            with suppress(ConnectionError):
                await writer.wait_closed()


async def _until_ended(reader: asyncio.StreamReader) -> None:
    with suppress(ConnectionError):
        while await reader.read(1 << 16):
            pass


class TestManyConnections:
    """G10: whoever reaches the port takes neither the agent's file descriptors nor its time."""

    @pytest.mark.parametrize(
        "said",
        [
            b"",
            b"GET / HTTP/1.1\r\n",
            b"GET / HTTP/1.1\r\nHost: 127.0.0.1\r\nX-Slow: ",
            b"\x16\x03\x01",
            b"POST /api/x HTTP/1.1\r\nContent-Le",
        ],
    )
    async def test_one_without_a_request_is_ended(
        self, tmp_path: Path, cloud: FakeCloud, monkeypatch: pytest.MonkeyPatch, said: bytes
    ) -> None:
        monkeypatch.setattr(server_module, "_HEAD_SECONDS", 0.2)
        async with _console(tmp_path, cloud) as (_, address), Intruders() as intruders:
            await intruders.open(address, 3, said)
            async with asyncio.timeout(PATIENCE):
                await asyncio.gather(*intruders.reading)
            async with httpx.AsyncClient(base_url=address.url, trust_env=False) as client:
                assert (await client.get("/")).status_code == 200, "and the page is there"

    async def test_no_more_are_open_than_the_bound(self, console: tuple[SyncAgent, ConsoleAddress]) -> None:
        agent, address = console
        before, count = _open_files(), 300
        host = httpx.URL(address.url).netloc.decode()
        async with Intruders() as intruders:
            await intruders.open(address, count, f"GET /api/events HTTP/1.1\r\nHost: {host}\r\n\r\n".encode())
            async with asyncio.timeout(PATIENCE):
                while sum(task.done() for task in intruders.reading) < count - server_module._MOST_CONNECTIONS:
                    waiting = [task for task in intruders.reading if not task.done()]
                    await asyncio.wait(waiting, return_when=asyncio.FIRST_COMPLETED)
            # The intruders' ends are this process's as well.
            assert _open_files() - before <= count + server_module._MOST_CONNECTIONS + 10
            assert (await agent.status()).outbox.waiting == 0

    async def test_none_outlives_the_console(self, tmp_path: Path, cloud: FakeCloud) -> None:
        """Nor one that came in its last moment: what it asked for would be done by an agent that has stopped."""
        came = deque[socket.socket](maxlen=20)
        async with _console(tmp_path, cloud) as (_, address):
            url = httpx.URL(address.url)
            many = threading.Event()
            coming = asyncio.create_task(asyncio.to_thread(_connect_until_refused, url.host, url.port or 0, came, many))
            assert await asyncio.to_thread(many.wait, PATIENCE)
        await coming
        for one in came:
            one.settimeout(PATIENCE)
            with one, suppress(ConnectionResetError):
                assert await asyncio.to_thread(one.recv, 1) == b""

    async def test_the_status_names_the_address(self, tmp_path: Path, cloud: FakeCloud) -> None:
        """G3."""
        async with _console(tmp_path, cloud) as (agent, address):
            assert (await agent.status()).console == address.url
            shown = json.loads((tmp_path / "state" / "status.json").read_text())
            assert shown["console"] == address.url
            assert "token=" not in json.dumps(shown)

    async def test_an_agent_that_was_stopped_first_is_in_nobodys_way(self, tmp_path: Path, cloud: FakeCloud) -> None:
        async with _console(tmp_path, cloud) as (agent, _):
            await agent.aclose()
