"""The display that redraws itself, on rich (the extra `cli`): imported only where it is installed and a terminal is."""

from rich.console import Console, Group
from rich.live import Live
from rich.panel import Panel
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from sentinel_sync.cli.ui.progress import Pace
from sentinel_sync.cli.ui.status_text import facts_of
from sentinel_sync.cli.ui.text import duration, printable
from sentinel_sync.status import AgentStatus

_BAR_WIDTH = 40
_STYLES = {"online": "green", "offline": "red", "unknown": "yellow"}


class LiveView:
    """The agent's state at the foot of the terminal; events scroll by above it."""

    interval: float | None = 0.5
    takes_log = True

    def __init__(self) -> None:
        self._console = Console(highlight=False, markup=False)
        self._live = Live(console=self._console, auto_refresh=False, redirect_stdout=False, redirect_stderr=False)
        self._pace = Pace()
        self._sent_before: int | None = None

    def show(self, said: AgentStatus, at: float) -> None:
        """Redraw."""
        if not self._live.is_started:
            self._live.start()
        if self._sent_before is None:
            self._sent_before = said.outbox.acknowledged
        rate = self._pace.observe(at, said.outbox.acknowledged)
        sent = said.outbox.acknowledged - self._sent_before
        self._live.update(
            draw(said, sent=sent, rate=rate, left=said.outbox.waiting + said.outbox.sending), refresh=True
        )

    def log(self, line: str) -> None:
        """Print a line above the display."""
        self._console.print(Text(printable(line)), soft_wrap=True)

    def close(self) -> None:
        """Leave the last state standing, the cursor below it."""
        if self._live.is_started:
            self._live.stop()


def draw(said: AgentStatus, *, sent: int, rate: float, left: int) -> Panel:
    """The display.

    Args:
        said: The agent.
        sent: Items since the display began.
        rate: Items per second.
        left: Items still to be sent.
    """
    grid = Table.grid(padding=(0, 2))
    grid.add_column(style="bold", no_wrap=True)
    grid.add_column(overflow="fold")
    for name, value in facts_of(said, said.outbox, age=0.0):
        style = _STYLES.get(said.connectivity.status, "") if name == "connectivity" else ""
        grid.add_row(
            name, Text(printable(value), style="yellow" if said.connectivity.unauthorized and style else style)
        )
    bar = Table.grid(padding=(0, 2))
    bar.add_row(
        ProgressBar(total=max(1, sent + left), completed=sent if sent + left else 1, width=_BAR_WIDTH),
        Text(_bar_words(sent, left, rate if said.connectivity.gate == "open" else 0.0)),
    )
    return Panel(
        Group(grid, bar),
        title=f"sentinel-sync {said.version}: {printable(said.vehicle_id)} of {printable(said.fleet_id)}",
        title_align="left",
    )


def _bar_words(sent: int, left: int, rate: float) -> str:
    if not left:
        return f"nothing waits; {sent:,} sent since the start"
    words = f"{sent:,} sent, {left:,} to go"
    return f"{words}; {rate:.1f} a second, about {duration(left / rate)} left" if rate > 0.0 else words
