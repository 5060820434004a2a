"""Data budgets: one account per calendar day, given out once, whatever the clock does."""

from datetime import UTC, datetime

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sentinel_sync.base.clock import ClockStamp
from sentinel_sync.network.rules.budget import (
    ANY,
    DAY,
    SHARES,
    Accounts,
    Limit,
    Period,
    budget_status,
    data_size,
    month_of,
    resets_at,
    spent,
    why_spent,
)
from sentinel_sync.network.rules.traffic import Link, TrafficClass

CELLULAR_DAY = Limit(Link.CELLULAR, Period.DAY, 1000)


def at(text: str) -> float:
    return datetime.fromisoformat(text).replace(tzinfo=UTC).timestamp()


NOON = at("2026-11-23T12:00")


class Book:
    """Accounts, and a vehicle's clocks: wall time, time since boot, the boot's name."""

    def __init__(self, now: float = NOON, boot: str = "boot-1") -> None:
        self.boot, self.now, self.since_boot = boot, now, 100.0
        self.accounts = Accounts.opened(None, self.stamp, now, charge_risk=False)

    @property
    def stamp(self) -> ClockStamp:
        return ClockStamp(self.boot, self.now - self.since_boot)

    def passes(self, seconds: float) -> None:
        self.now += seconds
        self.since_boot += seconds
        self.accounts.turn(self.stamp, self.now)

    def clock_is_set(self, now: float) -> None:
        self.now = now
        self.accounts.turn(self.stamp, self.now)

    def boots(self, boot: str, now: float, risk: dict[Link, int] | None = None) -> None:
        kept = self.accounts.kept(risk or {})
        self.boot, self.now, self.since_boot = boot, now, 5.0
        self.accounts = Accounts.opened(kept, self.stamp, now, charge_risk=True)

    def used(self, link: str = Link.CELLULAR, period: Period = Period.DAY) -> int:
        return self.accounts.used(link, period)


@pytest.fixture
def book() -> Book:
    return Book()


class TestCounting:
    def test_each_link_by_itself_and_all_together(self, book: Book) -> None:
        book.accounts.book(Link.CELLULAR, 300)
        book.accounts.book(Link.WIFI, 500)
        book.accounts.book(Link.CELLULAR, 30)
        assert (book.used(), book.used(Link.WIFI), book.used(Link.ETHERNET), book.used(ANY)) == (330, 500, 0, 830)
        assert book.used(ANY, Period.MONTH) == 830

    def test_a_day_ends_at_midnight_utc_and_the_month_goes_on(self, book: Book) -> None:
        book.accounts.book(Link.CELLULAR, 300)
        book.passes(12 * 3600 - 1)
        assert book.used() == 300
        book.passes(1)
        assert (book.used(), book.used(period=Period.MONTH)) == (0, 300)
        book.accounts.book(Link.CELLULAR, 50)
        assert (book.used(), book.used(period=Period.MONTH)) == (50, 350)

    @pytest.mark.parametrize(("days", "month"), [(7, 300), (8, 0)])
    def test_a_month_ends_with_its_last_day(self, book: Book, days: int, month: int) -> None:
        book.accounts.book(Link.CELLULAR, 300)
        book.passes(days * DAY)
        assert book.used(period=Period.MONTH) == month

    def test_a_machine_that_slept_over_midnight_has_a_new_day(self, book: Book) -> None:
        book.accounts.book(Link.CELLULAR, 300)
        book.passes(3 * DAY)  # time since boot counts suspended time
        assert (book.used(), book.used(period=Period.MONTH)) == (0, 300)

    def test_it_goes_on_after_a_restart_and_after_a_boot(self, book: Book) -> None:
        book.accounts.book(Link.CELLULAR, 300)
        book.boots("boot-1", NOON + 60)
        assert book.used() == 300
        book.boots("boot-2", NOON + 120)
        book.accounts.book(Link.CELLULAR, 1)
        book.boots("boot-3", NOON + 180)
        assert (book.used(), book.used(period=Period.MONTH)) == (301, 301)

    def test_what_a_kill_may_have_hidden_is_charged_to_the_day_it_was_used(self, book: Book) -> None:
        book.accounts.book(Link.CELLULAR, 300)
        book.boots("boot-2", NOON + 60, risk={Link.CELLULAR: 40})
        assert book.used() == 340
        book.boots("boot-3", NOON + DAY, risk={Link.CELLULAR: 40})
        assert (book.used(), book.used(period=Period.MONTH)) == (0, 380)

    def test_only_so_many_days_are_remembered_and_this_month_is_among_them(self, book: Book) -> None:
        for number in range(400):
            book.accounts.book(Link.WIFI, 1)
            book.boots(f"boot-{number}", book.now + DAY)
        assert len(book.accounts.settled) <= 101
        assert book.used(Link.WIFI, Period.MONTH) == datetime.fromtimestamp(book.now, UTC).day - 1


