"""`serve`: what it refuses, and where its key comes from; that it serves is seen in test_process.py."""

import socket
import stat
import sys
from pathlib import Path
from typing import Any

import pytest

from sentinel_sync.cli.main import main


def _main(*words: str) -> int:
    return main(["serve", "--port", "0", *words])


def test_an_address_that_is_not_loopback_needs_tls_or_a_word(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert _main("--host", "0.0.0.0", "--folder", str(tmp_path), "--api-key", "k" * 20) == 2
    err = capsys.readouterr().err
    assert "not loopback" in err
    assert "k" * 20 not in err


def test_a_certificate_needs_its_key(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert _main("--certificate", str(tmp_path / "c.pem")) == 2
    assert "--private-key" in capsys.readouterr().err


def test_an_address_that_is_taken_is_one_line_and_69(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = str(taken.getsockname()[1])
        assert main(["serve", "--port", port, "--folder", str(tmp_path / "b")]) == 69
    err = capsys.readouterr().err.splitlines()
    assert err[-1] == f"sentinel-sync: error: cannot serve on 127.0.0.1 port {port}: Address already in use"
    key_file = tmp_path / "b" / "api_key"
    assert stat.S_IMODE(key_file.stat().st_mode) == 0o600
    assert key_file.read_text().strip() not in "\n".join(err)


def test_the_key_that_was_made_at_the_first_start_stays(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    kept = []
    with socket.create_server(("127.0.0.1", 0)) as taken:
        for _ in range(2):
            assert main(["serve", "--port", str(taken.getsockname()[1]), "--folder", str(tmp_path)]) == 69
            kept.append((tmp_path / "api_key").read_text())
    assert kept[0] == kept[1] != ""


@pytest.mark.parametrize("port", ["-1", "65536"])
def test_a_port_that_is_none_is_refused(port: str) -> None:
    assert main(["serve", "--port", port]) == 2


def test_without_the_extra_it_says_what_to_install(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "uvicorn", None)
    monkeypatch.delitem(sys.modules, "sentinel_sync.backend.server", raising=False)
    assert _main("--folder", str(tmp_path)) == 69
    assert "pip install 'sentinel-sync[backend]'" in capsys.readouterr().err


def test_extensions_that_are_off_by_default_can_be_switched_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    served: list[Any] = []
    monkeypatch.setattr("sentinel_sync.backend.server.serve", lambda *_, **options: served.append(options["settings"]))
    assert _main("--folder", str(tmp_path), "--api-key", "k", "--extension", "direct-uploads") == 0
    assert served[0].extensions.listed == ["trips-batch", "vehicle-report", "direct-uploads"]
    assert _main("--folder", str(tmp_path), "--extension", "telepathy") == 2
    assert "scenario-catalogue" in capsys.readouterr().err
