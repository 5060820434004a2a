"""What was used of a data plan, by calendar day and link, and which kind of traffic that keeps waiting."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from enum import StrEnum

from pydantic import Field

from sentinel_sync.base.clock import EARLIEST_PLAUSIBLE, LATEST_PLAUSIBLE, ClockStamp
from sentinel_sync.base.payloads import StatusModel
from sentinel_sync.network.rules.traffic import NAMES, Link, TrafficClass

#: For all links together.
ANY = "any"
DAY = 86_400
#: So many days are remembered: this month, the one before it for people, and some that a wrong clock made up.
_DAYS_KEPT = 100
_DAYS_SHOWN = 31
#: A clock that was set by less than this, seconds, reached a neighbouring day at most, whose account is charged then.
_STEP = float(DAY)
#: As tariffs count, the largest first.
_UNITS = ((1_000_000_000, "GB"), (1_000_000, "MB"), (1_000, "kB"))
#: How much of a budget each kind of traffic may find used up and still go. Recordings and models stop first: whatever
#: they leave is more than a vehicle's trips take in a month of driving. Then what people look at; trips are last.
SHARES: Mapping[TrafficClass, float] = {
    TrafficClass.SCENARIOS: 0.90,
    TrafficClass.MODELS: 0.90,
    TrafficClass.FLEET: 0.95,
    TrafficClass.PROFILES: 0.95,
    TrafficClass.TRIPS: 1.0,
}


class BudgetStatus(StatusModel):
    """How much of a data budget is used, bytes.

    Attributes:
        link: The class of link that it is for, or `any`.
        period: `day` or `month`: calendar ones (UTC).
        resets_at: When it begins anew: wall time, seconds since the epoch.
    """

    link: str
    period: str
    used_bytes: int
    limit_bytes: int
    resets_at: float = 0.0


class LinkStatus(StatusModel):
    """What was used over one link, bytes; days and months are calendar ones (UTC)."""

    link: str
    day_bytes: int
    month_bytes: int


class DayStatus(StatusModel):
    """What one day (UTC) has used, sent and received together, over all links."""

    date: str
    used_bytes: int


class NetworkStatus(StatusModel):
    """What the network may cost now.

    Attributes:
        link: Class of the link: wifi, cellular, ethernet, other.
        source: Whose word that is, to be read after "the network is metered".
        budgets: How those that are set stand.
        held: Why which kind of traffic waits; those that may go are not in it.
        usage: What was used over each link that was used in this month.
        days: What was used on each of the last days on which anything was, oldest first.
    """

    link: Link
    metered: bool
    source: str
    budgets: list[BudgetStatus]
    held: dict[str, str]
    usage: list[LinkStatus] = Field(default_factory=list)
    days: list[DayStatus] = Field(default_factory=list)


class Period(StrEnum):
    """What a budget is for: a calendar day or month (UTC)."""

    DAY = "day"
    MONTH = "month"


@dataclass(frozen=True, slots=True)
class Limit:
    """One budget.

    Attributes:
        link: The class of link that it is for, or `any`.
        limit_bytes: Sent and received together.
    """

    link: str
    period: Period
    limit_bytes: int


#: Bytes by link, by day; a day is counted in days since the epoch (UTC).
Booked = dict[int, dict[Link, int]]


@dataclass(frozen=True, slots=True)
class KeptAccounts:
    """What lies on disk of the accounts.

    Attributes:
        settled: What was used in earlier boots.
        booked: What was used in the boot of `stamp`, by that boot's clock.
        stamp: The clocks when this was written.
        today: The day when this was written.
        at_risk: So many bytes may be used before this is written again: charged where that never happened.
    """

    settled: Booked
    booked: Booked
    stamp: ClockStamp
    today: int
    at_risk: dict[Link, int]


@dataclass(slots=True)
class Accounts:
    """One account per calendar day, given out once.

    A clock that is set does not give a day's budget twice, nor block for ever:

    - Each date has an account of its own; one that lies in the future because the clock was wrong counts when it comes.
    - What was used in this boot before the clock was set by a day or more is re-dated along with it: a vehicle that
      boots in 1970 and learns the time later has used this day's data, not 1970's.
    - What an earlier boot used on a date that no working clock shows is forgotten: else a clock that is never set would
      hold everything for ever, once that one day is used up.
    """

    stamp: ClockStamp
    settled: Booked = field(default_factory=dict)
    booked: Booked = field(default_factory=dict)
    today: int = 0
    _of_day: dict[str, int] = field(default_factory=dict)
    _of_month: dict[str, int] = field(default_factory=dict)

    @classmethod
    def opened(cls, kept: KeptAccounts | None, stamp: ClockStamp, now: float, *, charge_risk: bool) -> "Accounts":
        """Go on with what was written.

        Args:
            kept: That, or None where there is nothing.
            stamp: The clocks now.
            now: Wall time, seconds since the epoch.
            charge_risk: Whether to charge what may have been used after it was written.
        """
        if kept is None:
            accounts = cls(stamp)
        else:
            accounts = cls(kept.stamp, _copied(kept.settled), _copied(kept.booked), kept.today)
            for link, lost_bytes in kept.at_risk.items() if charge_risk else ():
                _add(accounts.booked, kept.today, link, lost_bytes)
        accounts.turn(stamp, now)
        accounts._sum()
        return accounts

    def turn(self, stamp: ClockStamp, now: float) -> None:
        """Follow the clock; cheap where the day is the same.

        Args:
            stamp: The clocks now.
            now: Wall time, seconds since the epoch.
        """
        today = int(now // DAY)
        if stamp.boot_id != self.stamp.boot_id:
            self._settle()
        elif abs(step := stamp.offset - self.stamp.offset) >= _STEP:
            days = today - int((now - step) // DAY)
            self.booked = {day + days: links for day, links in self.booked.items()}
        elif today == self.today:
            self.stamp = stamp
            return
        self.stamp, self.today = stamp, today
        self._forget()
        self._sum()

    def book(self, link: Link, used_bytes: int) -> None:
        """Charge what was used today."""
        _add(self.booked, self.today, link, used_bytes)
        for name in (link, ANY):
            self._of_day[name] = self._of_day.get(name, 0) + used_bytes
            self._of_month[name] = self._of_month.get(name, 0) + used_bytes

    def used(self, link: str, period: Period) -> int:
        """Bytes used today or in this month over a link, or over `any`."""
        return (self._of_day if period is Period.DAY else self._of_month).get(link, 0)

    def by_day(self) -> list[DayStatus]:
        """What each of the last 31 days has used, oldest first; those on which nothing was are left out."""
        used: dict[int, int] = {}
        for accounts in (self.settled, self.booked):
            for day, links in accounts.items():
                if self.today - _DAYS_SHOWN < day <= self.today:
                    used[day] = used.get(day, 0) + sum(links.values())
        return [DayStatus(date=_moment(day * DAY).date().isoformat(), used_bytes=used[day]) for day in sorted(used)]

    def kept(self, at_risk: Mapping[Link, int]) -> KeptAccounts:
        """What is to be written now, with what may be used before it is written again."""
        return KeptAccounts(_copied(self.settled), _copied(self.booked), self.stamp, self.today, dict(at_risk))

    def _settle(self) -> None:
        for day, links in self.booked.items():
            for link, used_bytes in links.items():
                _add(self.settled, day, link, used_bytes)
        self.booked = {}
        self.settled = {day: links for day, links in self.settled.items() if _is_plausible(day)}

    def _forget(self) -> None:
        """Drop the oldest days, never those of this month."""
        month = month_of(self.today)
        others = sorted(day for day in self.settled if month_of(day) != month)
        for day in others[: max(0, len(self.settled) - _DAYS_KEPT)]:
            del self.settled[day]

    def _sum(self) -> None:
        self._of_day, self._of_month = {}, {}
        month = month_of(self.today)
        for accounts in (self.settled, self.booked):
            for day, links in accounts.items():
                if month_of(day) != month:
                    continue
                for link, used_bytes in links.items():
                    for name in (link, ANY):
                        self._of_month[name] = self._of_month.get(name, 0) + used_bytes
                        if day == self.today:
                            self._of_day[name] = self._of_day.get(name, 0) + used_bytes


def month_of(day: int) -> tuple[int, int]:
    """Year and month of a day."""
    date = _moment(day * DAY)
    return date.year, date.month


def resets_at(period: Period, day: int) -> float:
    """When the period that a day belongs to ends: wall time, seconds since the epoch."""
    if period is Period.DAY:
        return float((day + 1) * DAY)
    first = _moment(day * DAY).replace(day=1)
    return ((first + timedelta(days=32)).replace(day=1)).timestamp()


def budget_status(limits: Sequence[Limit], accounts: Accounts) -> list[BudgetStatus]:
    """How all budgets stand."""
    return [
        BudgetStatus(
            link=limit.link,
            period=limit.period,
            used_bytes=accounts.used(limit.link, limit.period),
            limit_bytes=limit.limit_bytes,
            resets_at=resets_at(limit.period, accounts.today),
        )
        for limit in limits
    ]


def spent(traffic: TrafficClass, link: Link, limits: Sequence[Limit], accounts: Accounts) -> Limit | None:
    """The budget that keeps a kind of traffic from this link for longest, or None where it may go."""
    share = SHARES[traffic]
    held = [
        limit
        for limit in limits
        if limit.link in {link, ANY} and accounts.used(limit.link, limit.period) >= limit.limit_bytes * share
    ]
    return next((limit for limit in held if limit.period is Period.MONTH), held[0] if held else None)


def until_next_share(link: Link, limits: Sequence[Limit], accounts: Accounts) -> float:
    """Bytes that may pass over a link until the next kind of traffic has used its share; infinite without a budget."""
    left = (
        limit.limit_bytes * share - accounts.used(limit.link, limit.period)
        for limit in limits
        if limit.link in {link, ANY}
        for share in SHARES.values()
    )
    return min((left_bytes for left_bytes in left if left_bytes > 0), default=math.inf)


def why_spent(traffic: TrafficClass, limit: Limit, accounts: Accounts) -> str:
    """Say which budget is used up, and until when."""
    over = "all links" if limit.link == ANY else f"the {limit.link} link"
    used, share = accounts.used(limit.link, limit.period), SHARES[traffic]
    until = _moment(resets_at(limit.period, accounts.today))
    used_up = f"{data_size(used)} of the {data_size(limit.limit_bytes)} per {limit.period}"
    stop = "" if share == 1.0 else f", and {NAMES[traffic]} stop at {share:.0%}"
    return f"{used_up} for {over} are used{stop}: {NAMES[traffic]} wait until {until:%Y-%m-%d %H:%M} UTC"


def data_size(size_bytes: int) -> str:
    """`999 B`, `1.5 kB`, `50 MB`: in powers of ten, as tariffs and budgets are."""
    length, unit = next((unit for unit in _UNITS if size_bytes >= unit[0]), (1, "B"))
    return f"{size_bytes / length:,.1f}".removesuffix(".0") + f" {unit}"


def _is_plausible(day: int) -> bool:
    return EARLIEST_PLAUSIBLE <= day * DAY < LATEST_PLAUSIBLE


def _moment(now: float) -> datetime:
    # A broken clock may show any number; calendars end.
    return datetime.fromtimestamp(min(max(now, 0.0), LATEST_PLAUSIBLE), UTC)


def _add(accounts: Booked, day: int, link: Link, used_bytes: int) -> None:
    links = accounts.setdefault(day, {})
    links[link] = links.get(link, 0) + used_bytes


def _copied(accounts: Booked) -> Booked:
    return {day: dict(links) for day, links in accounts.items()}
