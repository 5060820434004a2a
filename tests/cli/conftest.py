"""A backend and a vehicle per test."""

from collections.abc import Iterator
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
