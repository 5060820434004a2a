"""Makes the file that goes for a part, once: compressed, copied without what else is in it, or filtered and packed."""

import contextlib
import hashlib
import os
import secrets
import shutil
import time
import zlib
from collections.abc import AsyncIterator, Awaitable, Callable, Collection
from dataclasses import replace
from enum import StrEnum
from pathlib import Path
from typing import BinaryIO

from sentinel_sync.base.clock import Clock
from sentinel_sync.base.errors import NotNowError, ScenarioError, StoreError
from sentinel_sync.base.files import room_of, sync_folder
from sentinel_sync.base.tasks import run_to_end
from sentinel_sync.base.transfer import ActiveTransfer
from sentinel_sync.cloud.upload import OpenFile
from sentinel_sync.scenarios.recordings import absolute, open_part
from sentinel_sync.scenarios.rules.annotations import AnnotationFilter
from sentinel_sync.scenarios.rules.metadata import RecordedLength
from sentinel_sync.scenarios.rules.plan import Part, PartFile, PartKind, ScenarioPlan
from sentinel_sync.scenarios.transcoder import MadeVideo, NotMade, Transcoder
from sentinel_sync.settings import CloudSettings

#: So much of the disk is left to others, whatever the budget says: the outbox and the recorder come first.
DISK_RESERVE = 64 << 20
#: Hex digits of a name: as many as a UUID has, so two parts never share one.
_NAME_DIGITS = 32
#: Read and packed at once.
BLOCK_BYTES = 256 << 10
#: A thread that computes keeps the loop waiting until it rests, or for the interpreter's switch interval of 5 ms: so
#: after so many bytes, some 1 ms of filtering, it lets go of the interpreter …
_TURN_BYTES = 4 << 10
#: … for as short as the system's timers can, which is enough for the loop to take over.
_REST_SECONDS = 1e-6
#: zlib's window bits for "with a gzip header"; the header holds no time, so the same file is the same bytes.
_GZIP_WINDOW = 16 + zlib.MAX_WBITS
_GZIP_LEVEL = 6
#: Seconds after its last change in which a video that is too short may still be written: recorders flush every few.
_STILL_WRITTEN = 60.0
_NO_ROOM = "there is no room left within cloud.derived_max_bytes"


class DerivedFiles:
    """The folder of derived files.

    Args:
        folder: The agent's own: whatever is in it and nobody keeps is deleted. Need not exist yet.
        max_bytes: Budget for all of its files together (`derived_max_bytes`).
        recorder: The recorder's folder, and what is to be kept free there (`disk_reserve`), where anything is.
    """

    def __init__(self, folder: Path, max_bytes: int, recorder: tuple[Path, int | str] | None = None) -> None:
        self._folder = folder
        self._max_bytes = max_bytes
        self._recorder = recorder

    def name_for(self, scenario_id: str, part_name: str, suffix: str) -> str:
        """Name of what is made of a part, the same every time: plain letters, whatever the part is called."""
        digest = hashlib.sha256(f"{scenario_id}\0{part_name}".encode(errors="surrogatepass")).hexdigest()
        return digest[:_NAME_DIGITS] + suffix

    def path(self, name: str) -> Path:
        """Where a derived file lies, or will."""
        return self._folder / name

    def size_bytes(self) -> int:
        """What all of them take, the half made ones too.

        Raises:
            StoreError: The folder cannot be read.
        """
        return sum(_size(entry) for entry in self._entries())

    def room_for(self, size_bytes: int) -> bool:
        """Whether a file of so many bytes may be made: the budget and the disk have room for it.

        Raises:
            StoreError: The folder cannot be read.
        """
        if self.size_bytes() + size_bytes > self._max_bytes:
            return False
        if self._recorder is not None and room_of(*self._recorder).is_short:
            return False
        existing = next(folder for folder in (self._folder, *self._folder.absolute().parents) if folder.exists())
        return shutil.disk_usage(existing).free >= size_bytes + DISK_RESERVE

    def sweep(self, keep: Collection[str]) -> int:
        """Delete everything but the files named, half made ones too; durable when it returns.

        Whoever may be writing here must have ended before.

        Returns:
            Bytes that were freed.

        Raises:
            StoreError: Something could not be deleted; all else is.
        """
        freed, fault = 0, None
        swept = [entry for entry in self._entries() if entry.name not in keep]
        for entry in swept:
            size = _size(entry)
            try:
                if entry.is_dir() and not entry.is_symlink():
                    shutil.rmtree(entry)
                else:
                    entry.unlink(missing_ok=True)
                freed += size
            except OSError as error:
                fault = error
        if swept:
            try:
                sync_folder(self._folder)
            except OSError as error:
                fault = fault or error
        if fault is not None:
            raise StoreError(f"derived files cannot be deleted ({fault.strerror})") from None
        return freed

    def _entries(self) -> list[Path]:
        try:
            return list(self._folder.iterdir())
        except FileNotFoundError:
            return []
        except OSError as error:
            raise StoreError(f"the folder of derived files cannot be read ({error.strerror})") from None


