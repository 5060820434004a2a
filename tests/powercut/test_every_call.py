"""SIGKILL, EIO and ENOSPC at every call that changes the disk: the next start succeeds, nothing acknowledged is lost.

`make test` takes a few points of each operation, `make powercut` (SENTINEL_POWERCUT=all) every one.
"""

import asyncio
import os
import shutil
import sys
from pathlib import Path

import pytest

from tests.powercut.scenarios import OPERATIONS
from tests.powercut.strace import CALLS, FAULTS, Bench, Point
from tests.powercut.worker import REFUSED

pytestmark = pytest.mark.skipif(shutil.which("strace") is None, reason="no strace on PATH: apt install strace")

ALL = os.environ.get("SENTINEL_POWERCUT") == "all"
#: Of each operation in `make test`: so many points, spread over it.
FEW = 3


def chosen(points: list[Point]) -> list[Point]:
    """All points, or a few from the first to the last."""
    if ALL or len(points) <= FEW:
        return points
    return [points[round(number * (len(points) - 1) / (FEW - 1))] for number in range(FEW)]


@pytest.mark.parametrize("operation", OPERATIONS)
def test_whatever_call_is_the_last_or_fails(tmp_path: Path, operation: str, capsys: pytest.CaptureFixture[str]) -> None:
    bench = Bench(tmp_path)
    what = OPERATIONS[operation]
    asyncio.run(what.prepare(bench.template))
    with bench.running():
        points = bench.points(operation)
        assert {point.call for point in points} <= set(CALLS)
        wrong: list[str] = []
        for point in chosen(points):
            for fault in FAULTS:
                ended = bench.fail(operation, point, fault)
                expected = {-9} if fault == "SIGKILL" else {0, REFUSED}
                try:
                    assert ended.code in expected, f"it ended with {ended.code}"
                    asyncio.run(what.judge(bench.work, ended.acknowledged))
                except Exception as error:  # all of them are told together
                    place = point.path.removeprefix(str(bench.work))
                    wrong.append(f"{fault} at {point.call} {place} {point.number}: {type(error).__name__} {error}")
        with capsys.disabled():
            if ALL:
                sys.stdout.write(f"\n{operation}: {len(points)} points, {len(wrong)} wrong\n")
        assert wrong == [], "\n".join(wrong)


def test_a_failed_fsync_is_no_acknowledgement_and_the_file_is_not_trusted_after_it(tmp_path: Path) -> None:
    """The kernel may have dropped what could not be written, and a second fsync would succeed all the same."""
    bench = Bench(tmp_path)
    what = OPERATIONS["put"]
    asyncio.run(what.prepare(bench.template))
    with bench.running():
        commits = [
            point
            for point in bench.points("put")
            if (point.call, point.is_stores, point.path.endswith("-wal")) == ("fdatasync", True, True)
        ]
        refused: set[str] = set()
        for point in commits:
            ended = bench.fail("put", point, "EIO")
            missing = {f"there trip-{number}" for number in (5, 6, 7)} - ended.acknowledged
            assert (len(missing), "the same file" in ended.acknowledged) == (
                int("refused" in ended.acknowledged),
                False,
            )
            assert "another file" in ended.acknowledged or missing <= {"there trip-7"}
            refused |= missing
            asyncio.run(what.judge(bench.work, ended.acknowledged))
            assert not list((bench.work / "state").glob("*.replaced-*")), "what is not trusted is not kept either"
        assert len(refused) == 3
