"""An event loop whose time jumps to the next timer: hours pass in a test's milliseconds, to the millisecond.

For code that has no socket and no thread to wait for: whatever waits, waits for a timer.
"""

import asyncio
import selectors
from collections.abc import Coroutine
from typing import Any, TypeVar

Result = TypeVar("Result")
#: A turn of the loop takes so many seconds: code that waits for a rounding error to pass would wait for ever without.
_TURN = 1e-6


class _Jumping(selectors.DefaultSelector):
    """Does not wait, but says for how long it would have."""

    def __init__(self) -> None:
        super().__init__()
        self.passed = 0.0

    def select(self, timeout: float | None = None) -> list[tuple[selectors.SelectorKey, int]]:
        if timeout is None:
            return super().select(None)
        self.passed += max(_TURN, timeout)
        return super().select(0)


class VirtualLoop(asyncio.SelectorEventLoop):
    """Starts at 0.0 seconds."""

    def __init__(self) -> None:
        self._jumping = _Jumping()
        super().__init__(self._jumping)

    def time(self) -> float:
        return self._jumping.passed

    async def shutdown_default_executor(self, timeout: float | None = None) -> None:
        """Without a limit: the one that `Runner` sets from Python 3.12 on would pass in an instant of virtual time."""
        await super().shutdown_default_executor()


def run_virtually(main: Coroutine[Any, Any, Result]) -> Result:
    """Run a coroutine to its end in virtual time."""
    with asyncio.Runner(loop_factory=VirtualLoop) as runner:
        return runner.run(main)
