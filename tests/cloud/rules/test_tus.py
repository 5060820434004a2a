"""tus, answer by answer: what is offered, what goes next, and where a conversation ends that leads nowhere."""

from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sentinel_sync.cloud.rules.tus import (
    ABOUT_THE_UPLOAD,
    CAREFUL_BYTES,
    LARGEST_BYTES,
    NOT_OFFERED,
    SMALLEST_BYTES,
    Arrived,
    AskAgainLater,
    AskOffset,
    Create,
    Damaged,
    GiveUp,
    PatchSize,
    SendFrom,
    TooLarge,
    TusOffer,
    TusState,
    WaitForLock,
    creation_headers,
    offer_of,
    patch_headers,
)

TUS = {"Tus-Resumable": "1.0.0", "Tus-Extension": "creation"}
LENGTH = 1000


def at(offset: Any, length: Any = LENGTH) -> dict[str, str]:
    return {"Upload-Offset": str(offset), "Upload-Length": str(length)}


class TestOffer:
    @pytest.mark.parametrize(
        ("status", "headers", "offer"),
        [
            (204, TUS, TusOffer()),
            (200, TUS, TusOffer()),
            (204, TUS | {"Tus-Extension": "termination, creation,expiration"}, TusOffer()),
            (204, TUS | {"Tus-Extension": "termination,creation-with-upload"}, None),
            (204, {"Tus-Resumable": "1.0.0"}, None),
            (204, {"Tus-Extension": "creation"}, None),
            (204, TUS | {"Tus-Resumable": "0.2.2"}, None),
            (204, TUS | {"Tus-Resumable": "1.0.0, 0.2.2"}, None),
            (199, TUS, None),
            (299, TUS, TusOffer()),
            (300, TUS, None),
            (405, TUS, None),
            (404, {}, None),
            (501, {}, None),
            (200, {"Content-Type": "text/html"}, None),
            (204, TUS | {"Tus-Max-Size": "1000"}, TusOffer(largest=1000)),
            (204, TUS | {"Tus-Max-Size": "0"}, TusOffer()),
            (204, TUS | {"Tus-Max-Size": "much"}, TusOffer()),
            (204, TUS | {"Tus-Max-Size": "9" * 18}, TusOffer(largest=10**18 - 1)),
            (204, TUS | {"Tus-Max-Size": "1" + "0" * 18}, TusOffer()),
            (204, TUS | {"Accept-Encoding": "gzip"}, TusOffer(takes_gzip=True)),
            (204, TUS | {"Accept-Encoding": "br, gzip;q=0.5"}, TusOffer(takes_gzip=True)),
            (204, TUS | {"Accept-Encoding": "br"}, TusOffer()),
        ],
    )
    def test_is_read_as_the_contract_says(self, status: int, headers: dict[str, str], offer: TusOffer | None) -> None:
        assert offer_of(status, headers) == offer

    @pytest.mark.parametrize(
        ("extensions", "algorithms", "algorithm"),
        [
            ("creation,checksum", "sha1,sha256", "sha256"),
            ("creation,checksum", "md5, SHA1", "sha1"),
            ("creation,checksum", "md5,crc32", None),
            ("creation,checksum", "", None),
            ("creation", "sha1,sha256", None),
        ],
    )
    def test_of_checksums_is_taken_where_one_is_known(
        self, extensions: str, algorithms: str, algorithm: str | None
    ) -> None:
        headers = TUS | {"Tus-Extension": extensions, "Tus-Checksum-Algorithm": algorithms}
        assert offer_of(204, headers) == TusOffer(algorithm)

    @pytest.mark.parametrize(
        ("offer", "size", "encoding", "taken"),
        [
            (TusOffer(), 1 << 40, None, True),
            (TusOffer(largest=1000), 1000, None, True),
            (TusOffer(largest=1000), 1001, None, False),
            (TusOffer(), 10, "gzip", False),
            (TusOffer(takes_gzip=True), 10, "gzip", True),
            (TusOffer(takes_gzip=True), 10, "br", False),
        ],
    )
    def test_says_what_can_come_so(self, offer: TusOffer, size: int, encoding: str | None, taken: bool) -> None:
        assert offer.takes(size, encoding) is taken

    def test_not_now_is_no_no(self) -> None:
        assert {400, 403, 404, 405, 501} <= NOT_OFFERED
        assert not {408, 425, 429, 500, 502, 503, 504} & NOT_OFFERED