class TestAClockThatIsSet:
    def test_a_boot_without_a_clock_used_the_data_of_the_day_that_it_was(self, book: Book) -> None:
        book.accounts.book(Link.CELLULAR, 300)
        book.boots("boot-2", 20.0)  # 1970
        book.accounts.book(Link.CELLULAR, 50)
        book.passes(30)
        book.clock_is_set(NOON + 3600)
        assert (book.used(), book.used(period=Period.MONTH)) == (350, 350)

    def test_setting_it_back_and_forth_gives_nothing_away(self, book: Book) -> None:
        for _ in range(10):
            book.accounts.book(Link.CELLULAR, 10)
            book.clock_is_set(NOON + 40 * DAY)
            book.accounts.book(Link.CELLULAR, 10)
            book.clock_is_set(NOON)
        assert (book.used(), book.used(period=Period.MONTH)) == (200, 200)

    def test_a_day_of_a_future_that_was_wrong_holds_nothing_up_until_it_comes(self, book: Book) -> None:
        book.boots("boot-2", NOON + 1000 * DAY)
        book.accounts.book(Link.CELLULAR, 1000)
        book.boots("boot-3", NOON)
        assert book.used() == 0
        assert spent(TrafficClass.TRIPS, Link.CELLULAR, [CELLULAR_DAY], book.accounts) is None
        book.boots("boot-4", NOON + 1000 * DAY)
        assert book.used() == 1000, "no day is given out twice"

    def test_put_back_over_midnight_by_a_little_it_charges_each_day_once(self, book: Book) -> None:
        book.clock_is_set(at("2026-11-24T00:01"))
        book.accounts.book(Link.CELLULAR, 1000)
        book.clock_is_set(at("2026-11-23T23:58"))
        assert book.used() == 0
        book.passes(180)
        assert book.used() == 1000

    def test_a_clock_that_is_never_set_does_not_hold_for_ever(self, book: Book) -> None:
        for number in range(3):
            book.boots(f"boot-x{number}", 20.0)
            assert book.used() == 0
            book.accounts.book(Link.CELLULAR, 1000)
            book.boots(f"boot-x{number}", 40.0)  # a restart within the boot forgets nothing
            assert book.used() == 1000

    @given(now=st.floats(min_value=-1e14, max_value=1e14))
    def test_no_clock_is_too_broken(self, now: float) -> None:
        book = Book()
        book.accounts.book(Link.WIFI, 7)
        book.clock_is_set(now)
        assert book.used(Link.WIFI) == 7
        assert resets_at(Period.MONTH, book.accounts.today) > 0.0
        why_spent(TrafficClass.TRIPS, CELLULAR_DAY, book.accounts)

    @given(
        steps=st.lists(
            st.tuples(st.sampled_from(["passes", "clock_is_set", "boots"]), st.integers(-400, 400), st.integers(1, 99)),
            max_size=20,
        )
    )
    def test_whatever_happens_every_byte_stays_booked_on_one_day(self, steps: list[tuple[str, int, int]]) -> None:
        book, booked = Book(), 0
        for number, (what, days, used_bytes) in enumerate(steps):
            match what:
                case "passes":
                    book.passes(abs(days) * DAY / 7)
                case "clock_is_set":
                    book.clock_is_set(NOON + days * DAY / 3)
                case _:
                    book.boots(f"again-{number}", NOON + days * DAY / 3)
            book.accounts.book(Link.WIFI, used_bytes)
            booked += used_bytes
        kept = book.accounts.kept({})
        found = sum(sum(links.values()) for links in (*kept.settled.values(), *kept.booked.values()))
        assert found == booked


def test_each_of_the_last_days_is_told_with_what_it_used() -> None:
    book = Book()
    book.accounts.book(Link.WIFI, 100)
    book.accounts.book(Link.CELLULAR, 20)
    book.passes(2 * DAY)
    book.accounts.book(Link.WIFI, 7)
    assert [(day.date, day.used_bytes) for day in book.accounts.by_day()] == [("2026-11-23", 120), ("2026-11-25", 7)]
    book.passes(29 * DAY)
    assert [day.date for day in book.accounts.by_day()] == ["2026-11-25"]


