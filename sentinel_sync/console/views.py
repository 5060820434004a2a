"""What the page shows beside the status: the last day, recordings and consents, and the fleet."""

import asyncio
from collections.abc import Awaitable, Sequence
from typing import TypeVar

from pydantic import JsonValue

from sentinel_sync.agent import SyncAgent
from sentinel_sync.base.errors import SentinelSyncError
from sentinel_sync.base.payloads import ModelState
from sentinel_sync.cloud.offline_manager import ConnectivityTurn
from sentinel_sync.fleet.fleet_manager import FleetManager
from sentinel_sync.fleet.rules import (
    AggregateMetrics,
    FleetAlerts,
    FleetAnswer,
    FleetTrend,
    VehicleRankings,
    titled,
    unit_of,
)
from sentinel_sync.models.rules.status import ModelStatus
from sentinel_sync.scenarios.rules.status import SentPart, sent_under
from sentinel_sync.scenarios.scenario_uploader import ScenarioUploader
from sentinel_sync.store.outbox import SentItem

DAY_SECONDS = 86_400.0
#: In one row no more marks than a person tells apart; what lies closer together is one mark with its number.
_MARKS = 96
#: Rows of what was sent; what hosts send of their own is under the last.
_SENT = {"trip": "Trips", "profile": "Profiles"}
_OTHERS = "Other"
#: A page is looked at, not searched: the newest are shown, and how many there are.
_MOST_PARTS, _RANKED, _ALERTS = 50, 10, 20
#: Cells and messages are cut to so many characters.
_LONGEST = 200

Answered = TypeVar("Answered", bound=FleetAnswer)


async def last_day(agent: SyncAgent, now: float) -> dict[str, JsonValue]:
    """Spans of connection and marks of what was done in the 24 hours before `now` (seconds since the epoch)."""
    begin = now - DAY_SECONDS
    sent, uploaded = await agent.store.outbox.sent(begin), await agent.scenarios.uploaded_since(begin)
    # There may be twenty thousand of them: too many to be gone through between two turns of the host's loop.
    rows = await asyncio.to_thread(_day_rows, sent, uploaded, agent.models.snapshot(), begin)
    return {
        "begin": begin,
        "end": now,
        "connection": _spans(agent.connectivity.history(), begin, now),
        "rows": rows,
    }


def _day_rows(
    sent: Sequence[SentItem], uploaded: Sequence[tuple[float, str]], models: Sequence[ModelStatus], begin: float
) -> list[JsonValue]:
    rows: dict[str, list[tuple[float, str]]] = {"Trips": [], "Recordings": [*uploaded], "Models": []}
    for item in sent:
        what = item.key if item.kind == "trip" else item.kind
        rows.setdefault(_SENT.get(item.kind, _OTHERS), []).append((item.at, what))
    for model in models:
        for outcome in model.outcomes:
            if outcome.since is not None and outcome.since.timestamp() >= begin:
                state = "in use" if outcome.state is ModelState.INSTALLED else outcome.state.replace("_", " ")
                rows["Models"].append((outcome.since.timestamp(), f"{model.name} {outcome.version}: {state}"))
    return [{"name": name, "marks": _gathered(marks, begin)} for name, marks in rows.items()]


def _spans(history: Sequence[ConnectivityTurn], begin: float, now: float) -> list[JsonValue]:
    """From when to when it was how, as far as this life of the agent remembers; before that nothing is known."""
    turns = [turn for turn in history if turn.at <= now]
    ends = [*(turn.at for turn in turns[1:]), now]
    return [
        {"from": max(begin, turn.at), "to": end, "status": str(turn.status)}
        for turn, end in zip(turns, ends, strict=False)
        if end > begin
    ]


def _gathered(marks: list[tuple[float, str]], begin: float) -> list[JsonValue]:
    width = DAY_SECONDS / _MARKS
    places: dict[int, list[tuple[float, str]]] = {}
    for at, what in sorted(marks):
        places.setdefault(int((at - begin) / width), []).append((at, what))
    return [
        {"at": here[0][0], "count": len(here), "what": here[0][1] if len(here) == 1 else f"{len(here)} items"}
        for here in places.values()
    ]


