"""The kit finds the reference backend conforming, with and without its extensions, and each planted fault."""

import asyncio
import json
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any
from xml.etree import ElementTree as ET

import httpx
import pytest

from sentinel_sync.backend.app import create_app
from sentinel_sync.backend.publishing import ModelRelease, ModelSignature, publish_model
from sentinel_sync.backend.server import running_server
from sentinel_sync.backend.settings import BackendSettings, Extensions
from sentinel_sync.base.errors import UnreachableError
from sentinel_sync.cli.main import main
from sentinel_sync.conformance.judge import judge
from sentinel_sync.conformance.output import as_junit, evidence, hint
from sentinel_sync.conformance.run import CHECKS, Level, Verdict
from tests.conformance.broken import KEY, PLANTED, Backend, Broken, Planted, answers, is_to, sets, tells

EVERY = Extensions(direct_uploads=True, scenario_catalogue=True)
NONE = Extensions(**dict.fromkeys(EVERY.__dataclass_fields__, False))


def settings(folder: Path, extensions: Extensions = EVERY) -> BackendSettings:
    file = folder / "model.pt"
    file.write_bytes(bytes(range(256)) * 20)
    release = ModelRelease(name="yolov8m", version="v1.0.0", signatures=[ModelSignature("A" * 86 + "==")])
    publish_model(folder / "backend", file, release)
    return BackendSettings(folder=folder / "backend", api_keys=(KEY,), extensions=extensions)


@pytest.fixture
async def backend(tmp_path: Path) -> AsyncIterator[httpx.AsyncBaseTransport]:
    app = create_app(await asyncio.to_thread(settings, tmp_path))
    async with app.router.lifespan_context(app):
        yield httpx.ASGITransport(app)


async def test_the_reference_backend_conforms_over_a_socket_and_twice(tmp_path: Path) -> None:
    async with running_server(settings(tmp_path)) as url:
        for _ in range(2):
            found = await judge(url, KEY)
            assert [(it.name, it.why) for it in found if it.verdict is not Verdict.MET] == []
            assert [it.name for it in found] == [one.name for one in CHECKS]
    assert len({one.name for one in CHECKS}) == len(CHECKS)


async def test_a_backend_without_extensions_conforms_too(tmp_path: Path) -> None:
    app = create_app(settings(tmp_path, NONE))
    async with app.router.lifespan_context(app):
        found = await judge("http://backend", KEY, transport=httpx.ASGITransport(app))
    assert [(it.name, it.why) for it in found if it.verdict is Verdict.MISSED] == []
    absent = {it.name for it in found if it.verdict is Verdict.ABSENT}
    assert absent >= {it.name for it in found if it.level is Level.EXTENSION}


def test_there_are_enough_faults_and_each_check_has_one() -> None:
    assert len(PLANTED) >= 30
    assert len({planted.what for planted in PLANTED}) == len(PLANTED)
    judged = {planted.found_by for planted in PLANTED}
    assert {one.name for one in CHECKS} - judged == {"batch not packed"}


@pytest.mark.parametrize("planted", PLANTED, ids=lambda planted: planted.what)
async def test_each_planted_fault_is_found(planted: Planted, backend: httpx.AsyncBaseTransport) -> None:
    broken = Broken(backend, planted.fault)
    found = await judge("http://backend", KEY, only=planted.found_by, patience_seconds=0.0, transport=broken)
    finding = next(it for it in found if it.name == planted.found_by)
    assert finding.verdict is Verdict.MISSED, finding
    shown = evidence(finding)
    assert finding.row in shown
    assert finding.exchanges or "health" in finding.name
    assert KEY not in shown


async def test_a_key_that_is_good_for_one_vehicle_alone_can_be_judged_with(backend: httpx.AsyncBaseTransport) -> None:
    async def fault(request: httpx.Request, ask: Backend) -> httpx.Response:
        is_own = (request.headers.get("x-fleet-id"), request.headers.get("x-vehicle-id")) == ("bench", "bench_1")
        return await ask(request) if is_own else httpx.Response(403, json={}, request=request)

    for _ in range(2):  # what is there already is not taken for the run's
        found = await judge("http://backend", KEY, own_ids=("bench", "bench_1"), transport=Broken(backend, fault))
        missed = {finding.name: finding.why for finding in found if finding.verdict is Verdict.MISSED}
        assert missed.keys() <= {"health"}, missed


async def test_figures_that_come_a_little_later_are_waited_for(backend: httpx.AsyncBaseTransport) -> None:
    late = 2

    async def fault(request: httpx.Request, ask: Backend) -> httpx.Response:
        nonlocal late
        answer = await ask(request)
        if is_to(request, "GET", "/fleet/.*/statistics") and late:
            late -= 1
            return httpx.Response(200, json={"total_trips": 0}, request=request)
        return answer

    found = await judge("http://backend", KEY, only="trip counted once", transport=Broken(backend, fault))
    assert (found[0].verdict, late) == (Verdict.MET, 0)