class TestHeaders:
    def test_of_a_creation(self) -> None:
        metadata = {"filename": "straße.mp4", "filetype": "video/mp4"}
        assert creation_headers(5, metadata) == {
            "Tus-Resumable": "1.0.0",
            "Upload-Length": "5",
            "Upload-Metadata": "filename c3RyYcOfZS5tcDQ=,filetype dmlkZW8vbXA0",
        }

    def test_of_a_patch(self) -> None:
        plain = patch_headers(7, 3, None)
        assert plain == {
            "Tus-Resumable": "1.0.0",
            "Upload-Offset": "7",
            "Content-Type": "application/offset+octet-stream",
            "Content-Length": "3",
        }
        assert patch_headers(7, 3, ("sha1", b"\0" * 3)) == plain | {"Upload-Checksum": "sha1 AAAA"}


class TestTheStraightWay:
    def test_create_send_arrive(self) -> None:
        upload = TusState(LENGTH, None)
        assert upload.next_step() == Create()
        upload.created("u1")
        assert upload.is_new
        assert upload.next_step() == SendFrom(0)
        assert upload.patched(600, 204, at(600)) is None
        assert upload.next_step() == SendFrom(600)
        assert upload.patched(400, 204, at(LENGTH)) is None
        assert upload.next_step() == Arrived()

    def test_one_that_was_begun_is_asked_about_first(self) -> None:
        upload = TusState(LENGTH, "u1")
        assert not upload.is_new
        assert upload.next_step() == AskOffset()
        assert upload.asked(200, at(300)) is None
        assert upload.next_step() == SendFrom(300)

    @pytest.mark.parametrize("status", [200, 204])
    def test_one_that_is_whole_needs_nothing_more(self, status: int) -> None:
        upload = TusState(LENGTH, "u1")
        upload.asked(status, at(LENGTH))
        assert upload.next_step() == Arrived()

    def test_a_server_need_not_repeat_the_length(self) -> None:
        upload = TusState(LENGTH, "u1")
        upload.asked(200, {"Upload-Offset": "1"})
        assert upload.next_step() == SendFrom(1)

    def test_a_server_may_take_less_than_was_sent(self) -> None:
        upload = TusState(LENGTH, None)
        upload.created("u1")
        upload.patched(500, 204, at(123))
        assert upload.next_step() == SendFrom(123)

    @pytest.mark.parametrize("status", [200, 204, 299])
    def test_any_success_says_where_it_stands(self, status: int) -> None:
        upload = TusState(LENGTH, "u1")
        assert upload.asked(status, at(5)) is None
        assert upload.patched(10, status, at(15)) is None
        assert upload.next_step() == SendFrom(15)

    @pytest.mark.parametrize("status", [199, 300, 412, 500, 503])
    def test_what_is_not_about_the_upload_ends_the_attempt_and_leaves_it_as_it_was(self, status: int) -> None:
        upload = TusState(LENGTH, "u1")
        assert upload.asked(status, at(5)) == AskAgainLater(f"answered {status}")
        assert upload.next_step() == AskOffset()
        upload.asked(200, at(5))
        assert upload.patched(10, status, at(15)) == AskAgainLater(f"answered {status}")
        assert (upload.next_step(), upload.address) == (SendFrom(5), "u1")

    def test_after_a_cut_the_server_is_asked_what_arrived(self) -> None:
        upload = TusState(LENGTH, None)
        upload.created("u1")
        upload.cut()
        assert upload.next_step() == AskOffset()
        upload.asked(200, at(7))
        assert upload.next_step() == SendFrom(7)


