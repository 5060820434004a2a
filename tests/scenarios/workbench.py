"""A transcoder with its derived folder, for the tests of what it makes and of what it leaves as it was."""

import hashlib
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any, BinaryIO

from sentinel_sync.scenarios.transcoder import MadeVideo, NotMade, Transcoder
from sentinel_sync.settings import CloudSettings
from tests.fakes.clock import FakeClock
from tests.fakes.patience import until
from tests.fakes.processes import children_of


class Bench:
    """A transcoder with its derived folder."""

    def __init__(self, ffmpeg: str | Path, folder: Path, clock: FakeClock, **settings: Any) -> None:
        self.folder = folder / "derived"
        self.target = self.folder / "0123456789abcdef.mp4"
        self.shares: list[float] = []
        self.note: str | None = None
        self.transcoder = Transcoder(CloudSettings(ffmpeg_path=Path(ffmpeg), **settings), clock)

    async def compress(self, video: Path, on_progress: Callable[[float], None] | None = None) -> MadeVideo | NotMade:
        with opened(video) as source:
            size = os.fstat(source.fileno()).st_size
            return await self.transcoder.compress(source, size, self.target, on_progress or self.shares.append)

    async def copied(self, video: Path, *, drop_audio: bool = False) -> Path:
        """Copy a video; the result is what it is said to be, and alone in its folder."""
        with opened(video) as source:
            size = os.fstat(source.fileno()).st_size
            result = await self.transcoder.remux(source, size, self.target, self.shares.append, drop_audio=drop_audio)
        assert isinstance(result, MadeVideo), result
        content = content_of(self.target)
        assert (result.size_bytes, result.sha256) == (len(content), hashlib.sha256(content).hexdigest())
        assert self.left == [self.target.name]
        return self.target

    async def not_copied(self, video: Path) -> NotMade:
        """Why a video is not copied; there is nothing in the folder."""
        with opened(video) as source:
            size = os.fstat(source.fileno()).st_size
            result = await self.transcoder.remux(source, size, self.target, self.shares.append)
        assert isinstance(result, NotMade), result
        assert self.left == []
        return result

    async def compressed(self, video: Path) -> Path:
        """Compress a video that can be; the result is what it is said to be, and alone in its folder."""
        result = await self.compress(video)
        assert isinstance(result, MadeVideo), result
        content = content_of(self.target)
        assert (result.size_bytes, result.sha256) == (len(content), hashlib.sha256(content).hexdigest())
        self.note = result.note
        assert len(content) < len(content_of(video))
        assert self.left == [self.target.name]
        return self.target

    async def kept(self, video: Path) -> str:
        """Why a video is kept as it is; there is nothing in the folder."""
        result = await self.compress(video)
        assert isinstance(result, NotMade), result
        assert self.left == []
        return result.reason

    @property
    def left(self) -> list[str]:
        return [entry.name for entry in self.folder.iterdir()] if self.folder.is_dir() else []

    @property
    def made_so_far(self) -> int:
        """Bytes of the result that is being made."""
        return sum(entry.stat().st_size for entry in self.folder.iterdir()) if self.folder.is_dir() else 0

    async def encoder(self) -> int:
        """Id of the ffmpeg that compresses, once it has begun to write."""
        await until(lambda: self.made_so_far > 0, "the first of the result")
        (process,) = children_of()
        return process


def opened(video: Path) -> BinaryIO:
    """As `open_part` opens a recording."""
    return os.fdopen(os.open(video, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC), "rb")


def content_of(path: Path) -> bytes:
    return path.read_bytes()


async def child() -> int:
    """Id of the one child there is, once there is one that hangs."""
    await until(lambda: any("tail -f" in line for line in children_of().values()), "a child that hangs")
    (process,) = children_of()
    return process
