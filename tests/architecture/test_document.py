"""docs/architecture.md names files, classes and functions that there are."""

import ast
import re
from functools import cache
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "docs" / "architecture.md").read_text(encoding="utf-8")
NAMED = sorted(set(re.findall(r"`([A-Za-z_][\w/]*(?:\.\w+)*/?)`", PAGE)))
#: Words in backticks that are no names of ours.
OTHERS = {
    "await", "flock", "tests/architecture", "offline", "sending", "step()", "synchronous=FULL", "Idempotency-Key",
}  # fmt: skip


@cache
def defined() -> frozenset[str]:
    """Every class, function, method and constant of the package, methods also as `Class.method`."""
    found: set[str] = set()
    for path in (ROOT / "sentinel_sync").rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.ClassDef):
                found |= {node.name} | {
                    name
                    for inner in node.body
                    if isinstance(inner, ast.FunctionDef | ast.AsyncFunctionDef)
                    for name in (inner.name, f"{node.name}.{inner.name}")
                }
            elif isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
                found.add(node.name)
    return frozenset(found)


@pytest.mark.parametrize("name", [name for name in NAMED if name not in OTHERS])
def test_it_is_there(name: str) -> None:
    if name.endswith(("/", ".py", ".yaml")) or name == "__main__":
        parts = [ROOT / name, ROOT / "sentinel_sync" / name, ROOT / "sentinel_sync" / f"{name}.py"]
        assert any(path.exists() for path in parts) or name == "rules/"
    elif name in {"rules", "base", "cloud", "store"}:
        assert (ROOT / "sentinel_sync" / name).is_dir() or name == "rules"
    else:
        assert name in defined()


def test_the_tests_that_security_names_are_there() -> None:
    page = (ROOT / "docs" / "security.md").read_text(encoding="utf-8")
    named = set(re.findall(r"`(tests/[\w/]+\.py)`", page))
    assert len(named) > 20
    assert [name for name in sorted(named) if not (ROOT / name).is_file()] == []


def test_many_are_named() -> None:
    assert len(NAMED) > 100
