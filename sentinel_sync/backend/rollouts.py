"""Roll-outs of models: begun, shown, paused, resumed and aborted by whoever releases; moved on by vehicles' reports."""

from typing import Annotated, Any

from fastapi import APIRouter, Depends, Path, Request
from fastapi.responses import JSONResponse, Response
from pydantic import BaseModel

from sentinel_sync.backend.bodies import VehicleReport
from sentinel_sync.backend.callers import Caller, authorize_publisher, read_json
from sentinel_sync.backend.context import BackendHere
from sentinel_sync.backend.database import Connection, Row
from sentinel_sync.backend.documentation import REFERENCE_ONLY, operation
from sentinel_sync.backend.problems import Problem
from sentinel_sync.backend.rollout_steps import (
    DAY,
    Rollout,
    RolloutPlan,
    RolloutState,
    Tally,
    aborted,
    advanced,
    begun,
    facts,
    is_failure,
    paused,
    resumed,
)

router: APIRouter = APIRouter(tags=["models"], dependencies=[Depends(authorize_publisher)])

#: A vehicle whose last report is older is not waited for.
ACTIVE_WITHIN = 2 * DAY
#: Seconds for which a roll-out is not judged again by reports without news of it: to judge one takes a count of all.
JUDGED_EVERY = 10.0
_PATH = "/rollouts/{name}/versions/{version}"


class RolloutShown(BaseModel):
    """Where a roll-out stands."""

    name: str
    version: str
    state: RolloutState
    share: float
    step: int
    steps: list[float]
    why: str
    active: int
    installed: int
    failed: int
    pending: int


class Rollouts(BaseModel):
    """All of them, the newest first."""

    rollouts: list[RolloutShown]


@router.get(
    "/rollouts",
    response_model=Rollouts,
    summary="List roll-outs",
    description=REFERENCE_ONLY + "Each with what vehicles have reported of it.",
    **operation(403, caller=False),
)
async def list_rollouts(backend: BackendHere) -> Response:
    """List roll-outs."""
    now = backend.now()

    def look(connection: Connection) -> list[dict[str, Any]]:
        rows = connection.execute("SELECT * FROM rollouts ORDER BY created_at DESC, name, version").fetchall()
        return [_shown(connection, row, now) for row in rows]

    return JSONResponse({"rollouts": await backend.database.read(look)})


@router.get(
    _PATH,
    response_model=RolloutShown,
    summary="Show a roll-out",
    description=REFERENCE_ONLY + "With what vehicles have reported of it.",
    **operation(403, 404, caller=False),
)
async def show_rollout(name: str, version: str, backend: BackendHere) -> Response:
    """Show a roll-out."""
    now = backend.now()
    return JSONResponse(
        await backend.database.read(lambda connection: _shown(connection, _row(connection, name, version), now))
    )


@router.put(
    _PATH,
    status_code=201,
    response_model=RolloutShown,
    summary="Begin a roll-out",
    description=REFERENCE_ONLY + "Of a model that is published: it is offered to the first step's share at once.",
    **operation(403, 404, 409, 422, caller=False, body=RolloutPlan),
)
async def create_rollout(request: Request, name: str, version: str, backend: BackendHere) -> Response:
    """Begin a roll-out."""
    plan, _ = await read_json(request, RolloutPlan, backend.settings.limits.json_body)
    now = backend.now()

    def create(connection: Connection) -> dict[str, Any]:
        known = connection.execute(
            "SELECT 1 FROM models WHERE name = ? AND version = ? AND withdrawn_at IS NULL", (name, version)
        ).fetchone()
        if known is None:
            raise Problem(404, "no-such-model", "no model of this name and version is published")
        rollout = begun(plan, now)
        added = connection.execute(
            "INSERT INTO rollouts VALUES (?, ?, ?, ?, ?, ?, ?, ?) ON CONFLICT DO NOTHING",
            (name, version, plan.model_dump_json(), rollout.state, rollout.step, now, rollout.why, now),
        )
        if not added.rowcount:
            before = _rollout(_row(connection, name, version))
            what = {
                RolloutState.ABORTED: "has been aborted, which is for good: publish it under another version",
                RolloutState.DONE: "is done",
            }.get(before.state, f"has begun before and is {before.state}: `show` says how far; abort ends it for good")
            raise Problem(409, "rollout-exists", f"this version's roll-out {what}")
        _offer(connection, name, version, rollout)
        return _shown(connection, _row(connection, name, version), now)

    return JSONResponse(await backend.database.write(create), 201)


