"""Rules for models: names, versions, signatures, rollout, which release to take, how to read a download's answers."""

import base64
from math import nextafter
from random import Random
from typing import Any

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from hypothesis import given
from hypothesis import strategies as st

from sentinel_sync.base.errors import NotNowError, RejectedError, UnreachableError, VerificationError
from sentinel_sync.base.payloads import ModelReason, ModelRelease
from sentinel_sync.cloud.rules.answers import (
    AskForAddress,
    AskForAll,
    IsWhole,
    NotFound,
    PartialFile,
    RetryLater,
    Step,
    TakeBody,
    next_step,
    range_headers,
)
from sentinel_sync.models.rules.installed import CheckSchedule
from sentinel_sync.models.rules.releases import (
    EXTENSIONS,
    ReleaseChoice,
    ReleaseConstraints,
    Trust,
    check_name,
    check_not_bad,
    check_version,
    check_version_allowed,
    choose,
    choose_each,
    in_rollout,
    is_history,
    key_id,
    live_name,
    manifest,
    meant_by,
    newest,
    same_version,
    verify,
    version_order,
    why_not_for,
)

KEY, OTHER_KEY = Ed25519PrivateKey.from_private_bytes(b"k" * 32), Ed25519PrivateKey.from_private_bytes(b"o" * 32)
RAW, OTHER_RAW = KEY.public_key().public_bytes_raw(), OTHER_KEY.public_key().public_bytes_raw()
TRUST = Trust.of([RAW])
CHECKSUM, OTHER_CHECKSUM = "ab" * 32, "cd" * 32


def release(
    name: str = "m", version: str = "v1.0.0", *, by: Ed25519PrivateKey | None = KEY, **more: Any
) -> ModelRelease:
    size, checksum = more.pop("size", 100), more.pop("checksum", CHECKSUM)
    signature = None
    if by is not None:
        signature = base64.b64encode(by.sign(manifest(name, version, size, checksum))).decode()
    return ModelRelease(
        **({"name": name, "version": version, "size": size, "checksum": checksum, "signature": signature} | more)
    )


class TestNames:
    @pytest.mark.parametrize("name", ["yolov8m_automotive", "a", "model-2.1", "Con2", "x" * 128])
    def test_a_plain_name_passes(self, name: str) -> None:
        assert check_name(name, "name") == name

    @pytest.mark.parametrize(
        "name",
        [
            "",
            ".",
            "..",
            "../m",
            "a/b",
            "a\\b",
            ".hidden",
            "-rf",
            "CON",
            "nul.pt",
            "com1",
            "m\n",
            "m\0",
            "ü",
            "x" * 129,
            "m.",
        ],
    )
    def test_what_could_be_a_path_or_a_device_is_refused(self, name: str) -> None:
        with pytest.raises(VerificationError):
            check_name(name, "name")

    @pytest.mark.parametrize(
        ("name", "filename", "live"),
        [
            ("yolov8m_automotive", None, "yolov8m_automotive.pt"),
            ("My_YOLO", None, "My_YOLO.pt"),
            ("gaze", None, "gaze.pth"),
            ("gaze", "export-7.onnx", "gaze.onnx"),
            ("gaze", "GAZE.ENGINE", "gaze.engine"),
        ],
    )
    def test_the_runtime_opens_what_the_contract_says(self, name: str, filename: str | None, live: str) -> None:
        assert live_name(name, filename) == live

    @pytest.mark.parametrize("filename", ["m.exe", "m", "../m.pt", ".pt", "m.pt/", "nul.pt"])
    def test_a_file_name_that_is_none_is_refused(self, filename: str) -> None:
        with pytest.raises(VerificationError):
            live_name("m", filename)

    @pytest.mark.parametrize(
        ("name", "filename", "message"),
        [
            ("ü/m", None, "the model's name '\\xfc/m' is refused: {plain}"),
            ("x" * 129, None, f"the model's name '{'x' * 80}' is refused: {{plain}}"),
            ("m", "../m.pt", "the file name '../m.pt' is refused: {plain}"),
            ("m", "m.exe", "the file name 'm.exe' is refused: {ending}"),
            ("m", "x" * 81, f"the file name '{'x' * 80}' is refused: {{ending}}"),
        ],
    )
    def test_a_refusal_shows_the_start_of_the_name_and_what_one_is_like(
        self, name: str, filename: str | None, message: str
    ) -> None:
        with pytest.raises(VerificationError) as caught:
            live_name(name, filename)
        assert str(caught.value) == message.format(
            plain="letters, digits, dots, dashes and underscores only",
            ending="it must end with .pt .pth .onnx .engine .tflite .safetensors .bin",
        )

    @pytest.mark.parametrize("ending", EXTENSIONS)
    def test_each_ending_of_the_contract_is_kept(self, ending: str) -> None:
        assert live_name("m", f"export-7{ending}") == f"m{ending}"


