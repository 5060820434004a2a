"""What OpenTelemetry's own SDK gets of a running agent."""

import builtins
from pathlib import Path
from typing import Any

import pytest
from opentelemetry import metrics, trace
from opentelemetry.sdk.metrics import MeterProvider
from opentelemetry.sdk.metrics.export import InMemoryMetricReader
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from opentelemetry.trace import StatusCode

from sentinel_sync.agent import SyncAgent
from sentinel_sync.base.errors import ConfigurationError
from tests.agent.test_agent import drive, settings
from tests.fakes.cloud import API_KEY, FakeCloud, json_answer, problem
from tests.fakes.patience import until_true


async def test_requests_become_spans_and_the_status_becomes_instruments(tmp_path: Path, cloud: FakeCloud) -> None:
    spans, reader = InMemorySpanExporter(), InMemoryMetricReader()
    provider = TracerProvider()
    provider.add_span_processor(SimpleSpanProcessor(spans))
    trace.set_tracer_provider(provider)
    metrics.set_meter_provider(MeterProvider(metric_readers=[reader]))
    cloud.script("POST", "/trips", problem(503), json_answer(201))

    def collected() -> dict[str, Any]:
        data = reader.get_metrics_data()
        found = [metric for r in data.resource_metrics for s in r.scope_metrics for metric in s.metrics] if data else []
        return {metric.name: metric.data.data_points for metric in found}

    async with SyncAgent(settings(tmp_path, cloud, open_telemetry=True)) as agent:
        await drive(agent)
        await agent.flush(timeout=20.0)

        async def is_counted() -> bool:
            agent._watch.wake.set()
            points = collected().get("sentinel_sync.acknowledgements")
            return points is not None and points[0].value == 1

        await until_true(is_counted)
        states = {point.attributes["state"]: point.value for point in collected()["sentinel_sync.outbox_items"]}
        assert states == {"waiting": 0, "sending": 0, "set_aside": 0}
    posts = [span for span in spans.get_finished_spans() if "POST /trips" in str(span.attributes)]
    assert [span.attributes["http.response.status_code"] for span in posts if span.attributes] == [503, 201]
    assert [span.status.status_code for span in posts] == [StatusCode.ERROR, StatusCode.UNSET]
    assert all(span.start_time <= span.end_time for span in posts if span.start_time and span.end_time)
    assert API_KEY not in "".join(span.to_json() for span in spans.get_finished_spans())
    assert "driver_123" not in "".join(span.to_json() for span in spans.get_finished_spans())


async def test_without_the_package_it_says_what_to_install(
    tmp_path: Path, cloud: FakeCloud, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = builtins.__import__

    def refuse(name: str, *rest: Any, **named: Any) -> Any:
        if name == "opentelemetry":
            raise ImportError(name)
        return real(name, *rest, **named)

    monkeypatch.setattr(builtins, "__import__", refuse)
    with pytest.raises(ConfigurationError, match=r"install sentinel_sync\[otel\]"):
        await SyncAgent(settings(tmp_path, cloud, open_telemetry=True)).start()
