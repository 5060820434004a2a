"""A fleet trend as a picture for a report, drawn by matplotlib (the extra `report`)."""

from importlib import import_module
from importlib.util import find_spec
from pathlib import Path

from sentinel_sync.cli.chart import Series
from sentinel_sync.cli.exit_codes import CommandError, ExitCode

#: Inches and dots per inch: as wide as a page's text, sharp when printed.
_SIZE = (8.0, 3.6)
_RESOLUTION = 150
#: More labels than this would overlap.
_MOST_LABELS = 8


def save_picture(series: Series, title: str, note: str | None, path: Path) -> None:
    """Draw a series into a file; its suffix, .png or .svg, says as what.

    Raises:
        CommandError: matplotlib is not installed, or the file cannot be written.
    """
    if find_spec("matplotlib") is None:
        raise CommandError(
            "pictures take the extra `report`: pip install 'sentinel-sync[report]'", ExitCode.UNAVAILABLE
        )
    # Not pyplot: it would look for a display. Imported here because it is optional and slow to load.
    figure = import_module("matplotlib.figure").Figure(figsize=_SIZE, layout="constrained")
    axes = figure.subplots()
    values = [float("nan") if value is None else value for value in series.values]
    axes.plot(range(len(values)), values, marker="o", markersize=3, linewidth=1.5)
    step = max(1, -(-len(values) // _MOST_LABELS))
    axes.set_xticks(range(0, len(values), step), [series.labels[at] for at in range(0, len(values), step)])
    axes.tick_params(axis="x", labelrotation=30)
    axes.set_ylabel(series.unit)
    axes.set_title(title if note is None else f"{title}\n({note})", fontsize=10)
    axes.grid(visible=True, alpha=0.3)
    try:
        figure.savefig(path, dpi=_RESOLUTION, metadata={"Date": None} if path.suffix == ".svg" else None)
    except OSError as error:
        raise CommandError(f"{path} cannot be written ({error.strerror}): name another file") from None
