"""What a backend is started with: its folder, its keys, its limits, and which extensions it offers."""

import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

KIBIBYTE = 1024
MEBIBYTE = 1024 * KIBIBYTE
GIBIBYTE = 1024 * MEBIBYTE


@dataclass(frozen=True, slots=True, kw_only=True)
class Limits:
    """The largest bodies that are accepted, in bytes (what is larger is answered with 413), and how many requests."""

    json_body: int = MEBIBYTE
    """Trips and scenario metadata."""
    profile_body: int = 16 * MEBIBYTE
    """One encrypted driver profile, as JSON."""
    part: int = 64 * GIBIBYTE
    """One video, or the annotations as they travel."""
    annotations: int = GIBIBYTE
    """The annotations after decompression: a small gzip body must not fill the disk."""
    model: int = 16 * GIBIBYTE
    """One published model file."""
    requests: int = 64
    """Small requests that one process works on at once; more: 429. So many it takes to keep it busy (measured)."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Extensions:
    """The optional parts of the contract. Switching one off shows an agent a backend that never had it."""

    resumable_uploads: bool = True
    profile_etags: bool = True
    profile_deletion: bool = True
    model_deltas: bool = True
    trips_batch: bool = True
    vehicle_report: bool = True
    direct_uploads: bool = False
    """Gives out addresses that take files without the credential; here they lead to the backend itself."""
    scenario_catalogue: bool = False
    """Takes announcements alone; a recording's files only once somebody asks for them."""

    @property
    def listed(self) -> list[str]:
        """Those that `/health` tells of; the others are discovered where they are used."""
        named = {
            "trips-batch": self.trips_batch,
            "vehicle-report": self.vehicle_report,
            "scenario-catalogue": self.scenario_catalogue,
            "direct-uploads": self.direct_uploads,
        }
        return [name for name, has in named.items() if has]


@dataclass(frozen=True, slots=True, kw_only=True)
class BackendSettings:
    """Everything that `create_app` needs.

    Raises:
        ValueError: There is no API key, or an empty one.
    """

    folder: Path
    """Files that the backend keeps, and without `database` all else too; created if missing. One process at a time
    may use it, or several that share a database."""
    database: str | None = field(default=None, repr=False)
    """`postgresql://…`; None: a file in the folder. The address may hold a password."""
    files: str | None = None
    """`s3://bucket/prefix`: where finished files are kept; None: in the folder."""
    with_events: bool = False
    """Puts what happens into the outbox table, for a relay: `backend relay`. Without one the table only grows."""
    api_keys: tuple[str, ...] = field(repr=False)
    """Bearer keys that are accepted. Several at once allow a rotation without a gap."""
    publisher_keys: tuple[str, ...] = field(default=(), repr=False)
    """Keys that may publish models; they are accepted everywhere else too. Empty: every API key may publish."""
    limits: Limits = Limits()
    extensions: Extensions = Extensions()
    health_min_interval: float | None = None
    """Seconds between health probes that the backend asks for; None says nothing."""
    upload_lifetime: float = 7 * 86400.0
    """Seconds after which an unfinished resumable upload is removed."""
    download_url_lifetime: float = 900.0
    """Seconds for which the address of a model file works."""
    public_url: str | None = None
    """Where the model files are reached from outside, e.g. a CDN in front; None: relative addresses."""
    clock: Callable[[], float] = time.time
    """Seconds since the epoch; a test puts its own here."""

    def __post_init__(self) -> None:
        if not self.api_keys or not all((*self.api_keys, *self.publisher_keys)):
            raise ValueError("a backend needs at least one API key, and no key may be empty")
