"""The status as metrics: what Prometheus' own parser reads, and what the example alerts and dashboard ask for."""

import json
import re
from pathlib import Path
from typing import Any

import httpx
import pytest
import yaml
from prometheus_client.parser import text_string_to_metric_families

from sentinel_sync.agent import SyncAgent
from sentinel_sync.console.server import running_console
from sentinel_sync.metrics import CONTENT_TYPE
from sentinel_sync.store.outbox import NewItem
from tests.agent.test_agent import drive, settings
from tests.fakes.cloud import FakeCloud, PrivateCA
from tests.fakes.patience import until_true

MONITORING = Path(__file__).parents[2] / "docs" / "monitoring"
_NAME = re.compile(r"sentinel_sync_[a-z_]+")


def read(text: str) -> dict[tuple[str, tuple[tuple[str, str], ...]], float]:
    found = {}
    for family in text_string_to_metric_families(text):
        for sample in family.samples:
            found[sample.name, tuple(sorted(sample.labels.items()))] = sample.value
    return found


def names(text: str) -> set[str]:
    return {name for name, _ in read(text)}


async def test_they_say_what_the_status_says(tmp_path: Path, cloud: FakeCloud, private_ca: PrivateCA) -> None:
    made = settings(
        tmp_path, cloud, client_cert_file=private_ca.client_cert_file, client_key_file=private_ca.client_key_file
    )
    async with SyncAgent(made) as agent:
        await drive(agent)
        await agent.flush(timeout=10.0)
        await agent.store.outbox.put(NewItem("trip", 'with "quotes"\n', b"{}"))
        item = (await agent.store.outbox.items())[0]
        await agent.store.outbox.set_aside(item.seq, "422")
        await agent.store.outbox.drop([item.key])
        found = read(await agent.metrics())
    assert found["sentinel_sync_online", ()] == 1.0
    assert found["sentinel_sync_acknowledgements_total", ()] == 1.0
    assert found["sentinel_sync_outbox_items", (("state", "waiting"),)] == 0.0
    assert found["sentinel_sync_dropped_total", (("kind", "trip"), ("reason", "operator"))] == 1.0
    assert found["sentinel_sync_attempts_total", (("outcome", "authorized"),)] >= 1.0
    assert found["sentinel_sync_http_bytes_total", (("direction", "sent"),)] > 100.0
    assert found["sentinel_sync_starts_total", ()] == 1.0
    assert found["sentinel_sync_certificate_expiry_time_seconds", ()] > 1.7e9
    assert found["sentinel_sync_duty_crashes_total", (("duty", "trips.upload"),)] == 0.0
    assert found["sentinel_sync_loop_turn_seconds", ()] < 5.0


async def test_counters_are_named_as_prometheus_wants(tmp_path: Path, cloud: FakeCloud) -> None:
    async with SyncAgent(settings(tmp_path, cloud)) as agent:
        text = await agent.metrics()
    for family in text_string_to_metric_families(text):
        assert family.documentation.endswith(".")
        assert family.type == "gauge" or all(sample.name.endswith("_total") for sample in family.samples)


async def test_the_console_serves_them_and_a_textfile_has_them(tmp_path: Path, cloud: FakeCloud) -> None:
    (tmp_path / "textfile").mkdir()
    async with SyncAgent(settings(tmp_path, cloud, metrics_dir=tmp_path / "textfile")) as agent:
        async with running_console(agent, "127.0.0.1", 0) as console, httpx.AsyncClient() as prometheus:
            answer = await prometheus.get(f"{console.url}metrics")
        assert (answer.status_code, answer.headers["Content-Type"]) == (200, CONTENT_TYPE)
        file = tmp_path / "textfile" / "metrics.prom"

        async def is_written() -> bool:
            return file.exists()

        await until_true(is_written)
        # What was used of the network is in it from the first request on.
        assert names(answer.text) - names(file.read_text()) <= {"sentinel_sync_data_used_bytes"}
        assert "sentinel_sync_online" in names(file.read_text())


async def test_a_folder_that_cannot_be_written_stops_nothing(tmp_path: Path, cloud: FakeCloud) -> None:
    async with SyncAgent(settings(tmp_path, cloud, metrics_dir=tmp_path / "nowhere")) as agent:
        await drive(agent)
        assert (await agent.flush(timeout=10.0)).left == 0


async def test_the_example_alerts_and_dashboard_ask_for_what_there_is(
    tmp_path: Path, cloud: FakeCloud, private_ca: PrivateCA
) -> None:
    made = settings(
        tmp_path, cloud, client_cert_file=private_ca.client_cert_file, client_key_file=private_ca.client_key_file
    )
    async with SyncAgent(made) as agent:
        assert await agent.connectivity.probe_now()
        there = set(_NAME.findall(await agent.metrics())) | {
            "sentinel_sync_data_used_bytes",  # of a link that was used, and …
            "sentinel_sync_model_version",  # … of a model that there is
        }
    rules: dict[str, Any] = yaml.safe_load((MONITORING / "alerts.yaml").read_text())
    alerts = [rule for group in rules["groups"] for rule in group["rules"]]
    assert all({"alert", "expr", "annotations"} <= rule.keys() for rule in alerts)
    dashboard = json.loads((MONITORING / "dashboard.json").read_text())
    asked = [rule["expr"] for rule in alerts]
    asked += [target["expr"] for panel in dashboard["panels"] for target in panel["targets"]]
    used = {name for expression in asked for name in _NAME.findall(expression)}
    assert used <= there
    assert len(used) >= 15
    table = set(_NAME.findall((MONITORING / "README.md").read_text(encoding="utf-8")))
    assert there <= table
    assert table - there == {
        "sentinel_sync_clock_skew_seconds",
        "sentinel_sync_dropped_total",
        "sentinel_sync_traffic_held",
    }


@pytest.mark.parametrize("text", ['a"b', "a\\b", "a\nb"])
def test_labels_are_escaped(text: str) -> None:
    from sentinel_sync.metrics import Metric, Sample  # noqa: PLC0415 - beside the parser that reads it back

    lines = "\n".join(Metric("x", "X.", [Sample(1, {"name": text})]).lines()) + "\n"
    ((_, labels),) = read(lines)
    assert dict(labels) == {"name": text}
