"""When a roll-out goes on, and when it stops: decided by what vehicles report, without a database or a clock.

A step offers a release to a share of the vehicles. It goes on by itself once enough of those whom it is to reach report
the release as installed, which they do once its probation is over; it stops by itself once too many say that it failed.
A vehicle that never reports is not waited for: the share is one of those that do.
"""

import math
from dataclasses import dataclass
from enum import StrEnum
from typing import Annotated, Any

from pydantic import Field, field_validator

from sentinel_sync.backend.bodies import StrictBody

DAY = 86_400.0
Share = Annotated[float, Field(gt=0.0, le=1.0)]


class RolloutState(StrEnum):
    """Where a roll-out stands. Only a running or finished one is offered to anybody new; in use a release stays."""

    RUNNING = "running"
    PAUSED = "paused"
    STOPPED = "stopped"
    ABORTED = "aborted"
    DONE = "done"


class RolloutPlan(StrictBody):
    """How a release is to reach the fleet."""

    steps: list[Share] = Field(
        default=[0.01, 0.1, 0.5, 1.0], min_length=1, max_length=20, description="Shares of vehicles, ever larger."
    )
    enough: Share = Field(
        default=0.8, description="Of those whom a step is to reach, the share that must have it installed."
    )
    max_failed: Annotated[float, Field(ge=0.0, lt=1.0)] = Field(
        default=0.02, description="Of those that have it installed or failed, the share at which it stops."
    )
    least_failed: Annotated[int, Field(ge=1)] = Field(default=2, description="Failures below which it never stops.")
    step_seconds: Annotated[float, Field(ge=0.0)] = Field(default=3600.0, description="A step lasts so long at least.")
    patience_seconds: Annotated[float, Field(gt=0.0)] = Field(
        default=3 * DAY, description="After so long a step goes on though not enough have it, if one has."
    )

    @field_validator("steps")
    @classmethod
    def _ever_larger(cls, steps: list[float]) -> list[float]:
        if steps != sorted(set(steps)):
            raise ValueError("each step must be larger than the one before it")
        return steps


@dataclass(frozen=True, slots=True)
class Tally:
    """What vehicles have reported of a release.

    Attributes:
        active: Vehicles that report at all, of late.
        installed: Those that have it in use, its probation over.
        failed: Those on which it failed.
        pending: Those that are fetching it or try it.
    """

    active: int
    installed: int
    failed: int
    pending: int


@dataclass(frozen=True, slots=True)
class Rollout:
    """One roll-out as it stands.

    Attributes:
        step: The position in the plan's steps.
        step_began_at: Seconds since the epoch.
        why: Why it is where it is, for a person.
    """

    plan: RolloutPlan
    state: RolloutState
    step: int
    step_began_at: float
    why: str

    @property
    def share(self) -> float:
        """Of vehicles that are offered the release now."""
        return self.plan.steps[self.step] if self.state in {RolloutState.RUNNING, RolloutState.DONE} else 0.0


def begun(plan: RolloutPlan, now: float) -> Rollout:
    """A roll-out at its first step."""
    return Rollout(plan, RolloutState.RUNNING, 0, now, f"began with {_percent(plan.steps[0])}")


def advanced(rollout: Rollout, tally: Tally, now: float) -> Rollout:
    """Where a roll-out stands after what was reported; the same one where nothing follows from that."""
    plan = rollout.plan
    if rollout.state not in {RolloutState.RUNNING, RolloutState.DONE}:
        return rollout
    decided = tally.installed + tally.failed
    if tally.failed >= max(plan.least_failed, plan.max_failed * decided):
        why = f"stopped: it failed on {tally.failed} of {decided} vehicles, at {_percent(rollout.share)}"
        return Rollout(plan, RolloutState.STOPPED, rollout.step, rollout.step_began_at, why)
    if rollout.state is RolloutState.DONE or not _is_passed(rollout, tally, now):
        return rollout
    if rollout.step == len(plan.steps) - 1:
        return Rollout(plan, RolloutState.DONE, rollout.step, rollout.step_began_at, "done")
    share = plan.steps[rollout.step + 1]
    why = f"{tally.installed} vehicles have it in use, {tally.failed} failed: on to {_percent(share)}"
    return Rollout(plan, RolloutState.RUNNING, rollout.step + 1, now, why)


def _is_passed(rollout: Rollout, tally: Tally, now: float) -> bool:
    plan, lasted = rollout.plan, now - rollout.step_began_at
    if lasted < plan.step_seconds:
        return False
    if lasted >= plan.patience_seconds:
        return tally.installed > 0
    # One failure does not stop it, but it is to be outweighed before more vehicles are asked to try.
    is_doubtful = tally.failed > 0 and tally.failed >= plan.max_failed * (tally.installed + tally.failed)
    expected = plan.steps[rollout.step] * tally.active
    return not is_doubtful and tally.active > 0 and tally.installed >= math.ceil(plan.enough * expected)


def paused(rollout: Rollout) -> Rollout:
    """Offered to nobody new until it is resumed.

    Raises:
        ValueError: It is not running.
    """
    if rollout.state is not RolloutState.RUNNING:
        raise ValueError(f"only a running roll-out can be paused; this one is {rollout.state}")
    return Rollout(rollout.plan, RolloutState.PAUSED, rollout.step, rollout.step_began_at, "paused by an operator")


def resumed(rollout: Rollout, now: float) -> Rollout:
    """Goes on with the step that it was in; also one that stopped by itself, where a person has looked into it.

    Raises:
        ValueError: It is neither paused nor stopped.
    """
    if rollout.state not in {RolloutState.PAUSED, RolloutState.STOPPED}:
        raise ValueError(f"only a paused or stopped roll-out can be resumed; this one is {rollout.state}")
    return Rollout(rollout.plan, RolloutState.RUNNING, rollout.step, now, "resumed by an operator")


def aborted(rollout: Rollout, why: str = "aborted by an operator") -> Rollout:
    """Offered to nobody any more."""
    return Rollout(rollout.plan, RolloutState.ABORTED, rollout.step, rollout.step_began_at, why)


def is_failure(state: str, reason: str | None) -> bool:
    """Whether a reported state of a version speaks against it; a broken download or a person's wish does not."""
    return state in {"rolled_back", "refused", "failed"} and reason not in {"operator", "attempt"}


def _percent(share: float) -> str:
    return f"{100 * share:g} %"


def facts(rollout: Rollout, tally: Tally) -> dict[str, Any]:
    """A roll-out as JSON."""
    return {
        "state": rollout.state,
        "share": rollout.share,
        "step": rollout.step + 1,
        "steps": rollout.plan.steps,
        "why": rollout.why,
        "active": tally.active,
        "installed": tally.installed,
        "failed": tally.failed,
        "pending": tally.pending,
    }
