"""What a backend said, as lines of a table."""

from sentinel_sync.cli.ui.tables import Sheet, as_table

MESSAGE = "the driver's attention was elsewhere for 4.2 s at 31 m/s, while a pedestrian stood 40 m ahead; braked late"


def test_a_talkative_alert_is_wrapped_at_the_end_of_its_row_and_never_cut() -> None:
    sheet = Sheet(
        ("vehicle_id", "message", "severity"),
        (("v_1", MESSAGE, "critical"), ("v_2", "short", "info")),
    )
    lines = as_table(sheet, by_row=False, width=80)
    assert all(len(line) <= 80 for line in lines)
    assert lines[0].split() == ["VEHICLE", "ID", "SEVERITY", "MESSAGE"]
    assert " ".join(" ".join(lines[1:-1]).split()) == f"v_1 critical {MESSAGE}"
    assert lines[-1].split() == ["v_2", "info", "short"]


def test_figures_keep_their_order() -> None:
    sheet = Sheet(("vehicle_id", "total_distance", "name"), (("v_1", 1000.0, "x"),))
    assert [line.split() for line in as_table(sheet, by_row=False, width=None)] == [
        ["VEHICLE", "ID", "TOTAL", "DISTANCE", "NAME"],
        ["v_1", "1.0", "km", "x"],
    ]
