"""The `cloud:` block; its keys are those of deployed vehicles. configs/default.yaml has each key's reason."""

import base64
import ipaddress
import re
import shlex
from pathlib import Path
from typing import Annotated, Any, ClassVar, Literal, Self
from urllib.parse import urlsplit

import aiofiles
from pydantic import BaseModel, ConfigDict, Field, SecretStr, field_validator, model_validator

from sentinel_sync.base.errors import ConfigurationError

_KEY = re.compile(r"[!-~]+")

# Descriptions and examples are for the JSON Schema, and for whoever wrote something else (settings/explanation.py).
Seconds = Annotated[float, Field(gt=0.0, le=30 * 86_400.0, description="a number of seconds")]
#: Ids go into headers and URLs: visible ASCII only.
Identifier = Annotated[
    str,
    Field(
        min_length=1, max_length=128, pattern=r"^[!-~]+$", description="a text of 1 to 128 ASCII characters, no spaces"
    ),
]
Bytes = Annotated[int, Field(ge=0, description="a whole number of bytes", examples=[50_000_000])]
#: Classes of link that a budget may be set for: what carries the data, or `any`, for all together.
LinkName = Literal["wifi", "cellular", "ethernet", "other", "any"]
#: A share of a file system, such as "10%".
Percent = Annotated[
    str, Field(pattern=r"^(?:\d{1,2}(?:\.\d+)?|100)%$", description="a share in percent", examples=["10%"])
]
_PROXY_SCHEMES = frozenset({"http", "https", "socks5", "socks5h"})
#: AES-128 and HMAC-SHA256 keys of 16 bytes each (the Fernet specification).
_FERNET_KEY_BYTES = 32


def is_key(text: str) -> bool:
    """Whether a text can stand in an `Authorization` header: visible ASCII, nothing else."""
    return _KEY.fullmatch(text) is not None


def is_loopback(host: str) -> bool:
    """Whether a host is this machine itself, without asking a name server.

    Names below `localhost` are none: whether they lead here is up to the resolver (RFC 6761 section 6.3: "SHOULD").
    """
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def is_loopback_url(url: str) -> bool:
    """Whether a URL leads to this machine itself."""
    try:
        return is_loopback(urlsplit(url).hostname or "")
    except ValueError:
        return False


class DataBudget(BaseModel):
    """How much may be sent and received over one class of link, bytes; None is without bound.

    Attributes:
        day: Per calendar day (UTC).
        month: Per calendar month (UTC).
    """

    model_config: ClassVar[ConfigDict] = ConfigDict(frozen=True, extra="forbid")

    day: Bytes | None = None
    month: Bytes | None = None


_DAYS = ("mon", "tue", "wed", "thu", "fri", "sat", "sun")
#: A local time of day; 24:00 is the end of it.
TimeOfDay = Annotated[
    str, Field(pattern=r"^(?:[01]\d|2[0-3]):[0-5]\d$|^24:00$", description="a time of day", examples=["22:00"])
]


class TransferWindow(BaseModel):
    """When large things may go: hours of the vehicle's own day, days on which they begin, or the host's word.

    Attributes:
        days: Of the week; none means each.
        begin: Local time of day.
        end: The same; not after `begin`: on the next day.
        when: What the host must say of the vehicle besides (`SyncAgent.set_conditions`), or None.
    """

    model_config: ClassVar[ConfigDict] = ConfigDict(frozen=True, extra="forbid")

    days: tuple[Literal["mon", "tue", "wed", "thu", "fri", "sat", "sun"], ...] = ()
    begin: TimeOfDay = "00:00"
    end: TimeOfDay = "24:00"
    when: Literal["parked", "charging", "home"] | None = None

    @property
    def minutes(self) -> tuple[int, int]:
        """Its begin and end, minutes after midnight."""
        begin, end = ((int(text[:2]) * 60 + int(text[3:])) for text in (self.begin, self.end))
        return begin, end

    @property
    def weekdays(self) -> frozenset[int]:
        """Its days, 0 is Monday."""
        return frozenset(map(_DAYS.index, self.days))


