"""`TransferPolicy`: whoever is about to send or fetch asks here whether this kind of traffic may go now."""

import asyncio
import contextlib
import logging
from collections.abc import Callable, Iterable
from datetime import UTC, datetime
from enum import StrEnum
from typing import TypeVar

from pydantic import TypeAdapter

from sentinel_sync.base.clock import Clock
from sentinel_sync.base.errors import StoreError
from sentinel_sync.base.tasks import PeriodicTask
from sentinel_sync.network.network_manager import NetworkManagerWatch
from sentinel_sync.network.rules.budget import (
    ANY,
    Accounts,
    Limit,
    LinkStatus,
    NetworkStatus,
    Period,
    budget_status,
    resets_at,
    spent,
    until_next_share,
    why_spent,
)
from sentinel_sync.network.rules.traffic import (
    NAMES,
    Link,
    Metering,
    NetworkChoice,
    NetworkCondition,
    TrafficClass,
    condition,
    why_unfit,
)
from sentinel_sync.network.rules.window import VehicleCondition, Window, seconds_to_next_minute, why_closed
from sentinel_sync.network.usage import UsageRecord
from sentinel_sync.settings import CloudSettings, TransferWindow
from sentinel_sync.store.documents import Documents
from sentinel_sync.store.timekeeper import Timekeeper

logger: logging.Logger = logging.getLogger(__name__)

#: What other processes say is read at most so often, seconds: a transfer asks every half second.
_READ_AGAIN = 0.25
#: Seconds that the start waits for NetworkManager's first word.
_FIRST_LOOK = 1.0
#: Seconds between two looks where nobody wakes the duty.
_LOOK_AGAIN = 60.0
#: A look at the turn of a day comes this much after it, seconds: not an instant before.
_AFTER_THE_TURN = 0.05

Listener = Callable[[], None]
Word = TypeVar("Word", bound=StrEnum)
_KIND = "network"
_KEY = "operator"
_SHAPE = TypeAdapter(NetworkChoice)
_SPEAKER = "the command line"


