"""Blocks within the `cloud:` block: how much data may be used."""

from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field

Bytes = Annotated[int, Field(ge=0)]


class DataBudget(BaseModel):
    """How much may be sent and received over one class of link, bytes; None is without bound.

    Attributes:
        day: Per calendar day (UTC).
        month: Per calendar month (UTC).
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    day: Bytes | None = None
    month: Bytes | None = None
