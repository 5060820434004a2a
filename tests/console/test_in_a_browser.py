"""The console's page in a real Chromium: it loads without errors, is live, is used, and survives the agent's restart.

With SCREENSHOTS=1 the pictures in docs/screenshots are taken anew.
"""

import os
import re
import shutil
import subprocess
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any, Literal

import pytest
from playwright.async_api import Browser, Page, async_playwright, expect

from sentinel_sync.agent import SyncAgent
from sentinel_sync.backend import BackendSettings, ModelRelease, ModelSignature, publish_model, running_server
from sentinel_sync.console import running_console
from sentinel_sync.models.rules.releases import key_id
from sentinel_sync.settings import CloudSettings, Settings
from sentinel_sync.store.outbox import NewItem
from tests.conftest import FIXTURES
from tests.models.vehicle import KEY, NAME, TRUSTED, content_of, sign

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
API_KEY = "key-of-the-browser-tests"
AXE = Path(__file__).parent / "axe"
RECORDINGS = FIXTURES / "scenarios"
SMALLEST = max(path.name for path in RECORDINGS.iterdir())
SCREENSHOTS = Path(__file__).parents[2] / "docs" / "screenshots"
#: No sandbox, because CI runs as root; no traffic of the browser's own.
FLAGS = [
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
]


pytestmark = pytest.mark.skipif(CHROMIUM is None, reason="there is no Chromium: install Debian's package chromium")


@pytest.fixture
async def browser() -> AsyncIterator[Browser]:
    async with async_playwright() as playwright:
        browser = await playwright.chromium.launch(executable_path=CHROMIUM, args=FLAGS)
        yield browser
        await browser.close()


@pytest.fixture
async def backend(tmp_path: Path) -> AsyncIterator[str]:
    async with running_server(BackendSettings(folder=tmp_path / "backend", api_keys=(API_KEY,))) as url:
        yield url


@pytest.fixture
async def page(browser: Browser) -> AsyncIterator[Page]:
    """A page that fails its test where anything went wrong on it."""
    page = await browser.new_page(viewport={"width": 1200, "height": 900}, color_scheme="light")
    wrong: list[str] = []
    page.on("console", lambda message: wrong.append(message.text) if message.type == "error" else None)
    page.on("pageerror", lambda error: wrong.append(str(error)))
    yield page
    away = [text for text in wrong if "ERR_CONNECTION_REFUSED" in text or "ERR_INCOMPLETE_CHUNKED" in text]
    assert [text for text in wrong if text not in away] == []


def _settings(folder: Path, url: str, **more: Any) -> Settings:
    return Settings(
        cloud=CloudSettings.model_validate(
            {
                "enabled": True,
                "api_url": url,
                "api_key": API_KEY,
                "vehicle_id": "vehicle_001",
                "fleet_id": "fleet_alpha",
                "rate_limit": 0,
                "state_dir": folder / "state",
                "trip_queue_file": folder / "trip_queue.json",
                "scenarios_dir": folder / "scenarios",
                "profiles_dir": folder / "profiles",
                "models_dir": folder / "models",
                **more,
            }
        )
    )


async def _picture(page: Page, name: str) -> None:
    if os.environ.get("SCREENSHOTS"):
        SCREENSHOTS.mkdir(exist_ok=True)
        await page.screenshot(path=SCREENSHOTS / f"{name}.png", full_page=True)


async def _drive(agent: SyncAgent) -> None:
    await agent.trips.start_trip()
    agent.trips.update_trip(distance_delta=12_000.0, speed=15.0, risk_score=0.2, alert_urgency="warning")
    await agent.trips.end_trip()
    await agent.flush(timeout=20)


@pytest.fixture(scope="module")
def axe(tmp_path_factory: pytest.TempPathFactory) -> str:
    """The source of axe-core, brought by npm from its lock file."""
    npm = shutil.which("npm")
    if npm is None:
        pytest.skip("there is no npm to bring axe-core: install Node.js")
    folder = tmp_path_factory.mktemp("axe")
    for name in ("package.json", "package-lock.json"):
        shutil.copy(AXE / name, folder)
    brought = subprocess.run(
        [npm, "ci", "--ignore-scripts", "--no-audit", "--no-fund"], cwd=folder, capture_output=True, check=False
    )
    if brought.returncode != 0:
        pytest.skip("npm cannot bring axe-core: is there a registry within reach?")
    return (folder / "node_modules" / "axe-core" / "axe.min.js").read_text(encoding="utf-8")


