"""Where releases come from, as the settings say."""

import logging
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from http import HTTPMethod
from typing import Any, Protocol

from pydantic import TypeAdapter, ValidationError

from sentinel_sync.base.clock import Clock
from sentinel_sync.base.errors import UnreachableError, VerificationError
from sentinel_sync.base.payloads import DeltaOffer, ModelAddress, ModelCatalogue, ModelRelease
from sentinel_sync.base.privacy import loggable_text
from sentinel_sync.base.tasks import run_to_end
from sentinel_sync.cloud.client import CloudAPIClient, quote_id
from sentinel_sync.models.rules.releases import may_be_reported
from sentinel_sync.store.documents import Documents

logger: logging.Logger = logging.getLogger(__name__)

_KIND = "models"
_KEY = "catalogue"
#: What the wire contract says that a checksum is.
_SHA256_DIGITS = 64
#: So many entries that cannot be read are remembered, by so much of their names.
_MOST_LEFT_OUT = 20
_LONGEST_NAME = 80


@dataclass(frozen=True, slots=True)
class ReleaseListing:
    """The listing as it was last seen.

    Attributes:
        checked_at: When the backend was last asked with success, seconds since the epoch.
        etag: What it called this listing, or None.
        left_out: Why an entry cannot be read, by the name that it gives; of very many the first few.
        left_out_versions: The version that this entry gives, by the same name; none where it gives none.
    """

    releases: tuple[ModelRelease, ...]
    checked_at: float
    etag: str | None = None
    left_out: Mapping[str, str] = field(default_factory=dict)
    left_out_versions: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class FileAddress:
    """Where a release's file is for a while.

    Attributes:
        url: Absolute, or relative to `api_url`.
        delta: A shorter way to it from the file that is here, or None.
    """

    url: str
    delta: DeltaOffer | None = None


class ReleaseSource(Protocol):
    """Where releases come from.

    Attributes:
        vouches: Whether it has itself verified that a release is genuine, so that no signature of its own is asked for.
        last: What it said last, also in an earlier life, or None.
    """

    vouches: bool
    last: ReleaseListing | None

    async def open(self) -> None:
        """Read what was last seen.

        Raises:
            StoreError: It cannot be read.
        """
        ...

    async def ask(self) -> ReleaseListing:
        """Ask for what there is now, and remember it.

        Raises:
            CloudError: There was no answer.
            VerificationError: The answer is not to be believed.
            ConfigurationError: What it needs is missing on this vehicle.
            StoreError: It cannot be written down.
        """
        ...

    async def address(self, release: ModelRelease, have: str | None = None) -> FileAddress:
        """Ask where a release's file is for a while.

        Args:
            release: Which.
            have: SHA-256 in hex of the file that a delta could begin from, or None.

        Raises:
            CloudError: There was no answer.
            VerificationError: It is another release's.
        """
        ...


_SHAPE = TypeAdapter(ReleaseListing)


class BackendReleases:
    """Asks the backend, and remembers what it said.

    Args:
        documents: Where the listing is kept.
        clock: For the time of the check.
    """

    #: Anybody may answer in the backend's name: each release brings signatures of its own.
    vouches = False

    def __init__(self, client: CloudAPIClient, documents: Documents, clock: Clock) -> None:
        self._client = client
        self._documents = documents
        self._clock = clock
        self.last: ReleaseListing | None = None

    async def open(self) -> None:
        """Read what was last seen."""
        self.last = await self._documents.load(_KIND, _KEY, _SHAPE)

    async def ask(self) -> ReleaseListing:
        """Ask for the listing; one that has not changed does not travel again.

        Raises:
            CloudError: The backend gave none.
        """
        etag = None if self.last is None else self.last.etag
        headers = {} if etag is None else {"If-None-Match": etag}
        reply = await self._client.request(HTTPMethod.GET, "/models", headers=headers)
        now = self._clock.now()
        if reply.status == 304 and self.last is not None:
            offer = replace(self.last, checked_at=now)
        else:
            # A thousand entries take longer to read than a loop can spare.
            releases, left_out, versions = await run_to_end(_read, reply.data, reply.request_id)
            offer = ReleaseListing(releases, now, reply.headers.get("ETag"), left_out, versions)
        await self._documents.save(_KIND, _KEY, offer, _SHAPE)
        self.last = offer
        return offer

    async def address(self, release: ModelRelease, have: str | None = None) -> FileAddress:
        """Ask where a release's file is for a while.

        Args:
            release: Which.
            have: SHA-256 in hex of the file that a delta could begin from, or None.

        Raises:
            CloudError: The backend did not say.
            VerificationError: It named another version or checksum.
        """
        params: dict[str, Any] = {"version": release.version}
        if have is not None:
            params["from"] = have
        reply = await self._client.request(HTTPMethod.GET, f"/models/{quote_id(release.name)}/download", params=params)
        try:
            address = ModelAddress.model_validate(reply.data)
        except ValidationError:
            raise UnreachableError(
                "GET a model's address: the answer holds none", status=reply.status, request_id=reply.request_id
            ) from None
        if address.version not in {None, release.version} or address.checksum not in {None, release.checksum}:
            raise VerificationError(f"{release.name} {release.version} is refused: its address is another release's")
        return FileAddress(address.download_url, address.delta)


def _read(data: object, request_id: str) -> tuple[tuple[ModelRelease, ...], dict[str, str], dict[str, str]]:
    """The releases, why what else is listed cannot be read, and the versions of that."""
    try:
        catalogue = ModelCatalogue.model_validate(data)
    except ValidationError:
        raise UnreachableError("GET /models: the answer is no listing", request_id=request_id) from None
    releases: list[ModelRelease] = []
    left_out: dict[str, str] = {}
    versions: dict[str, str] = {}
    for entry in catalogue.models:
        try:
            release = ModelRelease.model_validate(entry)
            if len(release.checksum) == _SHA256_DIGITS:
                releases.append(release)
                continue
            places = {"checksum": None}
        except ValidationError as error:
            places = {str(detail["loc"][0]): None for detail in error.errors(include_input=False) if detail["loc"]}
        name = loggable_text(str(entry.get("name") if isinstance(entry, dict) else None), _LONGEST_NAME)
        why = f"its entry in the listing cannot be read: {', '.join(places) or 'not an object'}"
        logger.warning("models.entry: %s is left out: %s", name, why)
        if name not in left_out and len(left_out) < _MOST_LEFT_OUT:
            left_out[name] = why
            version = entry.get("version") if isinstance(entry, dict) else None
            if isinstance(version, str) and may_be_reported(name, version):
                versions[name] = version
    return tuple(releases), left_out, versions
