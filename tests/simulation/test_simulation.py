"""A seed of the simulation, played twice; `make simulate` plays many, for days of driving each."""

import re
from pathlib import Path

import pytest

from tests.simulation.mutants import MUTANTS, PACKAGE
from tests.simulation.play import play

#: A seed that meets all of these soon.
_SEED, _DAYS = 9, 0.05
_SOMETIMES = {
    "a process died",
    "an answer was lost after the work was done",
    "an answer was cut off",
    "POST answered 201",
    "PUT answered 200",
    "PATCH answered 204",
}


def test_each_mutant_still_changes_what_it_means_to_change() -> None:
    texts = {mutant: (PACKAGE / mutant.file).read_text(encoding="utf-8") for mutant in MUTANTS}
    assert [mutant.intent for mutant, text in texts.items() if text.count(mutant.before) != 1] == []
    assert len(MUTANTS) >= 60


@pytest.mark.timeout(180)
def test_what_was_promised_holds_and_a_seed_tells_all_that_happens(tmp_path: Path) -> None:
    logs = []
    for run in ("one", "two"):
        (tmp_path / run).mkdir()
        # The second one needs no more than to go the same way.
        outcome = play(_SEED, tmp_path / run, days=_DAYS if run == "one" else _DAYS / 2)
        assert outcome.findings == [], f"again: python -m tests.simulation --seed {_SEED} --days {_DAYS} --trace"
        assert run == "two" or (outcome.trips and outcome.happened >= _SOMETIMES)
        # Ids of trips are random bytes of the system's.
        log = [re.sub(r"trip_[0-9a-f]+", "trip", line) for line in outcome.log]
        logs.append([line for line in log if float(line.split()[0]) < _DAYS / 2 * 86_400])
    assert logs[0] == logs[1]
    assert len(logs[0]) > 3
