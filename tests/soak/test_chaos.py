"""The short form of `make soak MINUTES=…`: a few things that go wrong, one after the other."""

from pathlib import Path
from random import Random

from tests.soak.chaos import Chaos

MINUTES = 0.1


async def test_nothing_is_lost_whatever_happens_to_the_processes(tmp_path: Path) -> None:
    chaos = Chaos(tmp_path, Random(20261128), has_disk=False)
    await chaos.run(MINUTES)
    assert chaos.outcome.problems == []
    # Without these the run would have shown nothing.
    assert chaos.tried.total() >= 3
    assert chaos.outcome.ended > 0
