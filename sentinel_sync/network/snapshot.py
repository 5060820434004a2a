"""How the network and the budgets stand at one instant: for the status, the command line and the console."""

from collections.abc import Mapping
from dataclasses import dataclass

from sentinel_sync.network.rules.budget import BudgetUse
from sentinel_sync.network.rules.traffic import Link, TrafficClass


@dataclass(frozen=True, slots=True)
class LinkUse:
    """What was used over one link, bytes; days and months are calendar ones (UTC)."""

    link: str
    day_bytes: int
    month_bytes: int


@dataclass(frozen=True, slots=True)
class TrafficSnapshot:
    """All that is to be shown.

    Attributes:
        source: Whose word that is, to be read after "the network is metered".
        budgets: How those that are set stand.
        usage: What was used over each link that was used in this month.
        held: Why which kind of traffic waits; those that may go are not in it.
    """

    link: Link
    metered: bool
    source: str
    budgets: tuple[BudgetUse, ...]
    usage: tuple[LinkUse, ...]
    held: Mapping[TrafficClass, str]
