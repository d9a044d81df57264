"""Progress with time left: bars on a terminal, a line now and then elsewhere; standard error."""

import contextlib
import time
from collections.abc import Iterator

import rich.console
import rich.progress

FIRST_LINE_S, LINE_EVERY_S = 5.0, 15.0


class Phase:
    """One phase under way."""

    def __init__(self, progress: "Progress", name: str, total: float, done: float):
        self._progress, self._name, self._total = progress, name, total
        self._done = done
        self._first: tuple[float, float] | None = None  # time and done of the first update
        self._start = time.monotonic()
        self._next_line_s = self._start + FIRST_LINE_S
        self._task = progress.bars.add_task(name, total=total, completed=done, note="")

    def update(self, done: float, note: str = "") -> None:
        """Tells how much is done, of the phase's total, and how it goes."""
        self._done = done
        # The first unit often pays for more than itself, so that time left goes by those after it.
        self._first = self._first or (time.monotonic(), done)
        self._progress.bars.update(self._task, completed=done, note=note)
        if not self._progress.interactive and time.monotonic() > self._next_line_s:
            self._next_line_s = time.monotonic() + LINE_EVERY_S
            self._progress.print(f"{self._name}: {done / self._total:4.0%}  {note}{self._left()}")

    def end(self, note: str) -> None:
        """Closes the phase with a line that stays."""
        seconds = time.monotonic() - self._start
        self.close()
        self._progress.print(f"✓ {self._name}, {_clock(seconds)}  {note}", "green")

    def close(self) -> None:
        """Takes the bar away."""
        if self._task in self._progress.bars.task_ids:
            self._progress.bars.remove_task(self._task)

    def _left(self) -> str:
        start, first = self._first
        gained = self._done - first
        if gained <= 0:
            return ""
        seconds = (time.monotonic() - start) / gained * (self._total - self._done)
        return f"  about {_clock(seconds)} left"


class Progress:
    """The progress of a program; a context manager around all its phases."""

    def __init__(self, quiet: bool = False) -> None:
        """Args: quiet: print nothing, in processes of a run that another speaks for."""
        self.console = rich.console.Console(stderr=True, highlight=False, quiet=quiet)
        self.interactive = self.console.is_terminal
        self.bars = rich.progress.Progress(
            rich.progress.SpinnerColumn(),
            rich.progress.TextColumn("{task.description:<12}"),
            rich.progress.BarColumn(bar_width=24),
            rich.progress.TaskProgressColumn(),
            rich.progress.TimeRemainingColumn(compact=True),
            rich.progress.TextColumn("{task.fields[note]}", markup=False),
            console=self.console,
            transient=True,
            disable=not self.interactive,
        )

    def __enter__(self) -> "Progress":
        self.bars.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.bars.stop()

    def print(self, text: str, style: str = "") -> None:
        """A line that stays, above the bars; text is taken as it is."""
        self.console.print(text, style=style, markup=False, soft_wrap=True)

    @contextlib.contextmanager
    def phase(self, name: str, total: float, done: float = 0) -> Iterator[Phase]:
        """A phase of `total` units; its bar goes when the block ends."""
        phase = Phase(self, name, total, done)
        try:
            yield phase
        finally:
            phase.close()


def _clock(seconds: float) -> str:
    minutes, seconds = divmod(round(seconds), 60)
    return f"{minutes}:{seconds:02d}"
