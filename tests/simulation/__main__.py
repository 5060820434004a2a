"""Plays seeds, and prints what was found; a seed that fails can be replayed by its number."""

import argparse
import logging
import sys
import tempfile
import time
from pathlib import Path

from tests.simulation.auditor import SOMETIMES
from tests.simulation.play import play

#: In so many days of seeds, all that has to happen sometimes has.
_ENOUGH_DAYS = 6.0


def main() -> int:
    """Parse the command line, play, and print what came of it."""
    parser = argparse.ArgumentParser(prog="python -m tests.simulation", description=__doc__)
    parser.add_argument("--seeds", type=int, default=20, help="play seeds from --first on, so many (20)")
    parser.add_argument("--first", type=int, default=1, help="the first seed (1)")
    parser.add_argument("--seed", type=int, help="play this one alone")
    parser.add_argument("--days", type=float, default=1.0, help="days of each (1)")
    parser.add_argument("--trace", action="store_true", help="print what happened, and the agent's log")
    parser.add_argument("--stop", action="store_true", help="end with the first seed that fails")
    arguments = parser.parse_args()
    printer = logging.StreamHandler()
    printer.setLevel(logging.DEBUG if arguments.trace else logging.CRITICAL)
    logging.basicConfig(level=printer.level, format="%(message)s", handlers=[printer])
    first, number = (arguments.first, arguments.seeds) if arguments.seed is None else (arguments.seed, 1)
    failed, happened, trips, began = 0, set[str](), 0, time.monotonic()
    for seed in range(first, first + number):
        with tempfile.TemporaryDirectory() as folder:
            outcome = play(seed, Path(folder), days=arguments.days)
        happened |= outcome.happened
        trips += outcome.trips
        if arguments.trace:
            print("\n".join(outcome.log))
        if outcome.findings:
            failed += 1
            print(f"seed {seed}: {len(outcome.findings)} findings")
            print("\n".join(f"  {finding}" for finding in outcome.findings[:10]))
            print(f"  again: python -m tests.simulation --seed {seed} --days {arguments.days} --trace", flush=True)
            if arguments.stop:
                break
    print(f"{number} seeds, {trips} trips, {failed} failed, {time.monotonic() - began:.0f} s")
    print("happened: " + ", ".join(sorted(happened)))
    missing = SOMETIMES - happened if number * arguments.days >= _ENOUGH_DAYS and not arguments.stop else set[str]()
    if missing:
        print("never happened, so nothing was shown of it: " + ", ".join(sorted(missing)))
    return 1 if failed or missing else 0


if __name__ == "__main__":
    sys.exit(main())
