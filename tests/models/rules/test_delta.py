"""A delta's offer and its blocks: what is taken, and what is refused before a byte of memory is spent on it."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sentinel_sync.base.errors import VerificationError
from sentinel_sync.base.payloads import DeltaOffer, ModelAddress
from sentinel_sync.models.rules.delta import (
    FORMAT,
    HEADER,
    MAX_BLOCK,
    MAX_SOURCE,
    SMALLEST_BLOCK,
    SOURCE_PER_BYTE,
    Block,
    Method,
    read_block,
    restored,
    why_not,
)

OFFER = {"download_url": "/d", "format": FORMAT, "size": 100, "checksum": "0" * 64}


def header(
    method: int = 1,
    width: int = 0,
    zero: int = 0,
    packed: int = 50,
    length: int = 100,
    source: int = 80,
    offset: int = 0,
) -> bytes:
    return HEADER.pack(method, width, zero, packed, length, source, offset)


class TestTheOffer:
    @pytest.mark.parametrize(("changed", "taken"), [({}, True), ({"size": 101}, False), ({"format": "bsdiff"}, False)])
    def test_it_is_taken_where_the_format_is_known_and_a_tenth_is_saved(
        self, changed: dict[str, object], taken: bool
    ) -> None:
        reason = why_not(DeltaOffer.model_validate(OFFER | changed), 112)
        assert (reason is None) is taken

    def test_a_foreign_format_is_named_but_not_at_any_length(self) -> None:
        reason = why_not(DeltaOffer.model_validate(OFFER | {"format": "\x1b[2J" + "x" * 999}), 112)
        assert reason is not None
        assert reason.isprintable()
        assert len(reason) < 100

    @pytest.mark.parametrize(
        "broken", [None, "yes", {}, OFFER | {"size": 0}, OFFER | {"checksum": "G" * 64}, OFFER | {"size": "many"}]
    )
    def test_one_that_cannot_be_read_leaves_the_whole_file(self, broken: object) -> None:
        address = ModelAddress.model_validate({"download_url": "/whole", "delta": broken})
        assert (address.download_url, address.delta) == ("/whole", None)


class TestABlock:
    def test_it_is_read(self) -> None:
        block = read_block(header(2, 4, packed=7, length=80, offset=20), old_size=100, missing=80)
        assert block == Block(Method.XOR, 4, 7, 80, 80, 20)
        block = read_block(header(3, 8, packed=7, length=80, offset=20), old_size=100, missing=80)
        assert block == Block(Method.DIFFERENCE, 8, 7, 80, 80, 20)
        alone = read_block(header(source=0, offset=100), old_size=100, missing=100)
        assert alone == Block(Method.PREFIX, 0, 50, 100, 0, 100)

    @pytest.mark.parametrize(
        "wrong",
        [
            header()[:-1],
            header(0),
            header(4),
            header(zero=1),
            header(width=4),
            header(length=0),
            header(length=101),
            header(packed=0),
            header(packed=100 + 1025),
            header(source=101),
            header(source=80, offset=21),
            header(offset=2**64 - 1),
            header(source=7),
            header(2, 0, source=100),
            header(2, 3, source=100),
            header(2, 4, source=99),
            header(3, 0, source=100),
            header(3, 4, source=99),
            header(3, 8, source=100),
        ],
    )
    def test_what_leads_astray_is_refused(self, wrong: bytes) -> None:
        with pytest.raises(VerificationError, match="the delta is refused"):
            read_block(wrong, old_size=100, missing=100)

    def test_memory_is_bounded_however_large_the_files_are(self) -> None:
        large = 1 << 40
        assert read_block(header(length=MAX_BLOCK, source=MAX_SOURCE), old_size=large, missing=large)
        for wrong in (header(length=MAX_BLOCK + 1), header(source=MAX_SOURCE + 1)):
            with pytest.raises(VerificationError):
                read_block(wrong, old_size=large, missing=large)

    def test_so_is_the_time(self) -> None:
        large, least = 1 << 40, SMALLEST_BLOCK
        assert read_block(header(length=least, source=SOURCE_PER_BYTE * least), old_size=large, missing=large)
        for wrong in (header(length=least - 1), header(length=least, source=SOURCE_PER_BYTE * least + 1)):
            with pytest.raises(VerificationError, match="more work than it is worth"):
                read_block(wrong, old_size=large, missing=large)
        # The last block is what is left.
        assert read_block(header(length=1, packed=9, source=MAX_SOURCE), old_size=large, missing=1)

    @given(st.binary(min_size=HEADER.size, max_size=HEADER.size))
    def test_no_header_leads_out_of_bounds(self, raw: bytes) -> None:
        try:
            block = read_block(raw, old_size=1 << 33, missing=1 << 33)
        except VerificationError:
            return
        assert 0 < block.length <= MAX_BLOCK
        assert block.source_length <= MAX_SOURCE
        assert block.source_offset + block.source_length <= 1 << 33


def by_place(content: bytes, width: int) -> bytes:
    return b"".join(content[place::width] for place in range(width))


@given(
    st.integers(0, 200).flatmap(lambda size: st.tuples(*[st.binary(min_size=size, max_size=size)] * 2)),
    st.sampled_from([1, 2, 4, 8]),
)
def test_an_exclusive_or_is_undone(contents: tuple[bytes, bytes], width: int) -> None:
    old, new = contents
    changed = bytes(before ^ after for before, after in zip(old, new, strict=True))
    assert restored(Method.XOR, by_place(changed, width), width, old) == new


@given(
    st.sampled_from([1, 2, 4, 8]).flatmap(
        lambda width: st.tuples(st.just(width), st.lists(st.tuples(*[st.integers(0, 256**width - 1)] * 2), max_size=50))
    )
)
def test_a_difference_is_undone(case: tuple[int, list[tuple[int, int]]]) -> None:
    width, elements = case
    folded = []
    for before, after in elements:
        change = (after - before) % 256**width
        negative = change - 256**width
        folded.append(2 * change if change < -negative else -2 * negative - 1)
    old, new, packed = (
        b"".join(number.to_bytes(width, "little") for number in numbers)
        for numbers in ([before for before, _ in elements], [after for _, after in elements], folded)
    )
    assert restored(Method.DIFFERENCE, by_place(packed, width), width, old) == new
