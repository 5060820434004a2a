"""What the network may cost now, for the status."""

from sentinel_sync.base.status import StatusModel


class BudgetStatus(StatusModel):
    """How much of a data budget is used, bytes.

    Attributes:
        link: The class of link that it is for, or `any`.
        period: `day` or `month`.
    """

    link: str
    period: str
    used_bytes: int
    limit_bytes: int


class NetworkStatus(StatusModel):
    """What the network may cost now.

    Attributes:
        link: Class of the link: wifi, cellular, ethernet, other.
        source: Whose word that is.
        held: Why which kind of traffic waits, by kind.
    """

    link: str
    metered: bool
    source: str
    budgets: list[BudgetStatus]
    held: dict[str, str]
