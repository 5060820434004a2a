"""The public face: short, explicit, cheap to import."""

import inspect
import json
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

import sentinel_sync
from sentinel_sync.base import errors

#: What an embedder pays for only when it is used. Seen by name, not by the clock.
HEAVY = frozenset({
    "aiofiles", "aiolimiter", "asyncio", "cryptography", "email", "fastapi", "http", "httpcore", "httpx", "logging",
    "pydantic", "pydantic_settings", "rich", "sqlite3", "ssl", "starlette", "tenacity", "urllib", "uvicorn", "yaml",
})  # fmt: skip
#: What only the CLI, the console, video, the backend or another transport needs.
EXTRAS = ("rich", "fastapi", "starlette", "uvicorn", "multipart", "imageio_ffmpeg", "aiohttp", "httpx_aiohttp")


def modules_after(statement: str) -> set[str]:
    """Names of what a fresh interpreter has loaded after a statement."""
    report = "print(json.dumps(sorted(set(sys.modules) - before)))"
    script = f"import json, sys\nbefore = set(sys.modules)\n{statement}\n{report}"
    run = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    loaded: list[str] = json.loads(run.stdout)
    return set(loaded)


def test_importing_the_package_imports_nothing_heavy() -> None:
    loaded = {name.partition(".")[0] for name in modules_after("import sentinel_sync")}
    assert not loaded & HEAVY
    assert "sentinel_sync" in loaded


def test_an_error_costs_no_client() -> None:
    loaded = {name.partition(".")[0] for name in modules_after("from sentinel_sync import CloudError")}
    assert not loaded & (HEAVY - {"logging", "asyncio"})


def test_the_agent_needs_no_extra() -> None:
    """A host that embeds the agent installs none of the extras: its whole face loads without them."""
    refuse = f"import sys\nfor extra in {EXTRAS!r}: sys.modules[extra] = None\n"
    touch = "import sentinel_sync\nfor name in sentinel_sync.__all__: getattr(sentinel_sync, name)"
    assert "sentinel_sync.agent" in modules_after(refuse + touch)


def test_names_are_sorted_and_each_once() -> None:
    assert sentinel_sync.__all__ == sorted(set(sentinel_sync.__all__))


def test_names_are_those_that_have_a_home() -> None:
    assert set(sentinel_sync.__all__) == set(sentinel_sync._HOME) | {"__version__"}


@pytest.mark.parametrize("name", sorted(sentinel_sync._HOME))
def test_each_name_resolves(name: str) -> None:
    value: Any = getattr(sentinel_sync, name)
    assert inspect.isclass(value)
    assert value.__name__ == name
    assert value.__doc__
    assert value.__module__.startswith("sentinel_sync.")


def test_the_names_of_the_issue_are_there() -> None:
    named = (
        "SyncAgent CloudAPIClient APIResponse TripUploader ScenarioUploader ModelDownloader ProfileSynchronizer "
        "FleetManager OfflineManager ConnectivityStatus Settings"
    )
    assert set(named.split()) <= set(sentinel_sync.__all__)


def test_every_error_is_public_and_has_the_one_root() -> None:
    classes = {name for name, value in vars(errors).items() if inspect.isclass(value) and not name.startswith("_")}
    assert classes <= set(sentinel_sync.__all__)
    for name in classes:
        assert name.endswith("Error")
        assert issubclass(getattr(errors, name), errors.SentinelSyncError)
        assert name in (errors.__doc__ or ""), f"{name} is missing in the drawing of the error tree"


def test_a_star_import_gives_the_public_names() -> None:
    namespace: dict[str, Any] = {}
    exec("from sentinel_sync import *", namespace)
    assert set(sentinel_sync.__all__) <= set(namespace)


def test_completion_lists_the_public_names() -> None:
    assert dir(sentinel_sync) == sorted(sentinel_sync.__all__)


def test_an_unknown_name_is_an_attribute_error() -> None:
    with pytest.raises(AttributeError, match="nothing_like_it"):
        getattr(sentinel_sync, "nothing_like_it")  # noqa: B009 - a type checker knows that it is not there
    assert not hasattr(sentinel_sync, "_private")


def test_the_package_is_typed_and_versioned() -> None:
    assert (Path(sentinel_sync.__file__).parent / "py.typed").exists()
    assert re.fullmatch(r"\d+\.\d+\.\d+(?:[a-z]+\d+)?", sentinel_sync.__version__)
