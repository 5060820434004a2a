"""Listeners hear of a transfer, and cannot disturb it."""

import asyncio
import threading

import pytest

from sentinel_sync.base.tasks import EventPublisher
from sentinel_sync.base.transfer import TransferStatus
from tests.fakes.patience import until


def progress(done: int) -> TransferStatus:
    return TransferStatus(
        name="s1", part="bev.mp4", phase="uploading", done_bytes=done, total_bytes=100, rate=None, time_left=None
    )


async def test_a_slow_listener_misses_what_came_meanwhile_but_not_the_newest() -> None:
    events, heard, going = EventPublisher[TransferStatus]("scenario.progress"), [], asyncio.Event()

    async def listen(said: TransferStatus) -> None:
        heard.append(said.done_bytes)
        await going.wait()

    events.subscribe(listen)
    for done in range(5):
        events.tell(progress(done))
        await asyncio.sleep(0)
    assert heard == [0]
    going.set()
    await until(lambda: len(heard) == 2, "the newest")
    assert heard == [0, 4]
    await events.close()


async def test_one_that_raises_is_told_on_and_the_others_hear() -> None:
    events, heard = EventPublisher[TransferStatus]("scenario.progress"), []

    def fail(_: TransferStatus) -> None:
        raise RuntimeError("the host's own fault")

    events.subscribe(fail)
    events.subscribe(lambda said: heard.append(said.done_bytes))
    for done in (1, 2):
        events.tell(progress(done))
        await until(lambda done=done: heard[-1:] == [done], "the listener that works")  # type: ignore[misc]
    await events.close()


async def test_a_plain_function_may_block_without_holding_up_the_loop() -> None:
    events, free, names = EventPublisher[TransferStatus]("scenario.progress"), threading.Event(), []

    def block(_: TransferStatus) -> None:
        names.append(threading.current_thread().name)
        free.wait(10.0)

    events.subscribe(block)
    events.tell(progress(1))
    await until(lambda: bool(names), "the listener's thread")
    assert names == ["sentinel-sync-listener"]
    async with asyncio.timeout(1.0):
        await events.close()
    free.set()


@pytest.mark.parametrize("told", [0, 1])
async def test_closing_ends_a_listener_that_hangs(told: int) -> None:
    events, cancelled = EventPublisher[TransferStatus]("scenario.progress"), []

    async def hang(_: TransferStatus) -> None:
        try:
            await asyncio.Event().wait()
        except asyncio.CancelledError:
            cancelled.append(True)
            raise

    events.subscribe(hang)
    for number in range(told):
        events.tell(progress(number))
    await asyncio.sleep(0)
    await events.close()
    assert len(cancelled) == told
