"""Nothing finer than two decimals and no raw driver id: not on the wire, not in the state folder, not in a log."""

import hashlib
import hmac
import logging
from pathlib import Path

import pytest

from tests.fakes.clock import FakeClock
from tests.fakes.cloud import FakeCloud
from tests.scenarios.recording import DRIVER, FINE, PSEUDONYM_KEY, vehicle

SECOND = (51.477928, -0.001545)


async def test_the_pseudonym_is_the_contracts(tmp_path: Path, clock: FakeClock) -> None:
    async with vehicle(tmp_path, clock) as car:
        await car.trips.start_trip(driver_id=DRIVER)
        summary = await car.trips.end_trip()
    assert summary is not None
    digest = hmac.new(PSEUDONYM_KEY.encode(), DRIVER.encode(), hashlib.sha256).hexdigest()
    assert summary.driver_id == f"d_{digest[:32]}"


async def test_the_key_may_come_from_a_file(tmp_path: Path, clock: FakeClock) -> None:
    (tmp_path / "key").write_text(f"{PSEUDONYM_KEY}\n")
    async with vehicle(tmp_path, clock, pseudonym_key=None, pseudonym_key_file=tmp_path / "key") as car:
        digest = hmac.new(PSEUDONYM_KEY.encode(), DRIVER.encode(), hashlib.sha256).hexdigest()
        assert car.trips.pseudonym_of(DRIVER) == f"d_{digest[:32]}"


async def test_without_a_pseudonym_key_there_is_no_driver(
    tmp_path: Path, clock: FakeClock, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    async with vehicle(tmp_path, clock, pseudonym_key=None) as car:
        await car.trips.start_trip(driver_id=DRIVER)
        summary = await car.trips.end_trip()
    assert summary is not None
    assert summary.driver_id is None
    assert "trips.no_pseudonym_key" in caplog.text


def traces(folder: Path) -> list[str]:
    """Where anything too fine or too personal lies in a folder: every byte of every file, database and log too."""
    forbidden = [DRIVER, "38.440", "122.714", "51.477", "0.0015", str(FINE["lat"]), str(FINE["lon"])]
    return [
        f"{text} in {path.name}"
        for path in folder.rglob("*")
        if path.is_file()
        for content in [path.read_bytes()]
        for text in forbidden
        if text.encode() in content
    ]


async def test_nothing_finer_or_more_personal_is_ever_stored(
    tmp_path: Path, clock: FakeClock, cloud: FakeCloud, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG)
    cloud.rules.forbidden |= {DRIVER, str(FINE["lat"]), str(FINE["lon"])}
    async with vehicle(tmp_path, clock, cloud) as car:
        await car.trips.start_trip(driver_id=DRIVER, location=FINE)
        car.trips.update_trip(10.0, 5.0, 0.1, location=SECOND)
        await car.trips.checkpoint_step()
        assert traces(tmp_path) == []
        await car.trips.end_trip(location=f"{FINE['lat']}, {FINE['lon']}")
        assert traces(tmp_path) == []
        await car.trips.start_trip(driver_id=DRIVER, location=[FINE["lat"], FINE["lon"]])
        assert await car.trips.sync_now() == 1
        assert traces(tmp_path) == []
    assert traces(tmp_path) == []
    text = "\n".join(record.getMessage() for record in caplog.records)
    assert not [secret for secret in (DRIVER, "38.44", "-122.71", PSEUDONYM_KEY) if secret in text]


async def test_the_search_for_traces_would_find_one(tmp_path: Path) -> None:
    (tmp_path / "leak").write_text(f"... {DRIVER} at {FINE['lat']}")
    assert len(traces(tmp_path)) == 3


async def test_an_error_about_a_place_or_driver_repeats_neither(tmp_path: Path, clock: FakeClock) -> None:
    async with vehicle(tmp_path, clock) as car:
        with pytest.raises(ValueError) as refused:
            await car.trips.start_trip(driver_id=DRIVER, location={"lat": 138.440429, "lon": -122.714055})
    assert not [secret for secret in (DRIVER, "138.4", "122.7") if secret in str(refused.value)]
