"""Progress and time left on standard error: bars on a terminal, otherwise a line every 15 s."""

import contextlib
import time
from collections.abc import Iterator

import rich.console
import rich.progress

FIRST_LINE_S, LINE_EVERY_S = 5.0, 15.0


class Phase:
    """A phase of a program in progress."""

    def __init__(self, progress: "Progress", name: str, total: float, done: float):
        self._progress, self._name, self._total = progress, name, total
        self._done = done
        self._first: tuple[float, float] | None = None  # time and done of the first update
        self._start = self._advanced = time.monotonic()
        self._next_line_s = self._start + FIRST_LINE_S
        # rich counts in floats, though it annotates this argument as an int.
        self._task = progress.bars.add_task(name, total=total, completed=done, note="")  # type: ignore[arg-type]

    def update(self, done: float, note: str = "") -> None:
        """Shows how much of the phase's total is done, and a note."""
        if done > self._done:
            self._advanced = time.monotonic()
        self._done = done
        # The first unit often includes one-time work, so the time left is estimated without it.
        self._first = self._first or (time.monotonic(), done)
        self._progress.bars.update(self._task, completed=done, note=note)
        if not self._progress.interactive and time.monotonic() > self._next_line_s:
            self._next_line_s = time.monotonic() + LINE_EVERY_S
            self._progress.print(f"{self._name}: {done / self._total:4.0%}  {note}{self._left()}")

    def end(self, note: str) -> None:
        """Removes the bar and prints a permanent line with the time taken and a note."""
        seconds = time.monotonic() - self._start
        self.close()
        self._progress.print(f"✓ {self._name}, {_clock(seconds)}  {note}", "green")

    def close(self) -> None:
        """Removes the bar."""
        if self._task in self._progress.bars.task_ids:
            self._progress.bars.remove_task(self._task)

    def _left(self) -> str:
        """Returns the time left as text: empty without progress since the first update.

        While a long unit is in progress, the time counts down; it is empty when that took longer.
        """
        assert self._first is not None
        start, first = self._first
        gained = self._done - first
        if gained <= 0:
            return ""
        seconds = (self._advanced - start) / gained * (self._total - self._done)
        seconds -= time.monotonic() - self._advanced
        return f"  about {_clock(seconds)} left" if seconds > 0 else ""


class Progress:
    """Progress of a program; a context manager that encloses all its phases.

    Attributes:
      seconds: time of the phases so far by name, without those inside another one.
    """

    def __init__(self, quiet: bool = False) -> None:
        """Prepares the output.

        Args:
          quiet: print nothing; for the processes of a run other than process 0.
        """
        self.console = rich.console.Console(stderr=True, highlight=False, quiet=quiet)
        self.interactive = self.console.is_terminal
        self.seconds: dict[str, float] = {}
        self._depth = 0
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
        """Prints a permanent line above the bars; the text is not parsed as markup."""
        self.console.print(text, style=style, markup=False, soft_wrap=True)

    @contextlib.contextmanager
    def phase(self, name: str, total: float, done: float = 0) -> Iterator[Phase]:
        """Yields a phase of `total` units; its bar is removed when the block ends."""
        phase, start = Phase(self, name, total, done), time.monotonic()
        self._depth += 1
        try:
            yield phase
        finally:
            phase.close()
            self._depth -= 1
            if not self._depth:
                seconds = time.monotonic() - start
                self.seconds[name] = self.seconds.get(name, 0.0) + seconds


def _clock(seconds: float) -> str:
    minutes, seconds = divmod(round(seconds), 60)
    return f"{minutes}:{seconds:02d}"
