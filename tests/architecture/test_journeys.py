"""No piece of work runs through more of our files than it did when that was last looked at (docs/measurements.md)."""

import json
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[2]
#: What the house was drawn for is in `journeys.LIMITS`; this is where it stands. A profile's sending is on record in
#: the outbox since `sent` tells of it, a trip asks whether there is a batch to go in, a file whether there is an
#: address for it, and what is large goes over connections with a file of their own (`cloud/bulk.py`): one more each.
HELD = {"trip": 24, "model": 31, "scenario": 42, "profile": 35, "request": 6}


def test_no_journey_is_longer_than_it_was() -> None:
    run = subprocess.run(
        [sys.executable, "-m", "tests.architecture.journeys", "--json"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=True,
    )
    found: dict[str, list[str]] = json.loads(run.stdout)
    longer = {name: files for name, files in found.items() if len(files) > HELD[name]}
    assert not longer
    assert found.keys() == HELD.keys()
