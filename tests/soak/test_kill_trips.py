"""The short form of `make soak`."""

from pathlib import Path

from tests.soak.kill_trips import soak

KILLS = 15


async def test_every_acknowledged_trip_arrives_exactly_once_however_the_agent_is_killed(tmp_path: Path) -> None:
    outcome = await soak(KILLS, seed=20261123, folder=tmp_path)
    assert outcome.problems == []
    assert outcome.kills == KILLS
    # Without these the run would have shown nothing.
    assert outcome.ended > KILLS
    assert outcome.interrupted > 0
    assert outcome.repeats > 0
    assert outcome.strikes["lose"] > 0
