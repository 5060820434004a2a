"""The runtime's view of the models folder: `python -m tests.soak.model_watcher FOLDER NAMES CHECKSUMS`.

Opens what a runtime would open, over and over, while others install and are killed: each time it must find a model,
whole and published, and registry.json must be readable and lead to one. Ends with the first line on its standard input,
and then tells what it saw.
"""

import json
import sys
import threading
from collections import Counter
from collections.abc import Sequence
from contextlib import suppress
from hashlib import sha256
from pathlib import Path

from tests.soak.vehicle import tell

#: Seconds between two looks: the agent needs the processor too.
PAUSE = 0.002
#: A model may change its name between two looks at two names; not so often in a row.
LOOKS = 5


class Watcher:
    """Looks.

    Args:
        folder: `models_dir`.
        names: Of live files: at each instant there is one of them.
        checksums: SHA-256 in hex of all that was published.
    """

    def __init__(self, folder: Path, names: Sequence[str], checksums: Sequence[str]) -> None:
        self._folder = folder
        self._names = names
        self._checksums = frozenset(checksums)
        self.seen: Counter[str] = Counter()
        self.problems: Counter[str] = Counter()

    def look(self) -> None:
        """Look once at everything."""
        found = False
        for _ in range(LOOKS):
            found = sum(self._model(self._folder / name) for name in self._names) > 0
            if found or not self.seen:
                break
        if self.seen and not found:
            self.problems["there was no model"] += 1
        if self.seen and not any(self._registry() for _ in range(LOOKS)):
            self.problems["registry.json led to no model"] += 1

    def _model(self, path: Path) -> bool:
        try:
            checksum = sha256(path.read_bytes()).hexdigest()
        except FileNotFoundError:
            return False
        if checksum in self._checksums:
            self.seen[checksum] += 1
        else:
            self.problems[f"{path.name} was {checksum[:12]}, which nobody published"] += 1
        return True

    def _registry(self) -> bool:
        with suppress(FileNotFoundError):
            try:
                entries = json.loads((self._folder / "registry.json").read_bytes())
            except ValueError:
                self.problems["registry.json was no JSON"] += 1
                return True
            return all(Path(entry["path"]).exists() for entry in entries.values())
        # The very first model is there a moment before it is registered.
        return len(self.seen) < 2


def main() -> None:
    folder, names, checksums = sys.argv[1:]
    watcher, asked = Watcher(Path(folder), json.loads(names), json.loads(checksums)), threading.Event()

    def await_word() -> None:
        sys.stdin.readline()
        asked.set()

    threading.Thread(target=await_word, daemon=True).start()
    tell("ready")
    while not asked.wait(PAUSE):
        watcher.look()
    tell("seen", seen=watcher.seen, problems=watcher.problems)


if __name__ == "__main__":
    main()
