"""The short form of `make soak MINUTES=…`: a few things that go wrong, one after the other."""

from pathlib import Path
from random import Random

from tests.soak.chaos import Chaos

ROUNDS = 2


async def test_nothing_is_lost_whatever_happens_to_the_processes(tmp_path: Path) -> None:
    chaos = Chaos(tmp_path, Random(20261128), has_disk=False)
    await chaos.run(0.0, least=ROUNDS)
    assert chaos.outcome.problems == []
    assert chaos.tried.total() == ROUNDS
