"""What the comparisons share: CPU clocks, medians, ratios and tables."""

import statistics
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass


def cpu(pids: Iterable[int]) -> float:
    """Return the CPU time that processes have used since they started, in milliseconds.

    By their CPU clocks, which count nanoseconds; /proc/<pid>/stat counts hundredths of a second.
    """
    # a clock's number holds the pid: see CPUCLOCK_SCHED in Linux's posix-timers.h
    return sum(time.clock_gettime_ns(~pid << 3 | 2) for pid in pids) / 1e6


@dataclass(frozen=True)
class Sample:
    """What was measured, once per round."""

    values: Sequence[float]

    @property
    def median(self) -> float:
        return statistics.median(self.values)

    def over(self, other: "Sample") -> "Sample":
        """Return the ratios to another sample, round by round: what else the machine did in a
        round counts on both sides."""
        return Sample([a / b for a, b in zip(self.values, other.values, strict=True)])

    def __str__(self) -> str:
        """The median, and between which values the middle half of the rounds is."""
        if len(set(self.values)) == 1:
            return _number(self.median)
        low, _median, high = statistics.quantiles(self.values, method="inclusive")
        return f"{_number(self.median)} ({_number(low)}-{_number(high)})"


def _number(value: float) -> str:
    if value >= 100 or value == int(value):
        digits = 0
    else:
        digits = 1 if value >= 10 else 2 if value >= 0.1 else 4
    return f"{value:,.{digits}f}"


@dataclass(frozen=True)
class Row:
    """A line of the results: what each side takes, and the ratio of two of them.

    :param what: what was measured, with its unit
    :param ratio: of two of the sides, round by round; None where there is nothing to compare
    :param of: which sides it compares, in words
    :param least: what is expected of the median ratio
    :param most: the same
    """

    what: str
    stock: Sample | None = None
    article: Sample | None = None
    ours: Sample | None = None
    ratio: Sample | None = None
    of: str = ""
    least: float | None = None
    most: float | None = None

    @property
    def met(self) -> bool | None:
        """Whether what is expected was found; None if nothing is."""
        if self.ratio is None or (self.least is None and self.most is None):
            return None
        median = self.ratio.median
        return median >= (self.least or 0) and (self.most is None or median <= self.most)

    def cells(self) -> tuple[str, ...]:
        """Return the cells of :data:`TITLES`."""
        expected = ""
        if self.least is not None:
            expected = f">= {self.least}"
        elif self.most is not None:
            expected = f"<= {self.most}"
        sides = (self.stock, self.article, self.ours, self.ratio)
        values = ("" if side is None else str(side) for side in sides)
        verdict = {None: "", True: "met", False: "**NOT MET**"}[self.met]
        return (self.what, *values, self.of, expected, verdict)


TITLES = ("", "stock", "the article", "hasite", "ratio", "of", "expected", "")


def less(what: str, stock: Sample, ours: Sample, least: float | None = None, **more) -> Row:
    """Return a row that says how many times less than stock CubicWeb the cube takes."""
    return Row(
        what, stock, ours=ours, ratio=stock.over(ours), of="stock / hasite", least=least, **more
    )


def in_turn(sides: dict[str, Callable[[], float]], rounds: int) -> dict[str, Sample]:
    """Measure each side once per round, the order changing, after a round that does not count."""
    found: dict[str, list[float]] = {name: [] for name in sides}
    for number in range(rounds + 1):
        for name in list(sides) if number % 2 else reversed(sides):
            value = sides[name]()
            if number:
                found[name].append(value)
    return {name: Sample(values) for name, values in found.items()}


def table(rows: Sequence[Sequence[str]]) -> str:
    """Return rows of cells as a table in Markdown, without empty columns.

    The first row is that of the titles.
    """
    filled = [any(column[1:]) for column in zip(*rows, strict=True)]
    rows = [[cell for cell, keep in zip(row, filled, strict=True) if keep] for row in rows]
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    lines = [
        "| "
        + " | ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True))
        + " |"
        for row in rows
    ]
    lines.insert(1, "|" + "|".join("-" * (width + 2) for width in widths) + "|")
    return "\n".join(lines)
