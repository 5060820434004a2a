"""Small videos of every kind, made by ffmpeg itself, and what a video has in it."""

import re
import shutil
import subprocess
from importlib import import_module
from pathlib import Path
from random import Random

import pytest

#: Both ways in which a machine has it; each test that is about what comes out runs with both.
SOURCES = ("PATH", "wheel")


def ffmpeg_of(source: str) -> str:
    """The ffmpeg of the machine (found on PATH) or of the wheel; a test that wants one that is not there is skipped."""
    if source == "PATH":
        found = shutil.which("ffmpeg")
        if found is None:
            pytest.skip("no ffmpeg on PATH: apt install ffmpeg")
        return found
    try:
        return str(import_module("imageio_ffmpeg").get_ffmpeg_exe())
    except ImportError:
        pytest.skip("no imageio-ffmpeg: pip install 'sentinel-sync[video]'")


def any_ffmpeg() -> str:
    """The ffmpeg of the machine, else the wheel's."""
    return shutil.which("ffmpeg") or ffmpeg_of("wheel")


def noisy_video(path: Path, size_bytes: int) -> bytes:
    """Make a whole MP4 of at least so many bytes (and some 55 kB more at most) that cannot be packed any smaller."""
    width, height, per_frame = 320, 240, 54_000
    rng = Random(1)
    pixels = b"".join(rng.randbytes(width * height) for _ in range(size_bytes // per_frame + 1))
    source = ("-f", "rawvideo", "-pix_fmt", "gray", "-s", f"{width}x{height}", "-r", "30", "-i", "-")
    made = ("-c:v", "mjpeg", "-q:v", "2", "-pix_fmt", "yuvj420p", "-f", "mp4", str(path))
    subprocess.run([any_ffmpeg(), "-loglevel", "error", "-y", *source, *made], input=pixels, check=True)
    return path.read_bytes()


def packets(video: Path) -> str:
    """A digest of a video's pictures and sound as they are coded."""
    command = [any_ffmpeg(), "-nostdin", "-loglevel", "error", "-i", str(video), "-map", "0:V", "-map", "0:a?"]
    return subprocess.run(
        [*command, "-c", "copy", "-f", "streamhash", "-"], check=True, capture_output=True, text=True
    ).stdout


class VideoMaker:
    """Makes and looks at videos by one ffmpeg."""

    def __init__(self, ffmpeg: str, folder: Path) -> None:
        self.ffmpeg = ffmpeg
        self.folder = folder

    def make(self, name: str, *arguments: str) -> Path:
        """Make a video; what was made before under that name is taken as it is."""
        path = self.folder / name
        if not path.exists():
            self._run("-loglevel", "error", "-y", *arguments, str(path))
        return path

    def pattern(self, name: str, *options: str, size: str = "160x120", seconds: float = 1.0) -> Path:
        """A moving pattern, as large for its size as a recorder's MPEG-4 part 2."""
        source = f"testsrc2=s={size}:r=30:d={seconds}"
        return self.make(name, "-f", "lavfi", "-i", source, "-c:v", "mpeg4", "-q:v", "2", *options)

    def with_sound(self, name: str, codec: str) -> Path:
        return self.make(
            name,
            *("-f", "lavfi", "-i", "testsrc2=s=160x120:r=30:d=1", "-f", "lavfi", "-i", "sine=d=1"),
            *("-c:v", "mpeg4", "-q:v", "2", "-c:a", codec),
        )

    def streams(self, video: Path) -> list[str]:
        """What ffmpeg says of each stream: codec, colours, size."""
        said = subprocess.run(
            [self.ffmpeg, "-nostdin", "-hide_banner", "-i", str(video)], check=False, capture_output=True, text=True
        ).stderr
        return re.findall(r"Stream #0:\d+.*?: ((?:Video|Audio|Subtitle|Data): .*)", said)

    def times(self, video: Path) -> list[float]:
        """When each picture is shown, in seconds."""
        listing = self._run(
            *("-loglevel", "error", "-i", str(video), "-map", "0:V:0", "-fps_mode", "passthrough"),
            *("-enc_time_base", "1:90000", "-f", "framecrc", "-"),
        )
        return [int(line.split(",")[2]) / 90_000 for line in listing.splitlines() if not line.startswith("#")]

    def likeness(self, one: Path, other: Path, crop: str = "crop=iw:ih:0:0") -> float:
        """How alike the pictures are as they are to be seen (SSIM; 1 is the same), `other` cropped first."""
        said = subprocess.run(
            [
                *(self.ffmpeg, "-nostdin", "-hide_banner", "-i", str(one), "-i", str(other)),
                *("-lavfi", f"[1:v]{crop},format=yuv420p[c];[0:v]format=yuv420p[o];[o][c]ssim", "-f", "null", "-"),
            ],
            check=True,
            capture_output=True,
            text=True,
        ).stderr
        found = re.search(r"SSIM.*All:([0-9.]+)", said)
        assert found is not None
        return float(found[1])

    def sound(self, video: Path) -> str:
        """A digest of the audio's packets."""
        return self._run("-loglevel", "error", "-i", str(video), "-map", "0:a", "-c", "copy", "-f", "md5", "-")

    def _run(self, *arguments: str) -> str:
        command = [self.ffmpeg, "-nostdin", "-hide_banner", *arguments]
        return subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True).stdout
