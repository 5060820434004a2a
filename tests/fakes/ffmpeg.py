"""Stands in for ffmpeg where something must go wrong that the real one cannot be made to do."""

from pathlib import Path

#: Says what it can, and that a look at a video went well; whatever else it is asked for is up to the test.
_SCRIPT = """#!/bin/sh
case "$*" in
*-encoders*) echo ' V....D libx264 H.264'; exit 0 ;;
*mkvtimestamp*) {look} ;;
esac
{encode}
"""
#: A second of video: 31 pictures.
LOOK = "echo '# timecode format v2'; seq -f %.0f 0 33.3333 1000; exit 0"
#: Goes on for ever: nobody writes to this pipe.
FOR_EVER = "exec tail -f /dev/null"


def stand_in(folder: Path, encode: str = FOR_EVER, look: str = LOOK) -> Path:
    """Write an executable that takes ffmpeg's arguments.

    Args:
        folder: Where.
        encode: Shell commands for compressing; the result's path is the last argument.
        look: Shell commands for decoding.
    """
    path = folder / "ffmpeg"
    path.write_text(_SCRIPT.format(look=look, encode=encode))
    path.chmod(0o755)
    return path
