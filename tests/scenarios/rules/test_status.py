"""One status per scenario, with its reason; and what was sent under which consent."""

from dataclasses import replace

import pytest

from sentinel_sync.base.transfer import TransferStatus
from sentinel_sync.scenarios.rules.plan import Consent, Part, PartFile, PartKind, Priority, ScenarioPlan
from sentinel_sync.scenarios.rules.status import (
    QueueState,
    ScenarioStatus,
    SentPart,
    UploadConditions,
    sent_parts,
    sent_under,
    status_of,
)

NOW = 1_780_000_000.0
CONSENT = Consent(True, NOW - 60.0, "2")
VIDEO = Part(PartKind.VIDEO, "bev.mp4", 1000, 1)
METADATA = Part(PartKind.METADATA, "metadata.json", 10, 1)
PLAN = ScenarioPlan("s1", "/recordings/s1", Priority.HIGH, NOW, (METADATA, VIDEO))
QUEUED = QueueState(queued=True)
GOING = TransferStatus(
    name="s1", part="bev.mp4", phase="uploading", done_bytes=100, total_bytes=400, rate=50.0, time_left=6.0
)


@pytest.mark.parametrize(
    ("plan", "there", "conditions", "expected"),
    [
        (None, QUEUED, UploadConditions(), ("unknown", "this scenario was never queued")),
        (None, QUEUED, UploadConditions(going=GOING), ("unknown", "this scenario was never queued")),
        (PLAN, QUEUED, UploadConditions(), ("queued", None)),
        (
            PLAN,
            QueueState(True, False, "answered 503"),
            UploadConditions(paused="asked to wait"),
            ("queued", "answered 503"),
        ),
        (PLAN, QUEUED, UploadConditions(paused="asked to wait"), ("queued", "asked to wait")),
        (PLAN, QUEUED, UploadConditions(held="metered"), ("held", "metered")),
        (PLAN, QUEUED, UploadConditions(held="metered", going=GOING), ("uploading", None)),
        (PLAN, QUEUED, UploadConditions(going=GOING.model_copy(update={"name": "s2"})), ("queued", None)),
        (PLAN, QueueState(True, True, "422"), UploadConditions(held="metered"), ("set_aside", "422")),
        (PLAN, QueueState(), UploadConditions(), ("dropped", "it was taken out of the queue")),
        (replace(PLAN, dropped="withdrawn"), QueueState(), UploadConditions(), ("dropped", "withdrawn")),
        (replace(PLAN, refused="empty"), QueueState(), UploadConditions(), ("set_aside", "empty")),
        (replace(PLAN, uploaded_at=NOW), QueueState(), UploadConditions(held="metered"), ("uploaded", None)),
        (replace(PLAN, uploaded_at=NOW, deleted_at=NOW), QueueState(), UploadConditions(), ("uploaded", None)),
        (
            replace(PLAN, deleted_at=NOW),
            QueueState(),
            UploadConditions(),
            ("deleted", "it was deleted unsent, by cloud.keep_unsent_days"),
        ),
        (
            replace(PLAN, deleted_at=NOW, warning="it was deleted to keep cloud.disk_reserve free"),
            QueueState(),
            UploadConditions(),
            ("deleted", "it was deleted to keep cloud.disk_reserve free"),
        ),
        (
            PLAN.acknowledged(METADATA, NOW, CONSENT).on_request(NOW),
            QueueState(),
            UploadConditions(),
            ("on_request", "announced: its files go once the backend asks for them, or with scenario_upload: all"),
        ),
        (
            replace(PLAN, in_queue=False),
            QueueState(),
            UploadConditions(),
            ("held", "it is looked at again, and queued once it is whole (it was cut off)"),
        ),
        (
            replace(PLAN, in_queue=False, warning="the disk was full"),
            QueueState(),
            UploadConditions(),
            ("held", "it is looked at again, and queued once it is whole (the disk was full)"),
        ),
        (
            replace(PLAN, in_queue=False, dropped="withdrawn"),
            QueueState(),
            UploadConditions(),
            ("dropped", "withdrawn"),
        ),
    ],
)
def test_where_it_stands(
    plan: ScenarioPlan | None, there: QueueState, conditions: UploadConditions, expected: tuple[str, str | None]
) -> None:
    status = status_of("s1", plan, there, conditions)
    assert (status["status"], status["reason"]) == expected


