"""What is said of a model: what is being done about it comes first, then why it waits, then what went wrong."""

from dataclasses import replace

import pytest

from sentinel_sync.base.payloads import ModelReason, ModelRelease
from sentinel_sync.base.transfer import TransferStatus
from sentinel_sync.models.rules.installed import (
    BadVersion,
    CommitSchedule,
    InstallResult,
    KeptVersion,
    ModelRecord,
    StagedVersion,
)
from sentinel_sync.models.rules.status import OfferedVersion, download_status, model_shown

INSTALLED = KeptVersion("v1", "m.pt", 5.0, 100, "1" * 64)
RECORD = ModelRecord("m", installed=INSTALLED)
FAILED = ModelRecord("m", installed=INSTALLED, failure="no space")
RELEASE = ModelRelease(name="m", version="v2", size=100, checksum="2" * 64)
STAGED = ModelRecord("m", installed=INSTALLED, staged=StagedVersion(RELEASE, "m.pt"))
UNDER_WAY = TransferStatus(
    name="m", part="v2", phase="downloading", done_bytes=40, total_bytes=100, rate=10.0, time_left=6.0
)


@pytest.mark.parametrize(
    ("record", "progress", "refusal", "held", "said"),
    [
        (None, None, None, None, ("unknown", None, None)),
        (None, None, "not signed", None, ("failed", None, "not signed")),
        (ModelRecord("m"), None, None, None, ("idle", None, None)),
        (RECORD, None, None, None, ("installed", "v1", None)),
        (RECORD, None, "not signed", None, ("failed", "v1", "not signed")),
        (FAILED, None, None, None, ("failed", "v1", "no space")),
        (FAILED, None, "not signed", None, ("failed", "v1", "no space")),
        (RECORD, None, "not signed", "metered", ("held", "v1", "metered")),
        (STAGED, None, None, "a trip is under way", ("held", "v2", "a trip is under way")),
        (FAILED, UNDER_WAY, "not signed", "metered", ("downloading", "v2", None)),
    ],
)
def test_what_matters_most_is_said(
    record: ModelRecord | None,
    progress: TransferStatus | None,
    refusal: str | None,
    held: str | None,
    said: tuple[str, str | None, str | None],
) -> None:
    status = download_status(record, "m", progress=progress, refusal=refusal, held=held)
    assert (status["status"], status["version"], status["reason"]) == said
    assert status["installed_version"] == (None if record is None or record.installed is None else "v1")


def test_a_download_is_told_with_its_pace() -> None:
    status = download_status(RECORD, "m", progress=UNDER_WAY, refusal=None, held=None)
    shown = [status["received_bytes"], status["total_bytes"], status["rate"], status["time_left"]]
    assert shown == [40, 100, 10.0, 6.0]


def test_the_agents_status_has_all_of_it() -> None:
    record = ModelRecord(
        "m",
        installed=INSTALLED,
        previous=KeptVersion("v0", "m.pt", 1.0),
        pinned="v1",
        bad=(BadVersion("v3", "3" * 64, "it crashed", 7.0),),
        skipped=("v5",),
        probation=CommitSchedule(60.0, 20.0),
    )
    status = download_status(record, "m", progress=UNDER_WAY, refusal=None, held=None)
    offered = [OfferedVersion(version="v2", note="not for this vehicle: rollout 10 %")]
    shown = model_shown(record, status, UNDER_WAY, "v2", offered).model_dump(mode="json")
    outcomes = [(one["version"], one["state"], one["reason"]) for one in shown.pop("outcomes")]
    assert outcomes == [
        ("v1", "on_probation", None),
        ("v5", "rolled_back", "operator"),
        ("v2", "downloading", None),
        ("v3", "refused", "validator"),
    ]
    assert shown == {
        "name": "m",
        "status": "downloading",
        "installed": "v1",
        "available": "v2",
        "previous": "v0",
        "pinned": "v1",
        "bad_versions": [{"version": "v3", "reason": "it crashed"}],
        "probation_left": 40.0,
        "reason": None,
        "under_way": {
            "name": "m",
            "part": "v2",
            "phase": "downloading",
            "done_bytes": 40,
            "total_bytes": 100,
            "rate": 10.0,
            "time_left": 6.0,
        },
        "offered": [{"version": "v2", "note": "not for this vehicle: rollout 10 %"}],
    }


@pytest.mark.parametrize(
    ("record", "status", "available", "outcomes"),
    [
        (ModelRecord("m"), None, None, []),
        (RECORD, None, None, [("v1", "installed", None)]),
        (STAGED, None, "v2", [("v1", "installed", None), ("v2", "staged", None)]),
        (FAILED, "no space", "v2", [("v1", "installed", None), ("v2", "failed", "attempt")]),
        (replace(RECORD, damage="it is short"), None, None, [("v1", "installed", "damaged")]),
        (
            replace(RECORD, bad=(BadVersion("v3", "3" * 64, "it crashed", 7.0, was_in_use=True),)),
            None,
            None,
            [("v1", "installed", None), ("v3", "rolled_back", "probation")],
        ),
    ],
)
def test_where_each_version_stands_is_said_for_the_report(
    record: ModelRecord, status: str | None, available: str | None, outcomes: list[tuple[str, str, str | None]]
) -> None:
    said = download_status(record, "m", progress=None, refusal=status, held=None)
    shown = model_shown(record, said, None, available)
    assert [(one.version, one.state, one.reason) for one in shown.outcomes] == outcomes


def test_a_result_is_true_where_the_runtime_opens_the_version() -> None:
    assert InstallResult(True, "m", "v2")
    assert not InstallResult(False, "m", "v2", "a trip is under way", waiting=True)


def test_a_refused_version_is_said_for_the_report_unless_it_is_here_all_the_same() -> None:
    said = download_status(RECORD, "m", progress=None, refusal=None, held=None)
    shown = model_shown(RECORD, said, None, None, refused={"v1": None, "v2": None, "v3": ModelReason.OPERATOR})
    assert [(one.version, one.state, one.reason) for one in shown.outcomes] == [
        ("v1", "installed", None),
        ("v2", "refused", None),
        ("v3", "refused", "operator"),
    ]
