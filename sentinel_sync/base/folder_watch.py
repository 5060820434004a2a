"""Tells what changes in folders, by inotify(7), so that an idle agent need not look every few seconds.

A part asks `follows` at each look of its own: while that says yes, the next look may be as late as
`WATCHED_INTERVAL`, because a change wakes the part; where it says no, the part looks as often as without.
"""

import asyncio
import logging
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any, Self

logger: logging.Logger = logging.getLogger(__name__)

#: Between two looks at what is watched, seconds: for what the kernel does not tell of, such as another machine's
#: writing to a shared folder.
WATCHED_INTERVAL = 60.0
#: Events are read at most so often, seconds, so that a busy folder keeps no loop busy; the kernel merges what is alike.
_REST_SECONDS = 1.0

#: Called when something has changed; a plain function that returns at once.
Listener = Callable[[], None]


class FolderWatch:
    """Watches folders while it is open; before that, and where the kernel has no inotify left, it follows none."""

    def __init__(self) -> None:
        # Of asyncinotify, which is loaded late: see `_open`.
        self._inotify: Any = None
        self._reading: asyncio.Task[None] | None = None
        self._watches: dict[Path, Any] = {}
        #: Whom to tell of names that begin how.
        self._listeners: dict[Path, set[tuple[str, Listener]]] = {}

    async def __aenter__(self) -> Self:
        try:
            self._inotify = await asyncio.to_thread(_open)
        except (ImportError, OSError, RuntimeError) as error:
            logger.info("folders.not_watched: they are looked at now and then instead (%s)", error)
            return self
        self._reading = asyncio.create_task(self._read(self._inotify), name="sync.folders")
        return self

    async def __aexit__(self, *_: object) -> None:
        inotify, self._inotify = self._inotify, None
        reading, self._reading = self._reading, None
        self._watches.clear()
        self._listeners.clear()
        try:
            if reading is not None:
                reading.cancel()
                await asyncio.wait({reading})
        finally:
            if inotify is not None:
                inotify.close()

    async def follows(self, folder: Path, listener: Listener, prefix: str = "") -> bool:
        """Whether changes in a folder are told from now on; the kernel is asked for it where they are not yet.

        Args:
            folder: Itself, not what lies below its own folders; it may come and go.
            listener: Told of a change at once, of those that follow within a second together.
            prefix: Only of files whose name begins so.
        """
        inotify = self._inotify
        if inotify is None or self._reading is None or self._reading.done():
            return False
        if folder not in self._watches:
            try:
                self._watches[folder] = await asyncio.to_thread(_watch, inotify, folder)
            except (OSError, ValueError) as error:  # it is not there, the kernel's limit is reached; closed meanwhile
                logger.debug("folders.not_watched: %s (%s)", folder, error)
                return False
        self._listeners.setdefault(folder, set()).add((prefix, listener))
        return True

    async def _read(self, inotify: Any) -> None:
        while True:
            self._tell(await inotify.get())
            await asyncio.sleep(_REST_SECONDS)
            while (event := inotify.sync_get()) is not None:
                self._tell(event)

    def _tell(self, event: Any) -> None:
        # Without one events were lost: everybody looks. One folder may be followed under several names.
        told = [folder for folder, watch in self._watches.items() if event.watch is None or watch.wd == event.watch.wd]
        for folder in told:
            for prefix, listener in self._listeners.get(folder, ()):
                if event.name is None or event.name.name.startswith(prefix):
                    listener()
            if event.watch is not None and event.name is None:
                # The folder itself was deleted or moved: whoever follows it asks again, and looks until then.
                del self._watches[folder]
                self._listeners.pop(folder, None)


def _open() -> Any:
    # Loading it looks for the C library, by another program in some installations; not every system has inotify.
    from asyncinotify import Inotify  # noqa: PLC0415

    inotify = Inotify(sync_timeout=0.0)
    # Its own flag for that (4.4) is O_CLOEXEC once more.
    os.set_blocking(inotify.fd, False)
    return inotify


def _watch(inotify: Any, folder: Path) -> Any:
    from asyncinotify import Mask  # noqa: PLC0415

    content = Mask.CREATE | Mask.MODIFY | Mask.CLOSE_WRITE | Mask.DELETE | Mask.MOVED_FROM | Mask.MOVED_TO
    return inotify.add_watch(folder, content | Mask.DELETE_SELF | Mask.MOVE_SELF | Mask.ONLYDIR)