@router.post(
    _PATH + "/{action}",
    response_model=RolloutShown,
    summary="Pause, resume or abort a roll-out",
    description=REFERENCE_ONLY
    + "Paused or aborted, it is offered to nobody new; where it is in use it stays. One that "
    "stopped by itself can be resumed, where a person has looked into it.",
    **operation(403, 404, 409, caller=False),
)
async def change_rollout(
    name: str,
    version: str,
    action: Annotated[str, Path(pattern="^(pause|resume|abort)$")],
    backend: BackendHere,
) -> Response:
    """Pause, resume or abort a roll-out."""
    now = backend.now()

    def change(connection: Connection) -> dict[str, Any]:
        connection.lock(_subject(name, version))
        before = _rollout(_row(connection, name, version))
        try:
            match action:
                case "pause":
                    after = paused(before)
                case "resume":
                    after = resumed(before, now)
                case _:
                    after = aborted(before)
        except ValueError as error:
            raise Problem(409, "rollout-state", str(error)) from error
        _keep(connection, name, version, after)
        return _shown(connection, _row(connection, name, version), now)

    return JSONResponse(await backend.database.write(change))


def abort_withdrawn(connection: Connection, name: str, version: str) -> None:
    """Abort the roll-out of a version that is withdrawn, whatever its state, where it has one."""
    connection.lock(_subject(name, version))
    row = connection.execute("SELECT * FROM rollouts WHERE name = ? AND version = ?", (name, version)).fetchone()
    if row is not None and (before := _rollout(row)).state is not RolloutState.ABORTED:
        _keep(connection, name, version, aborted(before, "aborted: the version was withdrawn"))


# --- what reports do ---


def note_report(
    connection: Connection, caller: Caller, report: VehicleReport, now: float, judged_at: dict[tuple[str, str], float]
) -> None:
    """Count what a vehicle says of the versions that are being rolled out, and move those on that this decides.

    Args:
        judged_at: When this process judged each roll-out last; is kept up to date here.
    """
    rows = connection.execute("SELECT * FROM rollouts WHERE state IN ('running', 'done')").fetchall()
    for row in rows:
        release = (row["name"], row["version"])
        is_news = False
        for model in report.models:
            if (model.name, model.version) == release:
                state = "bad" if is_failure(model.state, model.reason) else model.state
                is_news |= (
                    connection.execute(
                        "INSERT INTO outcomes VALUES (?, ?, ?, ?, ?)"
                        " ON CONFLICT (name, version, fleet_id, vehicle_id) DO UPDATE SET state = excluded.state"
                        " WHERE outcomes.state <> excluded.state",
                        (*release, caller.fleet_id, caller.vehicle_id, state),
                    ).rowcount
                    > 0
                )
        # What has not changed is no news, but time passes, too: a step lasts so long, and patience ends.
        if not is_news and 0.0 <= now - judged_at.get(release, -JUDGED_EVERY) < JUDGED_EVERY:
            continue
        judged_at[release] = now
        connection.lock(_subject(*release))
        before = _rollout(_row(connection, *release))
        after = advanced(before, _tally(connection, *release, now), now)
        if after is not before:
            _keep(connection, *release, after)


def _tally(connection: Connection, name: str, version: str, now: float) -> Tally:
    (active,) = connection.execute(
        "SELECT count(*) FROM reports WHERE received_at >= ?", (now - ACTIVE_WITHIN,)
    ).fetchone()
    counted = dict(
        connection.execute(
            "SELECT state, count(*) FROM outcomes WHERE name = ? AND version = ? GROUP BY state", (name, version)
        ).fetchall()
    )
    installed, failed = counted.pop("installed", 0), counted.pop("bad", 0)
    return Tally(active, installed, failed, sum(counted.values()))


def _row(connection: Connection, name: str, version: str) -> Row:
    row: Row | None = connection.execute(
        "SELECT * FROM rollouts WHERE name = ? AND version = ?", (name, version)
    ).fetchone()
    if row is None:
        raise Problem(404, "no-such-rollout", "no roll-out of this name and version has begun")
    return row


def _subject(name: str, version: str) -> str:
    return f"rollout {name} {version}"


def _rollout(row: Row) -> Rollout:
    plan = RolloutPlan.model_validate_json(row["plan"])
    return Rollout(plan, RolloutState(row["state"]), row["step"], row["step_began_at"], row["why"])


def _keep(connection: Connection, name: str, version: str, rollout: Rollout) -> None:
    connection.execute(
        "UPDATE rollouts SET state = ?, step = ?, step_began_at = ?, why = ? WHERE name = ? AND version = ?",
        (rollout.state, rollout.step, rollout.step_began_at, rollout.why, name, version),
    )
    _offer(connection, name, version, rollout)


def _offer(connection: Connection, name: str, version: str, rollout: Rollout) -> None:
    connection.execute("UPDATE models SET rollout = ? WHERE name = ? AND version = ?", (rollout.share, name, version))


def _shown(connection: Connection, row: Row, now: float) -> dict[str, Any]:
    name, version = row["name"], row["version"]
    return {"name": name, "version": version, **facts(_rollout(row), _tally(connection, name, version, now))}
