"""What the terminal can do, and the little that is made of it."""

import os
import shutil
import sys
from importlib.util import find_spec
from typing import Literal

Colour = Literal["red", "green", "yellow", "bold"]
_CODES: dict[Colour, str] = {"red": "31", "green": "32", "yellow": "33", "bold": "1"}


def is_terminal() -> bool:
    """Whether a person reads standard output."""
    return sys.stdout.isatty()


def can_draw() -> bool:
    """Whether a display may redraw itself: on a terminal that can, with rich (the extra `cli`) installed."""
    return is_terminal() and os.environ.get("TERM", "dumb") != "dumb" and find_spec("rich") is not None


def width() -> int | None:
    """Columns of the terminal, or None where the output goes elsewhere and nothing needs to be cut."""
    return shutil.get_terminal_size().columns if is_terminal() else None


def coloured(text: str, colour: Colour) -> str:
    """The text in a colour, on a terminal whose user did not ask for none (https://no-color.org)."""
    if not is_terminal() or os.environ.get("NO_COLOR") or os.environ.get("TERM") == "dumb":
        return text
    return f"\x1b[{_CODES[colour]}m{text}\x1b[0m"


def clear() -> None:
    """Empty the screen, the cursor to its top."""
    sys.stdout.write("\x1b[H\x1b[2J")
