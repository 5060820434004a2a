"""A fleet coming back: probes of 100,000 vehicles through an hour's outage, by the agent's rules, in virtual time."""

import heapq
from collections import Counter
from dataclasses import dataclass
from random import Random

from benchmarks.report import Figure
from sentinel_sync.cloud.rules.connectivity import Connectivity

VEHICLES = 100_000
#: Seconds: until all is steady, of the outage, and after it.
STEADY, OUTAGE, AFTER = 10_800.0, 3600.0, 3600.0
MINUTE = 60.0


@dataclass(frozen=True, slots=True)
class _Load:
    """Probes a minute, as shares of the fleet."""

    steady: float
    peak_out: float
    mean_last_out: float
    peak_back: float


async def measure() -> list[Figure]:
    """Of a fleet that is parked, and of one whose backend steers it (`probe_interval`)."""
    figures: list[Figure] = []
    for name, told in (("parked", None), ("probe_interval 3600", 3600.0)):
        load = _play(told)
        figures += [
            Figure(
                f"{name}: probes while out, the busiest minute",
                load.peak_out * 100,
                "% of the fleet",
                2.0,
                at_least=False,
                how=f"steady {load.steady:.1%} a minute; in the last ten minutes {load.mean_last_out:.1%}",
            ),
            Figure(
                f"{name}: probes on return beyond the first minute, against steady",
                load.peak_back / load.steady,
                "x",
                1.2,
                at_least=False,
                how=f"the busiest minute {load.peak_back:.1%} of the fleet",
            ),
        ]
    return figures


def _play(told: float | None) -> _Load:
    rng, probes = Random(1), Counter[int]()
    vehicles = [Connectivity(30.0, rng, 0.0, reconnect_spread=3.0) for _ in range(VEHICLES)]
    queue: list[tuple[float, int]] = []
    for number, vehicle in enumerate(vehicles):
        vehicle.note_activity(0.0, is_busy=True)
        if told is not None:
            vehicle.set_interval(told)
        heapq.heappush(queue, (rng.uniform(0.0, told or 300.0), number))
    end = STEADY + OUTAGE + AFTER
    while queue[0][0] < end:
        now, number = heapq.heappop(queue)
        vehicle = vehicles[number]
        probes[int(now // MINUTE)] += 1
        vehicle.note_activity(now, is_busy=False)
        if STEADY <= now < STEADY + OUTAGE:
            vehicle.on_no_contact("out", now)
        else:
            vehicle.on_contact(now)
        heapq.heappush(queue, (now + max(vehicle.probe_in(now), 0.1), number))
    begin, back = int(STEADY // MINUTE), int((STEADY + OUTAGE) // MINUTE)

    def share(first: int, last: int) -> list[float]:
        return [probes[minute] / VEHICLES for minute in range(first, last)]

    steady = share(begin - 10, begin)
    last = share(back - 10, back)
    return _Load(
        sum(steady) / len(steady),
        max(share(begin, back)),
        sum(last) / len(last),
        max(share(back + 1, back + 60)),
    )