async def recordings(scenarios: ScenarioUploader, text: str, limit: int) -> dict[str, JsonValue]:
    """The newest recordings that a text is found in: where they stand, and why where it is not going well."""
    rows: list[list[JsonValue]] = [
        [
            status["scenario_id"],
            status["status"].replace("_", " "),
            status["priority"],
            status["total_bytes"],
            "; ".join(filter(None, [status["reason"], status["warning"], *_notes(status["notes"])])),
        ]
        for status in await scenarios.get_scenarios()
    ]
    found = [row for row in rows if text.lower() in " ".join(map(str, row)).lower()]
    return {"rows": [*found[:limit]], "total": len(found)}


async def consents(scenarios: ScenarioUploader) -> dict[str, JsonValue]:
    """All decisions, newest first, with what was sent under each; and the newest parts that were."""
    decisions, sent = await scenarios.get_consent_history(), await scenarios.get_uploads()
    history: list[JsonValue] = []
    for decision in reversed(decisions):
        under = sent_under(decision, sent)
        history.append(
            {
                "at": decision.at,
                "granted": decision.granted,
                "policy_version": decision.policy_version,
                "parts": len(under),
                "size_bytes": sum(part.size_bytes for part in under),
            }
        )
    rows: list[JsonValue] = [_part_row(part) for part in sent[:_MOST_PARTS]]
    return {"decisions": history[:_MOST_PARTS], "sent": rows, "total": len(sent)}


def _notes(notes: dict[str, str]) -> list[str]:
    return [f"{part} went as it was recorded: {why}" for part, why in notes.items()]


def _part_row(part: SentPart) -> JsonValue:
    return [part.sent_at, part.scenario_id, part.part, part.size_bytes, part.acknowledged, part.granted_at]


async def fleet_picture(fleet: FleetManager, metric: str, days: int) -> dict[str, JsonValue]:
    """All that the page shows of the fleet; what could not be had says why in its place.

    Raises:
        ValueError: A metric or number of days that cannot be.
    """
    statistics, trend, rankings, alerts = await asyncio.gather(
        _or_why(fleet.get_aggregate_metrics()),
        _or_why(fleet.get_fleet_trends(metric, days)),
        _or_why(fleet.get_vehicle_rankings(metric, _RANKED)),
        _or_why(fleet.get_fleet_alerts(limit=_ALERTS)),
    )
    return {
        "statistics": _statistics(statistics),
        "trend": _trend(trend, metric),
        "rankings": _rankings(rankings, metric),
        "alerts": _alerts(alerts),
    }


async def _or_why(asking: Awaitable[Answered]) -> Answered | str:
    try:
        return await asking
    except SentinelSyncError as error:
        return str(error)


def _statistics(answer: AggregateMetrics | str) -> dict[str, JsonValue]:
    if isinstance(answer, str):
        return {"error": answer}
    figures: list[JsonValue] = [
        [titled(name), unit_of(name, value).said(value)] for name, value in answer.items() if name not in _OWN
    ]
    return {**_age(answer), "figures": figures}


def _trend(answer: FleetTrend | str, metric: str) -> dict[str, JsonValue]:
    if isinstance(answer, str):
        return {"error": answer}
    unit = unit_of(metric)
    points: list[JsonValue] = [
        {
            "date": point.date[:_LONGEST],
            "value": None if point.value is None else unit.shown(point.value),
            "said": unit.said(point.value),
        }
        for point in answer.trend
    ]
    return {**_age(answer), "title": titled(metric), "unit": unit.name, "points": points}


def _rankings(answer: VehicleRankings | str, metric: str) -> dict[str, JsonValue]:
    if isinstance(answer, str):
        return {"error": answer}
    unit = unit_of(metric)
    rows: list[JsonValue] = [[entry.vehicle_id[:_LONGEST], unit.said(entry.get(metric))] for entry in answer.rankings]
    return {**_age(answer), "title": titled(metric), "rows": rows}


def _alerts(answer: FleetAlerts | str) -> dict[str, JsonValue]:
    if isinstance(answer, str):
        return {"error": answer}
    rows: list[JsonValue] = [
        [str(cell or "")[:_LONGEST] for cell in (alert.timestamp, alert.vehicle_id, alert.severity, alert.message)]
        for alert in answer.alerts
    ]
    return {**_age(answer), "rows": rows}


def _age(answer: FleetAnswer) -> dict[str, JsonValue]:
    return {"stale": answer.stale, "age": round(answer.age)}


_OWN = frozenset({"stale", "age"})
