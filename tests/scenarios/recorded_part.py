"""One part of a recording on disk, and all that the scenario's own side keeps of it while it is sent."""

import hashlib
import os
from dataclasses import dataclass, field, replace
from pathlib import Path
from random import Random
from typing import Self

from pydantic import JsonValue

from sentinel_sync.base.errors import HeldError
from sentinel_sync.scenarios.preparation import annotations_file
from sentinel_sync.scenarios.records import QueuedScenario
from sentinel_sync.scenarios.rules.plan import Consent, Part, PartFile, PartKind, Priority, ScenarioPlan
from sentinel_sync.scenarios.upload import PartSender

SCENARIO = "2026-11-23_09-10-11"
VIDEOS = f"/scenarios/{SCENARIO}/videos"
ANNOTATIONS = f"/scenarios/{SCENARIO}/annotations"
METADATA: dict[str, JsonValue] = {
    "timestamp": "2026-11-23T09:10:11",
    "duration": 2.0,
    "num_frames": 60,
    "trigger": {"type": "critical", "reason": "risk 0.90"},
    "files": {"bev": "bev.mp4"},
}
CONSENT = Consent(granted=True, at=1_795_000_000.0, policy_version="1")


def part_of(path: Path, kind: PartKind = PartKind.VIDEO) -> Part:
    status = path.stat()
    return Part(kind, path.name, status.st_size, status.st_mtime_ns)


def noise(size: int, seed: int = 1) -> bytes:
    return Random(seed).randbytes(size)


@dataclass(slots=True)
class RecordedPart:
    """A part that is ready to go.

    Attributes:
        content: What has to arrive.
        remembered: Every word on the address of its upload, in order; the last one is what a restart would find.
        progress: Every word on how far it is.
        asked: How often it was asked whether it still may be sent, and …
        may_be_sent_until: … from which time on the answer is no; None: never.
    """

    folder: Path
    derived: Path
    part: Part
    content: bytes
    remembered: list[str | None] = field(default_factory=list)
    progress: list[int] = field(default_factory=list)
    asked: int = 0
    may_be_sent_until: int | None = None

    @classmethod
    async def video(cls, folder: Path, content: bytes, name: str = "bev.mp4") -> Self:
        """A video of which these bytes were made to go."""
        path = folder / "recording" / name
        for made in (path, folder / "derived" / name):
            made.parent.mkdir()
            made.write_bytes(content)
        file = PartFile(name, len(content), hashlib.sha256(content).hexdigest())
        return cls(path.parent, folder / "derived", replace(part_of(path), file=file), content)

    @classmethod
    async def annotations(cls, folder: Path, content: bytes, *, packed: bool = True) -> Self:
        path = folder / "recording" / "annotations.json"
        path.parent.mkdir()
        path.write_bytes(content)
        part = part_of(path, PartKind.ANNOTATIONS)
        made = folder / "derived" / "annotations"
        file = await annotations_file(path.parent, part, made, packed=packed)
        return cls(path.parent, folder / "derived", replace(part, file=file), made.read_bytes())

    def grow(self, size: int) -> None:
        """Make it so large, without any content that counts."""
        os.truncate(self.derived / self.part.name, size)
        self.part = replace(self.part, file=PartFile(self.part.name, size, "0" * 64))

    @property
    def plan(self) -> ScenarioPlan:
        parts = (self.announcement, self.part)
        return ScenarioPlan(SCENARIO, os.fspath(self.folder), Priority.HIGH, 0.0, parts)

    @property
    def announcement(self) -> Part:
        return Part(PartKind.METADATA, "metadata.json", 100, 1)

    async def announce(self, sender: PartSender) -> None:
        """Send the metadata before it, as the contract's first step."""
        await self._send(sender, self.announcement)

    async def send(self, sender: PartSender) -> None:
        await self._send(sender, self.part)

    async def _send(self, sender: PartSender, part: Part) -> None:
        async def remember(address: str | None) -> None:
            self.remembered.append(address)
            self.part = replace(self.part, upload_url=address)

        async def ask() -> None:
            self.asked += 1
            if self.may_be_sent_until is not None and self.asked > self.may_be_sent_until:
                raise HeldError("the driver withdrew the consent")

        queued = QueuedScenario(SCENARIO, dict(METADATA))
        await sender.send(
            self.plan,
            part,
            queued,
            CONSENT,
            may_send=ask,
            remember=remember,
            on_progress=self.progress.append,
            confirmed=self.progress.append,
        )