class TransferPolicy:
    """Asked before each request, and every half second during a transfer.

    Whose word on the network counts: the command line's, then the host's, then `cloud.network`, then NetworkManager's;
    where none says anything, a cellular link is metered and any other is not. Each may also name the link alone.

    The command line goes before the host because it is a person at this vehicle, who says it once and on purpose, while
    the host is a program that repeats itself at each change of its modem: were the host first, or the latest word, the
    technician's would be undone within seconds and there would be nothing else to try. It stands until it is taken back
    (`network auto`), over restarts, and is shown as the source wherever the condition is, so that it is not forgotten.
    The data budget holds whoever says what. The host's word is the host's to repeat: it ends with the process.

    What passes between two questions is not stopped: a recording asked about every half second may overshoot its
    budget by half a second's traffic, trips by one request per place in flight, and health probes are never held.

    Args:
        documents: Where usage is kept, and where the command line leaves its word; the store is open before the first
            question.
        settings: The network, the budgets, quiet during a trip.
        timekeeper: What is known of the true time: whose days count. Without it the wall clock's do.
        owner: Whether this process owns the state folder; another one's usage is handed to the owner.
        supervised: Whether somebody keeps doing `duty`; else NetworkManager is looked after when a question is asked.
        bus_address: Of the D-Bus that NetworkManager is on; by default the system's.
    """

    def __init__(
        self,
        documents: Documents,
        settings: CloudSettings,
        *,
        clock: Clock,
        timekeeper: Timekeeper | None = None,
        owner: bool = True,
        supervised: bool = False,
        bus_address: str | None = None,
    ) -> None:
        self._documents = documents
        self._settings = settings
        self._clock = clock
        self._supervised = supervised
        self._limits = tuple(_limits(settings))
        self._windows = _windows(settings)
        self._vehicle: frozenset[VehicleCondition] = frozenset()
        self._usage = UsageRecord(documents, self._limits, clock=clock, timekeeper=timekeeper, owner=owner)
        self.duty: PeriodicTask = PeriodicTask("network", self.step)
        #: None where its word could not change anything.
        self._watch = (
            NetworkManagerWatch(self._on_change, clock=clock, bus_address=bus_address)
            if settings.network == "auto" or any(limit.link != ANY for limit in self._limits)
            else None
        )
        self._operator: NetworkChoice | None = None
        self._host: NetworkChoice | None = None
        self._setting = NetworkChoice("cloud.network", Metering(settings.network))
        self._condition = self._find_condition()
        self._trips: list[Callable[[], bool]] = []
        self._listeners: list[Listener] = []
        self._noted: tuple[NetworkCondition, frozenset[TrafficClass]] | None = None
        self._preparing = asyncio.Lock()
        self._prepared = self._looked = self._unreadable = False
        self._read_at = 0.0
        #: Until the next kind of traffic has used its share of a budget.
        self._left_bytes: float = 0.0

    # --- for those who send ---

    async def blocked_reason(self, traffic: TrafficClass) -> str | None:
        """Why this kind of traffic waits, for a person to read, or None where it may go.

        Where the store cannot be read, what the others say counts.
        """
        await self._refresh()
        return self._why(traffic)

    def wait_of(self, traffic: TrafficClass) -> float | None:
        """Seconds until a budget that holds this kind begins anew; None where it is not held, or not by a budget."""
        self._usage.turn()
        limit = None if self._unfit(traffic) else spent(traffic, self._condition.link, self._limits, self._accounts)
        return None if limit is None else self._until_reset(limit.period)

    def count(self, sent_bytes: int, received_bytes: int) -> None:
        """Charge traffic as it happens, bytes; a plain call."""
        used_bytes = sent_bytes + received_bytes
        if self._usage.count(self._condition.link, used_bytes):
            self.duty.wake.set()
        self._left_bytes -= used_bytes
        if self._left_bytes <= 0:  # somebody may have to wait from now on
            self._note()

    def subscribe(self, listener: Listener) -> None:
        """Have `listener()` called when the network has changed, or something else waits than did before."""
        self._listeners.append(listener)

    # --- for those who know ---

    @property
    def trip_under_way(self) -> bool:
        """Whether a trip is being recorded."""
        return any(under_way() for under_way in self._trips)

    def follow_trips(self, under_way: Callable[[], bool]) -> None:
        """Ask `under_way()` whether a trip is being recorded; a plain function that returns at once."""
        self._trips.append(under_way)

    async def set_network(self, choice: str, link: str | None = None) -> None:
        """Take the host's word on the network; it counts at once, until the next one or the end of the process.

        Args:
            choice: 'metered', 'unmetered', or 'auto' to say nothing of it.
            link: 'wifi', 'cellular', 'ethernet', 'other', or None to say nothing of it.

        Raises:
            ValueError: None of these.
        """
        self._host = NetworkChoice(
            "the host", known_word(choice, Metering), None if link is None else known_word(link, Link)
        )
        self._note()

    def set_conditions(self, conditions: Iterable[str]) -> None:
        """Take the host's word on the vehicle, for `upload_window` and `update_window`; it counts at once.

        Raises:
            ValueError: One is none of 'parked', 'charging' and 'home'.
        """
        self._vehicle = frozenset(known_word(condition, VehicleCondition) for condition in conditions)
        self._note()

    # --- life ---

    async def prepare(self) -> None:
        """Read the accounts and hear NetworkManager's first word; done by itself at the first question."""
        async with self._preparing:
            if not self._looked and self._watch is not None:
                self._looked = True
                with contextlib.suppress(TimeoutError):
                    async with asyncio.timeout(_FIRST_LOOK):
                        await self._watch.look()
            if not self._prepared:
                await self._read(first=True)
                self._note()
                self._warn_of_a_budget_for_nothing()

    async def step(self) -> float:
        """See what others said, write what is due; returns the seconds until the next look."""
        await self.prepare()
        self._usage.turn()
        waits = [_LOOK_AGAIN, *(self._until_reset(limit.period) for limit in self._limits)]
        if self._watch is not None:
            waits.append(await self._watch.look())
        if self._windows:
            waits.append(seconds_to_next_minute(self._local_time()) + _AFTER_THE_TURN)
        await self._read()
        await self._usage.take_in()
        if self._usage.is_due:
            await self._usage.write()
        self._note()
        return min(waits)

    async def close(self) -> None:
        """Write what was counted and leave the bus; a later question begins anew."""
        async with self._preparing:
            self._prepared = self._looked = False
            await self._usage.close()
            if self._watch is not None:
                await self._watch.close()

    def snapshot(self) -> NetworkStatus:
        """What there is to show, as of the last question or look."""
        self._usage.turn()
        accounts = self._accounts
        usage = (
            LinkStatus(
                link=link,
                day_bytes=accounts.used(link, Period.DAY),
                month_bytes=accounts.used(link, Period.MONTH),
            )
            for link in Link
        )
        return NetworkStatus(
            link=self._condition.link,
            metered=self._condition.metered,
            source=self._condition.source,
            budgets=budget_status(self._limits, accounts),
            held={str(traffic): why for traffic in TrafficClass if (why := self._why(traffic)) is not None},
            usage=[use for use in usage if use.month_bytes],
            days=accounts.by_day(),
        )

    # --- how ---

    @property
    def _accounts(self) -> Accounts:
        return self._usage.accounts

    async def _refresh(self) -> None:
        if not self._prepared:
            await self.prepare()
        self._usage.turn()
        now = self._clock.monotonic()
        if now - self._read_at >= _READ_AGAIN:
            await self._read()
            if not self._supervised:
                await self._look_after()
            self._note()

    async def _read(self, *, first: bool = False) -> None:
        """Read what is in the store; a component that gets along without one gets along without this too."""
        self._read_at = self._clock.monotonic()
        try:
            if first:
                await self._usage.load()
                self._prepared = True
            self._operator = await load_operator_override(self._documents)
        except StoreError as error:
            if not self._unreadable:
                logger.warning("network.store: what was used, and what the command line said, is not known: %s", error)
            self._unreadable = True
        else:
            self._unreadable = False

    async def _look_after(self) -> None:
        """What the duty does where somebody keeps doing it."""
        if self._watch is not None:
            await self._watch.look()
        if self._usage.is_due:
            await self._usage.write()

    def _why(self, traffic: TrafficClass) -> str | None:
        unfit = self._unfit(traffic)
        if unfit is not None:
            return unfit
        limit = spent(traffic, self._condition.link, self._limits, self._accounts)
        return None if limit is None else why_spent(traffic, limit, self._accounts)

    def _unfit(self, traffic: TrafficClass) -> str | None:
        quiet = self._settings.quiet_during_trip and self.trip_under_way
        unfit = why_unfit(traffic, self._condition, quiet=quiet)
        if unfit is not None or traffic not in self._windows:
            return unfit
        key, windows = self._windows[traffic]
        return why_closed(NAMES[traffic], key, windows, self._local_time(), self._vehicle)

    def _local_time(self) -> datetime:
        """By the vehicle's own zone, and by the backend's clock where that is known to be right."""
        return datetime.fromtimestamp(self._usage.now(), UTC).astimezone()

    def _until_reset(self, period: Period) -> float:
        return max(0.0, resets_at(period, self._accounts.today) - self._usage.now()) + _AFTER_THE_TURN

    def _find_condition(self) -> NetworkCondition:
        words = [word for word in (self._operator, self._host, self._setting) if word is not None]
        return condition(words, None if self._watch is None else self._watch.observed)

    def _note(self) -> None:
        """Follow the network, and tell the others what is news."""
        self._condition = network = self._find_condition()
        held = {traffic: why for traffic in TrafficClass if (why := self._why(traffic)) is not None}
        self._left_bytes = until_next_share(network.link, self._limits, self._accounts)
        before, self._noted = self._noted, (network, frozenset(held))
        if before == self._noted:
            return
        if before is None or before[0] != network:
            metered = "metered" if network.metered else "not metered"
            logger.info("network.condition: %s, %s (%s)", network.link, metered, network.source)
        was_held = frozenset[TrafficClass]() if before is None else before[1]
        for traffic in sorted(held.keys() - was_held):
            logger.info("traffic.held: %s", held[traffic])
        for traffic in sorted(was_held - held.keys()):
            logger.info("traffic.released: %s may go", NAMES[traffic])
        for listener in self._listeners:
            listener()

    def _warn_of_a_budget_for_nothing(self) -> None:
        """Whoever set a budget for a modem and runs where nobody knows the link has no budget at all: say so."""
        named = sorted({limit.link for limit in self._limits} - {ANY, Link.OTHER})
        observed = None if self._watch is None else self._watch.observed
        if not named or self._condition.link is not Link.OTHER or (observed is not None and observed.link is not None):
            return
        logger.warning(
            "network.link_unknown: cloud.data_budget for %s does not count as long as nobody says what the link is: "
            "NetworkManager, the host (set_network) or the command line (network … --link)",
            ", ".join(named),
        )

    def _on_change(self) -> None:
        self.duty.wake.set()


