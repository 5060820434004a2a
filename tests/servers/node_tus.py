"""tus's own reference server (`@tus/server` with `@tus/file-store`) in a process of its own."""

import fcntl
import hashlib
import json
import os
import re
import shutil
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Self

import pytest

HERE = Path(__file__).parent / "tus"
#: What the packages in package.json ask for.
OLDEST_NODE = (20, 19)
#: Less than a test may take.
INSTALL_SECONDS = 100


class NodeTus:
    """The server on a folder; may be killed, and started again on its port.

    Args:
        folder: Where it keeps uploads.
        packages: Where `npm ci` was run.
    """

    def __init__(self, folder: Path, packages: Path) -> None:
        self._folder = folder
        self._packages = packages
        self._process: subprocess.Popen[str] | None = None
        self.url = ""

    def start(self) -> None:
        port = self.url.rpartition(":")[2] or "0"
        self._process = subprocess.Popen(
            ["node", str(HERE / "server.mjs"), str(self._folder), port, str(self._packages)],
            stdout=subprocess.PIPE,
            text=True,
        )
        assert self._process.stdout is not None
        self.url = self._process.stdout.readline().strip()
        assert self.url.startswith("http://"), "the tus server did not start"

    def kill(self) -> None:
        """SIGKILL: it has no time to put anything in order."""
        if self._process is not None:
            self._process.kill()
            self._process.wait()
            assert self._process.stdout is not None
            self._process.stdout.close()
            self._process = None

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.kill()

    def ids(self) -> list[str]:
        """Its uploads, whole or not."""
        return sorted(path.stem for path in self._folder.glob("*.json"))

    def metadata(self, upload_id: str) -> dict[str, str]:
        described = json.loads((self._folder / f"{upload_id}.json").read_text(encoding="utf-8"))
        metadata: dict[str, str] = described["metadata"]
        return metadata

    def content(self, upload_id: str) -> bytes:
        return (self._folder / upload_id).read_bytes()

    def lose(self, upload_id: str) -> None:
        """Forget an upload, as an expiry would."""
        (self._folder / upload_id).unlink()
        (self._folder / f"{upload_id}.json").unlink()


def missing() -> str | None:
    """Why it cannot run here, or None."""
    if shutil.which("npm") is None:
        return "npm is not installed"
    try:
        said = subprocess.run(["node", "--version"], check=True, capture_output=True, text=True).stdout
    except (OSError, subprocess.CalledProcessError):
        return "node is not installed"
    version = re.match(r"v(\d+)\.(\d+)", said)
    if version is None or (int(version[1]), int(version[2])) < OLDEST_NODE:
        return f"node {said.strip()} is older than {'.'.join(map(str, OLDEST_NODE))}"
    return None


def installed() -> Path:
    """The folder with the server's packages, installed from the lock (each with its hash) where they are not yet."""
    lock = (HERE / "package-lock.json").read_bytes()
    cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "sentinel-sync-tests"
    cache.mkdir(parents=True, exist_ok=True)
    wanted = cache / f"tus-{hashlib.sha256(lock).hexdigest()[:16]}"
    with (cache / "tus.lock").open("w") as guard:  # other test processes want the same
        fcntl.flock(guard, fcntl.LOCK_EX)
        if not wanted.exists():
            with TemporaryDirectory(dir=cache, ignore_cleanup_errors=True) as name:
                _install(Path(name)).rename(wanted)
    return wanted


def _install(folder: Path) -> Path:
    being_made = folder / "packages"
    being_made.mkdir()
    for name in ("package.json", "package-lock.json"):
        shutil.copy(HERE / name, being_made)
    command = ["npm", "ci", "--ignore-scripts", "--no-audit", "--no-fund", "--fetch-retries=1", "--loglevel=error"]
    subprocess.run(command, cwd=being_made, check=True, capture_output=True, text=True, timeout=INSTALL_SECONDS)
    return being_made


@cache
def _install_fault() -> str | None:
    """Why its packages cannot be had, or None; asked once, for without a registry npm tries for long."""
    try:
        installed()
    except subprocess.CalledProcessError as error:
        return str(error.stderr).strip().partition("\n")[0]
    except subprocess.TimeoutExpired:
        return f"it takes longer than {INSTALL_SECONDS} s"
    return None


@contextmanager
def node_tus(folder: Path) -> Iterator[NodeTus]:
    """The server, running; the test is skipped where it cannot."""
    if reason := missing():
        pytest.skip(f"tus's own server cannot run: {reason}")
    if fault := _install_fault():
        pytest.skip(f"tus's own server cannot be installed with npm: {fault}")
    folder.mkdir(exist_ok=True)
    with NodeTus(folder, installed()) as server:
        yield server
