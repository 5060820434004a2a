"""What is under way ends when it may not go on, and also when nobody can say whether it may."""

import asyncio

import pytest

from sentinel_sync.base.errors import HeldError, StoreError
from sentinel_sync.base.transfer import ASK_AGAIN_SECONDS, TransferGuard
from tests.fakes.clock import FakeClock


class Permission:
    """Says yes until a test gives it another answer."""

    def __init__(self) -> None:
        self.answer: str | Exception | None = None
        self.asked = 0

    async def blocked_reason(self) -> str | None:
        self.asked += 1
        if isinstance(self.answer, Exception):
            raise self.answer
        return self.answer


async def work_for_ever(permission: Permission, clock: FakeClock, again: asyncio.Event) -> None:
    async with TransferGuard("s1", permission.blocked_reason, clock=clock, ask_again=again).watching():
        await asyncio.Event().wait()


@pytest.mark.parametrize(
    ("answer", "error", "words"),
    [
        ("the network is metered", HeldError, "the network is metered"),
        (StoreError("the disk is gone"), HeldError, "cannot be read: the disk is gone"),
        # A fault of ours: nothing goes on unasked, and it is not hidden.
        (RuntimeError("a bug"), RuntimeError, "a bug"),
    ],
)
async def test_it_ends_at_the_next_question(
    clock: FakeClock, answer: str | Exception, error: type[Exception], words: str
) -> None:
    permission = Permission()
    working = asyncio.create_task(work_for_ever(permission, clock, asyncio.Event()))
    await clock.advance(ASK_AGAIN_SECONDS)
    assert permission.asked >= 1
    assert not working.done()
    permission.answer = answer
    await clock.advance(ASK_AGAIN_SECONDS)
    with pytest.raises(error, match=words):
        async with asyncio.timeout(5.0):
            await working


async def test_whoever_has_a_reason_has_it_asked_at_once(clock: FakeClock) -> None:
    permission, again = Permission(), asyncio.Event()
    working = asyncio.create_task(work_for_ever(permission, clock, again))
    await clock.advance(ASK_AGAIN_SECONDS)
    permission.answer = "the driver has withdrawn the consent"
    again.set()
    with pytest.raises(HeldError, match="withdrawn"):
        async with asyncio.timeout(5.0):
            await working


async def test_work_that_comes_to_its_end_is_left_alone(clock: FakeClock) -> None:
    permission = Permission()
    async with TransferGuard("s1", permission.blocked_reason, clock=clock).watching():
        await clock.advance(ASK_AGAIN_SECONDS)
    assert permission.asked >= 1


async def test_what_the_work_raises_comes_out(clock: FakeClock) -> None:
    with pytest.raises(TimeoutError, match="its own"):
        async with TransferGuard("s1", Permission().blocked_reason, clock=clock).watching():
            raise TimeoutError("its own")