def _windows(settings: CloudSettings) -> dict[TrafficClass, tuple[str, list[Window]]]:
    named = {
        TrafficClass.SCENARIOS: ("upload_window", settings.upload_window),
        TrafficClass.MODELS: ("update_window", settings.update_window),
    }
    return {
        traffic: (key, [Window(one.weekdays, *one.minutes, _condition_of(one)) for one in windows])
        for traffic, (key, windows) in named.items()
        if windows
    }


def _condition_of(window: TransferWindow) -> VehicleCondition | None:
    return None if window.when is None else VehicleCondition(window.when)


def _limits(settings: CloudSettings) -> list[Limit]:
    return [
        Limit(link, period, limit_bytes)
        for link, budget in settings.data_budget.items()
        for period, limit_bytes in ((Period.DAY, budget.day), (Period.MONTH, budget.month))
        if limit_bytes is not None
    ]


def known_word(text: str, words: type[Word]) -> Word:
    """The one of some words that a host says; raises ValueError, which names them all, where it is none."""
    try:
        return words(text)
    except ValueError:
        raise ValueError(f"{text!r} is none of {', '.join(words)}") from None


async def load_operator_override(documents: Documents) -> NetworkChoice | None:
    """The word in force, or None where there is none."""
    return await documents.load(_KIND, _KEY, _SHAPE)


async def save_operator_override(documents: Documents, metering: Metering, link: Link | None) -> None:
    """Write a word, or take it back (AUTO without a link); a running agent notices."""
    if metering is Metering.AUTO and link is None:
        await documents.delete(_KIND, _KEY)
    else:
        await documents.save(_KIND, _KEY, NetworkChoice(_SPEAKER, metering, link), _SHAPE)
