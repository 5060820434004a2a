"""`fleet`: tables, charts, JSON, CSV, pictures; with the backend there, away, or out of its mind."""

import contextlib
import csv
import io
import json
import signal
import sqlite3
from pathlib import Path
from typing import Any

import pytest

from sentinel_sync.cli.exit_codes import ExitCode
from sentinel_sync.store.store import DATABASE_NAME
from tests.cli.backend import Backend
from tests.cli.vehicle import Vehicle, started

FLEET = "/fleet/fleet_alpha"
STATISTICS = {
    "total_vehicles": 3,
    "active_vehicles": 2,
    "total_distance": 1_500_000.0,
    "total_trips": 50,
    "average_safety_score": 81.5,
    "total_alerts": 12,
    "critical_alerts": 3,
    "average_trip_duration": 1800.0,
}
VEHICLE_STATUS = {
    "vehicle_id": "vehicle_7",
    "status": "online",
    "report": {"agent": {"starts": 4}, "models": [{"name": "yolo", "state": "installed"}]},
}
RANKINGS = {"rankings": [{"vehicle_id": "v_1", "safety_score": 91.26}, {"vehicle_id": "v_2", "safety_score": 80.0}]}
TREND = {
    "metric": "total_distance",
    "days": 3,
    "trend": [
        {"date": "2026-11-01", "value": 10_000.0},
        {"date": "2026-11-02", "value": None},
        {"date": "2026-11-03", "value": 25_500.0},
    ],
}
ALERTS = {
    "alerts": [
        {"vehicle_id": "v_1", "severity": "critical", "message": "=cmd()", "timestamp": "2026-11-03T10:00:00Z"},
        {"vehicle_id": "v_2", "severity": "info", "message": "\x1b[31mred", "timestamp": "2026-11-02T10:00:00Z"},
    ]
}


@pytest.fixture(autouse=True)
def _answers(backend: Backend) -> None:
    _tell(backend, f"{FLEET}/statistics", STATISTICS)
    _tell(backend, f"{FLEET}/rankings", RANKINGS)
    _tell(backend, f"{FLEET}/trends", TREND)
    _tell(backend, f"{FLEET}/alerts", ALERTS)
    _tell(backend, f"{FLEET}/comparison", {"vehicles": {"v_1": {"total_distance": 5000.0}, "v_2": {"total_trips": 4}}})
    _tell(backend, f"{FLEET}/drivers/leaderboard", {"leaderboard": [{"driver_id": "d_0a", "safety_score": 77.0}]})
    _tell(backend, "/vehicles/vehicle_7/status", VEHICLE_STATUS)


def _tell(backend: Backend, path: str, body: Any) -> None:
    backend.answers[path] = (200, json.dumps(body).encode())


def rows(out: str) -> list[list[str]]:
    return [line.split() for line in out.splitlines()]


class TestTables:
    def test_a_vehicles_report_is_shown_line_by_line(self, vehicle: Vehicle) -> None:
        said = vehicle.run("fleet", "vehicle").out
        assert [line.split() for line in said.splitlines()[-3:]] == [
            ["Report.agent.starts", "4"],
            ["Report.models.1.name", "yolo"],
            ["Report.models.1.state", "installed"],
        ]

    def test_statistics_have_a_persons_units(self, vehicle: Vehicle) -> None:
        said = vehicle.run("fleet", "stats")
        assert said.code == ExitCode.DONE
        shown = rows(said.out)
        assert ["Total", "distance", "1,500.0", "km"] in shown
        assert ["Average", "trip", "duration", "30.0", "min"] in shown
        assert ["Average", "speed", "60.0", "km/h"] in shown

    def test_rankings_list_the_best_first(self, vehicle: Vehicle) -> None:
        shown = rows(vehicle.run("fleet", "rankings", "--limit", "1").out)
        assert shown == [["VEHICLE", "ID", "SAFETY", "SCORE"], ["v_1", "91.3"]]

    def test_trends_have_a_chart_and_a_table_in_the_metrics_unit(self, vehicle: Vehicle) -> None:
        said = vehicle.run("fleet", "trends", "--metric", "total_distance", "--days", "3")
        assert "█" in said.out
        assert ["2026-11-03", "25.5", "km"] in rows(said.out)
        assert ["2026-11-02", "-"] in rows(said.out)

    def test_comparison_has_a_column_for_each_vehicle(self, vehicle: Vehicle) -> None:
        shown = rows(vehicle.run("fleet", "compare", "v_1", "v_2").out)
        assert shown == [
            ["METRIC", "v_1", "v_2"],
            ["Total", "distance", "5.0", "km", "-"],
            ["Total", "trips", "-", "4"],
        ]

    def test_what_a_backend_says_does_not_steer_the_terminal(self, vehicle: Vehicle) -> None:
        said = vehicle.run("fleet", "alerts")
        assert "\x1b" not in said.out
        assert "[31mred" in said.out

    def test_leaderboard_and_vehicle(self, vehicle: Vehicle) -> None:
        assert ["d_0a", "77.0"] in rows(vehicle.run("fleet", "leaderboard").out)
        assert ["Status", "online"] in rows(vehicle.run("fleet", "vehicle").out)

    def test_an_empty_fleet_is_said_in_words(self, vehicle: Vehicle, backend: Backend) -> None:
        _tell(backend, f"{FLEET}/alerts", {"alerts": []})
        assert vehicle.run("fleet", "alerts").out == "the backend knows of nothing there\n"


