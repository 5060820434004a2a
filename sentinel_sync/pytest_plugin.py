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

from sentinel_sync.settings import CloudSettings, Settings

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

    def settings(self, folder: Path, **more: object) -> Settings:
        """Settings of a vehicle that keeps everything in `folder`; `more` are keys of the settings.

        Nothing of the environment counts, and no path is relative: the files of a real vehicle beside the test stay.

        Raises:
            ValidationError: Some of `more` cannot be used.
        """
        own: dict[str, object] = {
            "enabled": True,
            "api_url": self.url,
            "api_key": self.api_key,
            "state_dir": folder / "state",
            "trip_queue_file": folder / "trip_queue.json",
            "scenarios_dir": folder / "scenarios",
            "models_dir": folder / "models",
            "profiles_dir": folder / "profiles",
        }
        return Settings(cloud=CloudSettings.model_validate(own | more))


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

    def conforms(url: str, *, api_key: str, fleet_id: str | None = None, vehicle_id: str | None = None) -> None:
        own_ids = None if fleet_id is None or vehicle_id is None else (fleet_id, vehicle_id)
        from sentinel_sync.base.errors import UnreachableError  # noqa: PLC0415 - see above
        from sentinel_sync.conformance.judge import judge  # noqa: PLC0415 - see above
        from sentinel_sync.conformance.output import evidence, hint, summary  # noqa: PLC0415

        # In a thread: the test may have a loop of its own.
        with ThreadPoolExecutor(1) as threads:
            judging = threads.submit(lambda: asyncio.run(judge(url, api_key, own_ids=own_ids)))
            try:
                findings = judging.result()
            except UnreachableError as error:  # there is nothing to judge
                pytest.fail(str(error), pytrace=False)
        if missed := [finding for finding in findings if finding.fails]:
            advice = hint(findings, has_own_ids=own_ids is not None)
            said = [summary(findings), *([] if advice is None else [advice]), *map(evidence, missed)]
            pytest.fail("\n\n".join(said), pytrace=False)

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
