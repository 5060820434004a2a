"""Tries a model: the host's own validator, the command of the settings, or both."""

import asyncio
import logging
import os
import signal
from collections.abc import Awaitable, Callable, Sequence
from contextlib import suppress
from pathlib import Path

from sentinel_sync.base.privacy import loggable_text
from sentinel_sync.models.rules.trial import Failed, Passed, Untried, Verdict, verdict_of_exit

logger = logging.getLogger(__name__)

#: Given the file, the model's name and its version; False, or anything raised, means that the model has failed.
Validator = Callable[[Path, str, str], Awaitable[bool]]

#: Our own settings may come by these; the credential is nobody else's business.
_OURS = "SENTINEL_"


class Validation:
    """Tries models, one at a time.

    Args:
        validator: The host's, or None.
        command: Program and arguments, followed by file, name and version; no shell is involved. Empty is none.
        timeout: Seconds that each of them may take; a model that takes longer has failed.
    """

    def __init__(self, validator: Validator | None, command: Sequence[str], timeout: float) -> None:
        self._validator = validator
        self._command = tuple(command)
        self._timeout = timeout
        self._trying = asyncio.Lock()

    @property
    def wanted(self) -> bool:
        """Whether there is anybody to try a model."""
        return self._validator is not None or bool(self._command)

    async def of(self, path: Path, name: str, version: str) -> Verdict:
        """Try a model; whoever is cancelled meanwhile leaves no process behind."""
        # Not the loop's work: a relative path asks for the working directory.
        absolute = await asyncio.to_thread(path.absolute)
        async with self._trying:
            verdict: Verdict = Passed()
            if self._validator is not None:
                verdict = await self._ask(self._validator, absolute, name, version)
            if self._command and isinstance(verdict, Passed):
                verdict = await self._run(absolute, name, version)
        logger.info("model.tried: %s %s: %s", name, version, type(verdict).__name__.lower())
        return verdict

    async def _ask(self, validator: Validator, path: Path, name: str, version: str) -> Verdict:
        scope = asyncio.timeout(self._timeout)
        try:
            async with scope:
                good = await validator(path, name, version)
        except TimeoutError as error:
            if scope.expired():
                return Failed(f"the validator took longer than {self._timeout:g} s")
            return _raised(error)
        except Exception as error:  # raising is how a validator may say no
            return _raised(error)
        return Passed() if good else Failed("the validator says no")

    async def _run(self, path: Path, name: str, version: str) -> Verdict:
        command = Path(self._command[0]).name
        environment = {name: value for name, value in os.environ.items() if not name.startswith(_OURS)}
        try:
            process = await asyncio.create_subprocess_exec(
                *self._command,
                str(path),
                name,
                version,
                stdin=asyncio.subprocess.DEVNULL,
                stdout=asyncio.subprocess.DEVNULL,
                stderr=asyncio.subprocess.DEVNULL,
                env=environment,
                # A group of its own: what it starts is ended with it, and a Ctrl-C is not for it.
                start_new_session=True,
            )
        except OSError as error:
            return Untried(f"the validator ({command}) could not be run: {error.strerror}")
        try:
            async with asyncio.timeout(self._timeout):
                code = await process.wait()
        except TimeoutError:
            return Failed(f"the validator ({command}) took longer than {self._timeout:g} s")
        finally:
            if process.returncode is None:
                with suppress(ProcessLookupError):
                    os.killpg(process.pid, signal.SIGKILL)
                await process.wait()
        return verdict_of_exit(code, command)


def _raised(error: Exception) -> Failed:
    return Failed(f"the validator raised {type(error).__name__}: {loggable_text(str(error))}")
