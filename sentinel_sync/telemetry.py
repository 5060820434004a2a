"""OpenTelemetry, for whoever collects by it: the status' metrics as instruments, and a span for each request.

Only the API is used: the host's SDK decides what is sent where, and without one all of this is nothing. Names of
models, states and requests go along, as they do into metrics and logs; nothing of drivers.
"""

from collections.abc import Iterator
from typing import Any

from sentinel_sync import __version__
from sentinel_sync.base.errors import ConfigurationError
from sentinel_sync.cloud.client import CloudAPIClient
from sentinel_sync.cloud.response_policy import Attempt
from sentinel_sync.metrics import Metric, Metrics
from sentinel_sync.status import AgentStatus

_PREFIX = "sentinel_sync."
_NANOSECONDS = 1_000_000_000


class Telemetry:
    """Gives the host's OpenTelemetry what the agent says of itself.

    Args:
        client: Whose requests become spans.
        metrics: What a status comes to.

    Raises:
        ConfigurationError: opentelemetry-api is not installed.
    """

    def __init__(self, client: CloudAPIClient, metrics: Metrics) -> None:
        try:
            # An extra, and slow to import.
            from opentelemetry import metrics as api  # noqa: PLC0415
            from opentelemetry import trace  # noqa: PLC0415
        except ImportError:
            raise ConfigurationError(
                "cloud.open_telemetry needs opentelemetry-api: install sentinel_sync[otel], or switch it off"
            ) from None
        self._trace: Any = trace
        self._api: Any = api
        self._tracer = trace.get_tracer(_PREFIX.rstrip("."), __version__)
        self._meter = api.get_meter(_PREFIX.rstrip("."), __version__)
        self._metrics = metrics
        self._last: dict[str, Metric] = {}
        client.on_attempt(self._on_attempt)

    def note(self, status: AgentStatus) -> None:
        """Take a status in; the SDK asks for it when it collects, in a thread of its own."""
        collected = {metric.name: metric for metric in self._metrics.collect(status)}
        begun = collected.keys() - self._last.keys()
        self._last = self._last | collected
        for name in sorted(begun):
            metric = collected[name]
            make = (
                self._meter.create_observable_counter
                if metric.kind == "counter"
                else self._meter.create_observable_gauge
            )
            make(_PREFIX + name.removesuffix("_total"), [self._observed(name)], description=metric.help)

    def _observed(self, name: str) -> Any:
        def observe(_: object) -> Iterator[Any]:
            for sample in self._last[name].samples:
                yield self._api.Observation(sample.value, dict(sample.labels))

        return observe

    def _on_attempt(self, attempt: Attempt) -> None:
        began = int(attempt.began_at * _NANOSECONDS)
        # The semantic conventions for HTTP clients, but for the address: `what` names the request without anybody's id.
        attributes: dict[str, Any] = {"http.request.method": attempt.method, "sentinel_sync.request": attempt.what}
        if attempt.status is not None:
            attributes["http.response.status_code"] = attempt.status
        if attempt.error is not None:
            attributes["error.type"] = type(attempt.error).__name__
        span = self._tracer.start_span(
            attempt.method, kind=self._trace.SpanKind.CLIENT, start_time=began, attributes=attributes
        )
        if attempt.error is not None or (attempt.status or 0) >= 400:
            span.set_status(self._trace.StatusCode.ERROR)
        span.end(began + int(attempt.seconds * _NANOSECONDS))