async def test_a_technicians_visit(tmp_path: Path, backend: str, page: Page) -> None:
    """What it shows, consent, a failed item tried again: by mouse and by keyboard."""
    async with SyncAgent(_settings(tmp_path, backend)) as agent, running_console(agent, "127.0.0.1", 0) as console:
        await _drive(agent)
        await page.goto(console.url_with_token, wait_until="domcontentloaded")
        await expect(page.locator("#live")).to_have_text("live")
        await expect(page.locator("#connectivity")).to_contain_text("online")
        assert "token" not in page.url

        await expect(page.locator("#outbox")).to_contain_text("Sent so far1")
        await page.locator("#metric").select_option("total_distance")
        await expect(page.locator("#trend .point")).to_have_count(1)
        await expect(page.locator("#statistics")).to_contain_text("12.0 km")
        # Round numbers beside the axis, and a severity that is no colour alone.
        for mark in ("10 km", "15 km"):  # the chart of the metric before stands until the answer for this one is here
            await expect(page.locator("#trend text").get_by_text(mark, exact=True)).to_have_count(1)
        await expect(page.locator("#alerts .warn")).to_have_text("⚠ warning")
        await expect(page.locator("#day")).to_contain_text("Connection")
        await expect(page.locator("#day .span.online")).to_have_count(1)
        await expect(page.locator("#day-words")).to_contain_text("trips: 1")
        await expect(page.locator("#data-days .bar")).to_have_count(1)
        await expect(page.locator("#data-words")).to_contain_text("in 31 days")
        await _picture(page, "console")

        consent = page.get_by_role("switch")
        await expect(consent).to_have_attribute("aria-checked", "false")
        await consent.focus()
        await page.keyboard.press("Space")
        await expect(consent).to_have_attribute("aria-checked", "true")
        given = await agent.scenarios.get_consent()
        assert given is not None
        assert given.granted
        await expect(consent).to_be_focused()

        await agent.store.outbox.put(NewItem("other", "item-1", b"{}"))
        (item,) = await agent.store.outbox.items(kind="other")
        await agent.store.outbox.set_aside(item.seq, "answered 422 (<b>markup</b> is text here)")
        await expect(page.locator("#set-aside")).to_contain_text("<b>markup</b>")
        await expect(page.locator("#health")).to_contain_text("One trouble1 item was set aside")
        await _picture(page, "console-set-aside")
        await page.get_by_role("button", name="Retry item-1").click()
        await expect(page.locator("#set-aside")).to_have_text("nothing is set aside")
        await expect(page.locator("#health")).to_have_text("✓ All is well.")


async def test_a_recording_on_its_way(tmp_path: Path, backend: str, page: Page) -> None:
    """The progress of a real upload moves on the page; afterwards it says what was sent under which consent."""
    # Slow enough to be watched: some eight seconds for the first video.
    settings = _settings(tmp_path, backend, compress_videos=False, upload_bandwidth_limit=30_000)
    async with SyncAgent(settings) as agent, running_console(agent, "127.0.0.1", 0) as console:
        await page.goto(console.url_with_token, wait_until="domcontentloaded")
        await page.get_by_role("switch").click()
        await expect(page.get_by_role("switch")).to_have_attribute("aria-checked", "true")
        recording = RECORDINGS / SMALLEST
        await agent.scenarios.queue_scenario(recording, "high")
        bar = page.locator("#under-way progress")
        await expect(bar).to_have_attribute("aria-label", re.compile(rf"{SMALLEST}, .+\.mp4: uploading"))
        await expect(page.locator("#under-way")).to_contain_text(re.compile(r"a second, \d+ s left"))
        first = await bar.evaluate("bar => bar.value")
        assert 0 < first < 1
        await expect(bar).not_to_have_js_property("value", first)
        assert await bar.evaluate("bar => bar.value") > first
        await _picture(page, "console-upload")

        await page.get_by_text("What was sent under which consent").click()
        await expect(page.locator("#consents")).to_contain_text("granted")
        await expect(page.locator("#uploads")).to_contain_text(f"{SMALLEST}metadata.json")
        await page.get_by_text("Each recording").click()
        await expect(page.locator("#recordings")).to_contain_text(f"{SMALLEST}uploadinghigh")
        # The driver changes his mind: it ends at once, and the page says so.
        await page.get_by_role("switch").click()
        await expect(bar).to_have_count(0)
        await expect(page.locator("#recordings")).to_contain_text("the driver withdrew the consent")
        await expect(page.locator("#consents")).to_contain_text("withdrawn")


