"""The backend's copy of a driver's profile: fetched, replaced, deleted, on condition where the backend can do that."""

from dataclasses import dataclass
from enum import StrEnum
from http import HTTPMethod, HTTPStatus

from pydantic import ValidationError

from sentinel_sync.base.clock import http_date
from sentinel_sync.base.errors import ProfileError, RejectedError
from sentinel_sync.base.payloads import SealedProfile, StoredProfile
from sentinel_sync.cloud.client import CloudAPIClient, Response, quote_id
from sentinel_sync.cloud.request import Request

#: What a backend calls the version of a profile whose driver was forgotten (docs/profiles.md, the extension).
FORGOTTEN = '"forgotten"'
#: Other vehicles may be faster so many times in a row before what is wanted of the backend waits for the next turn.
MAX_ROUNDS = 6
_SECOND = 1_000_000
#: How a backend says that it does not delete profiles.
_NOT_OFFERED = frozenset({HTTPStatus.NOT_FOUND, HTTPStatus.METHOD_NOT_ALLOWED, HTTPStatus.NOT_IMPLEMENTED})


@dataclass(frozen=True, slots=True)
class RemoteProfile:
    """What a fetch found.

    Attributes:
        sealed: The encrypted profile; None where there is none, or it is unchanged.
        etag: The backend's name for this version; None where it gives none.
        unchanged: Whether the version asked about still holds.
        gone: Whether the backend says that the driver was forgotten.
        forgotten: When, microseconds since the epoch; None where it does not say.
    """

    sealed: str | None = None
    etag: str | None = None
    unchanged: bool = False
    gone: bool = False
    forgotten: int | None = None

    @property
    def exists(self) -> bool:
        """Whether the backend has something of this driver."""
        return self.unchanged or self.gone or self.sealed is not None


class Deletion(StrEnum):
    """What came of asking the backend to delete a profile."""

    DONE = "done"
    NOT_OFFERED = "not offered"


class RemoteProfiles:
    """Profiles at the backend."""

    def __init__(self, client: CloudAPIClient) -> None:
        self._client = client

    async def fetch(self, driver_id: str, etag: str | None) -> RemoteProfile:
        """Fetch a copy, unless it is still the version `etag`.

        Raises:
            CloudError: The backend could not be asked, or refuses (RejectedError).
            ProfileError: Its answer is not this driver's profile.
        """
        try:
            reply = await self._get(driver_id, etag)
        except RejectedError as error:
            match error.status:
                case HTTPStatus.NOT_FOUND:
                    return RemoteProfile()
                case HTTPStatus.GONE:
                    return await self._tombstone(driver_id)
            raise
        return _copy(reply, driver_id, etag)

    async def replace(self, body: SealedProfile, former: RemoteProfile) -> str | None:
        """Put a profile in the place of the copy that was fetched; returns the new version's ETag, if any.

        Raises:
            PreconditionError: Another vehicle was faster.
            CloudError: It could not be sent.
        """
        headers = {} if former.exists else {"If-None-Match": "*"}
        reply = await self._client.request(
            HTTPMethod.PUT, _path(body.driver_id), content=body, headers=headers | _on_condition(former)
        )
        etag: str | None = reply.headers.get("ETag")
        return etag

    async def delete(self, driver_id: str, former: RemoteProfile) -> Deletion:
        """Ask for the deletion of the copy that was fetched.

        Raises:
            PreconditionError: Another vehicle was faster.
            CloudError: It could not be asked.
        """
        headers = {} if former.gone else _on_condition(former)
        takes = _NOT_OFFERED | {HTTPStatus.GONE}
        asked = Request.of(HTTPMethod.DELETE, _path(driver_id), headers=headers, takes=takes)
        reply = await self._client.ask(asked)
        return Deletion.NOT_OFFERED if reply.status in _NOT_OFFERED else Deletion.DONE

    async def _get(self, driver_id: str, etag: str | None) -> Response:
        headers = {} if etag is None else {"If-None-Match": etag}
        return await self._client.request(HTTPMethod.GET, _path(driver_id), headers=headers)

    async def _tombstone(self, driver_id: str) -> RemoteProfile:
        """Ask after a 410 when that was: an answer that says so costs the backend nothing and is no error."""
        try:
            reply = await self._get(driver_id, FORGOTTEN)
        except RejectedError as error:
            match error.status:
                case HTTPStatus.GONE:  # it keeps no time, and takes no new profile under this id
                    return RemoteProfile(gone=True)
                case HTTPStatus.NOT_FOUND:
                    return RemoteProfile()
            raise
        return _copy(reply, driver_id, FORGOTTEN)


def _copy(reply: Response, driver_id: str, etag: str | None) -> RemoteProfile:
    if reply.status == HTTPStatus.NOT_MODIFIED and etag is not None:
        if etag != FORGOTTEN:
            return RemoteProfile(None, etag, unchanged=True)
        at = http_date(reply.headers.get("Last-Modified"))
        # It counts whole seconds; what was begun within that second may have been begun before.
        return RemoteProfile(None, etag, gone=True, forgotten=None if at is None else (int(at) + 1) * _SECOND)
    try:
        stored = StoredProfile.model_validate(reply.data)
    except ValidationError:
        raise ProfileError("the backend's answer is no encrypted profile; nothing was changed") from None
    if stored.driver_id is not None and stored.driver_id != driver_id:
        raise ProfileError("the backend's answer is another driver's profile; nothing was changed")
    return RemoteProfile(stored.encrypted_data, reply.headers.get("ETag"))


def _on_condition(former: RemoteProfile) -> dict[str, str]:
    if former.etag is None:
        return {}
    # Exactly what was given, a weak one's W/ included: some backends compare it as a text (wire contract).
    return {"If-Match": former.etag}


def _path(driver_id: str) -> str:
    return f"/drivers/{quote_id(driver_id)}/profile"
