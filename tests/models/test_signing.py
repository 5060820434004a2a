"""The release side: what it signs, a vehicle verifies; a key is never overwritten, never readable by others."""

import base64
import stat
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.asymmetric.ec import SECP256R1, generate_private_key
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    NoEncryption,
    PrivateFormat,
    PublicFormat,
    load_pem_private_key,
)

from sentinel_sync.base.errors import ConfigurationError, VerificationError
from sentinel_sync.models.releases import key_in_file, read_trust
from sentinel_sync.models.rules.releases import verify
from sentinel_sync.models.signing import (
    PublicKey,
    check_file,
    make_key,
    public_path,
    read_key,
    sign_release,
)


def never() -> bytes:
    raise AssertionError("a key in the clear needs no passphrase")


@pytest.fixture
def model(tmp_path: Path) -> Path:
    file = tmp_path / "model.onnx"
    file.write_bytes(b"weights" * 1000)
    return file


class TestKeys:
    def test_the_private_one_is_for_its_owner_only_and_the_public_one_for_all(self, tmp_path: Path) -> None:
        path = tmp_path / "key.pem"
        public = make_key(path, None)
        assert stat.S_IMODE(path.stat().st_mode) == 0o600
        assert (tmp_path / "key.pub").read_text() == f"{public.text}\n"
        assert read_key(path, never).public == public
        assert key_in_file(tmp_path / "key.pub") == base64.b64decode(public.text)
        assert PublicKey.of(base64.b64decode(public.text)).key_id == public.key_id

    def test_a_passphrase_encrypts_it(self, tmp_path: Path) -> None:
        path = tmp_path / "key.pem"
        public = make_key(path, b"correct horse")
        assert b"BEGIN ENCRYPTED PRIVATE KEY" in path.read_bytes()
        with pytest.raises(TypeError):
            load_pem_private_key(path.read_bytes(), None)
        assert read_key(path, lambda: b"correct horse").public == public
        with pytest.raises(ConfigurationError, match="is not opened by this passphrase"):
            read_key(path, lambda: b"wrong")

    def test_neither_file_is_ever_overwritten(self, tmp_path: Path) -> None:
        path = tmp_path / "key.pem"
        make_key(path, None)
        before = path.read_bytes()
        with pytest.raises(ConfigurationError, match="never overwritten"):
            make_key(path, None)
        assert path.read_bytes() == before
        other = tmp_path / "other.pem"
        public_path(other).write_text("somebody's")
        with pytest.raises(ConfigurationError, match="never overwritten"):
            make_key(other, None)
        assert not other.exists()

    def test_nor_is_a_link_followed(self, tmp_path: Path) -> None:
        (tmp_path / "key.pem").symlink_to(tmp_path / "elsewhere")
        with pytest.raises(ConfigurationError):
            make_key(tmp_path / "key.pem", None)
        assert not (tmp_path / "elsewhere").exists()

    def test_what_is_no_such_key_is_named(self, tmp_path: Path) -> None:
        path = tmp_path / "key.pem"
        with pytest.raises(ConfigurationError, match="cannot read"):
            read_key(path, never)
        with pytest.raises(ConfigurationError, match="cannot write"):
            make_key(tmp_path / "missing" / "key.pem", None)
        path.write_bytes(b"nothing of the kind")
        with pytest.raises(ConfigurationError, match="no PEM of a private key"):
            read_key(path, never)
        other = generate_private_key(SECP256R1())
        path.write_bytes(other.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()))
        with pytest.raises(ConfigurationError, match="no Ed25519 key"):
            read_key(path, never)
        path.write_bytes(other.public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo))
        with pytest.raises(ConfigurationError, match="no Ed25519 public key"):
            key_in_file(path)
        path.write_bytes(b"-----BEGIN PUBLIC KEY-----\nx\n-----END PUBLIC KEY-----\n")
        with pytest.raises(ConfigurationError, match="no PEM of a public key"):
            key_in_file(path)

    def test_a_public_key_may_be_pem(self, tmp_path: Path) -> None:
        public = make_key(tmp_path / "key.pem", None)
        key = Ed25519PublicKey.from_public_bytes(base64.b64decode(public.text))
        (tmp_path / "public.pem").write_bytes(key.public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo))
        assert key_in_file(tmp_path / "public.pem") == base64.b64decode(public.text)


class TestSigning:
    def test_a_vehicle_verifies_it_and_each_key_counts(self, tmp_path: Path, model: Path) -> None:
        publics = [make_key(tmp_path / f"{number}.pem", None) for number in range(2)]
        signers = [read_key(tmp_path / f"{number}.pem", never) for number in range(2)]
        release = sign_release(model, "detector", "v2.1.0", filename="detector.onnx", signers=signers)
        assert (release.signature, release.key_id) == (release.signatures[0].signature, publics[0].key_id)
        trust = read_trust([public.text for public in publics], None, (), threshold=2)
        assert set(verify(release, trust)) == {public.key_id for public in publics}
        check_file(model, release)
        with pytest.raises(VerificationError):
            verify(release.model_copy(update={"version": "v2.1.1"}), trust)

    def test_another_file_is_not_what_was_signed(self, tmp_path: Path, model: Path) -> None:
        make_key(tmp_path / "key.pem", None)
        release = sign_release(model, "detector", "v1", signers=[read_key(tmp_path / "key.pem", never)])
        model.write_bytes(b"Weights" * 1000)
        with pytest.raises(VerificationError, match="checksum is another"):
            check_file(model, release)
        model.write_bytes(b"weights")
        with pytest.raises(VerificationError, match="7 bytes, and 7000 are signed"):
            check_file(model, release)

    @pytest.mark.parametrize(
        ("name", "version", "filename"),
        [("../x", "v1", None), ("con", "v1", None), ("x", "newest", None), ("x", "v1", "x.exe"), ("x", "v1", ".x.pt")],
    )
    def test_nothing_is_signed_that_no_vehicle_would_take(
        self, tmp_path: Path, model: Path, name: str, version: str, filename: str | None
    ) -> None:
        make_key(tmp_path / "key.pem", None)
        signer = read_key(tmp_path / "key.pem", never)
        with pytest.raises(VerificationError):
            sign_release(model, name, version, filename=filename, signers=[signer])
        model.write_bytes(b"")
        with pytest.raises(VerificationError, match="is empty"):
            sign_release(model, "x", "v1", signers=[signer])
