"""A tus server in memory, as a handler of `FakeCloud`: it behaves until a test tells it otherwise."""

import hashlib
from base64 import b64decode, b64encode
from collections.abc import Callable
from dataclasses import dataclass, field

from tests.fakes.cloud import Answer, json_answer, well_behaved
from tests.fakes.wire_rules import Seen

VERSION = {"Tus-Resumable": "1.0.0"}
GONE = Answer(404, headers=VERSION)


@dataclass(slots=True)
class Stored:
    """One upload."""

    length: int
    metadata: dict[str, str]
    key: str
    content: bytearray = field(default_factory=bytearray)


class FakeTus:
    """Give it to `FakeCloud.handler`.

    Attributes:
        extensions: What OPTIONS says.
        algorithms: The checksums that it knows.
        options: More headers of OPTIONS.
        where: The `Location` of an upload.
        on_create: Asked first; its answer, where it has one, is given without anything being done.
        on_patch: So is this one.
        uploads: What it has, by id.
        keep: How many bytes of a PATCH it keeps.
    """

    def __init__(self) -> None:
        self.extensions = "creation"
        self.algorithms = ""
        self.options: dict[str, str] = {}
        self.where: Callable[[str], str] = lambda upload_id: f"/uploads/{upload_id}"
        self.on_create: Callable[[Seen], Answer | None] = lambda _: None
        self.on_patch: Callable[[Seen], Answer | None] = lambda _: None
        self.keep: Callable[[int], int] = lambda size: size
        self.uploads: dict[str, Stored] = {}

    def __call__(self, seen: Seen) -> Answer:
        if seen.path.startswith("/uploads/"):
            return self._upload(seen, seen.path.rpartition("/")[2])
        if not seen.path.endswith(("/videos", "/annotations")):
            return well_behaved(seen)
        if seen.method == "OPTIONS":
            checks = {"Tus-Checksum-Algorithm": self.algorithms} if self.algorithms else {}
            return Answer(204, headers={**VERSION, "Tus-Extension": self.extensions, **checks, **self.options})
        if "tus-resumable" in seen.headers:
            return self.on_create(seen) or self._create(seen)
        return json_answer(201)

    def contents(self) -> list[bytes]:
        return [bytes(upload.content) for upload in self.uploads.values()]

    def begin(self, upload_id: str, length: int, content: bytes) -> None:
        """Have an upload of which so much is there."""
        self.uploads[upload_id] = Stored(length, {}, "", bytearray(content))

    def _create(self, seen: Seen) -> Answer:
        pairs = (pair.split(" ") for pair in seen.headers["upload-metadata"].split(","))
        metadata = {name: b64decode(value).decode() for name, value in pairs}
        upload_id = str(len(self.uploads) + 1)
        self.uploads[upload_id] = Stored(int(seen.headers["upload-length"]), metadata, seen.key or "")
        return Answer(201, headers={**VERSION, "Location": self.where(upload_id)})

    def _upload(self, seen: Seen, upload_id: str) -> Answer:
        upload = self.uploads.get(upload_id)
        if upload is None:
            return GONE
        if seen.method == "PATCH":
            if (answer := self.on_patch(seen)) is not None:
                return answer
            if int(seen.headers["upload-offset"]) != len(upload.content):
                return Answer(409, headers=VERSION)
            if not self._fits(seen):
                return Answer(460, headers=VERSION)
            upload.content += seen.body[: self.keep(len(seen.body))]
        status = 204 if seen.method == "PATCH" else 200
        offset = {"Upload-Offset": str(len(upload.content)), "Upload-Length": str(upload.length)}
        return Answer(status, headers={**VERSION, **offset})

    def _fits(self, seen: Seen) -> bool:
        algorithm, _, checksum = seen.headers.get("upload-checksum", "").partition(" ")
        return not algorithm or checksum == b64encode(hashlib.new(algorithm, seen.body).digest()).decode()
