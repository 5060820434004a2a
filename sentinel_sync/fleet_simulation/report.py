"""What became of a run, from its seconds alone: what broke first, the figures, one picture, and the page."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from html import escape

from sentinel_sync.fleet_simulation.protocol import SCRIPTS, Window, percentile
from sentinel_sync.fleet_simulation.run import Outcome

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


WIDTH, HEIGHT, LEFT, TOP, GAP = 960, 150, 70, 28, 46
Line = tuple[str, str, Sequence[float | None]]
"""A name, a colour, and a value for each second."""

_KINDS = ("probe", "trips", "report", "listing", "model file", "other")
_COLOURS = ("#7a7a7a", "#1f6feb", "#8250df", "#bf8700", "#1a7f37", "#cf222e")
_STYLE = """
:root { color-scheme: light dark; --ink: #1f2328; --paper: #ffffff; --grid: #d0d7de; --band: #eaeef2 }
@media (prefers-color-scheme: dark) { :root { --ink: #e6edf3; --paper: #0d1117; --grid: #30363d; --band: #21262d } }
body { font: 15px/1.5 system-ui, sans-serif; color: var(--ink); background: var(--paper) }
body { margin: 2rem auto; max-width: 62rem; padding: 0 1rem }
table { border-collapse: collapse }
td, th { text-align: left; padding: .2rem 1rem .2rem 0; font-variant-numeric: tabular-nums; vertical-align: top }
svg { width: 100%; height: auto }
.broke, .held { border-left: 4px solid #cf222e; padding-left: .8rem }
.held { border-color: #1a7f37 }
"""
_SVG_STYLE = (
    "text{font:12px system-ui,sans-serif;fill:var(--ink,#1f2328)}.grid{stroke:var(--grid,#d0d7de)}"
    ".band{fill:var(--band,#eaeef2)}.line{fill:none;stroke-width:1.5}.name{font-weight:600}"
)


def page(outcome: Outcome) -> str:
    """The page, whole: it loads nothing."""
    found = breaks(outcome)
    verdict = (
        f'<p class="broke"><strong>What broke first:</strong> {escape(found[0].what)}, in second {found[0].second}.</p>'
        if found
        else '<p class="held"><strong>Nothing broke.</strong></p>'
    )
    later = "".join(f"<li>second {one.second}: {escape(one.what)}</li>" for one in found[1:])
    rows = "".join(f"<tr><th>{escape(name)}</th><td>{escape(value)}</td></tr>" for name, value in facts(outcome))
    also = f"<ul>{later}</ul>" if later else ""
    about = SCRIPTS[outcome.order.script].about
    title = f"{outcome.order.vehicles} vehicles: {outcome.order.script}"
    return (
        f'<!doctype html><html lang="en"><head><meta charset="utf-8"><title>{escape(title)}</title>'
        f'<meta name="viewport" content="width=device-width"><style>{_STYLE}</style></head>'
        f"<body><h1>{escape(title)}</h1>"
        f"<p>{escape(about[0].upper() + about[1:])}.</p>{verdict}"
        f"{also}{picture(outcome)}<table>{rows}</table></body></html>\n"
    )


def facts(outcome: Outcome) -> list[tuple[str, str]]:
    """The figures, by name, as people read them."""
    told, order = figures(outcome), outcome.order
    found = [
        ("requests", f"{told.requests:,}: {told.mean_rate:.1f} a second, {told.peak_rate} at most"),
        ("50 / 95 / 99 of 100 answered within", " / ".join(_milliseconds(it) for it in (told.p50, told.p95, told.p99))),
        ("refused for load (429, 5xx)", f"{told.errors:,}"),
    ]
    if told.recovery is not None:
        peak, mean = told.recovery
        found.append(
            (
                "after the return",
                f"{peak} requests a second at most, {mean:.1f} on average: {peak / max(mean, 0.1):.1f} x",
            )
        )
    if not order.is_light:
        found.append(("trips acknowledged to drivers", f"{outcome.acknowledged:,}, of which {outcome.left} still wait"))
        if outcome.lost is not None:
            found.append(("lost / twice at the backend", f"{outcome.lost} / {outcome.doubled}"))
        if SCRIPTS[order.script].release_at is not None:
            found.append(("vehicles with the release", f"{outcome.installed:,}"))
    per = 1000.0 / order.duration / order.vehicles
    if outcome.backend_cpu is not None:
        found.append(("backend's processor, per vehicle", f"{outcome.backend_cpu * per:.3f} ms a second"))
    found.append(
        ("vehicles' processor, per vehicle", f"{outcome.vehicles_cpu * per:.3f} ms a second, their start included")
    )
    late = max((second.lag for second in outcome.seconds), default=0.0)
    found.append(("the simulator's own loop", f"{late:.2f} s late at most: what it timed is right to that"))
    return [*found, *(("note", problem) for problem in outcome.problems)]


def picture(outcome: Outcome) -> str:
    """The picture, as SVG."""
    seconds = outcome.seconds
    kinds = [kind for kind in _KINDS if any(second.requests[kind] for second in seconds)]
    panels: list[tuple[str, list[Line]]] = [
        (
            "requests a second",
            [(kind, _COLOURS[_KINDS.index(kind)], [float(it.requests[kind]) for it in seconds]) for kind in kinds],
        ),
        (
            "answered within, ms",
            [
                (name, colour, [_scaled(percentile([second], share)) for second in seconds])
                for name, colour, share in (
                    ("50 %", _COLOURS[1], 0.5),
                    ("95 %", _COLOURS[3], 0.95),
                    ("99 %", _COLOURS[5], 0.99),
                )
            ],
        ),
        ("trips that wait", [("trips", _COLOURS[1], [float(it.waiting) for it in seconds])]),
        (
            "failed",
            [
                ("429 and 5xx", _COLOURS[5], [float(it.errors) for it in seconds]),
                ("no connection", _COLOURS[0], [float(it.outcomes["no connection"]) for it in seconds]),
            ],
        ),
    ]
    height = len(panels) * (HEIGHT + GAP) + TOP
    drawn = "".join(
        _panel(outcome, title, lines, TOP + place * (HEIGHT + GAP)) for place, (title, lines) in enumerate(panels)
    )
    about = escape(f"{outcome.order.vehicles} vehicles, {outcome.order.script}, {outcome.order.duration:.0f} seconds")
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {LEFT + WIDTH + 20} {height}" role="img"'
        f' aria-label="{about}">'
        f"<style>{_SVG_STYLE}</style>{drawn}</svg>"
    )


def _panel(outcome: Outcome, title: str, lines: Sequence[Line], top: int) -> str:
    length = max(1, len(outcome.seconds) - 1)
    most = _round_up(max((value or 0.0 for _, _, values in lines for value in values), default=0.0))

    def across(second: float) -> float:
        return LEFT + WIDTH * second / length

    def down(value: float) -> float:
        return top + HEIGHT * (1.0 - value / most)

    script = SCRIPTS[outcome.order.script]
    parts = []
    if (window := script.away or script.refused) is not None:
        begin, end = (across(share * length) for share in window)
        parts.append(f'<rect class="band" x="{begin:.1f}" y="{top}" width="{end - begin:.1f}" height="{HEIGHT}"/>')
    for share in (0.0, 0.5, 1.0):
        y = down(most * share)
        parts.append(f'<line class="grid" x1="{LEFT}" x2="{LEFT + WIDTH}" y1="{y:.1f}" y2="{y:.1f}"/>')
        parts.append(f'<text x="{LEFT - 6}" y="{y + 4:.1f}" text-anchor="end">{most * share:,.6g}</text>')
    parts += [
        f'<text x="{across(second):.1f}" y="{top + HEIGHT + 15}" text-anchor="middle">{second} s</text>'
        for second in range(0, length + 1, max(1, round(length / 6)))
    ]
    legend, x = [f'<text class="name" x="{LEFT}" y="{top - 8}">{escape(title)}</text>'], LEFT + 170
    for name, colour, values in lines:
        parts.append(f'<path class="line" stroke="{colour}" d="{_path(values, across, down)}"/>')
        legend.append(f'<text x="{x}" y="{top - 8}" style="fill:{colour}">{escape(name)}</text>')
        x += 24 + 8 * len(name)
    return "".join(parts + legend)


def _path(values: Sequence[float | None], across: Callable[[float], float], down: Callable[[float], float]) -> str:
    steps, is_open = [], False
    for second, value in enumerate(values):
        if value is None:
            is_open = False
            continue
        steps.append(f"{'L' if is_open else 'M'}{across(second):.1f} {down(value):.1f}")
        is_open = True
    return "".join(steps)


def _round_up(value: float) -> float:
    """The next of 1, 2, 4, 5 and their tenfolds, so that half of it is a round number, too."""
    scale = 1.0
    while scale * 10 < value:
        scale *= 10
    return next(step * scale for step in (1.0, 2.0, 4.0, 5.0, 10.0) if step * scale >= value)


def _scaled(seconds: float | None) -> float | None:
    return None if seconds is None else seconds * 1000.0


def _milliseconds(seconds: float | None) -> str:
    return "-" if seconds is None else f"{seconds * 1000:.0f} ms"
