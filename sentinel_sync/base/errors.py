"""The one error tree. Errors say what happened; only `store/rules.py` says what follows.

SentinelSyncError
├── ConfigurationError        the settings cannot be used
├── CloudError                a request ended without what was asked
│   ├── UnreachableError      no usable answer: unknown whether the work was done
│   │   └── CutError          … while a file was sent
│   ├── UnacknowledgedError   answered 2xx, with a body that acknowledges nothing
│   ├── NotNowError           408, 425, 429, 5xx
│   ├── CredentialError       401, 403
│   ├── HeldError             not sent at all: the gate is closed
│   └── RejectedError         any other 4xx
│       └── PreconditionError 412
├── StoreError                the state folder cannot do what was asked
│   ├── StoreFullError        the disk is full
│   ├── FileError             a file or folder cannot be read or written
│   └── StateLockedError      another agent owns the state folder
├── TripStateError            a trip call that does not fit the trip under way
├── ScenarioError             a recording that cannot be uploaded as it is
│   └── UnsettledError        one that is being written, or was changed since
├── ConsentError              the driver has not consented
├── ProfileError              a driver profile that cannot be read, opened or written
│   └── UndecidedProfileError nothing tells what its totals mean: a person decides
└── VerificationError         size, checksum, signature or version of a release
"""


class SentinelSyncError(Exception):
    """Something sentinel_sync was asked for did not happen."""


class ConfigurationError(SentinelSyncError):
    """The settings cannot be used."""


class CloudError(SentinelSyncError):
    """A request ended without what was asked.

    Attributes:
        status: The HTTP status, or None where no usable answer came.
        request_id: The attempt's `X-Request-ID`, to find it in the backend's log; None where nothing was sent.
    """

    def __init__(self, message: str, *, status: int | None = None, request_id: str | None = None) -> None:
        super().__init__(message)
        self.status = status
        self.request_id = request_id


class UnreachableError(CloudError):
    """No usable answer came: connection error, time-out, truncated or unparsable body. The work may have been done.

    Attributes:
        was_reused: Whether the connection had been used before, and ended before a byte of the answer.
    """

    def __init__(
        self, message: str, *, status: int | None = None, request_id: str | None = None, was_reused: bool = False
    ) -> None:
        super().__init__(message, status=status, request_id=request_id)
        self.was_reused = was_reused


class CutError(UnreachableError):
    """The connection broke while a file was on its way: some of it may have arrived, and the backend may be there."""


class UnacknowledgedError(CloudError):
    """The backend answered 2xx, but its body acknowledges nothing: the work may have been done.

    Attributes:
        contradicts: Whether the body is JSON that says otherwise, not something that cannot be read.
    """

    def __init__(
        self, message: str, *, status: int | None = None, request_id: str | None = None, contradicts: bool = False
    ) -> None:
        super().__init__(message, status=status, request_id=request_id)
        self.contradicts = contradicts


class NotNowError(CloudError):
    """The backend asked to come back later (408, 425, 429, 5xx).

    Attributes:
        retry_after: Seconds that the backend asked for, already capped, or None.
    """

    def __init__(
        self,
        message: str,
        *,
        status: int | None = None,
        request_id: str | None = None,
        retry_after: float | None = None,
    ) -> None:
        super().__init__(message, status=status, request_id=request_id)
        self.retry_after = retry_after


class CredentialError(CloudError):
    """The backend refused the credential (401, 403)."""


class HeldError(CloudError):
    """The request was not sent: sending is paused, refused, halted or switched off."""


class RejectedError(CloudError):
    """The backend will never take this request (any other 4xx)."""


class PreconditionError(RejectedError):
    """Another writer was faster (412)."""


class StoreError(SentinelSyncError):
    """The state folder cannot do what was asked."""


class StoreFullError(StoreError):
    """The disk that holds the state folder is full; nothing was written."""


class FileError(StoreError):
    """A file or folder cannot be read or written."""


class StateLockedError(StoreError):
    """Another agent owns the state folder."""


class TripStateError(SentinelSyncError):
    """The call does not fit the trip under way."""


class ScenarioError(SentinelSyncError):
    """A recording cannot be uploaded as it is."""


class UnsettledError(ScenarioError):
    """A recording is still being written, or was changed after it was looked at: it is looked at again."""


class ConsentError(SentinelSyncError):
    """The driver has not consented to this upload."""


class ProfileError(SentinelSyncError):
    """A driver profile cannot be read, opened or written."""


class UndecidedProfileError(ProfileError):
    """Nothing tells what a driver profile's totals mean: a person decides (`profiles resolve`)."""


class VerificationError(SentinelSyncError):
    """A release is not what it claims to be: size, checksum, signature or version."""
