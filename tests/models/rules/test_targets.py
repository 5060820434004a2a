"""Which targets of a TUF repository are models, and which cannot be taken as one."""

from typing import Any

import pytest

from sentinel_sync.base.errors import VerificationError
from sentinel_sync.models.rules.tuf import SignedTarget, models_among, release_of

SUM = "ab" * 32
NAMED = {"name": "gaze", "version": "v1.2.0"}


def target(path: str = "a/b.onnx", custom: object = None, checksum: str = SUM, **changed: Any) -> SignedTarget:
    facts: dict[str, Any] = {"path": path, "size": 7, "hashes": {"sha256": checksum}, "custom": custom} | changed
    return SignedTarget(**facts)


def test_what_custom_says_counts_before_the_path() -> None:
    release = release_of(target("gaze/v9/x.pt", {**NAMED, "filename": "gaze.onnx", "rollout": "0.25", "more": [1]}))
    assert release is not None
    assert (release.name, release.version, release.filename) == ("gaze", "v1.2.0", "gaze.onnx")
    assert (release.size, release.checksum, release.rollout) == (7, SUM, 0.25)
    assert release.signature is None


def test_the_files_name_is_the_paths_where_custom_has_none() -> None:
    release = release_of(target("any/model.onnx", NAMED))
    assert release is not None
    assert release.filename == "model.onnx"
    without_ending = release_of(target("any/model", NAMED))
    assert without_ending is not None
    assert without_ending.filename is None


@pytest.mark.parametrize("custom", [None, {}, {"owner": "us"}, "text", [1], 5])
def test_the_path_counts_where_custom_names_no_model(custom: object) -> None:
    release = release_of(target("gaze/v1/g.onnx", custom))
    assert release is not None
    assert (release.name, release.version, release.filename) == ("gaze", "v1", "g.onnx")


@pytest.mark.parametrize("path", ["README", "gaze.onnx", "a/b.onnx", "a/b/c/d.onnx", "a/v1/notes.txt"])
def test_what_is_no_model(path: str) -> None:
    assert release_of(target(path)) is None


@pytest.mark.parametrize(
    "wrong",
    [
        {"custom": {"name": "gaze"}},
        {"custom": {"version": "v1"}},
        {"custom": NAMED | {"name": 7}},
        {"custom": NAMED | {"name": "../gaze"}},
        {"custom": NAMED | {"name": "con"}},
        {"custom": NAMED | {"version": "newest"}},
        {"custom": NAMED | {"filename": "/etc/passwd"}},
        {"custom": NAMED | {"filename": "gaze.sh"}},
        {"custom": NAMED | {"rollout": "2"}},
        {"custom": NAMED | {"rollout": "nan"}},
        {"custom": NAMED, "size": 0},
        {"custom": NAMED, "hashes": {"blake2b": SUM * 2}},
        {"custom": NAMED, "hashes": {"sha256": "short"}},
        {"custom": NAMED, "path": "../x.onnx"},
        {"custom": NAMED, "path": "/x.onnx"},
        {"custom": NAMED, "path": "a/../x.onnx"},
        {"custom": NAMED, "path": "a//x.onnx"},
        {"custom": NAMED, "path": "x.onnx?token=1"},
        {"custom": NAMED, "path": "x y.onnx"},
        {"custom": NAMED, "path": "x/" * 300 + "x.onnx"},
        {"path": "gaze/newest/g.onnx"},
        {"path": ".gaze/v1/g.onnx"},
    ],
    ids=str,
)
def test_what_claims_to_be_a_model_and_cannot_be_one(wrong: dict[str, Any]) -> None:
    with pytest.raises(VerificationError):
        release_of(target(**wrong))


def test_a_file_lies_under_its_hash_in_a_consistent_repository() -> None:
    targets = [target("gaze/v1/g.onnx"), target("g.onnx", NAMED, "CD" * 32)]
    assert [found.path for found in models_among(targets, consistent=False)[0]] == ["gaze/v1/g.onnx", "g.onnx"]
    assert [found.path for found in models_among(targets, consistent=True)[0]] == [
        f"gaze/v1/{SUM}.g.onnx",
        f"{'cd' * 32}.g.onnx",
    ]


def test_two_files_of_one_version_are_none() -> None:
    found, left_aside = models_among([target("a.pt", NAMED), target("b.pt", NAMED, "cd" * 32)], consistent=True)
    assert found == ()
    assert left_aside == ("a.pt and b.pt: both are gaze v1.2.0, and not the same file",)


def test_one_file_under_two_paths_is_one() -> None:
    found, left_aside = models_among([target("a.pt", NAMED), target("b.pt", NAMED)], consistent=False)
    assert [each.path for each in found] == ["a.pt"]
    assert left_aside == ()
