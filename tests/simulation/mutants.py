"""Dangerous changes, each by what it means: does the simulation alone notice? `python -m tests.simulation.mutants`.

A mutant is a text in a file and what stands there instead; where the text is not there any more the list is out of
date, and says so.
"""

import argparse
import os
import shutil
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

import sentinel_sync

_PACKAGE = Path(sentinel_sync.__file__).parent
_ROOT = Path(__file__).parents[2]


@dataclass(frozen=True, slots=True)
class Mutant:
    """One dangerous change.

    Attributes:
        intent: What the changed program does wrong.
        file: Below the package.
        before: What stands there, once.
        after: What stands there instead.
    """

    intent: str
    file: str
    before: str
    after: str


MUTANTS = (
    Mutant(
        "a login page acknowledges",
        "cloud/rules/answers.py",
        'return status in {201, 204} and not start.startswith(_HTML) and b"<html" not in start',
        "return True",
    ),
    Mutant(
        "a trip is forgotten although the backend said not now",
        "store/sender.py",
        "                await self._outbox.settle(item, self._retry.decision(item.key, error, item.attempts))",
        "                self._take(item, group)",
    ),
    Mutant(
        "a trip under way is not written down at its start",
        "trips/trip_uploader.py",
        "        if self._recoverable:\n            await self._store.documents.save(*OPEN_TRIP, trip, _SHAPE)",
        "        pass",
    ),
    Mutant(
        "what was open when the power went is not closed",
        "trips/trip_uploader.py",
        "        if trip is None:\n            return\n        try:",
        "        if True:\n            return\n        try:",
    ),
    Mutant(
        "what a killed agent was sending waits for ever",
        "store/outbox.py",
        "\"UPDATE item SET state = 'waiting', due_at = min(created_at, ?) WHERE state = 'sending'\"",
        "\"UPDATE item SET state = 'waiting', due_at = min(created_at, ?) WHERE state = 'never'\"",
    ),
    Mutant(
        "the driver's own id goes along",
        "base/privacy.py",
        '    return "d_" + hmac.new(key, driver_id.encode(), hashlib.sha256).hexdigest()[:32]',
        "    return driver_id",
    ),
    Mutant(
        "probes come as fast as they can while out of reach",
        "base/backoff.py",
        "    return rng.uniform(0.0, ceiling)",
        "    return rng.uniform(0.0, 0.001)",
    ),
    Mutant(
        "acknowledged trips stay in the outbox",
        "store/outbox.py",
        '"DELETE FROM item WHERE seq IN (SELECT value FROM json_each(?))"',
        '"DELETE FROM item WHERE seq = -1 AND seq IN (SELECT value FROM json_each(?))"',
    ),
    Mutant(
        "a trip that ended is marked as interrupted",
        "trips/trip_uploader.py",
        "trip.summary(interrupted=False)",
        "trip.summary(interrupted=True)",
    ),
    Mutant(
        "what another vehicle drove counts as driven here",
        "profiles/rules/history.py",
        "bases=remembered(bases, seen), pending=None, written=seen)",
        "bases=bases, pending=None, written=seen)",
    ),
    Mutant(
        "a retry of a trip goes under another key",
        "trips/trip_uploader.py",
        "idempotency_key=item.key",
        "idempotency_key=item.key + str(item.attempts)",
    ),
    Mutant(
        "a distance is counted twice",
        "trips/rules/trip.py",
        "distance, risk_sum = self.distance + distance_delta",
        "distance, risk_sum = self.distance + 2.0 * distance_delta",
    ),
    Mutant(
        "nothing is sent again after an outage",
        "store/outbox.py",
        "due_at = self._clock.now() + min(seconds, CAP)",
        "due_at = self._clock.now() + 1e9",
    ),
    Mutant(
        "anybody may sign a release",
        "models/rules/releases.py",
        "    if trust is not None:\n        verify(release, trust, allow_unsigned=allow_unsigned)",
        "    if trust is None:\n        verify(release, trust, allow_unsigned=allow_unsigned)",
    ),
    Mutant(
        "the registry is not told of a switch",
        "models/installed.py",
        "        await self._write_registry(intent.switched(previous))\n",
        "",
    ),
    Mutant(
        "a switch that a crash cut off is not finished",
        "models/installed.py",
        "await self.change(name, lambda record: record.switched(previous))",
        "await self.change(name, lambda record: record)",
    ),
    Mutant(
        "a download goes on at the wrong place",
        "cloud/download.py",
        "await run_to_end(self._staging.begin, offset, etag)",
        "await run_to_end(self._staging.begin, max(0, offset - 1), etag)",
    ),
)


def is_noticed(mutant: Mutant | None, seeds: int, days: float) -> bool:
    """Whether any seed finds something, or cannot be played to its end; None is the program as it is."""
    with tempfile.TemporaryDirectory() as name:
        copy = Path(name) / "sentinel_sync"
        shutil.copytree(_PACKAGE, copy, ignore=shutil.ignore_patterns("__pycache__"))
        shutil.copytree(_ROOT / "tests", Path(name) / "tests", ignore=shutil.ignore_patterns("__pycache__", "fixtures"))
        if mutant is not None:
            path = copy / mutant.file
            text = path.read_text(encoding="utf-8")
            if text.count(mutant.before) != 1:
                raise SystemExit(f"{mutant.intent}: {mutant.file} has changed, and so must this mutant")
            path.write_text(text.replace(mutant.before, mutant.after), encoding="utf-8")
        command = [sys.executable, "-m", "tests.simulation", "--seeds", str(seeds), "--days", str(days), "--stop"]
        environment = os.environ | {"PYTHONPATH": name, "PYTHONDONTWRITEBYTECODE": "1"}
        return subprocess.run(command, cwd=name, env=environment, capture_output=True, check=False).returncode != 0


def main() -> int:
    """Try each, and say which of them live."""
    parser = argparse.ArgumentParser(prog="python -m tests.simulation.mutants", description=__doc__)
    parser.add_argument("--seeds", type=int, default=6, help="seeds that each has to survive (6)")
    parser.add_argument("--days", type=float, default=0.3, help="days of each (0.3)")
    arguments = parser.parse_args()
    if is_noticed(None, arguments.seeds, arguments.days):
        raise SystemExit("the program as it is does not pass: no mutant would show anything")
    alive = []
    for mutant in MUTANTS:
        began = time.monotonic()
        is_killed = is_noticed(mutant, arguments.seeds, arguments.days)
        print(f"{'killed' if is_killed else 'LIVES '} {time.monotonic() - began:5.0f} s  {mutant.intent}", flush=True)
        if not is_killed:
            alive.append(mutant)
    print(f"{len(MUTANTS) - len(alive)} of {len(MUTANTS)} killed")
    return 1 if alive else 0


if __name__ == "__main__":
    sys.exit(main())