class TestForPrograms:
    def test_json_is_the_wires_figures_with_their_age(self, vehicle: Vehicle) -> None:
        shown = json.loads(vehicle.run("fleet", "rankings", "--json").out)
        assert shown["rankings"] == RANKINGS["rankings"]
        assert shown["stale"] is False

    def test_csv_reads_back_and_runs_nothing_in_a_spreadsheet(self, vehicle: Vehicle) -> None:
        found = list(csv.DictReader(io.StringIO(vehicle.run("fleet", "alerts", "--csv").out)))
        assert [line["severity"] for line in found] == ["critical", "info"]
        assert found[0]["message"] == "'=cmd()"
        assert [line["timestamp"][-1] for line in found] == ["Z", "Z"], "and no sign of a line end in the last column"

    @pytest.mark.parametrize(("option", "magic"), [("--png", b"\x89PNG\r\n"), ("--svg", b"<?xml")])
    def test_a_picture_for_a_report(self, vehicle: Vehicle, tmp_path: Path, option: str, magic: bytes) -> None:
        target = tmp_path / f"trend.{option[2:]}"
        assert vehicle.run("fleet", "trends", option, str(target)).code == ExitCode.DONE
        assert target.read_bytes().startswith(magic)

    def test_a_picture_that_cannot_be_written_is_one_line(self, vehicle: Vehicle, tmp_path: Path) -> None:
        said = vehicle.run("fleet", "trends", "--svg", str(tmp_path / "no" / "trend.svg"))
        assert said.code == ExitCode.FAILED
        assert "cannot be written" in said.err

    def test_watch_shows_again_and_again_until_it_is_interrupted(self, vehicle: Vehicle) -> None:
        words = ("fleet", "stats", "--json", "--watch", "1", "--config", str(vehicle.config))
        with started(*words, folder=vehicle.folder) as process:
            for _ in range(2):
                assert "total_vehicles" in process.out.until(lambda line: line.startswith("{"))
            process.signal(signal.SIGINT)
            assert process.wait() == ExitCode.DONE


def _age_answers(vehicle: Vehicle) -> None:
    """Let all that was kept be an hour older, and of an earlier boot."""
    with contextlib.closing(sqlite3.connect(vehicle.state / DATABASE_NAME)) as database, database:
        for key, text in database.execute("SELECT key, body FROM document WHERE kind = 'fleet_answer'").fetchall():
            kept = json.loads(text)
            kept |= {"fetched_at": kept["fetched_at"] - 3600.0, "boot_id": "another"}
            database.execute("UPDATE document SET body = ? WHERE key = ?", (json.dumps(kept).encode(), key))


class TestTheBackendAway:
    def test_the_last_known_comes_back_with_its_age(self, vehicle: Vehicle, backend: Backend) -> None:
        fresh = vehicle.run("fleet", "rankings").out
        _age_answers(vehicle)
        backend.portal = True
        again = vehicle.run("fleet", "rankings")
        assert again.code == ExitCode.DONE
        note, _, table = again.out.partition("\n")
        assert note == "(the backend cannot be asked: this is what it said 1 h ago)"
        assert table == fresh

    def test_never_asked_and_out_of_reach_is_one_line(self, vehicle: Vehicle) -> None:
        vehicle.configure(api_url="http://127.0.0.1:9", timeout=1)
        said = vehicle.run("fleet", "stats")
        assert said.code == ExitCode.FAILED
        assert said.err.count("\n") == 1
        assert "cannot connect" in said.err

    def test_switched_off_nothing_is_asked(self, vehicle: Vehicle) -> None:
        vehicle.configure(enabled=False)
        said = vehicle.run("fleet", "stats")
        assert said.code == ExitCode.FAILED
        assert "cloud.enabled is false" in said.err


class TestBadInput:
    @pytest.mark.parametrize("limit", ["0", "-1", "1000000000"])
    def test_a_limit_that_cannot_be(self, vehicle: Vehicle, limit: str) -> None:
        said = vehicle.run("fleet", "rankings", f"--limit={limit}")
        assert said.code == ExitCode.USAGE
        assert "limit must be a whole number from 1 to 1000" in said.err

    def test_a_metric_that_the_backend_does_not_know(self, vehicle: Vehicle, backend: Backend) -> None:
        backend.answers[f"{FLEET}/trends"] = (422, b'{"title": "there is no such metric"}')
        said = vehicle.run("fleet", "trends", "--metric", "nope")
        assert said.code == ExitCode.FAILED
        assert "there is no such metric" in said.err

    def test_a_metric_that_is_no_name(self, vehicle: Vehicle) -> None:
        assert vehicle.run("fleet", "trends", "--metric", "a/../b").code == ExitCode.USAGE

    @pytest.mark.parametrize(
        "body",
        [
            b"<html>hello</html>",
            b"null",
            b'{"rankings": 5}',
            b'["rankings"]',
            b"[" * 100_000,
            b'{"rankings": [' + b",".join([b'{"vehicle_id": "v", "safety_score": 1}'] * 300_000) + b"]}",
        ],
        ids=["html", "null", "no list", "other types", "nested", "12 MB"],
    )
    def test_an_answer_that_is_none(self, vehicle: Vehicle, backend: Backend, body: bytes) -> None:
        backend.answers[f"{FLEET}/rankings"] = (200, body)
        said = vehicle.run("fleet", "rankings")
        assert said.code == ExitCode.FAILED
        assert said.err.startswith("sentinel-sync: error: GET /fleet/fleet_alpha/rankings")
