"""A chart of one series in a terminal."""

from sentinel_sync.cli.ui.tables import Series, draw


def series(*values: float | None) -> Series:
    return Series([f"2026-11-{day:02d}" for day in range(1, len(values) + 1)], values, "km", 1)


def test_the_highest_value_fills_its_column_and_the_lowest_does_not() -> None:
    lines = draw(series(1.0, 3.0), 60)
    columns = [line.partition("┤")[2] for line in lines[:-1]]
    half = len(columns[-1]) // 2
    assert columns[-1] == columns[-1][0] * half + "█" * half
    assert columns[0].strip()
    assert not columns[0][:half].strip()


def test_the_axis_names_its_ends_and_the_foot_the_days() -> None:
    lines = draw(series(10.0, 11.0, 12.0), 80)
    assert lines[0].startswith("12.1 km ┤")
    assert lines[-2].startswith(" 9.9 km ┤")
    assert lines[-1].split() == ["2026-11-01", "2026-11-02", "2026-11-03"]


def test_a_day_without_a_figure_is_a_gap() -> None:
    lines = draw(series(5.0, None, 5.0), 40)
    bottom = lines[-2].partition("┤")[2]
    assert set(bottom[len(bottom) // 3 : 2 * len(bottom) // 3]) == {"·"}


def test_more_days_than_columns_are_averaged() -> None:
    lines = draw(series(*range(30)), 30)
    assert max(map(len, lines)) <= 40
    assert len(lines[-2].partition("┤")[2]) <= 30


def test_nothing_known_is_nothing_drawn() -> None:
    assert draw(series(None, None), 80) == []
    assert draw(series(), 80) == []


def test_one_day_is_drawn() -> None:
    assert draw(series(3.0), 60)[-1].strip() == "2026-11-01"
