"""Blocks within the `cloud:` block: how much data may be used, and where models come from."""

from pathlib import Path
from typing import Annotated, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, field_validator, model_validator

from sentinel_sync.settings.values import is_loopback_url

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


class ModelSource(BaseModel):
    """The `models:` block: where releases come from.

    Attributes:
        source: `api`: the backend's listing; `tuf`: a repository of The Update Framework.
        metadata_url: Of the repository's metadata folder.
        targets_url: Of its targets; by default `targets/` beside the metadata.
        root_file: The root metadata that this vehicle was delivered with: whom to trust to begin with.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    source: Literal["api", "tuf"] = "api"
    metadata_url: str | None = None
    targets_url: str | None = None
    root_file: Path | None = None

    @field_validator("metadata_url", "targets_url")
    @classmethod
    def _https_unless_loopback(cls, url: str | None) -> str | None:
        if url is None:
            return None
        if not url.startswith("https://") and not (url.startswith("http://") and is_loopback_url(url)):
            raise ValueError("must be https, but for a loopback address")
        return url if url.endswith("/") else f"{url}/"

    @model_validator(mode="after")
    def _complete(self) -> Self:
        if self.source == "tuf" and (self.metadata_url is None or self.root_file is None):
            raise ValueError("source tuf needs metadata_url and root_file")
        return self
