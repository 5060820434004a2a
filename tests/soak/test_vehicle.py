"""The diary, by which the soaks judge what an agent had promised when it was killed."""

from pathlib import Path

import pytest

from tests.soak.vehicle import Diary, read_diary


def test_no_line_of_a_diary_crosses_a_page_where_a_kill_could_tear_it(tmp_path: Path) -> None:
    path = tmp_path / "diary.jsonl"
    bodies = [length * "x" for length in (700, 1, 3000, 900, 4000, 4000, 20)]
    for body in bodies:
        Diary(str(path)).write(body=body)  # each by another process's descriptor
    text, begin = path.read_bytes(), 0
    for line in text.splitlines(keepends=True):
        first = begin + len(line) - len(line.lstrip(b" "))
        assert first // 4096 == (begin + len(line) - 1) // 4096
        begin += len(line)
    assert [line["body"] for line in read_diary(path)] == bodies


def test_a_diary_whose_process_was_killed_before_the_line_says_what_was_there(tmp_path: Path) -> None:
    path = tmp_path / "diary.jsonl"
    Diary(str(path)).write(begun=1)
    with path.open("ab") as file:
        file.write(b" " * 500)
    assert read_diary(path) == [{"begun": 1}]
    Diary(str(path)).write(begun=2)
    assert read_diary(path) == [{"begun": 1}, {"begun": 2}]


def test_a_line_that_could_be_torn_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="does not fit into a page"):
        Diary(str(tmp_path / "diary.jsonl")).write(body="x" * 4096)
