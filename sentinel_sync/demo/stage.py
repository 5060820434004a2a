"""Where the demo is watched."""

from typing import Protocol


class Stage(Protocol):
    """Told what happens."""

    def doing(self, text: str) -> None:
        """Something has begun."""
        ...

    def done(self, text: str) -> None:
        """It has ended well."""
        ...
