"""What the network is like, by whose word, and who may use it so."""

import pytest

from sentinel_sync.network.rules.traffic import (
    BULK,
    Link,
    Metered,
    Metering,
    NetworkChoice,
    NetworkCondition,
    ObservedNetwork,
    TrafficClass,
    condition,
    link_of,
    why_unfit,
)

TECHNICIAN = "the command line"
HOST = "the host"


@pytest.mark.parametrize(
    ("kind", "link"),
    [
        ("802-11-wireless", Link.WIFI),
        ("802-3-ethernet", Link.ETHERNET),
        ("gsm", Link.CELLULAR),
        ("cdma", Link.CELLULAR),
        ("bluetooth", Link.CELLULAR),
        ("bridge", Link.OTHER),
        ("a type of years to come", Link.OTHER),
        ("", None),
    ],
)
def test_a_connection_is_one_of_four_links(kind: str, link: Link | None) -> None:
    assert link_of(kind) is link


@pytest.mark.parametrize(
    ("observed", "expected"),
    [
        (None, NetworkCondition(Link.OTHER, False, "nobody says otherwise")),
        (ObservedNetwork(Metered.YES, Link.WIFI), NetworkCondition(Link.WIFI, True, "NetworkManager says so")),
        (ObservedNetwork(Metered.GUESS_YES, Link.WIFI), NetworkCondition(Link.WIFI, True, "NetworkManager guesses so")),
        (ObservedNetwork(Metered.NO, Link.CELLULAR), NetworkCondition(Link.CELLULAR, False, "NetworkManager says so")),
        (
            ObservedNetwork(Metered.GUESS_NO, Link.ETHERNET),
            NetworkCondition(Link.ETHERNET, False, "NetworkManager guesses so"),
        ),
        (
            ObservedNetwork(Metered.UNKNOWN, Link.CELLULAR),
            NetworkCondition(Link.CELLULAR, True, "a cellular link counts as metered"),
        ),
        (ObservedNetwork(Metered.UNKNOWN, Link.WIFI), NetworkCondition(Link.WIFI, False, "nobody says otherwise")),
        (ObservedNetwork(Metered.UNKNOWN, None), NetworkCondition(Link.OTHER, False, "nobody says otherwise")),
    ],
)
def test_where_nobody_else_speaks_it_is_as_networkmanager_sees_it(
    observed: ObservedNetwork | None, expected: NetworkCondition
) -> None:
    assert condition([NetworkChoice("cloud.network", Metering.AUTO)], observed) == expected


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        (
            [NetworkChoice(TECHNICIAN, Metering.UNMETERED), NetworkChoice(HOST, Metering.METERED)],
            NetworkCondition(Link.CELLULAR, False, "the command line says so"),
        ),
        (
            [NetworkChoice(TECHNICIAN, Metering.AUTO, Link.WIFI), NetworkChoice(HOST, Metering.METERED, Link.ETHERNET)],
            NetworkCondition(Link.WIFI, True, "the host says so"),
        ),
        (
            [NetworkChoice(HOST, Metering.AUTO, Link.ETHERNET), NetworkChoice("cloud.network", Metering.METERED)],
            NetworkCondition(Link.ETHERNET, True, "cloud.network says so"),
        ),
    ],
)
def test_price_and_link_are_each_from_the_first_who_says_them(
    words: list[NetworkChoice], expected: NetworkCondition
) -> None:
    assert condition(words, ObservedNetwork(Metered.YES, Link.CELLULAR)) == expected


def test_networkmanagers_no_is_not_about_a_link_that_somebody_else_named() -> None:
    words = [NetworkChoice(HOST, Metering.AUTO, Link.CELLULAR)]
    seen = condition(words, ObservedNetwork(Metered.NO, Link.WIFI))
    assert seen == NetworkCondition(Link.CELLULAR, True, "a cellular link counts as metered")
    assert condition(words, ObservedNetwork(Metered.NO, Link.CELLULAR)).metered is False
    assert (
        condition([NetworkChoice(HOST, Metering.AUTO, Link.WIFI)], ObservedNetwork(Metered.YES, None)).metered is True
    )


@pytest.mark.parametrize("traffic", TrafficClass)
@pytest.mark.parametrize(("metered", "quiet"), [(False, False), (False, True), (True, False), (True, True)])
def test_on_a_metered_network_and_during_a_trip_only_what_is_large_waits(
    traffic: TrafficClass, metered: bool, quiet: bool
) -> None:
    why = why_unfit(traffic, NetworkCondition(Link.WIFI, metered, "NetworkManager says so"), quiet=quiet)
    assert (why is not None) == (traffic in BULK and (metered or quiet))


def test_the_reason_is_one_that_a_technician_understands() -> None:
    network = NetworkCondition(Link.WIFI, True, "NetworkManager says so")
    assert (
        why_unfit(TrafficClass.SCENARIOS, network, quiet=True)
        == "the network is metered (NetworkManager says so): recordings wait for an unmetered one"
    )
    free = NetworkCondition(Link.WIFI, False, "nobody says otherwise")
    assert (
        why_unfit(TrafficClass.MODELS, free, quiet=True)
        == "a trip is under way (cloud.quiet_during_trip): models wait for its end"
    )
