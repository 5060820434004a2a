"""The last day as the page draws it: when there was a connection, what left the vehicle, which models came into use."""

import asyncio
from collections.abc import Sequence

from pydantic import JsonValue

from sentinel_sync.agent import SyncAgent
from sentinel_sync.base.payloads import ModelState
from sentinel_sync.cloud.offline_manager import ConnectivityTurn
from sentinel_sync.models.rules.status import ModelStatus
from sentinel_sync.store.outbox import SentItem

DAY_SECONDS = 86_400.0
#: In one row no more marks than a person tells apart; what lies closer together is one mark with its number.
_MARKS = 96
#: Rows of what was sent; what hosts send of their own is under the last.
_SENT = {"trip": "Trips", "profile": "Profiles"}
_OTHERS = "Other"


async def last_day(agent: SyncAgent, now: float) -> dict[str, JsonValue]:
    """Spans of connection and marks of what was done in the 24 hours before `now` (seconds since the epoch)."""
    begin = now - DAY_SECONDS
    sent, recordings = await agent.store.outbox.sent(begin), await agent.scenarios.uploaded_since(begin)
    # There may be twenty thousand of them: too many to be gone through between two turns of the host's loop.
    rows = await asyncio.to_thread(_rows, sent, recordings, agent.models.snapshot(), begin)
    return {
        "begin": begin,
        "end": now,
        "connection": _spans(agent.connectivity.history(), begin, now),
        "rows": rows,
    }


def _rows(
    sent: Sequence[SentItem], recordings: Sequence[tuple[float, str]], models: Sequence[ModelStatus], begin: float
) -> list[JsonValue]:
    rows: dict[str, list[tuple[float, str]]] = {"Trips": [], "Recordings": [*recordings], "Models": []}
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
