"""`resumable-upload`: a tus server with the checksum extension, which keeps nothing of a PATCH that was cut."""

import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from tests.fakes.cloud import closed_port


@dataclass(frozen=True, slots=True)
class PythonTus:
    """It runs; it knows only the parts of one kind of one scenario, because it has one creation address."""

    url: str
    folder: Path

    def contents(self) -> list[bytes]:
        """What it has, whole or not."""
        return [path.read_bytes() for path in self.folder.iterdir() if path.is_file()]


@contextmanager
def python_tus(folder: Path, path: str, *, algorithms: str) -> Iterator[PythonTus]:
    """Run it with `path` as its creation address."""
    port = closed_port()
    options = {
        "--host": "127.0.0.1",
        "--port": str(port),
        "--base-path": path,
        "--upload-dir": str(folder / "uploads"),
        "--db-path": str(folder / "uploads.db"),
        "--checksum-algorithms": algorithms,
    }
    arguments = [argument for option in options.items() for argument in option]
    process = subprocess.Popen(
        [sys.executable, "-m", "resumable_upload", "serve", *arguments], stderr=subprocess.PIPE, text=True
    )
    assert process.stderr is not None
    try:
        for line in process.stderr:
            if "listening" in line:
                break
        else:
            raise AssertionError("the tus server did not start")
        yield PythonTus(f"http://127.0.0.1:{port}", folder / "uploads")
    finally:
        process.kill()
        process.wait()
        process.stderr.close()
