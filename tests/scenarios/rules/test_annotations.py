"""Annotations of any size, filtered in blocks: the same as filtered whole, wherever the blocks end."""

import json
from itertools import pairwise
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import JsonValue

from sentinel_sync.base.errors import ScenarioError
from sentinel_sync.scenarios.rules import annotations as annotations_module
from sentinel_sync.scenarios.rules.annotations import AnnotationFilter
from sentinel_sync.scenarios.rules.private_data import Context, outgoing
from tests.conftest import FIXTURES

RECORDINGS = sorted((FIXTURES / "scenarios").iterdir())


def filtered(text: bytes, *cuts: int) -> bytes:
    annotations = AnnotationFilter()
    edges = [0, *sorted(cuts), len(text)]
    return b"".join(annotations.feed(text[start:end]) for start, end in pairwise(edges)) + annotations.finish()


@pytest.fixture(params=[1, 16, 256 << 10], ids=["all entered", "most entered", "as it is"])
def _window(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(annotations_module, "_WINDOW", request.param)


@pytest.mark.usefixtures("_window")
class TestBlocks:
    @pytest.mark.parametrize("recording", RECORDINGS, ids=lambda path: path.name)
    def test_a_recorders_file_leaves_as_it_is(self, recording: Path) -> None:
        text = (recording / "annotations.json").read_bytes()
        assert json.loads(filtered(text, *range(0, len(text), 4096))) == json.loads(text)

    @pytest.mark.parametrize(
        ("recorded", "sent"),
        [
            ('{"lat": 37.774929, "x": 37.774929}', {"lat": 37.77, "x": 37.774929}),
            ('{"location" :\n "37.774929,-122.419416"}', {"location": "37.77,-122.42"}),
            ('{"gps": {"a": [1.23456, {"b": 2.34567}]}, "c": 3.45}', {"gps": {"a": [1.23, {"b": 2.35}]}, "c": 3.45}),
            ('{"driver_id": "anna", "state": {"gaze": 0.12345}}', {"state": {"gaze": 0.12345}}),
            ('{"objects": [{"name": "car", "id": 7}]}', {"objects": [{"name": "car", "id": 7}]}),
            ('{"face_embedding": [0.1, [0.2, "]"]], "n": 1}', {"n": 1}),
            ('{"n": 1, "face_embedding": {"a": [{"b": "}"}]}}', {"n": 1}),
            ('{"s": "\\"lat\\": 37.774929", "u": "\\u00e4\\\\"}', {"s": '"lat": 37.77', "u": "ä\\"}),
            ('{"location": null, "v": NaN, "lat": -Infinity}', {"location": None, "v": None, "lat": None}),
            ('\ufeff{"a": [], "b": {}, "c": [[]]}', {"a": [], "b": {}, "c": [[]]}),
            ('{"l\\u0061t": 37.774929, "lat": 1.23456}', {"lat": 1.23}),
        ],
    )
    def test_wherever_the_blocks_end(self, recorded: str, sent: JsonValue) -> None:
        text = recorded.encode()
        for cut in range(len(text) + 1):
            assert json.loads(filtered(text, cut)) == sent
        assert json.loads(filtered(text, *range(len(text)))) == sent

    @pytest.mark.parametrize(
        "text",
        ['{"lat": "37.7', '{"a": [1, 2', '{"a"', '{"a":', "{", "", '{"a": 1}}', '{"a": 1} {"b": 2}', '{"a" 1}',
         '{"a": 1,}', "[1 2]", "{1: 2}", '{"a": tru}', '{"a": "\x01"}', "[1,]", "[,1]"],
    )  # fmt: skip
    def test_what_is_no_json_is_refused(self, text: str) -> None:
        with pytest.raises(ScenarioError):
            filtered(text.encode())

    @given(
        st.recursive(
            st.none() | st.booleans() | st.integers() | st.floats(-180, 180) | st.text(max_size=8),
            lambda inner: (
                st.lists(inner, max_size=4)
                | st.dictionaries(
                    st.sampled_from(["lat", "gps", "a", "bbox", "location", "driver_id", 'x"\\']), inner, max_size=4
                )
            ),
            max_leaves=12,
        ),
        st.lists(st.integers(0, 400), max_size=5),
        st.sampled_from([None, 2]),
    )
    def test_it_stays_json_and_keys_are_judged_as_in_one_piece(
        self, value: JsonValue, cuts: list[int], indent: int | None
    ) -> None:
        text = json.dumps({"frames": value}, indent=indent).encode()
        left = json.loads(filtered(text, *(cut for cut in cuts if cut <= len(text))))
        whole = outgoing({"frames": value}, Context(names_are_labels=True))
        if len(text) < annotations_module._WINDOW:
            assert left == whole
        assert "driver_id" not in json.dumps(left)


def test_a_large_file_needs_little_memory_and_loses_nothing() -> None:
    frame = {"objects": [{"bbox": [1.5, 2.5, 3.5, 4.5], "label": "car"}] * 50, "location": {"lat": 37.774929}}
    block = json.dumps(frame).encode()
    annotations, sent, held = AnnotationFilter(), 0, 0
    pieces: list[bytes] = [annotations.feed(b'{"frames": [')]
    for number in range(1000):
        pieces.append(annotations.feed((b"," if number else b"") + block))
        held = max(held, len(annotations._held))
        sent += len(block)
    pieces.append(annotations.feed(b"]}") + annotations.finish())
    assert held < 600 << 10
    left = json.loads(b"".join(pieces))["frames"]
    assert len(left) == 1000
    assert all(kept == {**frame, "location": {"lat": 37.77}} for kept in left)
