"""What a person decides about a profile of which nothing tells what its totals mean."""

from dataclasses import dataclass
from enum import StrEnum

from sentinel_sync.profiles.rules.merge import Ancestor

#: What is said of such a profile.
UNDECIDED = (
    "its totals are not what they were, and nothing tells whether they were reset, or go on from an older copy: nothing"
    " is changed until `profiles resolve DRIVER --keep local|fleet|sum` decides"
)


class Keep(StrEnum):
    """What a person decides where nothing tells what a profile's totals mean."""

    LOCAL = "local"
    FLEET = "fleet"
    SUM = "sum"


@dataclass(frozen=True, slots=True)
class Resolution:
    """A person's decision about one profile.

    Attributes:
        name: Tells it from any other decision: it is carried out once.
        keep: This vehicle's totals, everywhere; the fleet's; or both added up.
        of: The profile that was decided about; what was driven since counts. None where there was none.
    """

    name: str
    keep: Keep
    of: Ancestor | None = None
