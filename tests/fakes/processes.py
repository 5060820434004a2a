"""What other processes do, by what the kernel says of them."""

import os
import shutil
import subprocess
from pathlib import Path

import pytest


def state_of(process: int) -> str | None:
    """The kernel's letter for what a process does; None where there is none any more, or only its exit code."""
    fields = _fields(process)
    return None if fields is None or fields[0] in {"Z", "X"} else fields[0]


def niceness_of(process: int) -> int:
    fields = _fields(process)
    assert fields is not None, "the process is gone"
    return int(fields[16])


def memory_score_of(process: int) -> int:
    """How gladly the kernel ends it where memory runs out: 1000 is before all others."""
    return int(Path(f"/proc/{process}/oom_score_adj").read_text(encoding="ascii"))


def disk_class_of(process: int) -> str:
    """Its class of disk access; the test is skipped where there is no program to ask."""
    ionice = shutil.which("ionice")
    if ionice is None:
        pytest.skip("no ionice: apt install util-linux")
    return subprocess.run([ionice, "-p", str(process)], check=True, capture_output=True, text=True).stdout.strip()


def children_of(parent: int | None = None) -> dict[int, str]:
    """Living children of a process (by default of this one) by id, with their command lines."""
    parent = os.getpid() if parent is None else parent
    found = {}
    for folder in Path("/proc").glob("[0-9]*"):
        process = int(folder.name)
        fields = _fields(process)
        if fields is None or fields[0] in {"Z", "X"} or int(fields[1]) != parent:
            continue
        try:
            found[process] = _command_line(folder)
        except OSError:
            continue
    return found


def marked_by(text: str, name: str) -> dict[int, str]:
    """Living processes called `name` that have a text in the environment they were started with, by id."""
    found = {}
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            if (folder / "comm").read_text(encoding="utf-8", errors="replace").strip() != name:
                continue
            if text.encode() in (folder / "environ").read_bytes():
                found[int(folder.name)] = (
                    (folder / "cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace")
                )
        except OSError:  # it has ended meanwhile, or is somebody else's
            continue
    return found


def _command_line(folder: Path) -> str:
    return (folder / "cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace")


def _fields(process: int) -> list[str] | None:
    """Of /proc/<id>/stat, from the state on (proc(5)); the name before it may hold anything."""
    try:
        return Path(f"/proc/{process}/stat").read_text(encoding="utf-8", errors="replace").rpartition(")")[2].split()
    except OSError:
        return None
