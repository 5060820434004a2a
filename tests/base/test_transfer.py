"""Bytes, rate, time left: steady enough to read, honest when nothing moves."""

import pytest

from sentinel_sync.base.transfer import RateMeter

MEGABYTE = 1_000_000


def test_a_steady_transfer_shows_its_rate_and_what_is_left_of_it() -> None:
    meter = RateMeter(10 * MEGABYTE, 0, now=100.0)
    for second in range(1, 5):
        meter.moved(second * MEGABYTE, 100.0 + second)
    progress = meter.measured(104.0)
    assert meter.done_bytes == 4 * MEGABYTE
    assert progress.rate == pytest.approx(MEGABYTE)
    assert progress.time_left == pytest.approx(6.0)


def test_nothing_is_said_before_anything_was_seen() -> None:
    progress = RateMeter(100, 0, now=0.0).measured(0.01)
    assert (progress.rate, progress.time_left) == (None, None)


def test_what_was_there_before_says_nothing_about_the_rate() -> None:
    meter = RateMeter(10 * MEGABYTE, 9 * MEGABYTE, now=0.0)
    meter.moved(9 * MEGABYTE + 1_000, 1.0)
    assert meter.measured(1.0).rate == pytest.approx(1_000.0)


def test_a_burst_of_reports_is_one_look() -> None:
    meter = RateMeter(MEGABYTE, 0, now=0.0)
    for step in range(100):
        meter.moved(step * 1_000, step * 1e-4)
    assert meter.measured(0.01).rate is None
    assert meter.measured(0.1).rate == pytest.approx(990_000.0)


def test_the_rate_sinks_in_a_tunnel_and_the_time_left_grows() -> None:
    meter = RateMeter(10 * MEGABYTE, 0, now=0.0)
    meter.moved(MEGABYTE, 1.0)
    rates = [meter.measured(1.0 + waited).rate for waited in (0, 5, 10, 60)]
    assert all(rate is not None for rate in rates)
    assert rates == sorted(rates, key=lambda rate: -(rate or 0.0))
    assert meter.measured(200.0).time_left is None or (meter.measured(200.0).time_left or 0.0) > 3600.0


def test_a_transfer_that_goes_back_is_not_a_negative_rate() -> None:
    meter = RateMeter(10 * MEGABYTE, 0, now=0.0)
    meter.moved(5 * MEGABYTE, 1.0)
    meter.moved(2 * MEGABYTE, 2.0)
    progress = meter.measured(2.01)
    assert meter.done_bytes == 2 * MEGABYTE
    assert progress.rate is not None
    assert progress.rate >= 0.0


def test_what_is_done_has_no_time_left() -> None:
    meter = RateMeter(100, 0, now=0.0)
    meter.moved(100, 0.001)
    assert meter.measured(0.001).time_left == 0.0
