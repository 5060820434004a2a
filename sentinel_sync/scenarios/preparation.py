"""Makes the file that goes for a part, once: compressed, packed, or the original with the reason why."""

from collections.abc import Awaitable, Callable
from pathlib import Path

from sentinel_sync.base.errors import NotNowError, ScenarioError, StoreError
from sentinel_sync.base.threads import run_to_end
from sentinel_sync.scenarios.active_upload import ActiveUpload, Phase
from sentinel_sync.scenarios.bodies import annotations_file, original_file
from sentinel_sync.scenarios.derived_files import DerivedFiles
from sentinel_sync.scenarios.recordings import absolute, open_part
from sentinel_sync.scenarios.rules.plan import Part, PartFile, PartKind, ScenarioPlan
from sentinel_sync.scenarios.transcoder import Compressed, KeptOriginal, Transcoder
from sentinel_sync.settings import CloudSettings

_NO_ROOM = "there is no room left within cloud.derived_max_bytes"


class Preparation:
    """Makes files of recordings within the derived folder's budget.

    Args:
        settings: `compress_videos` and `derived_max_bytes`.
        derived: The folder for what is made.
        transcoder: Makes videos small.
        packs_annotations: Asks, for a scenario, whether the backend takes annotations as gzip.
    """

    def __init__(
        self,
        settings: CloudSettings,
        derived: DerivedFiles,
        transcoder: Transcoder,
        packs_annotations: Callable[[str], Awaitable[bool]],
    ) -> None:
        self._settings = settings
        self._derived = derived
        self._transcoder = transcoder
        self._packs_annotations = packs_annotations

    async def is_ready(self, part: Part) -> bool:
        """Whether what goes for a part lies there: made before, and still whole."""
        if part.kind is PartKind.METADATA:
            return True
        file = part.file
        if file is None:
            return False
        if file.derived_name is None:  # the recording's own: it is looked at when it is opened
            return True
        path = self._derived.path(file.derived_name)
        return await run_to_end(_has_size, path, file.size_bytes)

    async def file_of(self, plan: ScenarioPlan, part: Part, work: ActiveUpload) -> PartFile:
        """Make what goes for a video or for the annotations.

        Raises:
            ScenarioError: The recording is not what was queued, or its annotations never fit the budget.
            CloudError: There is no room for the annotations now, or the backend does not say how it takes them.
            StoreError: The disk that holds the state folder is full.
        """
        work.begin(Phase.PREPARING, part.name, part.size_bytes)
        folder = Path(plan.folder)
        if part.kind is PartKind.ANNOTATIONS:
            return await self._annotations(plan, part)
        if not self._settings.compress_videos:
            return await original_file(folder, part, None)
        if not await run_to_end(self._derived.room_for, part.size_bytes):
            return await original_file(folder, part, _NO_ROOM)
        return await self._compressed(plan, part, work)

    async def forget(self, part: Part) -> None:
        """Delete what was made for a part."""
        if part.file is not None and part.file.derived_name is not None:
            await run_to_end(self._derived.path(part.file.derived_name).unlink, missing_ok=True)

    async def _compressed(self, plan: ScenarioPlan, part: Part, work: ActiveUpload) -> PartFile:
        folder = Path(plan.folder)
        name = self._derived.name_for(plan.scenario_id, part.name, ".mp4")
        target = await run_to_end(absolute, self._derived.path(name))
        source = await run_to_end(open_part, folder, part)
        work.begin(Phase.COMPRESSING, part.name, part.size_bytes)
        try:
            made = await self._transcoder.compress(source, part.size_bytes, target, work.moved_share)
        finally:
            await run_to_end(source.close)
        match made:
            case Compressed(size_bytes, sha256, note):
                return PartFile(name, size_bytes, sha256, note=note)
            case KeptOriginal(reason):
                work.begin(Phase.PREPARING, part.name, part.size_bytes)
                return await original_file(folder, part, reason)

    async def _annotations(self, plan: ScenarioPlan, part: Part) -> PartFile:
        await self._make_sure_of_room(part)
        path = self._derived.path(self._derived.name_for(plan.scenario_id, part.name, ".json"))
        packed = await self._packs_annotations(plan.scenario_id)
        try:
            return await annotations_file(Path(plan.folder), part, path, packed=packed)
        except OSError as error:
            raise StoreError(f"{part.name} cannot be packed on disk ({error.strerror})") from None

    async def _make_sure_of_room(self, part: Part) -> None:
        if part.size_bytes > self._settings.derived_max_bytes:
            raise ScenarioError(
                f"packing {part.name} may take {part.size_bytes} bytes, more than cloud.derived_max_bytes: raise it"
            )
        if not await run_to_end(self._derived.room_for, part.size_bytes):
            raise NotNowError(f"{part.name} waits to be packed: {_NO_ROOM}")


def _has_size(path: Path, size: int) -> bool:
    try:
        return path.is_file() and path.stat().st_size == size
    except OSError:
        return False
