"""Traffic on the lab's site, and what became of it."""

import json
import subprocess
import time
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field
from itertools import pairwise
from pathlib import Path
from typing import Self

from hosts import CHECKOUT
from installation import Site
from servers.support import wait_until
from visitors import Outcome


class Traffic:
    """Visitors on the client host, within a `with` statement.

    :param site: what they visit
    :param path: file of their outcomes
    :param options: those of `visitors.py`, such as `anonymous` and `editors`
    """

    def __init__(self, site: Site, path: Path, **options: float) -> None:
        self._site = site
        self._path = path
        self._options = options
        self._popen: subprocess.Popen[bytes] | None = None
        self.started = 0.0

    def __enter__(self) -> Self:
        site = self._site
        values = {
            "url": site.url,
            "certificate": site.lab.folder / "certificate.pem",
            "password": site.password,
            "addresses": " ".join(a.partition("/")[0] for a in site.client.addresses),
            "pictures": " ".join(map(str, site.images("picture"))),
            "edited": " ".join(map(str, site.images("edited"))),
            **self._options,
        }
        words = [f"--{name}={value}" for name, value in values.items()]
        program = (str(CHECKOUT / ".venv/bin/python"), str(CHECKOUT / "lab" / "visitors.py"))
        with self._path.open("wb") as output:
            self._popen = site.client.spawn(*program, *words, output=output)
        try:
            wait_until(self._all_are_there, "visitors, logged in", timeout=180)
        except TimeoutError as error:
            self._popen.kill()
            raise RuntimeError(f"{error}\n{self._path.read_text()[-3000:]}") from None
        self.started = time.monotonic()
        return self

    def _all_are_there(self) -> bool:
        wanted = self._options.get("users", 0) + self._options.get("editors", 0)
        outcomes = self.outcomes()
        users = {o.who for o in outcomes if o.who.startswith("visitor") and o.method == "GET"}
        done = {o.who for o in outcomes if o.kind == "page" and o.status == 200}
        return len(outcomes) > 20 and len(users & done) == wanted

    def __exit__(self, *exc_info: object) -> None:
        self.stop()

    def stop(self) -> None:
        """End the visits."""
        if self._popen is not None:
            self._popen.stdin.close()
            self._popen.wait(60)
            self._popen = None

    def outcomes(self) -> list[Outcome]:
        """Return what has become of the requests that have ended."""
        result = []
        for line in self._path.read_text(errors="replace").splitlines():
            try:
                result.append(Outcome(**json.loads(line)))
            except ValueError:
                continue  # of Python: the last one, being written, or a warning
        return result

    def report(self, since: float = 0, until: float = float("inf")) -> "Report":
        """Return what became of the requests that were made in a time of `time.monotonic()`."""
        since = since or self.started
        return Report([o for o in self.outcomes() if since <= o.started < until])

    @staticmethod
    def now() -> float:
        """Return the time, of `time.monotonic()`."""
        return time.monotonic()

    def run(self, seconds: float) -> None:
        """Let the visits go on for some time."""
        time.sleep(seconds)


def good(outcome: Outcome) -> bool:
    """Return whether the visitor got what he wanted."""
    return 200 <= outcome.status < 400 and not outcome.error and not outcome.lost_session


@dataclass
class Report:
    """What became of requests."""

    outcomes: list[Outcome] = field(default_factory=list)

    def of(self, *kinds: str, method: str = "") -> "Report":
        """Return the report of some kinds of requests."""
        return Report([o for o in self.outcomes if o.kind in kinds and method in ("", o.method)])

    @property
    def count(self) -> int:
        """How many there were."""
        return len(self.outcomes)

    @property
    def failed(self) -> list[Outcome]:
        """Those that failed."""
        return [o for o in self.outcomes if not good(o)]

    @property
    def cut_short(self) -> list[Outcome]:
        """Those of which a part had arrived: nobody can ask for the rest elsewhere."""
        return [o for o in self.failed if o.status == 200 and o.error]

    @property
    def failed_gets(self) -> list[Outcome]:
        """Those that failed, and may be made again."""
        return [o for o in self.failed if o.method in ("GET", "HEAD") and not o.lost_session]

    @property
    def failed_posts(self) -> list[Outcome]:
        """Those that failed, and may not."""
        return [o for o in self.failed if o.method == "POST"]

    @property
    def lost_sessions(self) -> list[Outcome]:
        """Answers to users who had logged in, as if they had not."""
        return [o for o in self.outcomes if o.lost_session]

    @property
    def clients_that_failed(self) -> Counter[str]:
        """How many requests failed, by visitor."""
        return Counter(o.who for o in self.failed)

    def cached(self, before: "Report") -> "Report":
        """Return the report of what a cache of the host that was asked held already.

        :param before: what had been asked until then
        """
        held = {(o.url, o.served_by.partition("-")[0]) for o in before.outcomes if good(o)}
        return Report(
            [
                o
                for o in self.of("image").outcomes
                if (o.url, o.served_by.partition("-")[0]) in held or not o.served_by
            ]
        )

    def longest_gap(self, *kinds: str) -> float:
        """Return the longest time without a good answer, in seconds."""
        chosen = self.of(*kinds).outcomes if kinds else self.outcomes
        if not chosen:
            return 0
        ends = sorted(o.started + o.seconds for o in chosen if good(o))
        first = min(o.started for o in chosen)
        last = max(o.started + o.seconds for o in chosen)
        times = [first, *ends, last]
        return max(later - earlier for earlier, later in pairwise(times))

    def quantile(self, share: float) -> float:
        """Return the time that a share of the answers took at most, in seconds."""
        times = sorted(o.seconds for o in self.outcomes)
        return times[min(len(times) - 1, int(share * len(times)))] if times else 0

    def written(self) -> list[str]:
        """Return what was acknowledged to have been written."""
        return [o.written for o in self.outcomes if o.written]

    def by_kind(self) -> str:
        """Return how many failed of how many, and how, by kind: for people."""
        parts = []
        for kind in ("page", "image", "static", "login", "edit"):
            report = self.of(kind)
            if report.count:
                parts.append(f"{kind} {len(report.failed)}/{report.count}{_how(report.failed)}")
        return ", ".join(parts)

    def details(self, count: int = 10) -> str:
        """Return the first failures, for the message of a test."""
        lines = [f"{self.by_kind()}"]
        start = min((o.started for o in self.outcomes), default=0)
        lines += [
            f"+{o.started - start:.2f} s, {o.seconds:.2f} s: {o.method} {o.url} of {o.who}: "
            f"{o.status} {o.error} {'session lost' if o.lost_session else ''} {o.served_by}"
            for o in self.failed[:count]
        ]
        return "\n".join(lines)


def _how(failed: Iterable[Outcome]) -> str:
    counts = Counter(
        "session lost" if o.lost_session else o.error or str(o.status) for o in failed
    )
    said = ", ".join(f"{count} x {how}" for how, count in counts.most_common())
    return f" ({said})" if said else ""


def lost_writes(site: Site, report: Report) -> list[str]:
    """Return what was acknowledged to have been written and is not in the database."""
    titles = set(site.sql("SELECT cw_title FROM cw_file").splitlines())
    formers = set(site.sql("SELECT cw_former FROM cw_formereid").splitlines())
    kept = {"title": titles, "former": formers}
    lost = []
    for written in report.written():
        kind, _, value = written.partition(" ")
        if value not in kept[kind]:
            lost.append(written)
    return lost
