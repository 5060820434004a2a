"""The folder where the vehicle's profile manager keeps its profiles, `{driver_id}.json`. Blocks: call it off the loop.

The manager may be reading or writing at any time, so files are read whole, replaced in one step, and never replaced
after a change that was not read.
"""

import asyncio
import json
import logging
import os
import re
import stat
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ParamSpec, TypeVar

from sentinel_sync.base.clock import Clock, SystemClock
from sentinel_sync.base.errors import ProfileError, SentinelSyncError
from sentinel_sync.base.files import replace_file, sync_folder
from sentinel_sync.base.tasks import run_to_end
from sentinel_sync.profiles.rules.envelope import parse_profile

logger: logging.Logger = logging.getLogger(__name__)

SUFFIX = ".json"
#: A profile file beyond this (bytes) is not read: real ones have a few thousand.
MAX_FILE_BYTES = 1 << 20
#: File systems that vehicles use take names of 255 bytes; the new file beside the old one has a longer name.
_MAX_NAME_BYTES = 240
#: What `replace_file` leaves where its process is killed: personal data under a name that nobody reads.
_LEFTOVER = re.compile(r"\..+\.json\.[0-9a-f]{8}\.new")

Signature = tuple[int, int, int]
Parameters = ParamSpec("Parameters")
Piece = TypeVar("Piece")
Result = TypeVar("Result")

#: A thread that computes keeps the loop waiting until it rests, or until the interpreter's switch interval (5 ms) is
#: over: so after so many seconds of work it lets go of the interpreter …
_WORK = 2e-3
#: … for as short as the system's timers can (some 60 µs): enough for the loop to take over.
_REST = 1e-6


@dataclass(frozen=True, slots=True)
class ProfileFile:
    """A profile as it was read.

    Attributes:
        profile: Its fields, in the order of the file.
        signature: Tells whether the file has changed since.
        indent: How the file is written.
        ascii_only: Whether it spells other characters as escapes.
        ends_with_newline: Whether it does.
        mode: Its permissions.
        owner: Its user and group.
    """

    profile: dict[str, Any]
    signature: Signature
    indent: int | None
    ascii_only: bool
    ends_with_newline: bool
    mode: int
    owner: tuple[int, int]