UNKNOWN = ScenarioStatus(
    scenario_id="s1",
    status="unknown",
    reason="this scenario was never queued",
    priority=None,
    parts={},
    total_bytes=0,
    sent_bytes=0,
    queued_at=None,
    uploaded_at=None,
    deleted_at=None,
    consent_granted_at=None,
    policy_version=None,
    phase=None,
    part=None,
    part_bytes=None,
    part_total_bytes=None,
    rate=None,
    time_left=None,
    notes={},
    warning=None,
)
FRESH: ScenarioStatus = {
    **UNKNOWN,
    "status": "queued",
    "reason": None,
    "priority": "high",
    "parts": {"metadata.json": False, "bev.mp4": False},
    "total_bytes": 1010,
    "queued_at": "2026-05-28T20:26:40+00:00",
}
BEGUN: ScenarioStatus = {
    **FRESH,
    "parts": {"metadata.json": True, "bev.mp4": False},
    "sent_bytes": 10,
    "consent_granted_at": "2026-05-28T20:25:40+00:00",
    "policy_version": "2",
}


@pytest.mark.parametrize(
    ("plan", "there", "expected"),
    [
        (None, QueueState(), UNKNOWN),
        (PLAN, QUEUED, FRESH),
        (
            replace(PLAN, warning="a file is missing").acknowledged(METADATA, NOW + 1.0, CONSENT),
            QUEUED,
            {**BEGUN, "warning": "a file is missing"},
        ),
        (
            replace(
                PLAN.acknowledged(METADATA, NOW + 1.0, CONSENT).acknowledged(VIDEO, NOW + 2.0, CONSENT),
                deleted_at=NOW + 3.25,
            ),
            QueueState(),
            {
                **BEGUN,
                "status": "uploaded",
                "parts": {"metadata.json": True, "bev.mp4": True},
                "sent_bytes": 1010,
                "uploaded_at": "2026-05-28T20:26:42+00:00",
                "deleted_at": "2026-05-28T20:26:43.250000+00:00",
            },
        ),
    ],
)
def test_all_that_is_known_of_one_is_shown_at_each_stage(
    plan: ScenarioPlan | None, there: QueueState, expected: ScenarioStatus
) -> None:
    assert status_of("s1", plan, there, UploadConditions()) == expected


@pytest.mark.parametrize(
    ("part", "done", "total", "sent"),
    [
        ("bev.mp4", 0, 300, 0),
        ("bev.mp4", 100, 300, 333),
        ("bev.mp4", 300, 300, 1000),
        ("bev.mp4", 0, 0, 0),
        ("other.mp4", 300, 300, 0),
    ],
)
def test_what_has_travelled_counts_in_whole_bytes_of_a_part_that_the_recording_has(
    part: str, done: int, total: int, sent: int
) -> None:
    going = GOING.model_copy(update={"part": part, "done_bytes": done, "total_bytes": total})
    assert status_of("s1", PLAN, QUEUED, UploadConditions(going=going))["sent_bytes"] == sent


def test_what_is_under_way_is_shown_with_its_rate_and_counts_as_sent_in_proportion() -> None:
    plan = PLAN.acknowledged(METADATA, NOW, CONSENT)
    status = status_of("s1", plan, QUEUED, UploadConditions(going=GOING))
    assert (status["phase"], status["part"], status["rate"], status["time_left"]) == ("uploading", "bev.mp4", 50.0, 6.0)
    assert (status["part_bytes"], status["part_total_bytes"]) == (100, 400)
    assert (status["sent_bytes"], status["total_bytes"]) == (10 + 250, 1010)
    compressing = status_of(
        "s1", plan, QUEUED, UploadConditions(going=GOING.model_copy(update={"phase": "compressing"}))
    )
    assert compressing["sent_bytes"] == 10