class TestWhatIsGone:
    @pytest.mark.parametrize("status", [401, 403, 404, 410])
    def test_is_created_anew(self, status: int) -> None:
        upload = TusState(LENGTH, "u1")
        assert upload.asked(status, {}) is None
        assert (upload.next_step(), upload.address) == (Create(), None)
        upload.created("u2")
        assert upload.patched(10, status, {}) is None
        assert upload.next_step() == Create()

    def test_an_address_that_led_nowhere_is_asked_for_under_another_key(self) -> None:
        upload = TusState(LENGTH, "u1")
        upload.asked(404, {})
        upload.created("u1")
        assert upload.next_step() == Create(instead_of="u1")
        upload.created("u2")
        assert upload.next_step() == SendFrom(0)

    def test_is_not_created_for_ever(self) -> None:
        upload = TusState(LENGTH, "u0")
        upload.asked(404, {})
        for number in range(1, 4):
            assert upload.next_step() == Create()
            upload.created(f"u{number}")
            upload.patched(10, 404, {})
        assert upload.next_step() == GiveUp("the upload is gone (answered 404)")

    @pytest.mark.parametrize("status", [401, 403, 404, 410, 405, 501])
    def test_is_given_up_with_the_status_that_told_so_when_asked(self, status: int) -> None:
        upload = TusState(LENGTH, None)
        for number in range(3):
            assert upload.next_step() == Create()
            upload.created(f"u{number}")
            upload.cut()
            assert upload.asked(status, {}) is None
        assert upload.next_step() == GiveUp(f"the upload is gone (answered {status})")


class TestWhatCannotBe:
    @pytest.mark.parametrize(
        ("headers", "why"),
        [
            (at(1001), "it says that '1001' of 1000 bytes are there"),
            (at("-1"), "it says that '-1' of 1000 bytes are there"),
            (at("1e3"), "it says that '1e3' of 1000 bytes are there"),
            (at(10**40), "it says that '10000000000000000000' of 1000 bytes are there"),
            ({"Upload-Length": "1000"}, "it says that '' of 1000 bytes are there"),
            (at(5, 10**40), "it takes the part for '10000000000000000000' bytes long, not 1000"),
            (at(5, 999), "it takes the part for '999' bytes long, not 1000"),
            (at(5, ""), "it takes the part for '' bytes long, not 1000"),
        ],
    )
    def test_is_no_upload_of_this_part(self, headers: dict[str, str], why: str) -> None:
        upload = TusState(LENGTH, "u0")
        upload.asked(200, headers)
        for number in range(1, 4):
            assert upload.next_step() == Create()
            upload.created(f"u{number}")
            upload.patched(1, 409, {})
            upload.asked(200, headers)
        assert upload.next_step() == GiveUp(why)

    @pytest.mark.parametrize("said", ["600", "500", "400", "1000", "0", "x", "99999"])
    def test_after_a_patch_is_asked_about(self, said: str) -> None:
        upload = TusState(LENGTH, "u1")
        upload.asked(200, at(500))
        assert upload.patched(99, 204, at(said)) is None
        assert upload.next_step() == AskOffset()

    def test_going_back_is_believed(self) -> None:
        upload = TusState(LENGTH, "u1")
        upload.asked(200, at(500))
        upload.patched(100, 409, {})
        upload.asked(200, at(200))
        assert upload.next_step() == SendFrom(200)