Windows = Annotated[
    tuple[TransferWindow, ...],
    Field(description="a list of windows", examples=[[{"days": ["sat", "sun"]}, {"begin": "22:00", "end": "06:00"}]]),
]


class ModelSource(BaseModel):
    """The `models:` block: where releases come from.

    Attributes:
        source: `api`: the backend's listing; `tuf`: a repository of The Update Framework.
        metadata_url: Of the repository's metadata folder.
        targets_url: Of its targets; by default `targets/` beside the metadata.
        root_file: The root metadata that this vehicle was delivered with: whom to trust to begin with.
    """

    model_config: ClassVar[ConfigDict] = ConfigDict(frozen=True, extra="forbid")

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


class CloudSettings(BaseModel):
    """The `cloud:` block. Seconds, bytes and requests per second; see configs/default.yaml for each key's reason."""

    model_config: ClassVar[ConfigDict] = ConfigDict(frozen=True, extra="forbid", hide_input_in_errors=True)

    # The specification's own.
    enabled: bool = False
    api_url: str = "https://api.sentinel-fleet.com"
    api_key: SecretStr = SecretStr("")
    vehicle_id: Identifier = "vehicle_001"
    fleet_id: Identifier = "fleet_alpha"
    sync_interval: Seconds = 300.0
    upload_scenarios: bool = True

    # What deployed vehicles' files carry besides.
    timeout: Seconds = 30.0
    max_retries: Annotated[int, Field(ge=0, le=20)] = 3
    rate_limit: Annotated[float, Field(ge=0.0, le=100_000.0)] = 10.0
    model_check_interval: Seconds = 86_400.0
    connectivity_check_interval: Seconds = 30.0
    auto_install_models: bool = False
    compression_quality: Annotated[int, Field(ge=0, le=63)] = 23
    upload_trips: bool = True
    sync_profiles: bool = True
    trip_queue_file: Path = Path("data/trip_queue.json")
    scenarios_dir: Path = Path("scenarios")
    profiles_dir: Path = Path("profiles")
    models_dir: Path = Path("models")

    # New here.
    state_dir: Path = Path("state")
    api_key_file: Path | None = None
    pseudonym_key: SecretStr | None = None
    pseudonym_key_file: Path | None = None
    ca_file: Path | None = None
    client_cert_file: Path | None = None
    client_key_file: Path | None = None
    proxy: SecretStr | None = None
    max_retry_after: Seconds = 3600.0
    credential_retry_interval: Seconds = 900.0
    max_in_flight: Annotated[int, Field(ge=1, le=64)] = 8
    checkpoint_interval: Seconds = 5.0
    reconnect_spread: Annotated[float, Field(ge=0.0, le=3600.0)] = 3.0
    shutdown_timeout: Seconds = 5.0
    outbox_max_bytes: Annotated[Bytes, Field(ge=1 << 20)] = 256 << 20
    outbox_max_age: Annotated[float, Field(ge=0.0)] = 365 * 86_400.0
    policy_version: str = "1"
    metrics_dir: Path | None = None
    open_telemetry: bool = False
    model_trusted_keys: tuple[str, ...] = ()

    # Driver profiles: the fleet's Fernet keys, newest first; the first source given counts.
    profile_keys: tuple[SecretStr, ...] = ()
    profile_keys_file: Path | None = None
    profile_keys_command: tuple[str, ...] = ()
    profile_legacy_vehicle_ids: tuple[Identifier, ...] = ()

    # Models: whose signatures count besides `model_trusted_keys`.
    model_trusted_keys_dir: Path | None = None
    model_revoked_keys: tuple[str, ...] = ()
    allow_unsigned: bool = False

    # The network: what it may cost.
    network: Literal["auto", "metered", "unmetered"] = "auto"
    data_budget: Annotated[
        dict[LinkName, DataBudget],
        Field(
            description="a block of budgets by class of link",
            examples=[{"cellular": {"day": 50_000_000, "month": 1_000_000_000}}],
        ),
    ] = {}
    upload_bandwidth_limit: Annotated[int, Field(ge=0)] = 0
    mark_background: bool = False
    quiet_during_trip: bool = False
    upload_window: Windows = ()
    update_window: Windows = ()

    # Recorded scenarios.
    compress_videos: bool = True
    drop_audio: bool | dict[str, bool] = Field(
        default_factory=lambda: {"interior": True},
        description="true, false or a list of cameras",
        examples=[["interior"]],
    )
    video_codec: Literal["h264", "hevc", "av1"] = "h264"
    ffmpeg_path: Path | None = None
    derived_max_bytes: Bytes = 2 << 30
    scenario_scan_interval: Seconds = 10.0
    scenario_settle_time: Annotated[float, Field(ge=0.0, le=86_400.0)] = 5.0
    keep_uploaded_days: Annotated[float, Field(ge=0.0)] | None = None
    keep_unsent_days: Annotated[float, Field(ge=0.0)] | None = None
    disk_reserve: Bytes | Percent | None = None
    disk_reserve_unsent: bool = False
    scenario_upload: Literal["auto", "all", "on_request"] = "auto"
    max_parallel_parts: Annotated[int, Field(ge=1, le=16)] = 2

    # Models: where they come from, who tries them, how slow a download may be.
    models: Annotated[ModelSource, Field(examples=[{"source": "api"}])] = ModelSource()
    model_signature_threshold: Annotated[int, Field(ge=1, le=16)] = 1
    model_validator_command: tuple[str, ...] = ()
    model_validator_timeout: Seconds = 60.0
    model_probation: Annotated[float, Field(ge=0.0, le=30 * 86_400.0)] = 0.0
    model_deltas: bool = True
    download_min_rate: Annotated[int, Field(ge=0)] = 1000

    @model_validator(mode="before")
    @classmethod
    def _older_names(cls, values: Any) -> Any:
        """Read `trip_upload_interval` as `sync_interval`; where a file has both, the newer name counts."""
        if isinstance(values, dict) and "trip_upload_interval" in values:
            values = dict(values)
            older = values.pop("trip_upload_interval")
            values.setdefault("sync_interval", older)
        return values

    @field_validator("api_key")
    @classmethod
    def _fit_for_a_header(cls, key: SecretStr) -> SecretStr:
        text = key.get_secret_value().strip()
        if text and not is_key(text):
            raise ValueError("api_key must be visible ASCII without spaces")
        return SecretStr(text)

    @field_validator(
        "profile_keys", "profile_legacy_vehicle_ids", "model_trusted_keys", "model_revoked_keys", mode="before"
    )
    @classmethod
    def _keys_in_a_text(cls, keys: Any) -> Any:
        """Read a text as keys with commas or white space between them, as an environment variable holds them."""
        return keys.replace(",", " ").split() if isinstance(keys, str) else keys

    @field_validator("profile_keys")
    @classmethod
    def _fernet_keys(cls, keys: tuple[SecretStr, ...]) -> tuple[SecretStr, ...]:
        for key in keys:
            try:
                size = len(base64.b64decode(key.get_secret_value(), altchars=b"-_", validate=True))
            except ValueError:
                size = 0
            if size != _FERNET_KEY_BYTES:
                raise ValueError("each of profile_keys must be a Fernet key: 32 bytes in URL-safe base64")
        return keys

    @field_validator("profile_keys_command", "model_validator_command", mode="before")
    @classmethod
    def _command_in_a_text(cls, command: Any) -> Any:
        """Read a text as a command line; no shell is involved."""
        return shlex.split(command) if isinstance(command, str) else command

    @field_validator("drop_audio", mode="before")
    @classmethod
    def _cameras_in_a_list(cls, cameras: Any) -> Any:
        """Read a list of cameras, or a text with commas between them, as those whose sound is dropped."""
        if isinstance(cameras, str) and cameras.strip().lower() not in {"true", "false", "yes", "no", "on", "off"}:
            cameras = cameras.replace(",", " ").split()
        return dict.fromkeys(map(str, cameras), True) if isinstance(cameras, list | tuple) else cameras

    def drops_audio_of(self, camera: str) -> bool:
        """Whether a camera's videos go without their sound."""
        return self.drop_audio if isinstance(self.drop_audio, bool) else self.drop_audio.get(camera, False)

    @field_validator("*")
    @classmethod
    def _home(cls, value: Any) -> Any:
        """Read `~` as the home folder, as a shell would."""
        if not isinstance(value, Path):
            return value
        try:
            return value.expanduser()
        except RuntimeError:
            raise ValueError("it begins with ~, and there is no such home folder") from None

    @field_validator("proxy")
    @classmethod
    def _with_a_scheme(cls, proxy: SecretStr | None) -> SecretStr | None:
        if proxy is None:
            return None
        try:
            parts = urlsplit(proxy.get_secret_value())
            usable = parts.scheme in _PROXY_SCHEMES and bool(parts.hostname) and parts.port != 0
        except ValueError:
            usable = False
        if not usable:
            raise ValueError("proxy must be a URL such as http://proxy.example.com:3128")
        return proxy

    @field_validator("api_url")
    @classmethod
    def _https_unless_loopback(cls, url: str) -> str:
        parts = urlsplit(url)
        try:
            usable = parts.scheme in {"http", "https"} and bool(parts.hostname) and parts.port != 0
        except ValueError:
            usable = False
        if parts.username or parts.password:
            raise ValueError("api_url must hold no user or password; put the credential into api_key or api_key_file")
        if not usable or not url.isprintable() or " " in url:
            raise ValueError("api_url must be like https://api.example.com")
        if "?" in url or "#" in url:
            raise ValueError("api_url must have no query and no fragment")
        if parts.scheme == "http" and not is_loopback(parts.hostname or ""):
            raise ValueError(
                "api_url must be https, but for a loopback address: over http the key could be read by all"
            )
        return url.rstrip("/")

    @model_validator(mode="after")
    def _signed_unless_loopback(self) -> Self:
        if self.allow_unsigned and not is_loopback(urlsplit(self.api_url).hostname or ""):
            raise ValueError("allow_unsigned is for a bench: api_url must then be a loopback address")
        return self

    @model_validator(mode="after")
    def _complete(self) -> Self:
        if self.enabled and self.api_key_file is None and not self.api_key.get_secret_value():
            raise ValueError(
                "cloud is enabled without a credential: set api_key, api_key_file or SENTINEL_CLOUD__API_KEY"
            )
        if (self.client_cert_file is None) != (self.client_key_file is None):
            raise ValueError("mutual TLS takes both client_cert_file and client_key_file")
        if self.proxy is not None and urlsplit(self.api_url).scheme == "http":
            proxy = urlsplit(self.proxy.get_secret_value())
            if not is_loopback(proxy.hostname or ""):
                raise ValueError("a proxy on another machine takes an https api_url: over http it could read the key")
        if self.pseudonym_key is not None and not self.pseudonym_key.get_secret_value().strip():
            raise ValueError("pseudonym_key is empty: leave it out to send no driver at all")
        return self

    async def read_pseudonym_key(self) -> bytes | None:
        """The fleet's pseudonym key: the file's text without the white space around it, else `pseudonym_key`'s.

        Raises:
            ConfigurationError: The file cannot be read or is empty: sending no pseudonyms by accident would go
                unnoticed.
        """
        path = self.pseudonym_key_file
        if path is None:
            return None if self.pseudonym_key is None else self.pseudonym_key.get_secret_value().strip().encode()
        try:
            async with aiofiles.open(path, encoding="utf-8") as file:
                text = (await file.read()).strip()
        except (OSError, UnicodeDecodeError) as error:
            why = error.strerror if isinstance(error, OSError) else "not UTF-8"
            raise ConfigurationError(f"cannot read the pseudonym key from {path}: {why}") from None
        if not text:
            raise ConfigurationError(f"the pseudonym key file {path} is empty")
        return text.encode()
