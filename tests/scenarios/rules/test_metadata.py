"""How long a recording is, by its metadata and by its videos."""

from typing import Any

import pytest

from sentinel_sync.scenarios.rules.metadata import RecordedLength


@pytest.mark.parametrize(
    ("metadata", "seconds", "frames", "short"),
    [
        ({"duration": 30.0, "num_frames": 900}, 30.0, 900, False),
        ({"duration": 30, "num_frames": 900}, 12.0, 360, True),
        ({"duration": 30.0}, 23.1, 1, False),
        ({"duration": 30.0}, 22.9, 9000, True),
        # A camera at half the rate, or one that begins late.
        ({"duration": 30.0, "num_frames": 900}, 29.0, 430, False),
        ({"duration": 1.0}, 0.1, 3, False),
        ({"num_frames": 900}, 99.0, 689, True),
        ({"num_frames": 900}, 0.1, 690, False),
        ({"num_frames": 30}, 0.1, 1, False),
        # Nothing that says how long it is.
        ({}, 0.0, 0, False),
        ({"duration": None, "num_frames": None}, 0.1, 1, False),
        ({"duration": True, "num_frames": True}, 0.1, 1, False),
        ({"duration": "30", "num_frames": "900"}, 0.1, 1, False),
        ({"duration": 1e300, "num_frames": 9.0}, 0.1, 1, False),
        ({"duration": -1.0, "num_frames": -900}, 0.1, 1, False),
    ],
)
def test_a_video_is_short_where_it_lacks_a_fifth_and_more(
    metadata: dict[str, Any], seconds: float, frames: int, *, short: bool
) -> None:
    assert (RecordedLength.of(metadata).shortfall(seconds, frames) is not None) is short