async def test_models_are_taken_back_and_profiles_counted(tmp_path: Path, backend: str, page: Page) -> None:
    """Two versions arrive from the backend; a press of a button leads back to the first."""
    profiles = shutil.copytree(FIXTURES / "profiles", tmp_path / "profiles")
    settings = _settings(tmp_path, backend, auto_install_models=True, model_trusted_keys=[TRUSTED])
    async with SyncAgent(settings) as agent, running_console(agent, "127.0.0.1", 0) as console:
        for version in ("v2.1.0", "v2.2.0"):
            _publish(tmp_path, version)
            for update in await agent.models.check_for_updates():
                await agent.models.download_and_install_model(
                    update["name"],
                    update["version"],
                    expected_checksum=update["checksum"],
                    signature=update["signature"],
                )
        await agent.profiles.sync_all_profiles()
        await page.goto(console.url_with_token, wait_until="domcontentloaded")
        models = page.locator("#models")
        await expect(models).to_contain_text(f"{NAME}v2.2.0")
        await expect(page.locator("#model-check")).to_contain_text("Last looked for new versions")
        await expect(page.locator("#profiles")).to_contain_text(f"On this vehicle{len(list(profiles.iterdir()))}")
        await _picture(page, "console-models")
        await page.get_by_role("button", name=f"Roll {NAME} back to v2.1.0").click()
        await expect(models).to_contain_text(f"{NAME}v2.1.0")
        assert (tmp_path / "models" / f"{NAME}.pt").read_bytes() == content_of("v2.1.0")


def _publish(folder: Path, version: str) -> None:
    content = content_of(version)
    file = folder / "new.pt"
    file.write_bytes(content)
    signature = ModelSignature(sign(NAME, version, content), key_id(KEY.public_key().public_bytes_raw()))
    publish_model(folder / "backend", file, ModelRelease(name=NAME, version=version, signatures=[signature]))


async def test_without_the_token_it_shows_and_asks_for_it(tmp_path: Path, backend: str, browser: Browser) -> None:
    page = await browser.new_page(viewport={"width": 390, "height": 844}, color_scheme="dark")
    async with SyncAgent(_settings(tmp_path, backend)) as agent, running_console(agent, "127.0.0.1", 0) as console:
        await page.goto(console.url, wait_until="domcontentloaded")
        await page.get_by_role("switch").click()
        await expect(page.locator("#notice")).to_contain_text("changes take the token")
        assert await agent.scenarios.get_consent() is None
        # Nothing is wider than a phone.
        assert await page.evaluate("document.documentElement.scrollWidth") <= 390
        await _picture(page, "console-phone-dark")
        await page.locator("#token").fill(console.token_file.read_text().strip())
        await page.keyboard.press("Enter")
        await page.get_by_role("switch").click()
        await expect(page.get_by_role("switch")).to_have_attribute("aria-checked", "true")
    await page.close()


