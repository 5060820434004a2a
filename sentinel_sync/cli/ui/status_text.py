"""An agent's status in words: what the `status` command and the live display of `run` show."""

from collections.abc import Iterator, Mapping

from sentinel_sync.base.tasks import PeriodicTaskStatus
from sentinel_sync.base.transfer import TransferStatus
from sentinel_sync.cli.ui.text import count, duration, moment, size
from sentinel_sync.cloud.rules.connectivity import ConnectivitySummary
from sentinel_sync.models.rules.status import ModelCheckStatus, ModelStatus
from sentinel_sync.network.rules.budget import NetworkStatus
from sentinel_sync.profiles.records import ProfilesStatus
from sentinel_sync.scenarios.rules.status import ScenariosStatus
from sentinel_sync.status import AgentStatus
from sentinel_sync.store.rules import OutboxStatus

#: A clock that differs by less is right, as far as anybody can tell over a mobile network (seconds).
_CLOCK_NOISE = 2.0
#: Why items were dropped, as a person says it.
DROP_REASONS = {
    "size": "to keep within outbox_max_bytes",
    "age": "older than outbox_max_age",
    "operator": "by an operator",
    "consent": "as the consent was withdrawn",
    "erased": "with all of a driver's data",
    "retention": "by keep_unsent_days",
    "disk_reserve": "to keep disk_reserve free",
    "replaced": "queued anew",
}
#: A recording that changed, or matters more now, is in the queue again: nothing was given up.
_NOT_GIVEN_UP = "replaced"


def facts_of(said: AgentStatus, outbox: OutboxStatus, *, age: float) -> list[tuple[str, str]]:
    """What a running agent is about, as names and values.

    Args:
        said: What it said of itself.
        outbox: The counts, maybe newer.
        age: Seconds since it said so.
    """
    facts = [
        ("backend", said.api_url),
        ("connectivity", connectivity(said.connectivity, age)),
        ("sending", permission(said)),
    ]
    if said.traffic is not None:
        facts.append(("network", network(said.traffic)))
    facts += outbox_facts(outbox)
    facts.append(("trip", f"{said.trip_id} is under way" if said.trip_id else "none under way"))
    facts += _features(said)
    facts.append(("parts", duties(said.duties)))
    if said.connectivity.clock_skew is not None:
        facts.append(("clock", clock(said.connectivity.clock_skew)))
    if said.console is not None:
        facts.append(("console", f"{said.console} (to change things: the token is in the state folder)"))
    if said.salvaged_from is not None:
        facts.append(("damage", f"the outbox was damaged; the old file is {said.salvaged_from}"))
    return facts


def _features(said: AgentStatus) -> Iterator[tuple[str, str]]:
    """Recordings, models and profiles, as far as there is something to say."""
    if said.scenarios is not None:
        yield "recordings", recordings(said.scenarios)
    for shown in said.models:
        yield f"model {shown.name}", model(shown)
    if said.model_check is not None and said.model_check.failure is not None:
        yield "model check", model_check(said.model_check)
    if said.profiles is not None and (said.profiles.profiles or said.profiles.to_forget):
        yield "profiles", profiles(said.profiles)


def outbox_facts(outbox: OutboxStatus, *, running: bool = True) -> list[tuple[str, str]]:
    """How much outgoing work there is, was and was given up; without an agent, none of it is being sent."""
    sending = outbox.sending if running else 0
    waiting = outbox.waiting + outbox.sending - sending
    waits = f"{waiting:,} waiting, {sending:,} being sent, {outbox.set_aside:,} set aside"
    facts = [
        ("queue", f"{waits} ({size(outbox.size_bytes)} on disk)"),
        ("sent so far", count(outbox.acknowledged, "item")),
    ]
    if given := given_up(outbox):
        facts.append(("dropped", dropped(given)))
    return facts


def connectivity(shown: ConnectivitySummary, age: float) -> str:
    """Whether the backend is within reach, why not, and since when."""
    if shown.status == "unknown":
        return shown.message
    lasted = shown.offline_duration if shown.status == "offline" else shown.since
    return f"{shown.message} (for {duration(lasted + age)})"


def permission(said: AgentStatus) -> str:
    """Whether anything may be sent, and why not."""
    shown = said.connectivity
    if shown.gate == "open":
        return "allowed" if said.power == "normal" else f"allowed, power is {said.power}"
    return f"{shown.gate}: {shown.gate_reason}" if shown.gate_reason else shown.gate


def network(shown: NetworkStatus) -> str:
    """What the network may cost, and what waits for that."""
    words = f"{shown.link}, {'metered' if shown.metered else 'not metered'} ({shown.source})"
    return "; ".join([words, *dict.fromkeys(shown.held.values())])


