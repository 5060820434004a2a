"""What a recorder leaves: a folder with a small video, and secrets wherever a real one has been seen to put them."""

import json
import os
import subprocess
from functools import cache
from pathlib import Path
from tempfile import TemporaryDirectory

from tests.fakes.videos import any_ffmpeg

CAMERA = "front_left"
#: All that the auditor looks for, in a form that a filter can know (docs/privacy.md).
_SAID = "driver: Ada Quillfeather, 48.858370, 2.294481"


@cache
def _video() -> bytes:
    """A second of a moving pattern, whose container tells more than the pictures."""
    with TemporaryDirectory() as folder:
        made = Path(folder) / "video.mp4"
        source = ("-f", "lavfi", "-i", "testsrc2=s=96x64:r=10:d=1")
        options = (
            "-c:v",
            "mpeg4",
            "-q:v",
            "2",
            "-metadata",
            f"comment={_SAID}",
            "-metadata",
            "location=+48.8583+002.29/",
        )
        subprocess.run([any_ffmpeg(), "-loglevel", "error", "-y", *source, *options, str(made)], check=True)
        return made.read_bytes()


def leave_recording(folder: Path, written_at: float) -> None:
    """Write a whole recording, as a recorder does whose clock says `written_at`, seconds since the epoch."""
    folder.mkdir(parents=True)
    metadata = {
        "timestamp": "2026-06-01T08:00:00",
        "duration": 1.0,
        "num_frames": 10,
        "trigger": {"type": "near_miss", "reason": _SAID},
        "driver": "Ada Quillfeather",
        "location": {"lat": 48.858370, "lon": 2.294481},
        "files": {CAMERA: f"{CAMERA}.mp4"},
    }
    annotations = {"frames": [{"speed": 3.5, "gps": [48.858370, 2.294481], "note": _SAID, "index": 7}]}
    (folder / f"{CAMERA}.mp4").write_bytes(_video())
    (folder / "annotations.json").write_text(json.dumps(annotations))
    (folder / "metadata.json").write_text(json.dumps(metadata))
    for path in folder.iterdir():
        os.utime(path, (written_at, written_at))
