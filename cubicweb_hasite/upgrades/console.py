"""What whoever waits for a rehearsal sees: bars with the time that is left, or plain lines."""

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


class Console:
    """Shows what is done; in a log, a line when a step begins and one when it ends."""

    def __init__(self) -> None:
        self._console = RichConsole(highlight=False, soft_wrap=True)

    def say(self, text: str) -> None:
        """Print a line."""
        self._console.print(text, markup=False)

    @contextmanager
    def step(self, name: str, estimate: float = 0) -> Iterator["Step"]:
        """Show a step.

        :param estimate: for how many seconds it is thought to last, 0 if that is not known
        """
        expected = f", about {duration(estimate)}" if estimate else ""
        if not self._console.is_terminal:
            self.say(f"{name}{expected} …")
        columns = (
            TextColumn("{task.description}"),
            BarColumn(),
            TaskProgressColumn(),
            TimeElapsedColumn(),
            TextColumn("left:"),
            TimeRemainingColumn(),
        )
        terminal = self._console.is_terminal
        options = {"transient": True, "disable": not terminal}
        with Progress(*columns, console=self._console, **options) as bar:
            yield Step(bar, bar.add_task(name, total=estimate or None), estimate)


class Step:
    """The bar of a step."""

    def __init__(self, bar: Progress, task: TaskID, estimate: float) -> None:
        self._bar = bar
        self._task = task
        self._estimate = estimate
        self._start = time.monotonic()

    def progress(self, done: int, total: int) -> None:
        """Show how far it is, in bytes."""
        self._bar.update(self._task, completed=done, total=total)

    def tick(self) -> None:
        """Show how far it is by the time that it is thought to last."""
        if self._estimate:
            elapsed = time.monotonic() - self._start
            self._bar.update(self._task, completed=min(elapsed, 0.99 * self._estimate))


def duration(seconds: float) -> str:
    """Return a duration as people say it."""
    if seconds < 10:
        return f"{seconds:.1f} s"
    if seconds < 100:
        return f"{seconds:.0f} s"
    minutes, rest = divmod(round(seconds), 60)
    if minutes < 60:
        return f"{minutes} min {rest} s"
    return f"{minutes // 60} h {minutes % 60} min"


def size(count: float) -> str:
    """Return a number of bytes as people say it."""
    for unit in ("bytes", "kB", "MB", "GB"):
        if count < 1000:
            return f"{count:.0f} {unit}" if unit == "bytes" else f"{count:.1f} {unit}"
        count /= 1000
    return f"{count:.1f} TB"
