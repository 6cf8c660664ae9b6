"""What the scenarios have measured: RESULTS.md."""

import os
import platform
import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path

from installation import Site
from traffic import Report

#: what tells its version, and on which host
_PROGRAMS = {
    "HAProxy": ("lb1", "haproxy -v"),
    "keepalived": ("lb1", "keepalived --version"),
    "Squid": ("web1", "squid --version"),
    "Apache": ("web1", "apache2 -v"),
    "PostgreSQL": ("db1", "/usr/lib/postgresql/15/bin/postgres --version"),
    "Patroni": ("db1", "patroni --version"),
    "etcd": ("db1", "etcd --version"),
}
_PACKAGES = ("cubicweb", "cubicweb-web", "cubicweb-file", "gunicorn")

_TITLES = (
    "scenario",
    "expected",
    "failed",
    "no page for",
    "sessions lost",
    "writes",
    "measured",
    "falls short",
    "measured on",
)
_HEADER = """\
# What the lab has measured

Made by `make lab-test`, last on {date}, on {cores} processors ({machine}), {memory} GB, Linux
{kernel}: {versions}. The lab was ready after {started_in} s, then. Single runs, on processors that
the hosts share with the visitors: figures vary from run to run. How it is measured:
[docs/lab.md](../docs/lab.md).

*Failed* counts requests of anonymous visitors and of users, of all that were made from before the
failure until the site was well again. *No page for* is the longest time in which none of the
visitors was answered a page. *Sessions* are answers to a user as if he had not logged in.
*Writes* are edits that were acknowledged, and how many of these are not in the database.
"""


@dataclass
class Row:
    """A scenario.

    :param name: what was done
    :param expected: what is expected
    :param report: what became of the visitors' requests
    :param lost: acknowledged writes that are lost
    :param short: what falls short of what is expected, in words
    :param measured: other figures, in words
    """

    name: str
    expected: str
    report: Report
    lost: int = 0
    short: str = ""
    measured: str = ""

    def cells(self) -> list[str]:
        """Return the cells of its row."""
        report = self.report
        return [
            self.name,
            self.expected,
            report.by_kind() or "-",
            f"{report.longest_gap('page'):.1f} s" if report.count else "-",
            str(len(report.lost_sessions)),
            f"{len(report.written())}, {self.lost} lost",
            self.measured,
            self.short or "nothing",
            _today(),
        ]


@dataclass
class Results:
    """The rows of a session."""

    started_in: float = 0
    #: programs of the hosts, with their versions
    versions: list[str] = field(default_factory=list)
    rows: list[Row] = field(default_factory=list)
    #: names of the tests that failed
    failed: list[str] = field(default_factory=list)

    def add(self, row: Row) -> Row:
        """Add a row; return it."""
        self.rows.append(row)
        return row

    def write(self, path: Path) -> None:
        """Write RESULTS.md. The rows of scenarios that were not run now stay."""
        rows = _rows(path.read_text()) if path.exists() else {}
        rows |= {row.name: "| " + " | ".join(row.cells()) + " |" for row in self.rows}
        header = _HEADER.format(
            date=_today(),
            cores=os.cpu_count(),
            machine=_machine(),
            memory=os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") >> 30,
            kernel=platform.release().partition("-")[0],
            versions=", ".join(self.versions),
            started_in=self.started_in,
        )
        titles = f"| {' | '.join(_TITLES)} |\n{'|---' * len(_TITLES)}|"
        failed = [f"\nFailed, see the test: {', '.join(self.failed)}."] if self.failed else []
        path.write_text("\n".join([header, titles, *rows.values(), *failed]) + "\n")


def _rows(text: str) -> dict[str, str]:
    """Return the rows of a RESULTS.md, by the names of their scenarios."""
    lines = [line for line in text.splitlines() if line.startswith("| ")]
    return {line.split(" | ")[0].removeprefix("| "): line for line in lines[1:]}


def _today() -> str:
    return datetime.now(UTC).strftime("%Y-%m-%d")


def _machine() -> str:
    for line in Path("/proc/cpuinfo").read_text().splitlines():
        if line.startswith("model name"):
            return line.partition(":")[2].strip()
    return platform.machine()


def versions(site: Site) -> Iterator[str]:
    """Yield the programs of a site's hosts, with their versions."""
    for name, (host, command) in _PROGRAMS.items():
        match = re.search(r"\d+\.\d+(\.\d+)?", site.lab[host].run(f"{command} 2>&1"))
        yield f"{name} {match[0] if match else '?'}"
    installed = site.lab["web1"].run("/opt/cubicweb/bin/pip list --format=freeze")
    yield from (
        line.replace("==", " ")
        for line in installed.splitlines()
        if line.startswith(tuple(f"{name}==" for name in _PACKAGES))
    )
