"""What broke first, and the figures of a run: from its seconds alone."""

from collections.abc import Sequence
from dataclasses import dataclass

from sentinel_sync.fleet_simulation.protocol import percentile
from sentinel_sync.fleet_simulation.run import Outcome
from sentinel_sync.fleet_simulation.script import SCRIPTS, Window

LATE = 0.25
"""Seconds by which the simulator's own loop may be late before its figures are its own fault."""
SLOW = 1.0
"""Seconds for the 99th percentile, over five seconds."""
ERRORS = 0.01
"""Share of requests that the backend refuses because it is in trouble, over five seconds."""
BEHIND = 2.0
"""Trips that wait for each vehicle, more than its script explains."""
_SPAN = 5


@dataclass(frozen=True, slots=True)
class Break:
    """Something that went beyond its bound.

    Attributes:
        second: In which it did so first.
    """

    second: int
    what: str


@dataclass(frozen=True, slots=True)
class Figures:
    """A run in numbers.

    Attributes:
        peak_rate: The most requests in a second.
        recovery: Peak and mean requests a second, from the return to the end of what had piled up; None without one.
        p50: Seconds, and so on.
    """

    requests: int
    mean_rate: float
    peak_rate: int
    recovery: tuple[int, float] | None
    p50: float | None
    p95: float | None
    p99: float | None
    errors: int


def breaks(outcome: Outcome) -> list[Break]:
    """All that went beyond a bound, the first first."""
    seconds, script = outcome.seconds, SCRIPTS[outcome.order.script]
    cut = _places(script.away or script.refused, len(seconds))
    found: list[Break] = []
    for number in range(len(seconds)):
        span = seconds[max(0, number - _SPAN + 1) : number + 1]
        requests, errors = sum(it.requests.total() for it in span), sum(it.errors for it in span)
        slowest = percentile(span, 0.99)
        waiting = seconds[number].waiting / outcome.order.vehicles
        if seconds[number].lag > LATE:
            found.append(Break(number, f"the simulator itself: its loop was {seconds[number].lag:.2f} s late"))
        if requests and errors / requests > ERRORS:
            found.append(Break(number, f"the backend refused: {errors} of {requests} requests"))
        if slowest is not None and slowest > SLOW:
            found.append(Break(number, f"the backend was slow: the 99th percentile was {slowest:.2f} s"))
        if waiting > BEHIND and not (cut is not None and number >= cut[0]):
            found.append(Break(number, f"the backend fell behind: {seconds[number].waiting} trips waited"))
    first: dict[str, Break] = {}
    for one in found:
        first.setdefault(one.what.partition(":")[0], one)
    return sorted(first.values(), key=lambda one: one.second)


def figures(outcome: Outcome) -> Figures:
    """The run in numbers."""
    seconds = outcome.seconds
    rates = [second.requests.total() for second in seconds]
    return Figures(
        requests=sum(rates),
        mean_rate=sum(rates) / max(1, len(rates)),
        peak_rate=max(rates, default=0),
        recovery=_recovery(outcome, rates),
        p50=percentile(seconds, 0.5),
        p95=percentile(seconds, 0.95),
        p99=percentile(seconds, 0.99),
        errors=sum(second.errors for second in seconds),
    )


def _recovery(outcome: Outcome, rates: Sequence[int]) -> tuple[int, float] | None:
    """The recovery window ends when no more wait than did before the cut, or with the run."""
    script, seconds = SCRIPTS[outcome.order.script], outcome.seconds
    cut = _places(script.away or script.refused, len(seconds))
    if cut is None or cut[1] >= len(seconds):
        return None
    before = max((second.waiting for second in seconds[: cut[0]]), default=0)
    end = next((place for place in range(cut[1] + 1, len(seconds)) if seconds[place].waiting <= before), len(seconds))
    window = rates[cut[1] : max(end, cut[1] + 1)]
    return max(window), sum(window) / len(window)


def _places(window: Window | None, length: int) -> tuple[int, int] | None:
    return None if window is None else (round(window[0] * length), round(window[1] * length))
