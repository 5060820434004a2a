"""A backend and a vehicle per test."""

import os
import pty
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.cli.backend import Backend, running_backend
from tests.cli.vehicle import Vehicle


@pytest.fixture
def backend() -> Iterator[Backend]:
    with running_backend() as running:
        yield running


@pytest.fixture
def vehicle(tmp_path: Path, backend: Backend, capsys: pytest.CaptureFixture[str]) -> Vehicle:
    return Vehicle(tmp_path, backend.url, capsys)


@pytest.fixture
def type_answer(monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[[str], object]]:
    """Standard input is a terminal, at which somebody types a line."""
    controller, terminal = pty.openpty()
    with os.fdopen(terminal) as stdin:
        monkeypatch.setattr("sys.stdin", stdin)
        yield lambda line: os.write(controller, f"{line}\n".encode())
    os.close(controller)
