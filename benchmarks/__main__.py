"""Run the benchmarks and print what was measured beside what is asked for. Exit code 1 where a bar is missed."""

import asyncio
import importlib
import sys

from benchmarks.report import Figure, show

#: One module per subject; each has `async def measure() -> list[Figure]`.
SUBJECTS = (
    "outbox",
    "trips",
    "drain",
    "transports",
    "sleeper",
    "footprint",
    "fleet_return",
    "fleet_figures",
    "backend_load",
    "idle_traffic",
    "compression",
    "uploads",
    "models",
    "resets",
    "deltas",
    "profiles",
    "console",
    "everything",
)


def main(names: list[str]) -> int:
    unknown = sorted(set(names) - set(SUBJECTS))
    if unknown:
        print(f"no such benchmark: {', '.join(unknown)}; there are {', '.join(SUBJECTS)}", file=sys.stderr)
        return 2
    figures: list[Figure] = []
    for name in names or SUBJECTS:
        print(f"… {name}", flush=True)
        measured = asyncio.run(importlib.import_module(f"benchmarks.{name}").measure())
        show(measured)
        figures += measured
    asked = [figure for figure in figures if figure.bar is not None]
    missed = [figure for figure in asked if not figure.reached]
    print(f"\n{len(asked) - len(missed)} of {len(asked)} bars reached")
    return 1 if missed else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
