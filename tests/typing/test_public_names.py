"""What an embedder's type checker sees of the package."""

import re
from pathlib import Path

from mypy import api

import sentinel_sync

USES = Path(__file__).parent / "public_names.py"
ROOT = Path(__file__).parents[2]


def test_right_uses_pass_and_wrong_ones_are_errors(tmp_path: Path) -> None:
    """Without the ignores each line that carried one is an error of the kind that it named, and no other line is."""
    lines = USES.read_text(encoding="utf-8").splitlines()
    wanted = {
        (number, match[1])
        for number, line in enumerate(lines, 1)
        if (match := re.search(r"type: ignore\[(.+)\]", line))
    }
    assert len(wanted) > 20
    copy = tmp_path / "uses.py"
    copy.write_text("\n".join(line.partition("  # type: ignore")[0] for line in lines), encoding="utf-8")
    report, complaint, _ = api.run([
        "--strict", "--config-file", str(ROOT / "pyproject.toml"), "--cache-dir", str(ROOT / ".mypy_cache"), str(copy),
    ])  # fmt: skip
    assert not complaint
    found = re.findall(r"uses\.py:(\d+): error: .*\[([\w-]+)\]$", report, re.MULTILINE)
    assert {(int(number), kind) for number, kind in found} == wanted


def test_every_public_name_is_used() -> None:
    text = USES.read_text(encoding="utf-8")
    unused = [name for name in sentinel_sync.__all__ if len(re.findall(rf"\b{name}\b", text)) < 2]
    assert not unused


def test_the_stub_names_what_the_package_has() -> None:
    stub = (Path(sentinel_sync.__file__).parent / "__init__.pyi").read_text(encoding="utf-8")
    for name, module in sentinel_sync._HOME.items():
        assert re.search(rf"from {re.escape(module)} import (?:[^(\n]*\b{name}\b|\([^)]*\b{name}\b)", stub), name
