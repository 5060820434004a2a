"""For tests of a host and of a backend; pytest finds it where the package is installed.

`sentinel_backend` starts the reference backend: its `url` and `api_key` are for the settings of an agent.
`sentinel_conformance(url, api_key=…)` judges a backend by the whole wire contract, and fails the test where it misses.
"""

import asyncio
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest

#: To start in, seconds: its packages are imported for the first time.
_PATIENCE = 60.0
_API_KEY = "key-of-the-tests"


@dataclass(frozen=True, slots=True)
class RunningBackend:
    """A reference backend on a port of its own.

    Attributes:
        url: For `cloud.api_url`.
        api_key: For `cloud.api_key`.
        folder: Where it keeps what it was sent, until the test ends.
    """

    url: str
    api_key: str
    folder: Path


@pytest.fixture
def sentinel_backend(tmp_path: Path) -> Iterator[RunningBackend]:
    """The reference backend with all its extensions, in a thread: for tests with and without a loop of their own."""
    pytest.importorskip("fastapi", reason="the reference backend needs sentinel_sync[backend]")
    folder = tmp_path / "sentinel_backend"
    with _in_a_thread(folder) as url:
        yield RunningBackend(url, _API_KEY, folder)


@pytest.fixture
def sentinel_conformance() -> Callable[..., None]:
    """A function of a backend's address and `api_key` that fails the test with all that the backend does not meet."""

    def conforms(url: str, *, api_key: str) -> None:
        from sentinel_sync.conformance.judge import judge  # noqa: PLC0415 - see above
        from sentinel_sync.conformance.output import evidence, summary  # noqa: PLC0415

        # In a thread: the test may have a loop of its own.
        with ThreadPoolExecutor(1) as threads:
            findings = threads.submit(lambda: asyncio.run(judge(url, api_key))).result()
        if missed := [finding for finding in findings if finding.fails]:
            pytest.fail("\n\n".join([summary(findings), *map(evidence, missed)]), pytrace=False)

    return conforms


@contextmanager
def _in_a_thread(folder: Path) -> Iterator[str]:
    started, ends = threading.Event(), list[Callable[[], object]]()
    urls, errors = list[str](), list[BaseException]()

    async def serve() -> None:
        # Not with the plugin: pytest loads it before anybody knows whether a test wants a backend.
        from sentinel_sync.backend import BackendSettings, running_server  # noqa: PLC0415

        stop, loop = asyncio.Event(), asyncio.get_running_loop()
        async with running_server(BackendSettings(folder=folder, api_keys=(_API_KEY,))) as url:
            urls.append(url)
            ends.append(lambda: loop.call_soon_threadsafe(stop.set))
            started.set()
            await stop.wait()

    def run() -> None:
        try:
            asyncio.run(serve())
        except BaseException as error:  # raised in the test's thread, which waits for it
            errors.append(error)
        finally:
            started.set()

    thread = threading.Thread(target=run, name="sentinel-backend", daemon=True)
    thread.start()
    if not started.wait(_PATIENCE):
        raise TimeoutError(f"the reference backend has not started within {_PATIENCE:g} s")
    try:
        if errors:
            raise errors[0]
        yield urls[0]
    finally:
        for end in ends:
            end()
        thread.join(_PATIENCE)