class TestVersions:
    def test_they_sort_as_releases_follow_each_other(self) -> None:
        ordered = ["v0", "v1.9", "v2.0.0-alpha", "v2.0.0-rc.2", "v2.0.0-rc.10", "v2.0.0-rc.x", "2.0.0", "v2.0.0.1"]
        ordered += ["v2.0.10", "v10"]
        shuffled = Random(1).sample(ordered, len(ordered))
        assert sorted(shuffled, key=version_order) == ordered
        assert newest([None, *shuffled]) == "v10"

    def test_missing_numbers_are_zero_and_build_marks_do_not_count(self) -> None:
        assert version_order("v2.1") == version_order("2.1.0+build.7")
        assert len({version_order(version) for version in ("v2", "2.0", "v2.0.0", "v2.0.0.0")}) == 1

    @pytest.mark.parametrize(
        ("older", "newer"),
        [("v2-alpha", "v2-beta"), ("v2-rc.9", "v2-rc.10"), ("v2-rc", "v2-rc.0"), ("v2-9", "v2-a")],
    )
    def test_what_comes_before_a_release_is_compared_part_by_part(self, older: str, newer: str) -> None:
        assert version_order(older) < version_order(newer)

    def test_a_number_before_a_release_counts_by_its_value(self) -> None:
        assert version_order("v2-rc.01") == version_order("v2-rc.1")

    @pytest.mark.parametrize(
        ("one", "other", "same"),
        [
            ("v2.0", "v2.0.0", True),
            ("v2.0", "2.0.0.0", True),
            ("v2.0", "v2.0.1", False),
            ("v2.0", "v2.0.0-rc1", False),
            ("v2.0+a", "v2.0.0+a", True),
            ("v2.0+a", "v2.0+b", False),
            ("latest", "latest", True),
            ("latest", "v2.0", False),
        ],
    )
    def test_one_version_may_be_written_in_several_ways(self, one: str, other: str, same: bool) -> None:
        assert same_version(one, other) is same_version(other, one) is same
        assert meant_by(one, ["v9", other, None]) == (other if same else one)

    def test_the_newest_of_none_is_none(self) -> None:
        assert newest([]) is None
        assert newest([None, None]) is None

    @pytest.mark.parametrize(
        ("version", "installed", "is_past"),
        [("v1.9", "v2", True), ("v2.0", "v2", True), ("v2.0.0.1", "v2", False), ("v0", None, False)],
    )
    def test_the_past_goes_up_to_what_is_in_use(self, version: str, installed: str | None, is_past: bool) -> None:
        assert is_history(version, installed) is is_past

    @pytest.mark.parametrize("version", ["", "v", "latest", "v1.2.3.4.5", "v1/..", "v1 ", "v1\n", "1.-1", "v1.0-"])
    def test_what_is_none_is_refused(self, version: str) -> None:
        for check in (check_version, version_order):
            with pytest.raises(VerificationError):
                check(version)

    @pytest.mark.parametrize(
        ("version", "shown"), [("latest\n", "'latest\\n'"), ("v" + "9" * 80, "'v" + "9" * 79 + "'")]
    )
    def test_a_refusal_shows_the_start_of_the_version_and_what_one_is_like(self, version: str, shown: str) -> None:
        for check in (check_version, version_order):
            with pytest.raises(VerificationError) as caught:
                check(version)
            assert str(caught.value) == f"the version {shown} is refused: it must be like v2.1.0"


