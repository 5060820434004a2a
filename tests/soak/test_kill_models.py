"""The short form of the soak of models."""

from pathlib import Path

from tests.soak.kill_models import soak

KILLS = 8


async def test_the_runtime_always_has_a_whole_model_however_the_vehicle_is_killed(tmp_path: Path) -> None:
    outcome = await soak(KILLS, seed=20261125, folder=tmp_path)
    assert outcome.problems == []
    assert outcome.kills.total() == KILLS
    # Without these the run would have shown nothing.
    assert outcome.looks > 0
    assert outcome.versions > 1
    # Where so few kills come is chance; 200 of them (`make soak`) come everywhere.
    assert outcome.kills.keys() - {"nothing"}
