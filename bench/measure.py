"""What the comparisons share: servers of their own, CPU clocks, medians and tables."""

import shutil
import signal
import statistics
import sys
import time
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass

import environment  # noqa: F401 (before what it makes importable)
from pictures import picture
from servers.instance import Instance
from servers.postgresql import PostgreSQL
from servers.support import make_directory
from servers.visitor import Visitor


@contextmanager
def postgresql() -> Iterator[PostgreSQL]:
    """Start a PostgreSQL of our own; in the end stop it, and remove what was made beside it."""
    # end by way of `finally` and `with`, as Ctrl-C does
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(128 + signal.SIGTERM))
    directory = make_directory()
    try:
        with PostgreSQL(directory / "postgresql") as server:
            yield server
    finally:
        shutil.rmtree(directory, ignore_errors=True)


def create_instances(server: PostgreSQL, **cubes: str) -> list[Instance]:
    """Create instances side by side, with a database each.

    :param cubes: the cube of each, by names of our choice
    """
    instances = [
        Instance(server.directory.parent / name, [cube], server.create_database(name))
        for name, cube in cubes.items()
    ]
    with ThreadPoolExecutor() as executor:
        list(executor.map(Instance.create, instances))
    return instances


def image(size: int, colour: str = "teal") -> bytes:
    """Return a picture of so many bytes."""
    return picture(colour).ljust(size, b"\0")


def create_file(visitor: Visitor, name: str, media_type: str, data: bytes) -> int:
    """Create a file in its form, and return its eid.

    :raises RuntimeError: the site refuses.
    """
    response = visitor.create("File", {"title": name}, {"data": (name, data, media_type)})
    if response.status_code != 303:
        raise RuntimeError(f"{name} was not created: {response.status_code}")
    return int(response.headers["Location"].split("?")[0].rsplit("/", 1)[1])


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
        low, _median, high = statistics.quantiles(self.values, method="inclusive")
        digits = 1 if self.median >= 10 else 2
        return f"{self.median:.{digits}f} ({low:.{digits}f}-{high:.{digits}f})"


def verdict(met: bool) -> str:
    """Return in plain words whether an expectation is met."""
    return "met" if met else "NOT MET"


def print_table(rows: Sequence[Sequence[object]]) -> None:
    """Print rows of cells in columns, the first row being their titles."""
    cells = [[str(cell) for cell in row] for row in rows]
    widths = [max(map(len, column)) for column in zip(*cells, strict=True)]
    for row in cells:
        line = "  ".join(cell.rjust(width) for cell, width in zip(row, widths, strict=True))
        print(line.rstrip())