class ProfileFolder:
    """Reads and replaces profiles; adds no file and no field.

    Args:
        path: The folder. Where it is missing there are no profiles.
    """

    def __init__(self, path: Path) -> None:
        self._path = path

    def signatures(self) -> dict[str, Signature]:
        """All profiles there are by driver, each with what tells whether it has changed.

        Raises:
            ProfileError: The folder cannot be read.
        """
        found: dict[str, Signature] = {}
        try:
            with os.scandir(self._path) as entries:
                for entry in entries:
                    driver_id = entry.name.removesuffix(SUFFIX)
                    if driver_id != entry.name and nameable(driver_id) and entry.is_file(follow_symlinks=False):
                        found[driver_id] = _signature(entry.stat(follow_symlinks=False))
        except FileNotFoundError:
            return found
        except OSError as error:
            raise ProfileError(f"the folder of profiles cannot be read ({error.strerror})") from None
        return found

    def read(self, driver_id: str) -> ProfileFile | None:
        """Read a profile; None where there is none, or it cannot have a file by its name.

        Raises:
            ProfileError: It cannot be read: not a plain file, too large, no JSON.
        """
        if not nameable(driver_id):
            return None
        try:
            # Neither a link out of the folder nor a pipe that never ends.
            descriptor = os.open(self._file(driver_id), os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
        except FileNotFoundError:
            return None
        except OSError as error:
            raise ProfileError(f"the profile's file cannot be read ({error.strerror})") from None
        facts = os.fstat(descriptor)
        if not stat.S_ISREG(facts.st_mode):
            os.close(descriptor)
            raise ProfileError("the profile's file is no plain file")
        with os.fdopen(descriptor, "rb") as file:
            content = b"" if facts.st_size > MAX_FILE_BYTES else file.read(MAX_FILE_BYTES + 1)
        if facts.st_size > MAX_FILE_BYTES or len(content) > MAX_FILE_BYTES:
            raise ProfileError(f"the profile's file is larger than {MAX_FILE_BYTES} bytes: it is not synced")
        return ProfileFile(
            profile=parse_profile(content),
            signature=_signature(facts),
            indent=2 if b"\n" in content.strip() else None,
            ascii_only=content.isascii(),
            ends_with_newline=content.endswith(b"\n"),
            mode=stat.S_IMODE(facts.st_mode),
            owner=(facts.st_uid, facts.st_gid),
        )

    def replace(self, driver_id: str, profile: Mapping[str, Any], read: ProfileFile) -> Signature | None:
        """Replace a profile in one step; None where it has changed since it was `read`, and is left as it is.

        Raises:
            ProfileError: It cannot be written; it is as it was.
        """
        path = self._file(driver_id)
        text = json.dumps(profile, indent=read.indent, ensure_ascii=read.ascii_only, allow_nan=False)
        content = (text + "\n" * read.ends_with_newline).encode()
        try:
            if _signature(path.stat(follow_symlinks=False)) != read.signature:
                return None
            replace_file(path, content, durable=True, mode=read.mode)
            written = path.stat(follow_symlinks=False)
            if (written.st_uid, written.st_gid) != read.owner:
                os.chown(path, *read.owner)
        except FileNotFoundError:
            return None  # removed meanwhile: it is not brought back
        except OSError as error:
            raise ProfileError(f"the profile's file cannot be written ({error.strerror}); it is as it was") from None
        return _signature(path.stat(follow_symlinks=False))

    def remove(self, driver_id: str, read: ProfileFile | None = None) -> bool:
        """Remove a profile for good, also what was being written when a process was killed; True where it is not there.

        Args:
            driver_id: Whose.
            read: The file as it was read: where it has changed since it stays. None: it goes as it is.

        Raises:
            ProfileError: It cannot be removed.
        """
        if not nameable(driver_id):
            return True
        path = self._file(driver_id)
        try:
            if read is not None and _signature(path.stat(follow_symlinks=False)) != read.signature:
                return False
            path.unlink()
        except FileNotFoundError:
            pass
        except OSError as error:
            raise ProfileError(f"the profile's file cannot be removed ({error.strerror}): remove it by hand") from None
        self._sweep(lambda name: name.startswith(f".{path.name}."))
        if self._path.is_dir():
            sync_folder(self._path)
        return True

    def sweep(self) -> None:
        """Remove what was being written when a process was killed: for whoever owns the state folder, at its start."""
        self._sweep(lambda _: True)

    def _sweep(self, concerned: Callable[[str], bool]) -> None:
        try:
            with os.scandir(self._path) as entries:
                leftovers = [entry.name for entry in entries if _LEFTOVER.fullmatch(entry.name)]
            for name in leftovers:
                if concerned(name):
                    (self._path / name).unlink(missing_ok=True)
        except FileNotFoundError:
            return
        except OSError as error:
            raise ProfileError(f"the folder of profiles cannot be tidied ({error.strerror})") from None

    def _file(self, driver_id: str) -> Path:
        return self._path / f"{driver_id}{SUFFIX}"


def nameable(driver_id: str) -> bool:
    """Whether `{driver_id}.json` is a file of the folder itself: no path, nothing hidden, no control character."""
    try:
        size = len(f"{driver_id}{SUFFIX}".encode())
    except UnicodeEncodeError:  # a name on disk that is not UTF-8
        return False
    return (
        bool(driver_id)
        and size <= _MAX_NAME_BYTES
        and driver_id.isprintable()
        and not driver_id.startswith(".")
        and "/" not in driver_id
        and "\\" not in driver_id
    )


def _signature(facts: os.stat_result) -> Signature:
    return facts.st_mtime_ns, facts.st_size, facts.st_ino


class SerialExecutor:
    """One thread at a time, because each that computes takes turns with the loop.

    Args:
        clock: To rest in time.
    """

    def __init__(self, clock: Clock | None = None) -> None:
        self._clock = clock or SystemClock()
        self._one_by_one = asyncio.Lock()

    async def do(
        self, work: Callable[Parameters, Result], /, *args: Parameters.args, **kwargs: Parameters.kwargs
    ) -> Result:
        """Do one piece of work."""
        async with self._one_by_one:
            return await run_to_end(work, *args, **kwargs)

    async def each(self, work: Callable[[Piece], Result], pieces: Sequence[Piece]) -> list[Result | SentinelSyncError]:
        """Do it for each piece; what cannot be done stands in the result as its error.

        All cross to the thread together: a crossing costs more than a profile takes.
        """
        if not pieces:
            return []
        async with self._one_by_one:
            return await run_to_end(self._done, work, pieces)

    def _done(self, work: Callable[[Piece], Result], pieces: Sequence[Piece]) -> list[Result | SentinelSyncError]:
        done: list[Result | SentinelSyncError] = []
        since = self._clock.monotonic()
        for piece in pieces:
            if self._clock.monotonic() - since >= _WORK:
                time.sleep(_REST)
                since = self._clock.monotonic()
            try:
                done.append(work(piece))
            except SentinelSyncError as error:
                done.append(error)
        return done