class TestWhatLeadsNowhere:
    """One fruitless answer is a PATCH whose offset cannot be, or a HEAD that says what is known already."""

    @staticmethod
    def four_fruitless_answers(upload: TusState, offset: int) -> None:
        for _ in range(2):
            assert upload.next_step() == SendFrom(offset)
            assert upload.patched(100, 204, at(offset)) is None
            assert upload.next_step() == AskOffset()
            assert upload.asked(200, at(offset)) is None
        assert upload.next_step() == SendFrom(offset)

    @pytest.mark.parametrize(
        ("headers", "said"),
        [(at(0), "0"), ({}, ""), (at(101), "101"), (at(10**40), "10000000000000000000")],
    )
    def test_the_fifth_fruitless_answer_in_a_row_ends_each_of_three_uploads_and_says_why(
        self, headers: dict[str, str], said: str
    ) -> None:
        upload = TusState(LENGTH, None)
        for number in range(3):
            assert upload.next_step() == Create()
            upload.created(f"u{number}")
            self.four_fruitless_answers(upload, 0)
            assert upload.patched(100, 204, headers) is None
        assert upload.next_step() == GiveUp(f"after bytes 0 to 100 it says that it has '{said}'")

    @pytest.mark.parametrize("offset", [0, 1, 500])
    def test_the_first_word_on_an_upload_that_was_begun_is_not_fruitless(self, offset: int) -> None:
        upload = TusState(LENGTH, "u1")
        upload.asked(200, at(offset))
        self.four_fruitless_answers(upload, offset)
        upload.patched(100, 204, at(offset))
        assert upload.next_step() == Create()

    def test_a_single_byte_more_begins_the_count_anew(self) -> None:
        upload = TusState(LENGTH, None)
        upload.created("u1")
        for offset in range(3):
            self.four_fruitless_answers(upload, offset)
            upload.patched(100, 204, at(offset + 1))
        self.four_fruitless_answers(upload, 3)

    def test_the_first_byte_of_a_new_upload_is_an_advance(self) -> None:
        upload = TusState(LENGTH, None)
        upload.created("u1")
        upload.patched(100, 204, at(1))
        self.four_fruitless_answers(upload, 1)

    def test_four_times_the_length_and_a_mebibyte_may_be_sent_and_not_a_byte_more(self) -> None:
        length = 1 << 20
        upload = TusState(length, None)
        upload.created("u1")
        for _ in range(3):
            upload.patched(length, 460, {})
        upload.patched(length, 204, {"Upload-Offset": "1"})
        for size in (length - 1, 1):
            upload.patched(size, 460, {})
            assert upload.next_step() == SendFrom(1)
        upload.patched(1, 460, {})
        assert upload.next_step() == GiveUp("it has 1 of 1048576 bytes, after 5242881 were sent")


def never_advances(upload: TusState) -> None:
    upload.patched(100, 204, at(0))


def says_conflict(upload: TusState) -> None:
    upload.patched(100, 409, at(0))


def takes_a_byte(upload: TusState) -> None:
    step = upload.next_step()
    assert isinstance(step, SendFrom)
    upload.patched(LENGTH - step.offset, 204, at(step.offset + 1))


def goes_to_and_fro(upload: TusState) -> None:
    step = upload.next_step()
    assert isinstance(step, SendFrom)
    upload.patched(LENGTH - step.offset, 204, at(step.offset + 2))
    upload.patched(1, 409, {})
    upload.asked(200, at(step.offset + 1))


@pytest.mark.parametrize("answer", [never_advances, says_conflict, takes_a_byte, goes_to_and_fro])
def test_no_server_keeps_it_busy_for_ever(answer: Callable[[TusState], None]) -> None:
    upload = TusState(1 << 20, None)
    for turn in range(20_000):
        match upload.next_step():
            case Create():
                upload.created(f"u{turn}")
            case AskOffset():
                upload.asked(200, {"Upload-Offset": "0"})
            case SendFrom():
                answer(upload)
            case WaitForLock(seconds):
                assert 1.0 <= seconds <= 30.0
                upload.waited()
            case GiveUp(reason):
                assert reason
                return
    pytest.fail("it goes on and on")


