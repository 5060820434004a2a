"""What every feature's status is made of."""

from pydantic import BaseModel, ConfigDict


class StatusModel(BaseModel):
    """Something to be shown. It holds no secret and no personal data."""

    model_config = ConfigDict(frozen=True, extra="ignore")


class PeriodicTaskStatus(StatusModel):
    """A part of the agent: how often it crashed, and why at last."""

    name: str
    crashes: int
    total_crashes: int
    last_error: str | None
