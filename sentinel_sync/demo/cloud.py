"""The demo's cloud: the reference backend in a process of its own.

`python -m sentinel_sync.demo.cloud FOLDER PORT FAULTS`, where FAULTS is a JSON list of the faults that it begins with.

The key comes through the environment, so that no list of processes shows it. It ends when its standard input does, so
that it never outlives whoever started it.
"""

import json
import os
import signal
import sys
import threading
from pathlib import Path

from pydantic import TypeAdapter

from sentinel_sync.backend import Fault, FaultPlan, serve

KEY_VARIABLE = "DEMO_CLOUD_KEY"


def main() -> None:
    """Serve on loopback until standard input ends; says `{"event": "ready", "url": …}` once it answers."""
    folder, port, faults = sys.argv[1:]
    threading.Thread(target=_end_with_input, daemon=True).start()
    serve(
        port=int(port),
        folder=Path(folder),
        api_keys=[os.environ[KEY_VARIABLE]],
        faults=FaultPlan(TypeAdapter(list[Fault]).validate_json(faults)),
        announce=_announce,
    )


def _announce(line: str) -> None:
    sys.stdout.write(json.dumps({"event": "ready", "url": line.rpartition(" ")[2]}) + "\n")
    sys.stdout.flush()


def _end_with_input() -> None:
    # Read below Python's buffer: a lock on it held by this thread would trouble the interpreter's end.
    while os.read(0, 4096):
        continue
    os.kill(os.getpid(), signal.SIGTERM)


if __name__ == "__main__":
    main()
