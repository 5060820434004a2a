"""What is known of a model, from one switch to the next."""

from dataclasses import replace

from sentinel_sync.base.payloads import ModelRelease
from sentinel_sync.models.rules.installed import BadVersion, CommitSchedule, KeptVersion, ModelRecord, StagedVersion


def kept(version: str, live: str = "m.pt") -> KeptVersion:
    return KeptVersion(version, live, 5.0, 100, checksum(version))


def checksum(version: str) -> str:
    return version.removeprefix("v").ljust(64, "0")


def staged(version: str) -> StagedVersion:
    return StagedVersion(ModelRelease(name="m", version=version, size=100, checksum=checksum(version)), "m.pt")


BAD = BadVersion("v2", checksum("v2"), "it crashed", 7.0)


class TestSwitching:
    def test_what_was_in_use_is_what_a_rollback_leads_to(self) -> None:
        record = ModelRecord(
            "m",
            installed=kept("v1"),
            switching_to=kept("v2"),
            staged=staged("v2"),
            next_probation=CommitSchedule(60.0),
            skipped=("v2", "v3"),
            failure="no space",
        ).switched(kept("v1"))
        assert (record.installed, record.previous, record.switching_to) == (kept("v2"), kept("v1"), None)
        assert (record.probation, record.next_probation, record.staged) == (CommitSchedule(60.0), None, None)
        # Asked for again, it is skipped no more; and it went well, so nothing is wrong any more.
        assert (record.skipped, record.failure) == (("v3",), None)
        assert record.kept == (kept("v2"), kept("v1"))

    def test_what_was_staged_meanwhile_stays(self) -> None:
        record = ModelRecord("m", installed=kept("v1"), switching_to=kept("v2"), staged=staged("v3"))
        assert record.switched(kept("v1")).staged == staged("v3")

    def test_a_live_file_of_another_name_is_to_be_taken_away(self) -> None:
        record = ModelRecord("m", installed=kept("v1", "m.pt"), switching_to=kept("v2", "m.onnx"))
        switched = record.switched(kept("v1", "m.pt"))
        assert switched.superseded == ("m.pt",)
        # And back again, before that was done.
        assert replace(switched, switching_to=kept("v1", "m.pt")).switched(None).superseded == ("m.onnx",)

    def test_the_way_back_does_not_lead_to_what_is_bad(self) -> None:
        record = ModelRecord("m", installed=kept("v2"), switching_to=kept("v1"), failure=BAD.reason).marked_bad(BAD)
        switched = record.switched(kept("v2"))
        assert (switched.previous, switched.failure) == (None, "it crashed")


def test_a_pin_is_a_later_word_than_a_rollback() -> None:
    record = ModelRecord("m", skipped=("v2", "v3")).pinned_to("v2")
    assert (record.pinned, record.skipped) == ("v2", ("v3",))
    assert record.pinned_to(None) == ModelRecord("m", skipped=("v3",))


class TestBadVersions:
    def test_bytes_are_bad_whatever_they_are_called(self) -> None:
        record = ModelRecord("m", staged=staged("v2")).marked_bad(BAD)
        assert record.is_bad(checksum("v2"))
        assert not record.is_bad(checksum("v1"))
        assert not record.is_bad(None)
        assert (record.staged, record.failure) == (None, "it crashed")
        assert record.standing.bad == {checksum("v2"): "it crashed"}

    def test_the_same_once_more_is_known_once(self) -> None:
        later = replace(BAD, reason="it crashed again")
        assert ModelRecord("m").marked_bad(BAD).marked_bad(later).bad == (later,)

    def test_another_that_is_staged_stays(self) -> None:
        assert ModelRecord("m", staged=staged("v3")).marked_bad(BAD).staged == staged("v3")


def test_what_was_given_up_is_left_alone_for_an_interval() -> None:
    record = ModelRecord("m", given_up=checksum("v2"), given_up_at=1000.0)
    assert record.is_given_up(checksum("v2"), 1000.0, 60.0)
    assert record.is_given_up(checksum("v2"), 1059.0, 60.0)
    assert not record.is_given_up(checksum("v2"), 1060.0, 60.0)
    assert not record.is_given_up(checksum("v3"), 1001.0, 60.0)
    # A clock that was set back says nothing about when that was.
    assert not record.is_given_up(checksum("v2"), 999.0, 60.0)
