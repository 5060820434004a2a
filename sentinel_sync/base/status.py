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


class TransferStatus(StatusModel):
    """Something under way. Bytes, bytes per second, seconds; None where nothing can be said yet.

    Attributes:
        name: Of the scenario or model.
        part: Of it: a file, a version.
        phase: `compressing`, `uploading`, `downloading`, `installing` or another word for what is done now.
    """

    name: str
    part: str
    phase: str
    done_bytes: int
    total_bytes: int
    rate: float | None
    time_left: float | None