class TestSignatures:
    def test_the_signed_bytes_are_the_contracts(self) -> None:
        # Counted with wc -c, not with the code.
        assert manifest("yölo", "v2.1.0", 7, "ab") == (
            b"DSSEv1 38 application/vnd.sentinel.model.v1+json 60 "
            + '{"checksum":"ab","name":"yölo","size":7,"version":"v2.1.0"}'.encode()
        )

    def test_a_key_is_named_by_its_hash(self) -> None:
        assert key_id(bytes(32)) == "66687aadf862bd77"
        with pytest.raises(ValueError, match="32 bytes"):
            key_id(bytes(31))

    def test_a_genuine_release_passes_with_and_without_its_key_named(self) -> None:
        trust = Trust.of([OTHER_RAW, RAW])
        assert verify(release(), trust) == (key_id(RAW),)
        assert verify(release(key_id=key_id(RAW)), trust) == (key_id(RAW),)

    @pytest.mark.parametrize(
        "changed", [{"name": "n"}, {"version": "v9.0.0"}, {"size": 101}, {"checksum": "cd" * 32}], ids=str
    )
    def test_the_signature_binds_every_field(self, changed: dict[str, Any]) -> None:
        with pytest.raises(VerificationError):
            verify(release().model_copy(update=changed), TRUST)

    @pytest.mark.parametrize(
        "forged",
        [
            release(by=None),
            release(by=OTHER_KEY),
            release(key_id=key_id(OTHER_RAW)),
            release(key_id="nonsense"),
            release(signature=""),
            release(signature="signature..."),
            release(signature=base64.b64encode(bytes(64)).decode()),
            release(signature=base64.b64encode(bytes(63)).decode()),
        ],
    )
    def test_anything_else_is_refused(self, forged: ModelRelease) -> None:
        with pytest.raises(VerificationError):
            verify(forged, TRUST)

    @pytest.mark.parametrize(
        ("forged", "why"),
        [
            (release(by=None), "it is not signed"),
            (release(key_id="nonsense"), "it is signed by a key that is not trusted"),
            (release(by=OTHER_KEY), "the signature is not one of a trusted key over this release"),
            (
                release(by=OTHER_KEY, signatures=[{"signature": "short"}]),
                "the signature is not one of a trusted key over this release",
            ),
            (release(signature=base64.b64encode(bytes(63)).decode()), "its signature is not base64 of 64 bytes"),
            (release(signature=base64.b64encode(bytes(65)).decode()), "its signature is not base64 of 64 bytes"),
            # Python's decoder skips these by itself: one signature would have many spellings.
            (release(signature=f"{release().signature}\n"), "its signature is not base64 of 64 bytes"),
            (release(signature=f"!{release().signature}"), "its signature is not base64 of 64 bytes"),
        ],
    )
    def test_a_refusal_names_the_release_and_the_first_fault(self, forged: ModelRelease, why: str) -> None:
        with pytest.raises(VerificationError) as caught:
            verify(forged, TRUST)
        assert str(caught.value) == f"m v1.0.0 is refused: {why}"

    def test_up_to_32_signatures_are_looked_at(self) -> None:
        others = [{"signature": release().signature, "key_id": f"other{number}"} for number in range(32)]
        assert verify(release(signatures=others[:31]), TRUST) == (key_id(RAW),)
        with pytest.raises(VerificationError) as caught:
            verify(release(signatures=others), TRUST)
        assert str(caught.value) == "m v1.0.0 is refused: it has 33 signatures, more than 32"

    def test_without_a_trusted_key_nothing_passes(self) -> None:
        with pytest.raises(VerificationError, match="model_trusted_keys"):
            verify(release(), Trust.of([]))

    def test_a_revoked_key_counts_no_more(self) -> None:
        for revoked in (key_id(RAW), base64.b64encode(RAW).decode()):
            with pytest.raises(VerificationError):
                verify(release(), Trust.of([RAW], [revoked]))

    def test_as_many_different_keys_as_wanted_must_have_signed(self) -> None:
        other = {"signature": release(by=OTHER_KEY).signature}
        both = release(signatures=[other])
        trust = Trust.of([RAW, OTHER_RAW], threshold=2)
        assert set(verify(both, trust)) == {key_id(RAW), key_id(OTHER_RAW)}
        assert set(verify(release(by=None, signatures=[other, {"signature": release().signature}]), trust)) == {
            key_id(RAW),
            key_id(OTHER_RAW),
        }
        for too_few in (
            release(),
            release(signatures=[{"signature": release().signature}]),
            release(signatures=[{"signature": release().signature, "key_id": key_id(RAW)}]),
            release(signatures=[{"signature": other["signature"], "key_id": key_id(RAW)}]),
        ):
            with pytest.raises(VerificationError, match="2 must"):
                verify(too_few, trust)
        with pytest.raises(VerificationError, match="2 must"):
            verify(both, Trust.of([RAW, OTHER_RAW], [key_id(OTHER_RAW)], threshold=2))

    def test_on_a_bench_unsigned_passes_but_wrongly_signed_does_not(self) -> None:
        assert verify(release(by=None), TRUST, allow_unsigned=True) == ()
        with pytest.raises(VerificationError):
            verify(release(by=OTHER_KEY), TRUST, allow_unsigned=True)


