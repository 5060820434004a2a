"""Recordings as the page shows them: where each stands, and what was sent under which consent."""

from pydantic import JsonValue

from sentinel_sync.scenarios.rules.status import SentPart, sent_under
from sentinel_sync.scenarios.scenario_uploader import ScenarioUploader

#: A page is looked at, not searched: the newest are shown, and how many there are.
_MOST = 50


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
    return {"decisions": history[:_MOST], "sent": [_row(part) for part in sent[:_MOST]], "total": len(sent)}


def _notes(notes: dict[str, str]) -> list[str]:
    return [f"{part} went as it was recorded: {why}" for part, why in notes.items()]


def _row(part: SentPart) -> JsonValue:
    return [part.sent_at, part.scenario_id, part.part, part.size_bytes, part.acknowledged, part.granted_at]
