"""`models keygen`, `sign` and `verify`: offline, one line on what is wrong, no secret on the command line."""

import json
import stat
from pathlib import Path

import pytest

from sentinel_sync.cli.exit_codes import ExitCode
from tests.cli.vehicle import Said, Vehicle

PASSPHRASE = "correct horse battery staple"


@pytest.fixture
def bench(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> Vehicle:
    """A release engineer's folder; there is no backend."""
    (tmp_path / "detector.onnx").write_bytes(b"weights" * 1000)
    return Vehicle(tmp_path, "http://127.0.0.1:1", capsys)


def keygen(bench: Vehicle, name: str = "key.pem", *words: str) -> Said:
    return bench.run("models", "keygen", "--out", str(bench.folder / name), "--json", *words)


def sign(bench: Vehicle, *words: str, keys: tuple[str, ...] = ("key.pem",), version: str = "v2.1.0") -> Said:
    named = [word for key in keys for word in ("--key", str(bench.folder / key))]
    file = str(bench.folder / "detector.onnx")
    return bench.run("models", "sign", file, "--name", "detector", "--version", version, *named, "--json", *words)


def verify(bench: Vehicle, *words: str) -> Said:
    return bench.run("models", "verify", str(bench.folder / "detector.onnx"), "--json", *words)


def test_from_key_to_verified(bench: Vehicle) -> None:
    key = keygen(bench)
    assert key.code == 0
    assert "not encrypted" in key.err
    assert stat.S_IMODE((bench.folder / "key.pem").stat().st_mode) == 0o600
    signed = sign(bench)
    assert (signed.code, signed.err) == (0, "")
    manifest = json.loads((bench.folder / "detector.onnx.manifest.json").read_text())
    assert {name: manifest[name] for name in ("name", "version", "size", "filename", "key_id")} == {
        "name": "detector",
        "version": "v2.1.0",
        "size": 7000,
        "filename": "detector.onnx",
        "key_id": key.json["key_id"],
    }
    for trusted in (key.json["public_key"], str(bench.folder / "key.pub")):
        checked = verify(bench, "--trusted-key", trusted)
        assert (checked.code, checked.json["genuine"], checked.json["key_ids"]) == (0, True, [key.json["key_id"]])
    bench.configure(model_trusted_keys=[key.json["public_key"]])
    assert verify(bench).code == 0
    bench.configure(model_revoked_keys=[key.json["key_id"]])
    assert verify(bench).code == ExitCode.FAILED


def test_in_words(bench: Vehicle) -> None:
    said = bench.run("models", "keygen", "--out", str(bench.folder / "key.pem"))
    assert {line.split("  ")[0].strip() for line in said.out.splitlines()} == {
        "public key",
        "key id",
        "private key file",
        "public key file",
    }
    file = str(bench.folder / "detector.onnx")
    signed = bench.run("models", "sign", file, "--name", "d", "--version", "v1", "--key", str(bench.folder / "key.pem"))
    assert "7.0 kB (7,000 bytes)" in signed.out
    said = bench.run("models", "verify", file, "--trusted-key", str(bench.folder / "key.pub"))
    assert "genuine   yes" in said.out


def test_a_key_is_never_overwritten(bench: Vehicle) -> None:
    keygen(bench)
    before = (bench.folder / "key.pem").read_bytes()
    again = keygen(bench)
    assert again.code == ExitCode.USAGE
    assert again.err.count("\n") == 1
    assert (bench.folder / "key.pem").read_bytes() == before


def test_several_keys_make_several_signatures_and_the_threshold_counts_them(bench: Vehicle) -> None:
    first, second = keygen(bench, "a.pem").json, keygen(bench, "b.pem").json
    assert sign(bench, keys=("a.pem", "b.pem")).json["key_ids"] == [first["key_id"], second["key_id"]]
    trusted = ("--trusted-key", first["public_key"], "--trusted-key", second["public_key"])
    assert verify(bench, *trusted, "--threshold", "2").code == 0
    assert verify(bench, "--trusted-key", first["public_key"], "--threshold", "2").code == ExitCode.FAILED
    twice = sign(bench, keys=("a.pem", "a.pem"))
    assert (twice.code, "counts once" in twice.err) == (ExitCode.USAGE, True)


def test_a_folder_of_trusted_keys(bench: Vehicle) -> None:
    keygen(bench)
    sign(bench)
    folder = bench.folder / "trusted"
    folder.mkdir()
    assert verify(bench, "--trusted-keys-dir", str(folder)).code == ExitCode.FAILED
    (bench.folder / "key.pub").rename(folder / "key.pub")
    assert verify(bench, "--trusted-keys-dir", str(folder)).code == 0


class TestPassphrases:
    def test_out_of_a_file(self, bench: Vehicle) -> None:
        file = bench.folder / "passphrase"
        file.write_text(f"{PASSPHRASE}\r\nand a second line\n")
        made = keygen(bench, "key.pem", "--passphrase-file", str(file))
        assert (made.code, made.err) == (0, "")
        assert b"ENCRYPTED" in (bench.folder / "key.pem").read_bytes()
        assert sign(bench, "--passphrase-file", str(file)).code == 0
        file.write_text("wrong")
        wrong = sign(bench, "--passphrase-file", str(file))
        assert (wrong.code, "not opened by this passphrase" in wrong.err) == (ExitCode.USAGE, True)

    def test_out_of_the_environment(self, bench: Vehicle, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setenv("SENTINEL_KEY_PASSPHRASE", PASSPHRASE)
        keygen(bench)
        assert sign(bench).code == 0
        monkeypatch.delenv("SENTINEL_KEY_PASSPHRASE")
        said = sign(bench)
        assert said.code == ExitCode.USAGE
        assert "a passphrase is needed" in said.err

    def test_out_of_a_person(self, bench: Vehicle, monkeypatch: pytest.MonkeyPatch) -> None:
        answers = iter([PASSPHRASE, PASSPHRASE, PASSPHRASE, PASSPHRASE, "another", ""])
        monkeypatch.setattr("sys.stdin.isatty", lambda: True)
        monkeypatch.setattr("getpass.getpass", lambda _: next(answers))
        assert keygen(bench, "key.pem", "--passphrase-prompt").code == 0
        assert sign(bench).code == 0
        assert keygen(bench, "other.pem", "--passphrase-prompt").code == ExitCode.USAGE  # not repeated as it was
        assert keygen(bench, "other.pem", "--passphrase-prompt").code == ExitCode.USAGE  # empty
        assert not (bench.folder / "other.pem").exists()

    def test_where_nobody_can_be_asked(self, bench: Vehicle) -> None:
        assert keygen(bench, "key.pem", "--passphrase-prompt").code == ExitCode.USAGE
        assert keygen(bench, "key.pem", "--passphrase-file", "missing").code == ExitCode.USAGE


class TestWhatIsWrong:
    def test_is_said_in_one_line(self, bench: Vehicle) -> None:
        key = keygen(bench).json
        trusted = ("--trusted-key", key["public_key"])
        folder, file = bench.folder, bench.folder / "detector.onnx"
        for said, code in (
            (verify(bench, *trusted), ExitCode.USAGE),  # no manifest yet
            (sign(bench, version="latest"), ExitCode.FAILED),
            (sign(bench, keys=("key.pub",)), ExitCode.USAGE),
            (sign(bench, "--filename", "x.exe"), ExitCode.FAILED),
            (sign(bench, "--out", str(folder / "missing" / "m.json")), ExitCode.USAGE),
            (
                bench.run("models", "sign", "none", "--name", "x", "--version", "v1", "--key", str(folder / "key.pem")),
                2,
            ),
            (bench.run("models", "keygen", "--out", str(folder / "missing" / "key.pem")), ExitCode.USAGE),
        ):
            assert said.code == code, said.err
            assert said.err.count("\n") == 1
            assert said.out == ""
        assert "`models sign` makes one" in verify(bench, *trusted).err
        assert sign(bench).code == 0
        file.write_bytes(b"other" * 1400)
        spoilt = verify(bench, *trusted)
        assert (spoilt.code, "not what was signed" in spoilt.err) == (ExitCode.FAILED, True)
        file.with_name("detector.onnx.manifest.json").write_text("{}")
        assert (verify(bench, *trusted).code, verify(bench, *trusted).out) == (ExitCode.FAILED, "")
        assert sign(bench).code == 0
        said = verify(bench, "--trusted-key", "no key")
        assert (said.code, "--trusted-key no key names no file" in said.err) == (ExitCode.USAGE, True)

    def test_a_key_that_others_can_read_is_used_with_a_warning(self, bench: Vehicle) -> None:
        keygen(bench)
        (bench.folder / "key.pem").chmod(0o644)
        said = sign(bench)
        assert (said.code, "chmod 600" in said.err) == (0, True)

    def test_nobody_trusted_is_nobody(self, bench: Vehicle) -> None:
        keygen(bench)
        sign(bench)
        said = verify(bench)
        assert (said.code, "no key is trusted" in said.err) == (ExitCode.FAILED, True)
        other = keygen(bench, "other.pem").json
        assert verify(bench, "--trusted-key", other["public_key"]).code == ExitCode.FAILED
