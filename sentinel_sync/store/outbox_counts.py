"""How much there is in the outbox, and how much ever was."""

import sqlite3
from dataclasses import dataclass, field


@dataclass(frozen=True, slots=True)
class OutboxCounts:
    """How much there is.

    Attributes:
        waiting: Items that will be sent.
        sending: Items being sent now.
        set_aside: Items that need a person.
        size_bytes: What the items and facts take on disk.
        acknowledged: Items the backend took, ever.
        dropped: Items given up, ever, by "kind.reason".
    """

    waiting: int = 0
    sending: int = 0
    set_aside: int = 0
    size_bytes: int = 0
    acknowledged: int = 0
    dropped: dict[str, int] = field(default_factory=dict)

    @property
    def unsent(self) -> int:
        """Items that are still to be sent."""
        return self.waiting + self.sending


def count(connection: sqlite3.Connection, name: str, by: int) -> None:
    """Add to a running total."""
    connection.execute(
        "INSERT INTO counter (name, value) VALUES (?, ?)"
        " ON CONFLICT (name) DO UPDATE SET value = value + excluded.value",
        (name, by),
    )


def read_counts(connection: sqlite3.Connection, kind: str | None, size_bytes: int) -> OutboxCounts:
    """Count the items of one kind, or of all."""
    if kind is None:
        rows = connection.execute("SELECT state, count(*) FROM item GROUP BY state")
    else:
        rows = connection.execute("SELECT state, count(*) FROM item WHERE kind = ? GROUP BY state", (kind,))
    states = dict(rows.fetchall())
    totals = [(*name.split(".", 1), value) for name, value in connection.execute("SELECT name, value FROM counter")]
    dropped = {of: value for what, of, value in totals if what == "dropped"}
    return OutboxCounts(
        waiting=states.get("waiting", 0),
        sending=states.get("sending", 0),
        set_aside=states.get("set_aside", 0),
        size_bytes=size_bytes,
        acknowledged=sum(value for what, of, value in totals if what == "acknowledged" and kind in {None, of}),
        dropped={of: value for of, value in dropped.items() if kind in {None, of.rpartition(".")[0]}},
    )