@pytest.mark.parametrize(
    ("used", "held"),
    [
        (899, set()),
        (900, {TrafficClass.SCENARIOS, TrafficClass.MODELS}),
        (949, {TrafficClass.SCENARIOS, TrafficClass.MODELS}),
        (950, {TrafficClass.SCENARIOS, TrafficClass.MODELS, TrafficClass.FLEET, TrafficClass.PROFILES}),
        (999, {TrafficClass.SCENARIOS, TrafficClass.MODELS, TrafficClass.FLEET, TrafficClass.PROFILES}),
        (1000, set(TrafficClass)),
        (5000, set(TrafficClass)),
    ],
)
def test_recordings_wait_first_and_trips_last(book: Book, used: int, held: set[TrafficClass]) -> None:
    book.accounts.book(Link.CELLULAR, used)
    assert {kind for kind in TrafficClass if spent(kind, Link.CELLULAR, [CELLULAR_DAY], book.accounts)} == held
    assert {kind for kind in TrafficClass if spent(kind, Link.WIFI, [CELLULAR_DAY], book.accounts)} == set()


def test_every_kind_has_its_share_and_trips_the_whole() -> None:
    assert set(SHARES) == set(TrafficClass)
    assert max(SHARES.values()) == SHARES[TrafficClass.TRIPS] == 1.0


def test_a_budget_of_nothing_holds_everything(book: Book) -> None:
    none = Limit(ANY, Period.DAY, 0)
    assert all(spent(traffic, Link.ETHERNET, [none], book.accounts) == none for traffic in TrafficClass)


def test_a_budget_for_any_link_counts_all_links(book: Book) -> None:
    together = Limit(ANY, Period.MONTH, 1000)
    book.accounts.book(Link.CELLULAR, 500)
    book.accounts.book(Link.WIFI, 400)
    assert spent(TrafficClass.SCENARIOS, Link.ETHERNET, [together], book.accounts) == together
    assert spent(TrafficClass.TRIPS, Link.ETHERNET, [together], book.accounts) is None


def test_of_two_budgets_the_one_that_holds_for_longer_is_named(book: Book) -> None:
    month = Limit(Link.CELLULAR, Period.MONTH, 1000)
    book.accounts.book(Link.CELLULAR, 1000)
    held = spent(TrafficClass.TRIPS, Link.CELLULAR, [CELLULAR_DAY, month], book.accounts)
    assert held == month
    assert why_spent(TrafficClass.TRIPS, month, book.accounts) == (
        "1 kB of the 1 kB per month for the cellular link are used: trips wait until 2026-12-01 00:00 UTC"
    )


def test_the_reason_says_how_much_of_what_and_until_when(book: Book) -> None:
    limit = Limit(ANY, Period.DAY, 50_000_000)
    book.accounts.book(Link.CELLULAR, 45_300_000)
    assert why_spent(TrafficClass.SCENARIOS, limit, book.accounts) == (
        "45.3 MB of the 50 MB per day for all links are used, and recordings stop at 90%: "
        "recordings wait until 2026-11-24 00:00 UTC"
    )


@pytest.mark.parametrize(
    ("size_bytes", "shown"),
    [(0, "0 B"), (999, "999 B"), (1500, "1.5 kB"), (50_000_000, "50 MB"), (1_234_000_000_000, "1,234 GB")],
)
def test_bytes_are_shown_as_tariffs_count_them(size_bytes: int, shown: str) -> None:
    assert data_size(size_bytes) == shown


@pytest.mark.parametrize(
    ("period", "now", "then"),
    [
        (Period.DAY, "2026-11-23T00:00", "2026-11-24T00:00"),
        (Period.DAY, "2026-12-31T23:59", "2027-01-01T00:00"),
        (Period.MONTH, "2026-11-30T23:59", "2026-12-01T00:00"),
        (Period.MONTH, "2026-12-01T00:00", "2027-01-01T00:00"),
        (Period.MONTH, "2028-02-29T12:00", "2028-03-01T00:00"),
    ],
)
def test_a_period_ends_when_the_calendar_says(period: Period, now: str, then: str) -> None:
    assert resets_at(period, int(at(now) // DAY)) == at(then)


def test_budgets_are_shown_as_they_stand(book: Book) -> None:
    book.accounts.book(Link.CELLULAR, 12)
    (use,) = budget_status([CELLULAR_DAY], book.accounts)
    assert (use.link, use.period, use.used_bytes, use.limit_bytes) == (Link.CELLULAR, Period.DAY, 12, 1000)
    assert use.resets_at == at("2026-11-24T00:00")
    assert month_of(book.accounts.today) == (2026, 11)