class TestRollout:
    def test_it_is_stable_and_takes_about_its_share(self) -> None:
        def chosen(offered: ModelRelease) -> set[int]:
            return {number for number in range(4000) if in_rollout(offered, f"vehicle_{number}")}

        quarter = chosen(release(rollout=0.25))
        assert 900 < len(quarter) < 1100
        assert quarter == chosen(release(rollout=0.25))
        # Widened, nobody falls out; another version chooses others.
        assert quarter < chosen(release(rollout=0.5))
        assert quarter != chosen(release(version="v2", rollout=0.25))

    @given(st.text(max_size=20))
    def test_the_ends_are_everybody_and_nobody(self, vehicle: str) -> None:
        assert in_rollout(release(rollout=1.0), vehicle)
        assert in_rollout(release(rollout=None), vehicle)
        assert not in_rollout(release(rollout=0.0), vehicle)

    def test_a_vehicle_is_in_from_just_above_its_own_place(self) -> None:
        # The first 53 bits of sha256sum over "vehicle_0\0m\0v1.0.0", as a share.
        place = 0.20509831250123978
        assert not in_rollout(release(rollout=place), "vehicle_0")
        assert in_rollout(release(rollout=nextafter(place, 1.0)), "vehicle_0")

    @pytest.mark.parametrize(
        ("rollout", "vehicle", "why"),
        [
            (None, "vehicle_0", None),
            (1.0, "vehicle_0", None),
            (0.25, "vehicle_0", None),
            (0.25, "vehicle_2", "not for this vehicle: rollout 25 %"),
            (0.205, "vehicle_0", "not for this vehicle: rollout 20.5 %"),
            (0.0, "vehicle_0", "not for this vehicle: rollout 0 %"),
        ],
    )
    def test_who_is_not_in_is_told_the_share(self, rollout: float | None, vehicle: str, why: str | None) -> None:
        assert why_not_for(release(rollout=rollout), vehicle) == why


