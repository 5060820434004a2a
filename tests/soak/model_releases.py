"""What is published to a vehicle that is to be killed: good models, bad ones, and what tells them apart."""

from functools import partial
from pathlib import Path

from sentinel_sync.backend import ModelRelease, ModelSignature, publish_model
from sentinel_sync.models.signing import make_key, read_key, sign_release
from tests.fakes.weights import all_moved, some_tensors_replaced, weights
from tests.soak.model_vehicle import NAME

#: A little model, so that a life of a second sees some installations.
WEIGHTS = 250_000
#: What is published. The validator refuses BAD before the switch, and FLAKY once it is in use.
BAD, FLAKY, LAST = "v1.1.0", "v1.2.0", "v5.0.0"
LIVE_NAMES = (f"{NAME}.onnx", f"{NAME}.pt")
#: Given file, name and version; FLAKY fails where the file is the live one.
VALIDATOR = f"""
sleep 0.03
case "$3:$1" in
  {BAD}:*) exit 1 ;;
  {FLAKY}:*/versions/*) exit 0 ;;
  {FLAKY}:*) exit 1 ;;
esac
"""


def publish(folder: Path, backend: Path) -> tuple[str, dict[str, str]]:
    """Sign all versions and put them into a backend's folder; returns the public key, and the versions by checksum."""
    key = make_key(folder / "key.pem", None)
    signer = read_key(folder / "key.pem", partial(bytes))
    published = {}
    for version, (name, content) in _contents().items():
        file = folder / name
        file.write_bytes(content)
        signed = sign_release(file, NAME, version, filename=name, signers=[signer])
        signatures = [ModelSignature(one.signature, one.key_id) for one in signed.signatures]
        publish_model(backend, file, ModelRelease(name=NAME, version=version, filename=name, signatures=signatures))
        published[signed.checksum] = version
    return key.text, published


def _contents() -> dict[str, tuple[str, bytes]]:
    """File name and content by version."""
    onnx, pt = LIVE_NAMES
    first = weights(WEIGHTS, 1)
    fourth = some_tensors_replaced(first, 50, 5, 4)
    return {
        "v1.0.0": (onnx, first),
        BAD: (onnx, some_tensors_replaced(first, 50, 1, 2)),
        FLAKY: (onnx, some_tensors_replaced(first, 50, 2, 3)),
        "v2.0.0": (onnx, all_moved(first, 5)),
        "v3.0.0": (pt, fourth),
        "v4.0.0": (onnx, some_tensors_replaced(fourth, 50, 3, 6)),
        LAST: (onnx, weights(WEIGHTS, 7)),
    }
