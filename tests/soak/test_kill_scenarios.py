"""The short form of the soak of recordings: killed once in every step."""

import shutil
from pathlib import Path
from random import Random

import pytest

from tests.soak.kill_scenarios import MULTIPART, RESUMABLE, Soak, Way

pytestmark = pytest.mark.skipif(shutil.which("ffmpeg") is None, reason="no ffmpeg on PATH: nothing is compressed")


@pytest.mark.parametrize(("way", "scenarios"), [(RESUMABLE, 2), (MULTIPART, 1)], ids=["resumable", "multipart"])
async def test_a_recording_arrives_whole_and_once_though_the_agent_is_killed_in_every_step(
    tmp_path: Path, way: Way, scenarios: int
) -> None:
    sequence = way.points(Random(20261125))
    # Each point is come to: a busy machine only takes longer.
    outcome = await Soak(tmp_path / way.name, way, at_latest=30.0).run(sequence, [])
    assert outcome.problems == []
    assert outcome.kills == {point.name: 1 for point in sequence}
    # Else the run would have shown nothing.
    assert (outcome.in_vain, outcome.orphaned) == (0, int(way.compresses))
    assert outcome.scenarios == scenarios