class TestChoice:
    @pytest.mark.parametrize(
        ("listed", "standing", "taken", "refused"),
        [
            (["v1", "v2"], ReleaseConstraints(), "v2", False),
            (["v1", "v2"], ReleaseConstraints(installed="v1"), "v2", False),
            (["v1", "v2"], ReleaseConstraints(installed="v2"), None, False),
            (["v1"], ReleaseConstraints(installed="v2"), None, False),
            (["v2"], ReleaseConstraints(installed="v1", newest_seen="v3"), None, True),
            (["v3"], ReleaseConstraints(installed="v1", newest_seen="v3"), "v3", False),
            (["v1", "v2", "v3"], ReleaseConstraints(installed="v3", pinned="v2"), "v2", False),
            (["v1", "v2", "v3"], ReleaseConstraints(installed="v2", pinned="v2"), None, False),
            (["v3"], ReleaseConstraints(installed="v2", pinned="v2"), None, False),
            (["v1", "v2"], ReleaseConstraints(installed="v1", newest_seen="v2", skipped=("v2",)), None, False),
            (["v2", "v3"], ReleaseConstraints(installed="v1", newest_seen="v2", skipped=("v2",)), "v3", False),
        ],
    )
    def test_only_what_leads_forward_or_is_pinned(
        self, listed: list[str], standing: ReleaseConstraints, taken: str | None, refused: bool
    ) -> None:
        choice = choose([release(version=one) for one in listed], standing, TRUST, "v", allow_unsigned=False)
        assert (choice.update.version if choice.update else None) == taken
        assert bool(choice.refusals) is refused

    def test_a_forged_newest_neither_is_taken_nor_hides_the_genuine_one(self) -> None:
        listed = [release(version="v9", by=OTHER_KEY), release(version="v2"), release(name="../m")]
        choice = choose(listed, ReleaseConstraints(), TRUST, "v", allow_unsigned=False)
        assert choice.update is not None
        assert (choice.update.version, choice.newest_seen, len(choice.refusals)) == ("v2", "v2", 2)

    def test_who_is_not_in_the_rollout_takes_the_one_before(self) -> None:
        choice = choose(
            [release(version="v3", rollout=0.0), release(version="v2")],
            ReleaseConstraints(),
            TRUST,
            "v",
            allow_unsigned=False,
        )
        assert choice.update is not None
        assert (choice.update.version, choice.newest_seen) == ("v2", "v2")

    def test_what_is_pinned_is_taken_whatever_the_rollout(self) -> None:
        listed = [release(version="v3", rollout=0.0), release(version="v2")]
        choice = choose(listed, ReleaseConstraints(pinned="v3"), TRUST, "v", allow_unsigned=False)
        assert choice.update == listed[0]

    @pytest.mark.parametrize(
        ("listed", "standing", "taken"),
        [
            (["v1.0.0", "v2.0.0", "v3.0.0"], ReleaseConstraints(installed="v3.0.0", pinned="v2.0"), "v2.0.0"),
            (["2.0.0"], ReleaseConstraints(pinned="v2"), "2.0.0"),
            (["v2.0.0-rc.1", "v2.0.0"], ReleaseConstraints(pinned="v2-rc.01"), "v2.0.0-rc.1"),
            # What is written just so goes first, wherever it stands; what is in use under another name stays.
            (["v2.0.0", "v2.0"], ReleaseConstraints(pinned="v2.0"), "v2.0"),
            (["v2.0.0", "v2.0"], ReleaseConstraints(installed="v2.0", pinned="v2.0"), None),
            (["v2.0.0", "2.0"], ReleaseConstraints(installed="2.0", pinned="v2"), None),
            (["v2.0.0"], ReleaseConstraints(installed="v2", pinned="v2.0"), None),
            # Builds have other bytes, and what is no version is compared as it is written.
            (["v2.0.0+cuda"], ReleaseConstraints(pinned="v2.0.0"), None),
            (["v2.0+cuda"], ReleaseConstraints(pinned="v2.0.0+cuda"), "v2.0+cuda"),
            (["v2.0.0"], ReleaseConstraints(pinned="stable"), None),
        ],
    )
    def test_a_pin_means_the_version_however_it_is_written(
        self, listed: list[str], standing: ReleaseConstraints, taken: str | None
    ) -> None:
        offered = [release(version=one, rollout=0.0) for one in listed]
        choice = choose(offered, standing, TRUST, "v", allow_unsigned=False)
        assert (choice.update.version if choice.update else None) == taken
        assert choice.refusals == ()

    def test_the_same_version_again_is_no_update(self) -> None:
        with pytest.raises(VerificationError, match="not newer"):
            check_version_allowed("m", "v2.0", ReleaseConstraints(installed="v2.0.0"))

    @pytest.mark.parametrize(
        ("standing", "why"),
        [
            (ReleaseConstraints(pinned="v1"), "the operator has pinned v1"),
            (ReleaseConstraints(installed="v2.0", newest_seen="v3"), "it is not newer than v2.0, in use"),
            (ReleaseConstraints(newest_seen="v2.0.0.1"), "v2.0.0.1 was offered before: a listing from the past?"),
        ],
    )
    def test_a_refused_version_is_told_what_stands_against_it(self, standing: ReleaseConstraints, why: str) -> None:
        with pytest.raises(VerificationError) as caught:
            check_version_allowed("m", "v2", standing)
        assert str(caught.value) == f"m v2 is refused: {why}"

    def test_what_was_found_bad_is_refused_even_when_pinned_and_says_how_to_clear_it(self) -> None:
        standing = ReleaseConstraints(pinned="v1.0.0", bad={CHECKSUM: "it crashed"})
        with pytest.raises(VerificationError) as caught:
            check_not_bad(release(), standing)
        assert str(caught.value) == (
            "m v1.0.0 is refused: it was found bad on this vehicle (it crashed); to try it again,"
            " clear it first (models clear-bad)"
        )
        check_not_bad(release(checksum=OTHER_CHECKSUM), standing)

    @pytest.mark.parametrize(
        ("listed", "standing", "taken", "refused", "last"),
        [
            # A listing without the model says nothing: it is not one that ends too early.
            ([], ReleaseConstraints(newest_seen="v3"), None, None, None),
            (["v3"], ReleaseConstraints(installed="v3.0", newest_seen="v3"), None, None, None),
            (["v2"], ReleaseConstraints(installed="v2", newest_seen="v3"), None, None, "v2"),
            (["v2"], ReleaseConstraints(installed="v1", newest_seen="v3"), None, "v2", "v2"),
            (["v2"], ReleaseConstraints(installed="v1", newest_seen="v3", pinned="v2"), "v2", None, "v2"),
            (["v2", "v3"], ReleaseConstraints(installed="v1", pinned="v2"), "v2", None, None),
            # What is skipped was offered all the same: what is older is the past.
            (["v2", "v3"], ReleaseConstraints(installed="v1", skipped=("v3",)), None, "v2", None),
        ],
    )
    def test_a_choice_tells_what_was_seen_refused_and_withdrawn(
        self, listed: list[str], standing: ReleaseConstraints, taken: str | None, refused: str | None, last: str | None
    ) -> None:
        past, gone = "was offered before: a listing from the past?", "withdrawn, or a listing from the past"
        choice = choose([release(version=one) for one in listed], standing, TRUST, "v", allow_unsigned=False)
        assert choice == ReleaseChoice(
            update=release(version=taken) if taken else None,
            newest_seen="v3",
            refusals=(f"m {refused} is refused: v3 {past}",) if refused else (),
            withdrawn=f"v3 was offered before, and now nothing newer than {last}: {gone}" if last else None,
            refused={refused: ModelReason.OPERATOR if standing.skipped else None} if refused else {},
        )

    def test_what_is_bad_does_not_hide_what_is_pinned(self) -> None:
        listed = [release(version="v3", checksum=OTHER_CHECKSUM), release(version="v2")]
        standing = ReleaseConstraints(installed="v1", pinned="v2", bad={OTHER_CHECKSUM: "it crashed"})
        choice = choose(listed, standing, TRUST, "v", allow_unsigned=False)
        assert choice == ReleaseChoice(listed[1], "v3", ())

    def test_what_is_not_genuine_is_refused_by_its_own_fault(self) -> None:
        listed = [release(by=None), release(version="latest"), release(filename="m.exe"), release(by=OTHER_KEY)]
        choice = choose(listed, ReleaseConstraints(), TRUST, "v", allow_unsigned=False)
        assert choice == ReleaseChoice(
            None,
            None,
            (
                "m v1.0.0 is refused: it is not signed",
                "the version 'latest' is refused: it must be like v2.1.0",
                "the file name 'm.exe' is refused: it must end with .pt .pth .onnx .engine .tflite .safetensors .bin",
                "m v1.0.0 is refused: the signature is not one of a trusted key over this release",
            ),
            refused={"v1.0.0": None},
        )

    @pytest.mark.parametrize(
        ("listed", "standing", "refused"),
        [
            ([release(version="v2", by=OTHER_KEY)], ReleaseConstraints(), {"v2": None}),
            ([release(version="v2", by=OTHER_KEY), release(version="v3")], ReleaseConstraints(), {"v2": None}),
            # Signed by a key that was rotated away since, and in use or left behind: that is no news.
            ([release(version="v2", by=OTHER_KEY)], ReleaseConstraints(installed="v2.0.0"), {}),
            ([release(version="v2", by=OTHER_KEY)], ReleaseConstraints(installed="v3"), {}),
            ([release(version="v2", by=OTHER_KEY), release(version="v2")], ReleaseConstraints(), {}),
            # What is no name or version could be anything, and is told nobody.
            ([release(version="driver_123", by=OTHER_KEY)], ReleaseConstraints(), {}),
            ([release("../m", version="v2", by=OTHER_KEY)], ReleaseConstraints(), {}),
        ],
    )
    def test_a_refused_version_is_named_where_it_is_news_and_is_one(
        self, listed: list[ModelRelease], standing: ReleaseConstraints, refused: dict[str, None]
    ) -> None:
        assert choose(listed, standing, TRUST, "v", allow_unsigned=False).refused == refused

    @pytest.mark.parametrize(("vehicle", "is_in"), [("vehicle_0", True), ("vehicle_2", False)])
    def test_the_rollout_is_the_vehicles_own(self, vehicle: str, is_in: bool) -> None:
        offered = release(rollout=0.5)
        choice = choose([offered], ReleaseConstraints(), TRUST, vehicle, allow_unsigned=False)
        assert choice == (ReleaseChoice(offered, "v1.0.0", ()) if is_in else ReleaseChoice(None, None, ()))

    @pytest.mark.parametrize("allow_unsigned", [True, False])
    def test_each_model_is_chosen_for_by_what_is_known_of_it(self, allow_unsigned: bool) -> None:
        first, second = release(version="v1"), release(version="v2")
        new, unsigned, forged = release("new", rollout=0.5), release("bench", by=None), release("forged", by=OTHER_KEY)
        assert choose_each(
            [first, new, unsigned, forged, second],
            {"m": ReleaseConstraints(installed="v2")},
            TRUST,
            "vehicle_1",
            allow_unsigned=allow_unsigned,
        ) == {
            "m": ReleaseChoice(None, "v2", ()),
            "new": ReleaseChoice(new, "v1.0.0", ()),
            "bench": ReleaseChoice(unsigned, "v1.0.0", ())
            if allow_unsigned
            else ReleaseChoice(None, None, ("bench v1.0.0 is refused: it is not signed",), refused={"v1.0.0": None}),
            "forged": ReleaseChoice(
                None,
                None,
                ("forged v1.0.0 is refused: the signature is not one of a trusted key over this release",),
                refused={"v1.0.0": None},
            ),
        }