async def test_a_long_list_is_paged_found_in_and_keeps_the_focus(
    tmp_path: Path, backend: str, browser: Browser
) -> None:
    """On the narrowest phone, with names that try to turn the page round."""
    page = await browser.new_page(viewport={"width": 320, "height": 700}, color_scheme="light")
    async with SyncAgent(_settings(tmp_path, backend)) as agent, running_console(agent, "127.0.0.1", 0) as console:
        await _drive(agent)
        for number in range(120):
            await agent.store.outbox.put(NewItem("other", f"item-{number:03d}-\u202egnol" + "x" * 60, b"{}"))
        for item in await agent.store.outbox.items(kind="other"):
            await agent.store.outbox.set_aside(item.seq, "answered 422: the schedule of the gate is unknown")
        await page.goto(console.url_with_token, wait_until="domcontentloaded")
        aside = page.locator("#set-aside")
        await expect(aside).to_contain_text("50 of 120")
        await expect(page.locator("#trend svg")).to_have_count(1)
        assert await page.evaluate("document.documentElement.scrollWidth") <= 320
        for place in ("#set-aside", "#alerts", "#day", "#trend", "#data-days"):
            overflow = await page.locator(place).evaluate("place => place.scrollWidth - place.clientWidth")
            assert overflow <= 0, place
        assert await aside.locator("td").first.evaluate("cell => getComputedStyle(cell).unicodeBidi") == "isolate"
        await aside.get_by_role("button", name="More of").click()
        await expect(aside.get_by_role("button", name="Retry item-")).to_have_count(120)

        await page.locator("#find-items").fill("ITEM-007")
        await expect(aside.get_by_role("button", name="Retry item-")).to_have_count(1)
        await page.locator("#find-items").fill("item-01")
        await expect(aside.get_by_role("button", name="Retry item-")).to_have_count(10)
        await aside.get_by_role("button", name="Retry item-013").focus()
        await page.keyboard.press("Enter")
        await expect(aside.get_by_role("button", name="Retry item-")).to_have_count(9)
        await expect(aside.get_by_role("button", name="Retry item-014")).to_be_focused()
        await page.locator("#find-items").fill("no such")
        await expect(aside).to_have_text("none of these")
    await page.close()


async def test_it_works_with_the_backend_away(tmp_path: Path, page: Page) -> None:
    settings = _settings(tmp_path, "http://127.0.0.1:9")
    async with SyncAgent(settings) as agent, running_console(agent, "127.0.0.1", 0) as console:
        await agent.connectivity.probe_now()
        await page.goto(console.url, wait_until="domcontentloaded")
        await expect(page.locator("#connectivity")).to_contain_text("cannot connect")
        await expect(page.locator("#fleet-age")).to_contain_text("GET /fleet")
        await _picture(page, "console-offline")


async def test_it_survives_the_agents_restart(tmp_path: Path, backend: str, page: Page) -> None:
    async with SyncAgent(_settings(tmp_path, backend)) as agent, running_console(agent, "127.0.0.1", 0) as console:
        port = int(console.url.rpartition(":")[2].strip("/"))
        await page.goto(console.url_with_token, wait_until="domcontentloaded")
        await expect(page.locator("#live")).to_have_text("live")
    await expect(page.locator("#live")).to_contain_text("away")
    await expect(page.locator("#as-of")).to_contain_text(re.compile(r"as of .+, \d+ s ago"))
    assert "grayscale" in await page.locator("main").evaluate("main => getComputedStyle(main).filter")
    await _picture(page, "console-agent-away")
    async with SyncAgent(_settings(tmp_path, backend)) as agent, running_console(agent, "127.0.0.1", port):
        await expect(page.locator("#live")).to_have_text("live", timeout=15_000)
        await expect(page.locator("#as-of")).to_be_hidden()
        # The page's token is still good.
        await page.get_by_role("switch").click()
        await expect(page.get_by_role("switch")).to_have_attribute("aria-checked", "true")


@pytest.mark.parametrize("scheme", ["light", "dark"])
async def test_nothing_serious_keeps_anybody_from_using_it(
    tmp_path: Path, backend: str, browser: Browser, axe: str, scheme: Literal["light", "dark"]
) -> None:
    page = await browser.new_page(viewport={"width": 1200, "height": 900}, color_scheme=scheme)
    async with SyncAgent(_settings(tmp_path, backend)) as agent, running_console(agent, "127.0.0.1", 0) as console:
        await _drive(agent)
        await agent.store.outbox.put(NewItem("other", "item-1", b"{}"))
        (item,) = await agent.store.outbox.items(kind="other")
        await agent.store.outbox.set_aside(item.seq, "answered 422")
        await page.goto(console.url, wait_until="domcontentloaded")
        await expect(page.locator("#set-aside")).to_contain_text("item-1")
        await expect(page.locator("#trend .point")).to_have_count(1)
        await page.get_by_role("switch").click()  # the form for the token is part of the page too
        await expect(page.locator("#token-form")).to_be_visible()
        await page.evaluate(axe)
        found = await page.evaluate("axe.run()")
    await page.close()
    assert found["passes"]
    assert [(rule["id"], rule["impact"], rule["nodes"][0]["html"]) for rule in found["violations"]] == []
