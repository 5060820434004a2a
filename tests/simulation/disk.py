"""Disks that are full for a while: no file can be made or lengthened there, and SQLite's cannot grow."""

import builtins
import errno
import io
import os
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from random import Random
from sqlite3 import Connection
from types import SimpleNamespace
from typing import Any
from unittest import mock

from sentinel_sync.store.database import Database
from sentinel_sync.store.headroom import Headroom

_PAGE_BYTES = 4096
_REFUSED = 0.5
#: SQLite's own bound.
_MOST_PAGES = 4_294_967_294


class Disks:
    """One disk for each vehicle's folder; that of the machine is never full.

    Args:
        rng: Decides which small write still finds room.

    Attributes:
        full: Folders whose disk has no space.
    """

    def __init__(self, rng: Random) -> None:
        self._rng = rng
        self.full: set[Path] = set()
        self._stores: dict[Path, tuple[Connection, int]] = {}

    def limit(self, store: Database) -> None:
        """Before a store does what it was asked: let its file grow no further than the disk does."""
        folder, connection = store._path.parent, store._connection
        if connection is None or self._is_full(folder) is (folder in self._stores):
            return
        if folder in self._stores:
            del self._stores[folder]
            connection.execute(f"PRAGMA max_page_count = {_MOST_PAGES}")
            return
        (pages,) = connection.execute("PRAGMA page_count").fetchone()
        self._stores[folder] = connection, pages
        connection.execute(f"PRAGMA max_page_count = {pages}")

    def refuses(self, store: Database) -> bool:
        """Whether a write that gives nothing back finds no room in the log."""
        return self._is_full(store._path) and self._rng.random() < _REFUSED

    @contextmanager
    def watched(self) -> Iterator[None]:
        """Have all that opens a file ask here first."""
        release, real_open, real_statvfs, mkdir = Headroom.release, os.open, os.statvfs, os.mkdir

        def released(headroom: Headroom) -> bool:
            is_less = release(headroom)
            self._given_back(headroom._path)
            return is_less

        def opened(path: Any, flags: int, *more: Any, **named: Any) -> int:
            self._refuse(path, writes=bool(flags & os.O_CREAT) and not Path(path).exists())
            return real_open(path, flags, *more, **named)

        def made(path: Any, *more: Any, **named: Any) -> None:
            self._refuse(path, writes=True)
            mkdir(path, *more, **named)

        def statvfs(path: Any) -> Any:
            found = real_statvfs(path)
            if not self._is_full(path):
                return found
            return SimpleNamespace(f_bavail=0, f_bfree=0, f_blocks=found.f_blocks, f_frsize=found.f_frsize)

        with ExitStack() as stack:
            stack.enter_context(mock.patch.object(Headroom, "release", released))
            stack.enter_context(mock.patch.object(os, "open", opened))
            stack.enter_context(mock.patch.object(os, "statvfs", statvfs))
            for module in (builtins, io):
                stack.enter_context(mock.patch.object(module, "open", self._asking(module.open)))
            stack.enter_context(mock.patch.object(os, "mkdir", made))
            yield

    def _asking(self, real: Callable[..., Any]) -> Callable[..., Any]:
        def asked(path: Any, mode: str = "r", *more: Any, **named: Any) -> Any:
            # What is opened to be changed in place has its space.
            self._refuse(path, writes="+" not in mode and not {"w", "a", "x"}.isdisjoint(mode))
            return real(path, mode, *more, **named)

        return asked

    def _given_back(self, headroom: Path) -> None:
        """What the agent gives back of its reserve, its store may use."""
        if (limited := self._stores.get(headroom.parent)) is None:
            return
        connection, pages = limited
        left = headroom.stat().st_size if headroom.exists() else 0
        more = (4 << 20) - left
        connection.execute(f"PRAGMA max_page_count = {pages + more // _PAGE_BYTES}")

    def _refuse(self, path: Any, *, writes: bool) -> None:
        if writes and self.full and not isinstance(path, int) and self._is_full(path):
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(path))

    def _is_full(self, path: Any) -> bool:
        there = Path(os.fsdecode(path))
        return any(there.is_relative_to(folder) for folder in self.full)