class TestTransfer:
    @pytest.mark.parametrize(
        ("progress", "headers"),
        [
            (PartialFile(), {}),
            (PartialFile(5, '"a"'), {"Range": "bytes=5-", "If-Range": '"a"'}),
            (PartialFile(5, 'W/"a"'), {"Range": "bytes=5-"}),
            (PartialFile(5), {"Range": "bytes=5-"}),
        ],
    )
    def test_the_rest_is_asked_for(self, progress: PartialFile, headers: dict[str, str]) -> None:
        assert range_headers(progress) == {"Accept-Encoding": "identity"} | headers

    @pytest.mark.parametrize(
        ("status", "headers", "progress", "step"),
        [
            (200, {"Content-Length": "10", "ETag": '"a"'}, PartialFile(), TakeBody(0, '"a"')),
            (200, {}, PartialFile(4, '"a"'), TakeBody(0, None)),
            (200, {"Content-Length": "11"}, PartialFile(), RetryLater("offers 11 bytes, where 10 are signed")),
            (200, {"Content-Type": "text/html; charset=utf-8"}, PartialFile(4), RetryLater("")),
            (200, {"Content-Encoding": "gzip"}, PartialFile(), RetryLater("")),
            (206, {"Content-Range": "bytes 4-9/10", "ETag": '"a"'}, PartialFile(4, '"a"'), TakeBody(4, '"a"')),
            (206, {"Content-Range": "bytes 4-9/10"}, PartialFile(4, '"a"'), TakeBody(4, '"a"')),
            (206, {"Content-Range": "bytes 4-6/*"}, PartialFile(4), TakeBody(4, None)),
            # If-Range was ignored: the file is another one.
            (206, {"Content-Range": "bytes 4-9/10", "ETag": '"b"'}, PartialFile(4, '"a"'), AskForAll()),
            (206, {"Content-Range": "bytes 0-9/10", "ETag": '"a"'}, PartialFile(4, '"a"'), AskForAll()),
            (206, {"Content-Range": "bytes 4-9/12"}, PartialFile(4), AskForAll()),
            (206, {"Content-Range": "bytes 4-3/10"}, PartialFile(4), AskForAll()),
            (206, {}, PartialFile(4), AskForAll()),
            (
                206,
                {"Content-Range": "bytes 0-11/12"},
                PartialFile(),
                RetryLater("offers 12 bytes, where 10 are signed"),
            ),
            (416, {}, PartialFile(10), IsWhole()),
            (416, {}, PartialFile(4), AskForAll()),
            (416, {}, PartialFile(), NotFound("")),
            (403, {}, PartialFile(4), AskForAddress()),
            (410, {}, PartialFile(4), AskForAddress()),
            (404, {}, PartialFile(4), NotFound("")),
            (401, {}, PartialFile(4), NotFound("")),
            (429, {}, PartialFile(4), RetryLater("")),
            (503, {}, PartialFile(4), RetryLater("")),
        ],
    )
    def test_every_answer_has_its_meaning(
        self, status: int, headers: dict[str, str], progress: PartialFile, step: Step
    ) -> None:
        found = next_step(status, headers, progress, 10)
        if isinstance(found, RetryLater | NotFound):
            assert type(found) is type(step)
        else:
            assert found == step

    @given(
        st.integers(200, 599),
        st.fixed_dictionaries(
            {},
            optional={
                "Content-Range": st.from_regex(r"bytes [0-9]{1,3}-[0-9]{1,3}/[0-9*]{1,3}", fullmatch=True),
                "ETag": st.sampled_from(['"a"', '"b"']),
                "Content-Length": st.from_regex(r"[0-9]{1,3}", fullmatch=True),
            },
        ),
        st.integers(0, 10),
        st.sampled_from([None, '"a"']),
    )
    def test_bytes_are_only_ever_put_where_they_belong(
        self, status: int, headers: dict[str, str], offset: int, etag: str | None
    ) -> None:
        step = next_step(status, headers, PartialFile(offset, etag), 10)
        if isinstance(step, TakeBody):
            assert step.offset in {0, offset}
            assert status == (200 if step.offset != offset else status)
        if isinstance(step, AskForAll):
            assert offset > 0