def _size(entry: Path) -> int:
    """What a file takes; 0 for one that has gone meanwhile. Folders are nobody's here, and only ever swept."""
    try:
        return entry.lstat().st_size
    except FileNotFoundError:
        return 0


class UploadPhase(StrEnum):
    """What is done with a part."""

    PREPARING = "preparing"  # packed or hashed
    COMPRESSING = "compressing"
    UPLOADING = "uploading"


class Preparation:
    """Makes files of recordings within the derived folder's budget.

    Args:
        settings: `compress_videos` and `derived_max_bytes`.
        derived: The folder for what is made.
        transcoder: Makes videos small.
        packs_annotations: Asks, for a scenario, whether the backend takes annotations as gzip.
        clock: Says how long ago a video was written.
    """

    def __init__(
        self,
        settings: CloudSettings,
        derived: DerivedFiles,
        transcoder: Transcoder,
        packs_annotations: Callable[[str], Awaitable[bool]],
        clock: Clock,
    ) -> None:
        self._settings = settings
        self._derived = derived
        self._transcoder = transcoder
        self._packs_annotations = packs_annotations
        self._clock = clock

    async def is_ready(self, part: Part) -> bool:
        """Whether what goes for a part lies there: made before, and still whole."""
        if part.kind is PartKind.METADATA:
            return True
        file = part.file
        if file is None:
            return False
        if file.derived_name is None:  # an earlier version let the recording's own file go
            return False
        path = self._derived.path(file.derived_name)
        return await run_to_end(_has_size, path, file.size_bytes)

    async def file_of(
        self, plan: ScenarioPlan, part: Part, length: RecordedLength, transfer: ActiveTransfer
    ) -> PartFile:
        """Make what goes for a video or for the annotations.

        Args:
            plan: The scenario.
            part: Which of its parts.
            length: What the recorder says that a video holds.
            transfer: Where it says how far it is.

        Raises:
            ScenarioError: The recording is not what was queued, never fits the budget, or cannot be made fit to leave.
            CloudError: There is no room for it now, no ffmpeg, it may still be written, or the backend does not say how
                it takes annotations.
            StoreError: The disk that holds the state folder is full.
        """
        transfer.begin(UploadPhase.PREPARING, part.name, part.size_bytes)
        if part.kind is PartKind.ANNOTATIONS:
            return await self._annotations(plan, part)
        file, made = await self._video(plan, part, transfer)
        if (lack := length.shortfall(made.seconds, made.frames)) is None:
            return file
        # Not told by the file itself: a recorder may close it between two pieces, or the power went.
        if 0.0 <= self._clock.now() - part.modified_ns / 1e9 < _STILL_WRITTEN:
            await self._discard(file)
            raise NotNowError(f"{part.name} {lack}: it may still be written, and waits")
        return replace(file, note=f"it {lack}: what is there goes")

    async def forget(self, part: Part) -> None:
        """Delete what was made for a part."""
        if part.file is not None:
            await self._discard(part.file)

    async def _discard(self, file: PartFile) -> None:
        if file.derived_name is not None:
            await run_to_end(self._derived.path(file.derived_name).unlink, missing_ok=True)

    async def _video(self, plan: ScenarioPlan, part: Part, transfer: ActiveTransfer) -> tuple[PartFile, MadeVideo]:
        """Nothing goes as the recorder wrote it: what else a container holds may say who or where."""
        await self._make_sure_of_room(part)
        name = self._derived.name_for(plan.scenario_id, part.name, ".mp4")
        target = await run_to_end(absolute, self._derived.path(name))
        drop_audio = self._settings.drops_audio_of(part.outgoing_name.removesuffix(".mp4"))
        source = await run_to_end(open_part, Path(plan.folder), part)
        note: str | None = None
        try:
            if self._settings.compress_videos:
                transfer.begin(UploadPhase.COMPRESSING, part.name, part.size_bytes)
                match await self._transcoder.compress(
                    source, part.size_bytes, target, transfer.moved_share, drop_audio=drop_audio
                ):
                    case MadeVideo() as made:
                        return PartFile(name, made.size_bytes, made.sha256, note=made.note), made
                    case NotMade(reason):
                        note = reason
                transfer.begin(UploadPhase.PREPARING, part.name, part.size_bytes)
            match await self._transcoder.remux(
                source, part.size_bytes, target, transfer.moved_share, drop_audio=drop_audio
            ):
                case MadeVideo() as made:
                    return PartFile(name, made.size_bytes, made.sha256, note=note), made
                case NotMade(reason, is_recordings_fault):
                    raise _not_stripped(part, reason, lasting=is_recordings_fault)
        finally:
            await run_to_end(source.close)

    async def _annotations(self, plan: ScenarioPlan, part: Part) -> PartFile:
        await self._make_sure_of_room(part)
        path = self._derived.path(self._derived.name_for(plan.scenario_id, part.name, ".json"))
        packed = await self._packs_annotations(plan.known_as)
        try:
            return await annotations_file(Path(plan.folder), part, path, packed=packed)
        except OSError as error:
            raise StoreError(f"{part.name} cannot be packed on disk ({error.strerror})") from None

    async def _make_sure_of_room(self, part: Part) -> None:
        if part.size_bytes > self._settings.derived_max_bytes:
            raise ScenarioError(
                f"{part.name} may take {part.size_bytes} bytes, more than cloud.derived_max_bytes: raise it"
            )
        if not await run_to_end(self._derived.room_for, part.size_bytes):
            raise NotNowError(f"{part.name} waits to be made ready: {_NO_ROOM}")