def recordings(shown: ScenariosStatus) -> str:
    """How recordings stand, and why they wait where they do."""
    words = [f"{shown.queued:,} queued, {shown.uploaded:,} uploaded, {shown.set_aside:,} set aside"]
    if shown.on_request:
        words.append(f"{shown.on_request:,} announced, to be asked for")
    if shown.unqueued:
        words.append(f"{shown.unqueued:,} not whole yet, or still changing")
    if shown.deleted_unsent:
        words.append(f"{shown.deleted_unsent:,} deleted unsent, by keep_unsent_days")
    if shown.under_way is not None:
        going = shown.under_way
        words.append(f"{going.phase} {going.name} {going.part}, {transfer(going)}")
    if shown.held is not None:
        words.append(shown.held)
    return "; ".join(words)


def profiles(shown: ProfilesStatus) -> str:
    """How many driver profiles there are, and what of them has not arrived, with the reason."""
    words = [count(shown.profiles, "driver profile")]
    if shown.unsent > shown.to_forget:
        words.append(f"{shown.unsent - shown.to_forget:,} to be sent")
    if shown.failing:
        words.append(f"{shown.failing:,} set aside")
    if shown.to_forget:
        words.append(f"{count(shown.to_forget, 'driver')} to be forgotten at the backend")
    if shown.synced_at is not None:
        words.append(f"all synced at {moment(shown.synced_at.timestamp())}")
    why = shown.held or shown.reason
    return ", ".join(words) + (f": {why}" if why else "")


def duties(shown: list[PeriodicTaskStatus]) -> str:
    """Whether all parts of the agent do well; those that crashed, how often and why."""
    crashed = [duty for duty in shown if duty.total_crashes]
    if not crashed:
        return "all well"
    return "; ".join(
        f"{duty.name} {'keeps crashing' if duty.crashes else 'crashed'}"
        f" ({count(duty.total_crashes, 'time')}, last: {duty.last_error})"
        for duty in crashed
    )


def clock(skew: float) -> str:
    """How this machine's clock stands to the backend's; `skew` is in seconds, positive where it is ahead."""
    if abs(skew) < _CLOCK_NOISE:
        return "agrees with the backend's"
    return f"{duration(abs(skew))} {'ahead of' if skew > 0.0 else 'behind'} the backend's"


def model(shown: ModelStatus) -> str:
    """What the runtime opens, what is on its way, and what is wrong."""
    words = [f"{shown.installed} in use" if shown.installed else "none in use"]
    if shown.pinned is not None:
        words.append(f"pinned to {shown.pinned}")
    if shown.probation_left > 0.0:
        words.append(f"on probation for {duration(shown.probation_left)} more")
    if shown.under_way is not None:
        words.append(f"{shown.under_way.phase} {shown.under_way.part}, {transfer(shown.under_way)}")
    elif shown.reason is not None:
        words.append(f"waits: {shown.reason}" if shown.status == "held" else shown.reason)
    elif shown.available is not None and shown.available != shown.installed:
        words.append(f"{shown.available} is available")
    words += [f"{bad.version} is bad: {bad.reason}" for bad in shown.bad_versions]
    return "; ".join(words)


def model_check(shown: ModelCheckStatus) -> str:
    """Why nobody knows whether there is a newer model, and since when."""
    since = "never" if shown.checked_at is None else moment(shown.checked_at.timestamp())
    return f"failed: {shown.failure} (last done: {since})"


def transfer(shown: TransferStatus) -> str:
    """How far something is, how fast it goes, and how long it will still take."""
    words = f"{size(shown.done_bytes)} of {size(shown.total_bytes)}"
    if shown.rate is not None and shown.phase != "compressing":  # of the original's bytes: nobody's rate
        words += f", {size(shown.rate)}/s"
    return words if shown.time_left is None else f"{words}, {duration(shown.time_left)} left"


def line_of(said: AgentStatus) -> str:
    """The status in one line, for a pipe."""
    outbox = said.outbox
    parts = [
        said.connectivity.message,
        f"{outbox.waiting + outbox.sending:,} to send",
        f"{outbox.acknowledged:,} sent",
    ]
    if said.connectivity.gate == "halted":
        parts[0] = f"sending nothing: {said.connectivity.gate_reason}"
    if outbox.set_aside:
        parts.append(f"{outbox.set_aside:,} set aside")
    if given := given_up(outbox):
        parts.append(f"{sum(given.values()):,} dropped")
    if said.trip_id is not None:
        parts.append(f"{said.trip_id} under way")
    return "; ".join(parts)


def given_up(outbox: OutboxStatus) -> dict[str, int]:
    """How much was given up, by "kind.reason"."""
    return {name: number for name, number in outbox.dropped.items() if drop_reason(name) != _NOT_GIVEN_UP}


def drop_reason(name: str) -> str:
    """Of "kind.reason" the reason."""
    return name.rpartition(".")[2]


def dropped(numbers: Mapping[str, int]) -> str:
    """What was given up, and why, of numbers by "kind.reason"."""
    return "; ".join(
        f"{count(number, name.rpartition('.')[0])} {DROP_REASONS.get(drop_reason(name), drop_reason(name))}"
        for name, number in sorted(numbers.items())
    )