@given(
    st.lists(
        st.tuples(
            st.sampled_from([200, 204, *ABOUT_THE_UPLOAD]),
            st.one_of(st.none(), st.integers(-10, 2000).map(str), st.text(max_size=5)),
            st.integers(1, LENGTH),
        ),
        max_size=300,
    )
)
def test_whatever_is_answered_the_offset_stays_within_the_part(answers: list[tuple[int, str | None, int]]) -> None:
    upload = TusState(LENGTH, None)
    for number, (status, offset, size) in enumerate(answers):
        headers = {} if offset is None else {"Upload-Offset": offset}
        match upload.next_step():
            case Create():
                upload.created(f"u{number}")
            case AskOffset():
                upload.asked(status, headers)
            case SendFrom(begin):
                assert 0 <= begin < LENGTH
                if isinstance(upload.patched(min(size, LENGTH - begin), status, headers), Damaged):
                    return
            case Arrived() | GiveUp():
                return


class TestDamage:
    def test_the_same_bytes_go_again(self) -> None:
        upload = TusState(LENGTH, None)
        upload.created("u1")
        for _ in range(3):
            assert upload.patched(100, 460, {}) is None
            assert upload.next_step() == SendFrom(0)
        assert upload.patched(100, 460, {}) == Damaged("bytes 0 to 100 do not arrive as they were sent (answered 460)")

    def test_what_arrives_whole_in_between_begins_the_count_anew(self) -> None:
        upload = TusState(LENGTH, None)
        upload.created("u1")
        for offset in range(0, 900, 100):
            for _ in range(3):
                assert upload.patched(100, 460, {}) is None
            upload.patched(100, 204, at(offset + 100))
        assert upload.next_step() == SendFrom(900)

    def test_each_upload_has_a_count_of_its_own(self) -> None:
        upload = TusState(LENGTH, None)
        upload.created("u1")
        assert [upload.patched(100, 460, {}) for _ in range(3)] == [None] * 3
        upload.patched(100, 404, {})
        upload.created("u2")
        assert [upload.patched(100, 460, {}) for _ in range(3)] == [None] * 3
        assert isinstance(upload.patched(100, 460, {}), Damaged)


def test_each_of_three_uploads_that_are_held_is_waited_for_ever_longer_and_then_that_is_the_reason() -> None:
    upload = TusState(LENGTH, None)
    for number in range(3):
        assert upload.next_step() == Create()
        upload.created(f"u{number}")
        upload.cut()
        waits = []
        while upload.next_step() == AskOffset():
            assert upload.asked(423, {}) is None
            if isinstance(step := upload.next_step(), WaitForLock):
                waits.append(step.seconds)
                upload.waited()
        assert waits == [1.0, 1.0, 2.0, 4.0, 8.0, 16.0, 30.0, 30.0, 28.0]
    assert upload.next_step() == GiveUp("an earlier request still holds the upload")


@pytest.mark.parametrize("ask", [True, False])
def test_an_upload_that_is_still_held_is_waited_for_two_minutes_in_all(ask: bool) -> None:
    upload, waited, sent = TusState(LENGTH, "u1"), 0.0, 0
    for _ in range(60):
        match upload.next_step():
            case AskOffset():
                assert upload.asked(423 if ask else 200, at(5)) is None
            case SendFrom(offset):
                assert offset == 5
                sent += 1
                assert upload.patched(10, 423, {}) is None
            case WaitForLock(seconds):
                waited += seconds
                upload.waited()
            case Create():
                break
    assert waited == 120.0
    assert sent <= 10


def test_a_conflict_that_the_offset_explains_is_no_lock() -> None:
    upload = TusState(LENGTH, "u1")
    upload.asked(200, at(5))
    upload.patched(10, 409, {})
    assert upload.next_step() == AskOffset()
    upload.asked(200, at(8))
    assert upload.next_step() == SendFrom(8)


