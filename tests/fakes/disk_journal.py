"""The order in which files get their bytes, their names and their durability: what a power cut would leave."""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest


@dataclass
class DiskJournal:
    """What was done to files, in order: `sync x`, `rename x`, `link x`, `unlink x`, by the last part of the path."""

    steps: list[str] = field(default_factory=list)

    def order(self, *wanted: str) -> list[str]:
        """Those of the steps that are wanted."""
        return [step for step in self.steps if step in wanted]


@contextmanager
def keep_journal() -> Iterator[DiskJournal]:
    """Note each fsync, rename, link and unlink that goes through `os` or `Path`, and do it.

    Its own patches, undone at the end of the block: what else watches these calls may come and go around it.
    """
    journal = DiskJournal()
    fsync, replace, rename, unlink, link = os.fsync, Path.replace, Path.rename, Path.unlink, os.link

    def noted_fsync(descriptor: int) -> None:
        journal.steps.append(f"sync {Path(f'/proc/self/fd/{descriptor}').readlink().name}")
        fsync(descriptor)

    def noted_replace(path: Path, target: Path) -> Path:
        journal.steps.append(f"rename {Path(target).name}")
        return replace(path, target)

    def noted_rename(path: Path, target: Path) -> Path:
        journal.steps.append(f"rename {Path(target).name}")
        return rename(path, target)

    def noted_unlink(path: Path, missing_ok: bool = False) -> None:
        if os.path.lexists(path):
            journal.steps.append(f"unlink {path.name}")
        unlink(path, missing_ok=missing_ok)

    def noted_link(source: Any, target: Any) -> None:
        journal.steps.append(f"link {Path(target).name}")
        link(source, target)

    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(os, "fsync", noted_fsync)
        patched.setattr(Path, "replace", noted_replace)
        patched.setattr(Path, "rename", noted_rename)
        patched.setattr(Path, "unlink", noted_unlink)
        patched.setattr(os, "link", noted_link)
        yield journal