def _has_size(path: Path, size: int) -> bool:
    try:
        return path.is_file() and path.stat().st_size == size
    except OSError:
        return False


def _not_stripped(part: Part, reason: str, *, lasting: bool) -> ScenarioError | NotNowError:
    why = f"{part.name} does not go: what may be private in it cannot be taken out ({reason})"
    return ScenarioError(why) if lasting else NotNowError(why)


async def annotations_file(folder: Path, part: Part, path: Path, *, packed: bool = True) -> PartFile:
    """Make what may leave of the annotations, at `path`; it is there whole or not at all.

    Args:
        folder: The recording.
        part: Its annotations.
        path: In the derived folder.
        packed: Whether as gzip.

    Raises:
        ScenarioError: The file is not what was queued, or not JSON.
        StoreError: `path` cannot be written.
    """
    beside = path.with_name(f".{path.name}.{secrets.token_hex(4)}.new")
    try:
        maker = _AnnotationsMaker(folder, part, beside, packed=packed)
        try:
            await run_to_end(maker.open)
            # Piece by piece, so that a cancelled caller leaves at once and nothing half made.
            while await run_to_end(maker.step):
                pass
            size_bytes = await run_to_end(maker.finish, path)
        except BaseException:
            await run_to_end(maker.give_up)
            raise
    except OSError as error:
        raise StoreError(f"the annotations of a scenario cannot be packed on disk ({error.strerror})") from None
    return PartFile(path.name, size_bytes, maker.digest.hexdigest(), "gzip" if packed else None)


