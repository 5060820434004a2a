"""Which kinds of traffic there are, what the network is like, and who may use it so."""

from collections.abc import Sequence
from dataclasses import dataclass
from enum import IntEnum, StrEnum


class TrafficClass(StrEnum):
    """What something is sent or fetched for, most important first."""

    TRIPS = "trips"
    PROFILES = "profiles"
    FLEET = "fleet"
    SCENARIOS = "scenarios"
    MODELS = "models"


class Link(StrEnum):
    """What carries the data to the outside."""

    WIFI = "wifi"
    CELLULAR = "cellular"
    ETHERNET = "ethernet"
    OTHER = "other"


class Metering(StrEnum):
    """What somebody says of the network's price; AUTO is no word: ask the next one."""

    METERED = "metered"
    UNMETERED = "unmetered"
    AUTO = "auto"


@dataclass(frozen=True, slots=True)
class NetworkChoice:
    """Somebody's word on the network.

    Attributes:
        speaker: Who says so, as a person reads it.
        link: The class of link, or None where they do not say.
    """

    speaker: str
    metering: Metering
    link: Link | None = None


class Metered(IntEnum):
    """NetworkManager's own word (its D-Bus type NMMetered)."""

    UNKNOWN = 0
    YES = 1
    NO = 2
    GUESS_YES = 3
    GUESS_NO = 4


@dataclass(frozen=True, slots=True)
class ObservedNetwork:
    """What NetworkManager sees.

    Attributes:
        link: That of the primary connection; None where there is none.
    """

    metered: Metered
    link: Link | None


@dataclass(frozen=True, slots=True)
class NetworkCondition:
    """What the network is like now.

    Attributes:
        source: Whose word that is, to be read after "the network is metered".
    """

    link: Link
    metered: bool
    source: str


#: NetworkManager's name for a connection's type (`connection.type` of its settings): what it is for our purposes.
#: Bluetooth is a phone, so its mobile data. What is not here (a bridge, a bond) is another link.
_LINKS = {
    "802-11-wireless": Link.WIFI,
    "802-11-olpc-mesh": Link.WIFI,
    "802-3-ethernet": Link.ETHERNET,
    "pppoe": Link.ETHERNET,
    "gsm": Link.CELLULAR,
    "cdma": Link.CELLULAR,
    "bluetooth": Link.CELLULAR,
}
#: They are large and can wait for days; the others are small, and of use only while they are fresh.
BULK = frozenset({TrafficClass.SCENARIOS, TrafficClass.MODELS})
#: What waits, as a technician calls it.
NAMES = {
    TrafficClass.TRIPS: "trips",
    TrafficClass.PROFILES: "profiles",
    TrafficClass.FLEET: "fleet statistics",
    TrafficClass.SCENARIOS: "recordings",
    TrafficClass.MODELS: "models",
}


def link_of(connection_type: str) -> Link | None:
    """The class of link of a connection, by NetworkManager's name for its type; None where there is no connection."""
    return _LINKS.get(connection_type, Link.OTHER) if connection_type else None


def condition(words: Sequence[NetworkChoice], observed: ObservedNetwork | None) -> NetworkCondition:
    """What the network is like, by whoever says something about it first.

    Price and link are told apart: who says only one of them leaves the other to the next.

    Args:
        words: Whose word counts most comes first.
        observed: What NetworkManager sees, or None where there is none.
    """
    named = next((word.link for word in words if word.link is not None), None)
    link = named or (observed.link if observed is not None and observed.link is not None else Link.OTHER)
    for word in words:
        if word.metering is not Metering.AUTO:
            return NetworkCondition(link, word.metering is Metering.METERED, f"{word.speaker} says so")
    if observed is not None:
        match observed.metered:
            case Metered.YES:
                return NetworkCondition(link, True, "NetworkManager says so")
            case Metered.GUESS_YES:
                return NetworkCondition(link, True, "NetworkManager guesses so")
            case Metered.NO | Metered.GUESS_NO if named in {None, observed.link}:
                guess = "says" if observed.metered is Metered.NO else "guesses"
                return NetworkCondition(link, False, f"NetworkManager {guess} so")
            case _:  # it does not know, or means another link than the one that was named
                pass
    if link is Link.CELLULAR:
        return NetworkCondition(link, True, "a cellular link counts as metered")
    return NetworkCondition(link, False, "nobody says otherwise")


def why_unfit(traffic: TrafficClass, network: NetworkCondition, *, quiet: bool) -> str | None:
    """Why a kind of traffic waits whatever the budget, or None where it may go.

    Metered: only trips, profiles and fleet statistics may go. Fleet statistics are a few kilobytes that somebody asked
    for and looks at; the budget bounds them all the same.

    Args:
        traffic: The kind.
        network: What the network is like.
        quiet: Whether a trip is under way that is not to be disturbed.
    """
    if traffic not in BULK:
        return None
    name = NAMES[traffic]
    if network.metered:
        return f"the network is metered ({network.source}): {name} wait for an unmetered one"
    if quiet:
        return f"a trip is under way (cloud.quiet_during_trip): {name} wait for its end"
    return None
