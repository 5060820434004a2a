"""The agent's status as metrics, in Prometheus' text format 0.0.4: for the console's `/metrics` and for a textfile."""

import asyncio
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from sentinel_sync.base.clock import Clock
from sentinel_sync.cloud.client import AttemptOutcome, CloudAPIClient
from sentinel_sync.status import AgentStatus

CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"
#: Of a file that node_exporter's textfile collector reads.
FILE_NAME = "metrics.prom"
_PREFIX = "sentinel_sync_"


@dataclass(frozen=True, slots=True)
class Sample:
    """One value of a metric."""

    value: float
    labels: Mapping[str, str]


@dataclass(frozen=True, slots=True)
class Metric:
    """One metric: a counter's name ends in `_total` (prometheus.io/docs/practices/naming)."""

    name: str
    help: str
    samples: list[Sample]

    @property
    def kind(self) -> str:
        """What Prometheus calls it."""
        return "counter" if self.name.endswith("_total") else "gauge"

    def lines(self) -> Iterator[str]:
        """It as text."""
        name = f"{_PREFIX}{self.name}"
        yield f"# HELP {name} {self.help}"
        yield f"# TYPE {name} {self.kind}"
        for sample in self.samples:
            labels = ",".join(f'{label}="{_escaped(text)}"' for label, text in sample.labels.items())
            yield f"{name}{{{labels}}} {sample.value!r}" if labels else f"{name} {sample.value!r}"


class Metrics:
    """Counts what a status does not tell, and puts both into words.

    Args:
        client: Whose attempts and bytes are counted.
        clock: Times a turn of the loop.
    """

    def __init__(self, client: CloudAPIClient, clock: Clock) -> None:
        self._clock = clock
        self._attempts: Counter[AttemptOutcome] = Counter()
        self._bytes = {"sent": 0, "received": 0}
        client.subscribe(self._on_contact)
        client.on_traffic(self._on_traffic)

    async def text(self, status: AgentStatus) -> str:
        """All of it."""
        began = self._clock.monotonic()
        await asyncio.sleep(0)  # a turn of the host's loop, as any callback has to wait for it
        turn = _one(
            "loop_turn_seconds",
            "How long the last turn of the event loop kept a callback waiting.",
            self._clock.monotonic() - began,
        )
        metrics = [*self.collect(status), turn]
        return "\n".join(line for metric in metrics if metric.samples for line in metric.lines()) + "\n"

    def collect(self, status: AgentStatus) -> list[Metric]:
        """All but what only a turn of the loop tells."""
        return [*_of_work(status), *_of_vehicle(status), *self._of_traffic(status)]

    def _on_contact(self, outcome: AttemptOutcome, _: str) -> None:
        self._attempts[outcome] += 1

    def _on_traffic(self, sent_bytes: int, received_bytes: int) -> None:
        self._bytes["sent"] += sent_bytes
        self._bytes["received"] += received_bytes

    def _of_traffic(self, status: AgentStatus) -> Iterator[Metric]:
        outcomes = [Sample(self._attempts[outcome], {"outcome": outcome.value}) for outcome in AttemptOutcome]
        yield Metric("attempts_total", "Requests to the backend, by what they taught of it.", outcomes)
        moved = [Sample(number, {"direction": direction}) for direction, number in self._bytes.items()]
        yield Metric("http_bytes_total", "Bytes of HTTP, heads and bodies, since the start.", moved)
        usage = [] if status.traffic is None else status.traffic.usage
        used = [Sample(link.day_bytes, {"link": link.link, "period": "day"}) for link in usage]
        used += [Sample(link.month_bytes, {"link": link.link, "period": "month"}) for link in usage]
        yield Metric("data_used_bytes", "Bytes of this day and month (UTC), by class of link.", used)
        held = {} if status.traffic is None else status.traffic.held
        waits = [Sample(1, {"class": name}) for name in held]
        yield Metric("traffic_held", "Classes of traffic that wait for a better network.", waits)


def _of_work(status: AgentStatus) -> Iterator[Metric]:
    outbox, recordings = status.outbox, status.scenarios
    states = {"waiting": outbox.waiting, "sending": outbox.sending, "set_aside": outbox.set_aside}
    items = [Sample(number, {"state": state}) for state, number in states.items()]
    yield Metric("outbox_items", "Items in the outbox.", items)
    yield _one("outbox_bytes", "What items and facts take on disk.", outbox.size_bytes)
    age = 0.0 if outbox.oldest_at is None else max(0.0, status.updated_at.timestamp() - outbox.oldest_at)
    yield _one("outbox_oldest_age_seconds", "Age of the oldest item that is still to be sent.", age)
    yield _one("acknowledgements_total", "Items that the backend has taken, ever.", outbox.acknowledged)
    dropped = [
        Sample(number, {"kind": of.rpartition(".")[0], "reason": of.rpartition(".")[2]})
        for of, number in outbox.dropped.items()
    ]
    yield Metric("dropped_total", "Items that were given up, ever.", dropped)
    if recordings is not None:
        stand = {
            "queued": recordings.queued,
            "on_request": recordings.on_request,
            "set_aside": recordings.set_aside,
            "uploaded": recordings.uploaded,
            "deleted_unsent": recordings.deleted_unsent,
        }
        found = [Sample(number, {"state": state}) for state, number in stand.items()]
        yield Metric("recordings", "Recordings, by where they stand.", found)
        yield _one("consent", "Whether the driver consents to sending recordings.", recordings.consent)
    models = [
        Sample(1, {"model": model.name, "version": outcome.version, "state": outcome.state.value})
        for model in status.models
        for outcome in model.outcomes
    ]
    yield Metric("model_version", "Where each version of a model stands.", models)
    if status.profiles is not None:
        yield _one(
            "profiles_unsent", "Driver profiles with changes that the backend does not have.", status.profiles.unsent
        )


def _of_vehicle(status: AgentStatus) -> Iterator[Metric]:
    shown = status.connectivity
    yield Metric("info", "The agent.", [Sample(1, {"version": status.version, "vehicle": status.vehicle_id})])
    yield _one("online", "Whether the backend is within reach.", shown.status == "online")
    yield _one("offline_seconds", "Time without contact; 0 while online.", shown.offline_duration)
    yield _one("connectivity_changes_total", "Changes of it since the start.", shown.transitions)
    yield _one("gate_open", "Whether anything may be sent now.", shown.gate == "open")
    if shown.clock_skew is not None:
        yield _one("clock_skew_seconds", "By how much this clock is ahead of the backend's.", shown.clock_skew)
    crashes = [Sample(duty.total_crashes, {"duty": duty.name}) for duty in status.duties]
    yield Metric("duty_crashes_total", "Crashes of the agent's duties since the start.", crashes)
    yield _one("troubles", "What somebody has to look after, as `health` tells it.", len(status.troubles))
    if status.life is not None:
        yield _one("start_time_seconds", "When this life began, since the epoch.", status.life.started_at.timestamp())
        yield _one("starts_total", "Lives on this state folder.", status.life.starts)
    if status.disk is not None:
        yield _one("disk_free_bytes", "Free on the file system of the state folder.", status.disk.free_bytes)
    if status.certificate_expires_at is not None:
        ends = status.certificate_expires_at.timestamp()
        yield _one("certificate_expiry_time_seconds", "When the vehicle's certificate ends, since the epoch.", ends)


def _one(name: str, text: str, value: float) -> Metric:
    return Metric(name, text, [Sample(int(value) if isinstance(value, bool) else value, {})])


def _escaped(text: str) -> str:
    return text.replace("\\", "\\\\").replace("\n", "\\n").replace('"', '\\"')