class TestSchedule:
    def test_checks_come_about_once_an_interval_across_restarts(self) -> None:
        for seed in range(50):
            wait = CheckSchedule(86_400.0, Random(seed)).due_in(1_000_000.0, 0.0, 1_000_000.0)
            assert 0.9 * 86_400.0 <= wait <= 1.1 * 86_400.0
        assert CheckSchedule(86_400.0, Random(1)).due_in(1_000_000.0, 0.0, None) == 0.0
        assert CheckSchedule(86_400.0, Random(1)).due_in(1_000_000.0, 0.0, 1_100_000.0) == 0.0
        assert CheckSchedule(86_400.0, Random(1)).due_in(1_100_000.0, 0.0, 1_000_000.0) == 0.0

    def test_failures_are_tried_again_ever_later(self) -> None:
        schedule = CheckSchedule(86_400.0, Random(3))
        waits = []
        for _ in range(30):
            schedule.failed(NotNowError("503"), 0.0)
            waits.append(schedule.due_in(0.0, 0.0, 0.0))
        assert waits[0] <= 30.0
        assert max(waits) > 1800.0
        assert max(waits) <= 3600.0
        schedule.succeeded()
        assert schedule.due_in(10.0, 0.0, 10.0) > 70_000.0

    def test_a_backend_without_models_is_asked_once_an_interval(self) -> None:
        schedule = CheckSchedule(86_400.0, Random(3))
        schedule.failed(RejectedError("404", status=404), 0.0)
        assert schedule.due_in(0.0, 0.0, None) > 70_000.0
        assert not schedule.may_try(0.0, 3600.0, None)

    def test_whoever_says_that_the_network_is_back_is_believed(self) -> None:
        schedule = CheckSchedule(86_400.0, Random(3))
        for _ in range(10):
            schedule.failed(UnreachableError("no route"), 0.0)
        assert schedule.due_in(0.0, 2.0, None) > 0.0
        assert schedule.may_try(0.0, 2.0, None)