def test_what_is_not_being_sent_any_more_is_not_under_way() -> None:
    dropped = status_of("s1", replace(PLAN, dropped="withdrawn"), QueueState(), UploadConditions(going=GOING))
    assert (dropped["status"], dropped["phase"], dropped["part"], dropped["sent_bytes"]) == ("dropped", None, None, 0)


def test_the_reason_why_an_original_goes_is_shown() -> None:
    file = PartFile(None, 1000, "ab", note="there is no ffmpeg")
    status = status_of("s1", PLAN.with_part(replace(VIDEO, file=file)), QUEUED, UploadConditions())
    assert status["notes"] == {"bev.mp4": "there is no ffmpeg"}


def test_what_left_the_vehicle_is_shown_with_its_consent_also_where_it_was_cut_off() -> None:
    assert sent_parts(PLAN) == []
    plan = PLAN.acknowledged(METADATA, NOW + 1.0, CONSENT)
    file = PartFile("x.mp4", 400, "ab")
    plan = plan.with_part(replace(VIDEO, file=file, consent=CONSENT, began_at=NOW + 2.0))
    first, second = sent_parts(plan)
    assert (first.part, first.sent_at, first.acknowledged, first.size_bytes) == ("metadata.json", NOW + 1.0, True, 10)
    assert (second.part, second.sent_at, second.acknowledged, second.size_bytes, second.sha256) == (
        "bev.mp4",
        NOW + 2.0,
        False,
        400,
        "ab",
    )
    assert {(part.granted_at, part.policy_version) for part in (first, second)} == {(CONSENT.at, "2")}


def test_of_what_was_sent_all_is_told_and_nothing_of_what_was_not_begun_or_had_no_consent() -> None:
    assert sent_parts(PLAN.with_part(replace(VIDEO, began_at=NOW))) == []
    assert sent_parts(PLAN.with_part(replace(VIDEO, consent=CONSENT))) == []
    begun = replace(VIDEO, consent=CONSENT, began_at=NOW)
    assert sent_parts(PLAN.with_part(begun)) == [
        SentPart("s1", "bev.mp4", NOW, False, 1000, None, granted_at=NOW - 60.0, policy_version="2")
    ]
    arrived = PLAN.acknowledged(replace(begun, file=PartFile(None, 400, "ab")), NOW + 1.0, CONSENT)
    assert sent_parts(arrived) == [
        SentPart("s1", "bev.mp4", NOW + 1.0, True, 400, "ab", granted_at=NOW - 60.0, policy_version="2")
    ]


def test_a_part_went_under_the_decision_of_that_moment_about_that_policy() -> None:
    others = [replace(CONSENT, at=NOW), replace(CONSENT, policy_version="3")]
    first, second, third = (
        sent_parts(PLAN.acknowledged(METADATA, NOW + 1.0, consent))[0] for consent in (CONSENT, *others)
    )
    assert sent_under(CONSENT, [first, second, third, first]) == [first, first]
    assert [sent_under(other, [first, second, third]) for other in others] == [[second], [third]]
    assert sent_under(replace(CONSENT, at=NOW, policy_version="3"), [first, second, third]) == []


def test_what_was_made_of_a_recording_is_forgotten_but_for_what_arrived() -> None:
    made = PartFile("x.mp4", 400, "ab")
    plan = PLAN.with_part(replace(VIDEO, file=made, upload_url="/uploads/1"))
    assert plan.derived_names == {"x.mp4"}
    (_, video) = plan.without_files().parts
    assert (video.file, video.upload_url) == (None, None)
    # What has gone of it, in part, can still be shown.
    begun = plan.with_part(replace(plan.parts[1], began_at=NOW, consent=CONSENT)).without_files()
    assert (begun.parts[1].upload_url, [part.sha256 for part in sent_parts(begun)]) == (None, ["ab"])
    arrived = plan.acknowledged(plan.parts[1], NOW, CONSENT)
    assert arrived.derived_names == frozenset()
    assert arrived.without_files().parts[1].file == made
