"""What is left when the power goes before all was synced: the next start succeeds, nothing acknowledged is lost.

`make test` looks at some states of each operation, `make powercut` (SENTINEL_POWERCUT=all) at 1,000, or at every one
with up to three lost changes where there are fewer.
"""

import asyncio
import os
import shutil
import sys
from pathlib import Path
from random import Random

import pytest

from tests.powercut.disk import RecordedRun, Resized, Written
from tests.powercut.scenarios import CONTROLS, OPERATIONS
from tests.powercut.strace import Bench

pytestmark = pytest.mark.skipif(shutil.which("strace") is None, reason="no strace on PATH: apt install strace")

ALL = os.environ.get("SENTINEL_POWERCUT") == "all"
MOST = 1_000 if ALL else 12


@pytest.mark.parametrize("operation", OPERATIONS)
def test_whatever_was_not_synced_may_be_lost(
    tmp_path: Path, operation: str, capsys: pytest.CaptureFixture[str]
) -> None:
    changes, tried, wrong = after_cuts(tmp_path, operation, MOST)
    with capsys.disabled():
        if ALL:
            sys.stdout.write(f"\n{operation}: {changes} changes, {tried} states, {len(wrong)} wrong\n")
    assert wrong == [], "\n".join(wrong[:10])


@pytest.mark.parametrize(
    ("operation", "is_safe"), [("written", False), ("file synced", False), ("file and folder synced", True)]
)
def test_what_is_acknowledged_before_it_is_synced_is_found_to_be_lost(
    tmp_path: Path, operation: str, is_safe: bool
) -> None:
    _, tried, wrong = after_cuts(tmp_path, operation, 100)
    assert tried > 5
    assert (wrong == []) is is_safe


def after_cuts(folder: Path, operation: str, most: int) -> tuple[int, int, list[str]]:
    """Play cuts of an operation: how many changes it makes, how many states were tried, what was wrong."""
    bench, what = Bench(folder), (OPERATIONS | CONTROLS)[operation]
    asyncio.run(what.prepare(bench.template))
    with bench.running():
        run = bench.record(operation)
    tried, wrong = 0, list[str]()
    for made, lost in run.cuts(Random(1), most):
        shutil.rmtree(bench.work)
        run.left(made, lost).write(bench.work)
        tried += 1
        try:
            asyncio.run(what.judge(bench.work, {word for number, word in run.acknowledged if number <= made}))
            assert not list(bench.work.rglob("*-wal.damaged-*")), "a power cut's log was taken for an altered one"
        except Exception as error:  # all of them are told together
            told = ", ".join(f"{number}: {_told(run, number)}" for number in lost)
            wrong.append(f"{made} of {len(run.changes)} made, lost {told}: {type(error).__name__} {error}")
    return len(run.changes), tried, wrong


def _told(run: RecordedRun, number: int) -> str:
    match run.changes[number]:
        case Written(node, at, data):
            return f"{len(data)} bytes at {at} of {node}"
        case Resized(node, size):
            return f"{node} to {size} bytes"
        case named:
            return str(named)
