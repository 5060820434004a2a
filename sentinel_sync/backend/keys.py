"""Who may do what: keys of the command line, which may all, and keys that are kept as hashes, each with its scopes."""

import hashlib
import json
import secrets
from collections import OrderedDict
from collections.abc import Iterable
from dataclasses import dataclass
from enum import StrEnum

from sentinel_sync.backend.database import Connection, Database, Row
from sentinel_sync.backend.settings import BackendSettings

KEPT_SECONDS = 15.0
"""What is known of a key is asked again after so many seconds: a key that is revoked works no longer than that."""
MOST_KEPT = 100_000
KEY_BYTES = 32


class Scope(StrEnum):
    """What a key is for."""

    VEHICLE = "vehicle"
    """What a vehicle does: all routes of the contract, as itself."""
    READ = "read"
    """Figures, and the lists that operators look at."""
    PUBLISH = "publish"
    """Models and their roll-outs, which are every fleet's."""


class NoSuchKeyError(Exception):
    """No key goes by a name, or none that still works."""


@dataclass(frozen=True, slots=True)
class Grant:
    """What a key allows, and for whom; None is any."""

    scopes: frozenset[Scope]
    fleet_id: str | None = None
    vehicle_id: str | None = None
    expires_at: float | None = None
    """Seconds since the epoch; None: never."""


EVERYTHING = frozenset(Scope)


class Keys:
    """Finds what a key allows. A key itself is never kept: only its SHA-256, which fits, as keys are random."""

    def __init__(self, database: Database, settings: BackendSettings) -> None:
        self._database = database
        self._clock = settings.clock
        publishers = settings.publisher_keys or settings.api_keys
        self._given = {digest_of(key): Grant(EVERYTHING - {Scope.PUBLISH}) for key in settings.api_keys}
        self._given |= {digest_of(key): Grant(EVERYTHING) for key in publishers}
        self._known: OrderedDict[str, tuple[float, Grant | None]] = OrderedDict()

    async def grant(self, key: bytes) -> Grant | None:
        """What this key allows; None for a key that is unknown, revoked or expired."""
        # Looked up by digest, so that the time a comparison takes tells nothing about a key.
        digest = hashlib.sha256(key).hexdigest()
        if (given := self._given.get(digest)) is not None:
            return given
        now = self._clock()
        asked_at, grant = self._known.get(digest, (None, None))
        if asked_at is None or not 0 <= now - asked_at < KEPT_SECONDS:
            grant = await self._database.read(lambda connection: find_grant(connection, digest))
            self._known[digest] = (now, grant)
            while len(self._known) > MOST_KEPT:
                self._known.popitem(last=False)
        is_over = grant is not None and grant.expires_at is not None and now >= grant.expires_at
        return None if is_over else grant


def digest_of(key: str) -> str:
    """What is kept of a key."""
    return hashlib.sha256(key.encode()).hexdigest()


def find_grant(connection: Connection, digest: str) -> Grant | None:
    """What the key of this digest allows."""
    row = connection.execute("SELECT * FROM api_keys WHERE digest = ?", (digest,)).fetchone()
    return None if row is None else _grant(row)


def issue_key(connection: Connection, name: str, grant: Grant, now: float) -> str:
    """Makes a key, and returns it: it is shown this once, and nobody can read it again.

    Args:
        connection: In a transaction.
        name: By which it is rotated and revoked; several keys may have one.
        grant: What it allows.
        now: Seconds since the epoch.
    """
    key = secrets.token_urlsafe(KEY_BYTES)
    scopes = json.dumps(sorted(grant.scopes))
    row = (digest_of(key), name, scopes, grant.fleet_id, grant.vehicle_id, now, grant.expires_at)
    connection.execute("INSERT INTO api_keys VALUES (?, ?, ?, ?, ?, ?, ?)", row)
    return key


def rotate_keys(connection: Connection, names: Iterable[str], now: float, grace: float) -> dict[str, str]:
    """Makes a new key for each name, with what the newest of that name allows; the old ones end after `grace` seconds.

    Raises:
        NoSuchKeyError: Of one of the names; nothing was changed if the transaction ends with it.
    """
    made: dict[str, str] = {}
    for name in names:
        connection.lock(f"key {name}")
        row = connection.execute(
            "SELECT * FROM api_keys WHERE name = ? AND (expires_at IS NULL OR expires_at > ?)"
            " ORDER BY created_at DESC LIMIT 1",
            (name, now),
        ).fetchone()
        if row is None:
            raise NoSuchKeyError(f"there is no key {name} that still works")
        grant = _grant(row)
        connection.execute(
            "UPDATE api_keys SET expires_at = ? WHERE name = ? AND (expires_at IS NULL OR expires_at > ?)",
            (now + grace, name, now + grace),
        )
        made[name] = issue_key(connection, name, Grant(grant.scopes, grant.fleet_id, grant.vehicle_id), now)
    return made


def revoke_keys(connection: Connection, name: str) -> int:
    """Ends all keys of a name; how many there were. Processes that know them notice within `KEPT_SECONDS`."""
    return connection.execute("DELETE FROM api_keys WHERE name = ?", (name,)).rowcount


def list_keys(connection: Connection) -> list[tuple[str, Grant, float]]:
    """Name, what it allows and when it was made (seconds since the epoch), of every key; never the key."""
    rows = connection.execute("SELECT * FROM api_keys ORDER BY name, created_at").fetchall()
    return [(row["name"], _grant(row), row["created_at"]) for row in rows]


def _grant(row: Row) -> Grant:
    scopes = frozenset(Scope(name) for name in json.loads(row["scopes"]))
    return Grant(scopes, row["fleet_id"], row["vehicle_id"], row["expires_at"])