def test_a_piece_that_is_too_large_is_no_fault_of_the_upload() -> None:
    upload, size = TusState(LENGTH, "u1"), PatchSize()
    upload.asked(200, at(5))
    assert upload.patched(10, 413, {}) == TooLarge()
    assert upload.next_step() == SendFrom(5)
    sizes = []
    while size.was_too_large(size.next_bytes()):
        sizes.append(size.next_bytes())
    assert sizes == [1 << n for n in range(19, 15, -1)]
    size.went_through(sizes[-1], 0.001)
    assert size.next_bytes() == sizes[-1], "what passed is remembered"


def test_pieces_shrink_while_nothing_arrives_and_grow_again() -> None:
    size, sent = PatchSize(), 0
    for _ in range(12):
        sent += size.next_bytes()
        size.won_nothing(size.next_bytes())
    assert sent <= 2 * (1 << 20) + 8 * (64 << 10)
    assert size.next_bytes() == 64 << 10
    for _ in range(6):
        size.went_through(size.next_bytes(), 0.001)
    assert size.next_bytes() > 1 << 20


@pytest.mark.parametrize(
    ("ceiling", "first", "refused", "left"),
    [
        (None, 1 << 20, 200_001, 100_000),
        (2 << 20, 1 << 20, 200_001, 100_000),
        (100_001, 100_001, 100_001, 65_536),
        (1, 65_536, 65_537, 65_536),
    ],
)
def test_a_ceiling_that_was_seen_earlier_holds_from_the_first_piece_and_is_halved_in_whole_bytes(
    ceiling: int | None, first: int, refused: int, left: int
) -> None:
    size = PatchSize(ceiling)
    assert (size.ceiling_bytes, size.next_bytes()) == (ceiling, first)
    assert size.was_too_large(refused)
    assert (size.ceiling_bytes, size.next_bytes()) == (left, left)
    assert not size.was_too_large(SMALLEST_BYTES)


@pytest.mark.parametrize(("sent", "following"), [((256 << 10) - 1, 1 << 20), (256 << 10, 512 << 10)])
def test_a_quarter_of_a_mebibyte_is_the_least_that_tells_the_rate(sent: int, following: int) -> None:
    size = PatchSize()
    size.went_through(sent, 1.0)
    assert size.next_bytes() == following


@pytest.mark.parametrize(
    ("sent", "following"), [(2 << 20, 1 << 20), (200_007, 100_000), (131_080, 65_540), (131_072, 65_536), (1, 65_536)]
)
def test_after_a_piece_of_which_nothing_arrived_the_next_is_half_as_long(sent: int, following: int) -> None:
    size = PatchSize()
    size.won_nothing(sent)
    assert size.next_bytes() == following


@pytest.mark.parametrize(("lost", "following"), [(512 << 10, LARGEST_BYTES), ((512 << 10) + 1, CAREFUL_BYTES)])
def test_half_a_mebibyte_is_the_most_that_a_cheap_cut_loses(lost: int, following: int) -> None:
    size = PatchSize()
    size.went_through(LARGEST_BYTES, 0.001)
    size.was_cut(lost)
    assert size.next_bytes() == following


@pytest.mark.parametrize("is_barren", [False, True])
def test_after_a_costly_cut_twice_as_much_is_dared_each_time_that_64_mebibytes_have_gone_through(
    is_barren: bool,
) -> None:
    size, trusted = PatchSize(), 64 << 20
    size.was_cut(1 << 20)
    if is_barren:
        size.went_through(trusted - 1, 0.001)
        size.won_nothing(1 << 20)
    for limit in (1 << 20, 2 << 20, 4 << 20):
        size.went_through(trusted - 1, 0.001)
        assert size.next_bytes() == limit
        size.went_through(1, 0.001)
        assert size.next_bytes() == 2 * limit