async def test_an_odd_answer_is_a_miss_and_no_end_of_the_run(backend: httpx.AsyncBaseTransport) -> None:
    odd = tells("GET", "/scenarios/.*/uploads", sets("uploads", {"bev.mp4": {"part_size": 10, "parts": [{}]}}))
    found = await judge("http://backend", KEY, only="direct upload", transport=Broken(backend, odd))
    assert [finding.why.startswith("its answer cannot be judged (KeyError") for finding in found] == [True, True]


async def test_a_backend_that_answers_with_nothing_is_no_crash_of_the_kit() -> None:
    def silent(_: httpx.Request) -> httpx.Response:
        raise httpx.RemoteProtocolError("nothing came")

    found = await judge("http://backend", KEY, only="health", transport=httpx.MockTransport(silent))
    assert found[0].why.startswith("GET /health: no answer")


def test_an_address_at_which_nobody_is_gets_no_verdict(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["conformance", "http://127.0.0.1:9", "--api-key", "k"]) != 0
    said = capsys.readouterr()
    assert "no backend answers at http://127.0.0.1:9" in said.err
    assert said.out == ""


async def test_a_path_at_which_nothing_is_known_gets_no_verdict(tmp_path: Path) -> None:
    async with running_server(settings(tmp_path)) as url:
        with pytest.raises(UnreachableError) as caught:
            await judge(f"{url}/v2", KEY)
        assert str(caught.value) == (f"{url}/v2 answers 404 to everything, /health and /models too: is the path right?")


@pytest.mark.parametrize("path", ["/health", "/models"])
async def test_a_backend_without_one_route_is_judged_all_the_same(path: str, backend: httpx.AsyncBaseTransport) -> None:
    missing = answers("GET", path, 404, {})
    found = await judge("http://backend", KEY, only="health", transport=Broken(backend, missing))
    assert [finding.name for finding in found] == ["health", "health fields"]


@pytest.mark.parametrize(
    ("status", "own_ids", "advice"),
    [
        (401, None, "the key is not accepted (401)"),
        (403, None, "name them with --fleet-id and --vehicle-id"),
        (403, ("bench", "bench_1"), "good for this --fleet-id and --vehicle-id?"),
        (500, None, None),
    ],
)
async def test_what_is_the_keys_fault_is_said_to_be(
    status: int, own_ids: tuple[str, str] | None, advice: str | None, backend: httpx.AsyncBaseTransport
) -> None:
    refusing = Broken(backend, answers("(GET|POST)", "/(trips|fleet/.*)", status, {}))
    found = await judge("http://backend", KEY, only="trip", own_ids=own_ids, transport=refusing)
    said = hint(found, has_own_ids=own_ids is not None)
    assert (said is None) if advice is None else (advice in str(said))


class TestCommand:
    async def test_it_prints_a_table_writes_junit_and_says_so_in_its_code(
        self, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setenv("SENTINEL_BACKEND_API_KEY", KEY)
        async with running_server(settings(tmp_path)) as url:
            code = await asyncio.to_thread(main, ["conformance", url, "--junit", str(tmp_path / "found.xml")])
            text = capsys.readouterr().out
            assert (code, "it conforms: " in text, "MISS" in text) == (0, True, False)
            suite = ET.parse(tmp_path / "found.xml").getroot()
            assert (int(suite.attrib["tests"]), suite.attrib["failures"]) == (len(CHECKS), "0")
            code = await asyncio.to_thread(main, ["conformance", url, "--json", "--only", "trip again"])
            said: dict[str, Any] = json.loads(capsys.readouterr().out)
            assert (code, said["conforms"], [one["name"] for one in said["checks"]]) == (0, True, ["trip again"])
            code = await asyncio.to_thread(main, ["conformance", url, "--api-key", "wrong", "--only", "trip"])
            captured = capsys.readouterr()
            assert (code, captured.out) == (1, "")
            assert "does not accept the key (401): is it one that a vehicle may use, and whole?" in captured.err

    @pytest.mark.parametrize(
        ("words", "why"),
        [
            (["http://backend.example.com", "--api-key", "k"], "use https"),
            (["ftp://backend", "--api-key", "k"], "no http(s) URL"),
            (["http://127.0.0.1:9"], "a key is needed"),
            (
                ["http://127.0.0.1:9", "--api-key", "k", "--only", "odd"],
                "no check has 'odd' in its name: health",
            ),
            (["http://127.0.0.1:9", "--api-key-file", "/no/such"], "cannot read"),
            (["https://127.0.0.1:9", "--api-key", "k", "--ca-file", "/no/such"], "no PEM"),
        ],
    )
    def test_bad_usage_is_said_in_one_line(
        self, words: list[str], why: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.delenv("SENTINEL_BACKEND_API_KEY", raising=False)
        assert main(["conformance", *words]) == 2
        assert why in capsys.readouterr().err


async def test_what_xml_cannot_hold_is_left_out(backend: httpx.AsyncBaseTransport) -> None:
    fault = answers("GET", "/health", 200, {"status": "\x00\x1b[31m"})
    found = await judge("http://backend", KEY, only="health", transport=Broken(backend, fault))
    failure = ET.fromstring(as_junit(found)).find(".//failure")
    assert failure is not None
    assert is_to(httpx.Request("GET", "http://backend/health"), "GET", "/health")
