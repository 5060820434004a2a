"""The backend's copy of a driver's profile: fetch it, replace it, each on condition where the backend can do that."""

from dataclasses import dataclass
from http import HTTPMethod, HTTPStatus

from pydantic import ValidationError

from sentinel_sync.adapters.cloud.cloud_api_client import CloudAPIClient, quote_id
from sentinel_sync.errors import ProfileError, RejectedError
from sentinel_sync.payloads import SealedProfile, StoredProfile


@dataclass(frozen=True, slots=True)
class SealedCopy:
    """What a fetch found.

    Attributes:
        sealed: The encrypted profile; None where there is none, or it is unchanged.
        etag: The backend's name for this version; None where it gives none.
        unchanged: Whether the version asked about still holds.
    """

    sealed: str | None = None
    etag: str | None = None
    unchanged: bool = False

    @property
    def exists(self) -> bool:
        """Whether the backend has a profile of this driver."""
        return self.unchanged or self.sealed is not None


class ProfileCloud:
    """Profiles at the backend.

    Args:
        client: The backend.
    """

    def __init__(self, client: CloudAPIClient) -> None:
        self._client = client

    async def fetch(self, driver_id: str, etag: str | None) -> SealedCopy:
        """Fetch a copy, unless it is still the version `etag`.

        Raises:
            CloudError: The backend could not be asked, or refuses (RejectedError).
            ProfileError: Its answer is not this driver's profile.
        """
        headers = {} if etag is None else {"If-None-Match": etag}
        try:
            reply = await self._client.request(HTTPMethod.GET, _path(driver_id), headers=headers)
        except RejectedError as error:
            if error.status == HTTPStatus.NOT_FOUND:
                return SealedCopy()
            raise
        if reply.status == HTTPStatus.NOT_MODIFIED and etag is not None:
            return SealedCopy(None, etag, unchanged=True)
        try:
            stored = StoredProfile.model_validate(reply.data)
        except ValidationError:
            raise ProfileError("the backend's answer is no encrypted profile; nothing was changed") from None
        if stored.driver_id is not None and stored.driver_id != driver_id:
            raise ProfileError("the backend's answer is another driver's profile; nothing was changed")
        return SealedCopy(stored.encrypted_data, reply.headers.get("ETag"))

    async def replace(self, body: SealedProfile, former: SealedCopy) -> str | None:
        """Put a profile in the place of the copy that was fetched; returns the new version's ETag, if any.

        Raises:
            PreconditionError: Another vehicle was faster.
            CloudError: It could not be sent.
        """
        headers = {} if former.exists else {"If-None-Match": "*"}
        if former.etag is not None:
            # If-Match compares strongly (RFC 9110 section 13.1.1): an ETag that a proxy made weak would never match.
            headers = {"If-Match": former.etag.removeprefix("W/")}
        reply = await self._client.request(HTTPMethod.PUT, _path(body.driver_id), content=body, headers=headers)
        etag: str | None = reply.headers.get("ETag")
        return etag


def _path(driver_id: str) -> str:
    return f"/drivers/{quote_id(driver_id)}/profile"