class _AnnotationsMaker:
    """Reads, filters, packs and hashes a file, a piece per step. Its methods block: call them off the loop."""

    def __init__(self, folder: Path, part: Part, beside: Path, *, packed: bool) -> None:
        self._folder = folder
        self._part = part
        self._partial_path = beside
        # Opened by a call of its own: whoever is cancelled while it is made could give up nothing that he never got.
        self._files = contextlib.ExitStack()
        self._filter = AnnotationFilter()
        self._gzip = zlib.compressobj(_GZIP_LEVEL, zlib.DEFLATED, _GZIP_WINDOW) if packed else None
        self.digest = hashlib.sha256()

    def open(self) -> None:
        """Open both files."""
        self._source = self._files.enter_context(open_part(self._folder, self._part))
        self._partial_path.parent.mkdir(mode=0o700, exist_ok=True)
        self._target = self._files.enter_context(self._partial_path.open("xb"))

    def step(self) -> bool:
        """Do the next piece; False once all is done."""
        block = self._source.read(BLOCK_BYTES)
        for begin in range(0, len(block), _TURN_BYTES):
            self._pass_on(self._filter.feed(block[begin : begin + _TURN_BYTES]))
            time.sleep(_REST_SECONDS)
        if not block:
            self._pass_on(self._filter.finish())
            if self._gzip is not None:
                self._write(self._gzip.flush())
        return bool(block)

    def _pass_on(self, passed: bytes) -> None:
        self._write(passed if self._gzip is None else self._gzip.compress(passed))

    def finish(self, path: Path) -> int:
        """Put it in its place, also for after a power cut: its hash will be on disk too. Returns its size."""
        self._target.flush()
        os.fsync(self._target.fileno())
        size_bytes = self._target.tell()
        self._files.close()
        self._partial_path.replace(path)
        return size_bytes

    def give_up(self) -> None:
        """Leave nothing behind."""
        with contextlib.suppress(OSError):  # a full disk, or no folder: what could not be written is not wanted
            self._partial_path.unlink(missing_ok=True)
        with contextlib.suppress(OSError):
            self._files.close()

    def _write(self, piece: bytes) -> None:
        self._target.write(piece)
        self.digest.update(piece)


@contextlib.asynccontextmanager
async def open_what_goes(part: Part, derived_dir: Path) -> AsyncIterator[OpenFile]:
    """Open what was made of a part, for as long as the block takes.

    Raises:
        StoreError: What was made of it is gone or changed; it has to be made again.
        ValueError: Nothing was made ready for it.
    """
    if part.file is None or part.file.derived_name is None:
        raise ValueError(f"{part.name} was not made ready")
    path, size_bytes = derived_dir / part.file.derived_name, part.file.size_bytes
    with contextlib.ExitStack() as stack:
        # Held by the stack already where whoever waits for it is cancelled.
        file = await run_to_end(lambda: stack.enter_context(_open_derived(path, size_bytes, part.name)))
        async with OpenFile(file, part.name, size_bytes, error=ScenarioError) as opened:
            yield opened


def _open_derived(path: Path, size_bytes: int, name: str) -> BinaryIO:
    try:
        file = os.fdopen(os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC), "rb")
    except OSError as error:
        raise StoreError(f"what was made of {name} cannot be opened ({error.strerror})") from None
    if os.fstat(file.fileno()).st_size != size_bytes:
        file.close()
        raise StoreError(f"what was made of {name} is not what it was")
    return file
