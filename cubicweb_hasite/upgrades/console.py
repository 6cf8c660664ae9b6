"""The output of a rehearsal: progress bars with the time left, or plain lines in a log."""

import time
from collections.abc import Iterator
from contextlib import contextmanager

from rich.console import Console as RichConsole
from rich.progress import (
    BarColumn,
    Progress,
    TaskID,
    TaskProgressColumn,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)


class Bar:
    """The progress bar of a step."""

    def __init__(self, progress: Progress, task: TaskID, estimate: float) -> None:
        self._progress = progress
        self._task = task
        self._estimate = estimate
        self._start = time.monotonic()

    def progress(self, done: int, total: int) -> None:
        """Show how much is done.

        :param done: bytes done
        :param total: bytes in all
        """
        self._progress.update(self._task, completed=done, total=total)

    def tick(self) -> None:
        """Show how much is done, by comparing the elapsed time with the estimate."""
        if self._estimate:
            elapsed = time.monotonic() - self._start
            self._progress.update(self._task, completed=min(elapsed, 0.99 * self._estimate))


class Console:
    """Shows the steps: bars on a terminal, else a line at the start and at the end of each."""

    def __init__(self) -> None:
        self._console = RichConsole(highlight=False, soft_wrap=True)

    def say(self, text: str) -> None:
        """Print a line."""
        self._console.print(text, markup=False)

    @contextmanager
    def step(self, name: str, estimate: float = 0) -> Iterator[Bar]:
        """Show a step while the block runs.

        :param estimate: expected duration in seconds, 0 if it is not known
        """
        terminal = self._console.is_terminal
        if not terminal:
            expected = f", about {duration(estimate)}" if estimate else ""
            self.say(f"{name}{expected} …")
        columns = [
            TextColumn("{task.description}"),
            BarColumn(),
            TaskProgressColumn(),
            TimeElapsedColumn(),
            TextColumn("left:"),
            TimeRemainingColumn(),
        ]
        with Progress(
            *columns, console=self._console, transient=True, disable=not terminal
        ) as progress:
            yield Bar(progress, progress.add_task(name, total=estimate or None), estimate)


def duration(seconds: float) -> str:
    """Return a duration as text, such as `3.2 s` or `4 min 10 s`."""
    if seconds < 10:
        return f"{seconds:.1f} s"
    if seconds < 100:
        return f"{seconds:.0f} s"
    minutes, rest = divmod(round(seconds), 60)
    if minutes < 60:
        return f"{minutes} min {rest} s"
    return f"{minutes // 60} h {minutes % 60} min"
