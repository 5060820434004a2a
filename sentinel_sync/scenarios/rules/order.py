"""Which scenario goes next: the more important first, but nobody waits for ever."""

#: Who is one priority lower goes first after having waited so much longer, seconds: a vehicle's day has hours, and a
#: recording of this morning must not wait behind each new one of the evening.
HEAD_START = 6 * 3600.0


def turn(queued_at: float, rank: int) -> float:
    """When it is a scenario's turn, as a time to sort by: the smallest goes first.

    Args:
        queued_at: When it was queued, seconds since the epoch.
        rank: 0 is the most important.
    """
    return queued_at + rank * HEAD_START
