"""The table of attacks in docs/tuf.md names tests that there are."""

import re
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[3]
#: `file`, `file::Class`, `file::test`, `file::Class::test`; a name alone is another one of the file before it.
_NAMED = re.compile(r"`(tests/[\w/]+\.py)((?:::\w+)*)`|`(test_\w+)`")


def named() -> Iterator[tuple[str, str]]:
    """File and name of each test that the document names."""
    file = ""
    for match in _NAMED.finditer((ROOT / "docs" / "tuf.md").read_text(encoding="utf-8")):
        file = match[1] or file
        for name in [*(match[2] or "").split("::"), match[3] or ""]:
            yield file, name


@pytest.mark.parametrize(("file", "name"), sorted(set(named())))
def test_it_is_there(file: str, name: str) -> None:
    text = (ROOT / file).read_text(encoding="utf-8")
    assert re.search(rf"^ *(?:class|def|async def) {name}\b", text, re.MULTILINE) or not name


def test_many_are_named() -> None:
    assert len(set(named())) > 30
