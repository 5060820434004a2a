"""Output on a thread of its own."""

import threading

from sentinel_sync.cli.ui.writer import MAX_WAITING, Writer


def test_writes_in_order() -> None:
    writer, written = Writer(), list[int]()
    for number in range(100):
        writer.submit(lambda number=number: written.append(number))  # type: ignore[misc]
    assert writer.close()
    assert written == list(range(100))


def test_a_reader_on_hold_costs_lines_but_neither_memory_nor_time() -> None:
    writer, hold, holding = Writer(), threading.Event(), threading.Event()

    def stuck() -> None:
        holding.set()
        hold.wait()

    writer.submit(stuck)
    assert holding.wait(10.0)
    for _ in range(MAX_WAITING + 7):
        writer.submit(lambda: None)
    assert writer.left_out == 7
    assert not writer.close(timeout=0.01), "given up, not waited for"
    hold.set()


def test_after_the_reader_has_gone_nothing_more_is_written() -> None:
    writer, written = Writer(), list[str]()

    def broken() -> None:
        raise BrokenPipeError

    writer.submit(broken)
    writer.submit(lambda: written.append("late"))
    assert writer.close()
    assert written == []
