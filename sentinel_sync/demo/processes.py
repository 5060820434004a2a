"""Child processes that tell what happens to them as JSON lines, and that never outlive their parent."""

import asyncio
import json
import os
import sys
from asyncio.subprocess import PIPE, Process
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Self

from sentinel_sync.base.errors import SentinelSyncError

#: Seconds that a child gets for what it is waited for: far more than it takes, also on a small machine.
PATIENCE = 20.0
#: Lines of a child's log that are shown when it ended by itself.
_LAST_LINES = 3


class DemoError(SentinelSyncError):
    """Something in the demo is not as promised."""


class Child:
    """A Python module that runs in a process of its own.

    Its standard input is a pipe, and it ends when that does. It is in a session of its own: Ctrl-C on the terminal
    reaches the parent alone, which then ends it in order.
    """

    def __init__(self, process: Process, name: str, log: Path) -> None:
        self._process = process
        self._name = name
        self._log = log

    @classmethod
    async def start(cls, module: str, *arguments: str, name: str, log: Path, environment: Mapping[str, str]) -> Self:
        """Start `python -m module arguments`, its log appended to a file."""
        # Settings of whoever runs the demo are not the demo's.
        inherited = {key: value for key, value in os.environ.items() if not key.startswith("SENTINEL_")}
        descriptor = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
        try:
            process = await asyncio.create_subprocess_exec(
                sys.executable,
                "-m",
                module,
                *arguments,
                stdin=PIPE,
                stdout=PIPE,
                stderr=descriptor,
                env={**inherited, **environment},
                start_new_session=True,
            )
        finally:
            os.close(descriptor)
        return cls(process, name, log)

    @property
    def process_id(self) -> int:
        """Its process's id."""
        return self._process.pid

    async def tell(self, order: Mapping[str, object]) -> None:
        """Give it a line."""
        if self._process.stdin is not None:
            self._process.stdin.write(json.dumps(order).encode() + b"\n")
            await self._process.stdin.drain()

    async def event(self, within: float = PATIENCE) -> dict[str, Any]:
        """The next thing that it tells, waited for so many seconds.

        Raises:
            DemoError: It ended, or says nothing for too long.
        """
        if self._process.stdout is None:
            raise DemoError(f"{self._name} cannot be heard")
        try:
            line = await asyncio.wait_for(self._process.stdout.readline(), within)
        except TimeoutError:
            raise DemoError(f"{self._name} has not answered for {within:.0f} s; its log: {self._log}") from None
        if not line:
            code = await self._process.wait()
            text = await asyncio.to_thread(self._log.read_text, encoding="utf-8", errors="replace")
            raise DemoError(
                f"{self._name} ended by itself ({code}): {' | '.join(text.strip().splitlines()[-_LAST_LINES:])}"
            )
        told: dict[str, Any] = json.loads(line)
        return told

    async def expect(self, name: str, within: float = PATIENCE) -> dict[str, Any]:
        """Skip what else it tells until `name` comes; each thing is waited for so many seconds."""
        while (told := await self.event(within))["event"] != name:
            continue
        return told

    async def kill(self) -> None:
        """SIGKILL, and wait until it is gone; does nothing where it is."""
        if self._process.returncode is None:
            self._process.kill()
        await self._process.wait()

    async def stop(self) -> int:
        """Let it end in order, by force where it does not; returns its exit code."""
        if self._process.stdin is not None:
            self._process.stdin.close()
        try:
            # Its output is read to the end, or a full pipe could keep it from ending.
            await asyncio.wait_for(self._process.communicate(), PATIENCE)
        except TimeoutError:
            await self.kill()
        return self._process.returncode or 0
