"""What it costs that all processes know what one of them changes.

The same cube without it is the other side: `without_coherence.py` takes away the thread that
listens, the hooks that send notices, the question for the state of the user in each request, and
the sessions that do not overflow.
"""

import shutil
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path

from measure import Row, Sample, cpu, in_turn
from servers.visitor import Visitor
from sites import Bench, Site, create_file, image

TITLES = ("", "without", "", "with", "ratio", "of", "expected", "")
WITHOUT, WITH = "without", "with"
#: requests of a page, forms and edits, in each round
REQUESTS, FORMS, EDITS = 20, 8, 8
WRITERS, EDITS_OF_A_WRITER = 8, 6
#: for how long a process that does nothing is looked at, in seconds
IDLE = 5
#: how much more CPU time may be used, and how many edits may be made in a second
MOST, LEAST = 1.02, 0.95


def rows(bench: Bench, rounds: int) -> Iterator[Row]:
    """Compare pages and edits: CPU time, and what 8 writers do in a second."""
    instances = dict(
        zip(
            (WITHOUT, WITH),
            bench.create(without="hasite,file", coherent="hasite,file"),
            strict=True,
        )
    )
    without = instances[WITHOUT]
    shutil.copy(
        Path(__file__).with_name("without_coherence.py"),
        without.directory / without.name / "views.py",
    )
    sides = {}
    for name, instance in instances.items():
        process = instance.process(threads=WRITERS, connections_pool_max_size=2 * WRITERS)
        site = Site(bench.stack.enter_context(process))
        backends = partial(bench.backends, "without" if name == WITHOUT else "coherent")
        sides[name] = _Side(site, backends)
    pages = {
        "home page": lambda side: side.page("/"),
        "page of an entity": lambda side: side.page(f"/file/{side.eid}"),
        "page of an entity, of a user": lambda side: side.page(f"/file/{side.eid}", user=True),
        "image of a user": lambda side: side.page(f"/file/{side.eid}/raw/a.png", user=True),
        "edition form": lambda side: side.form(),
        "edit of a title": lambda side: side.edit(),
        f"process that does nothing for {IDLE} s": lambda side: side.idle(),
    }
    for what, measure in pages.items():
        few = what.startswith("process")
        found = in_turn(
            {name: partial(measure, side) for name, side in sides.items()},
            min(rounds, 2) if few else rounds,
        )
        yield _row(f"{what}, CPU ms", found, most=None if few else MOST)
    found = in_turn({name: side.edits_per_second for name, side in sides.items()}, rounds)
    yield _row(f"edits per second of {WRITERS} writers", found, least=LEAST)


def _row(
    what: str,
    found: dict[str, Sample],
    *,
    most: float | None = None,
    least: float | None = None,
) -> Row:
    return Row(
        what,
        stock=found[WITHOUT],
        ours=found[WITH],
        ratio=found[WITH].over(found[WITHOUT]),
        of="with / without",
        most=most,
        least=least,
    )


class _Side:
    """A site, an image of it, and those who visit and edit.

    :param backends: returns the ids of PostgreSQL's processes that serve it
    """

    def __init__(self, site: Site, backends: Callable[[], list[int]]) -> None:
        self._site = site
        self._backends = backends
        self.eid = create_file(site.manager, "a.png", "image/png", image(2000))
        self._writers = [_Writer(site) for _ in range(WRITERS)]
        self._executor = ThreadPoolExecutor(WRITERS)

    def page(self, path: str, *, user: bool = False) -> float:
        """Return the CPU time of a GET, in ms: of an anonymous visitor, or of a user."""
        cookies = self._site.manager.session.cookies
        text = "; ".join(f"{each.name}={each.value}" for each in cookies)
        return self._cost(
            lambda: self._site.cost(
                path,
                REQUESTS,
                lambda status, body: status == 200,
                headers={"Cookie": text} if user else None,
            )
        )

    def form(self) -> float:
        """Return the CPU time of an edition form, which adds a message to the session.

        The session is a new one: a full one is an error without what is measured here.
        """
        editor = Visitor(self._site.process.url)
        editor.login()
        return self._per(FORMS, lambda: editor.form(f"file/{self.eid}?vid=edition"))

    def edit(self) -> float:
        """Return the CPU time of an edit in a form, and of the page that follows."""
        writer = self._writers[0]
        writer.log_in()
        return self._per(EDITS, writer.edit)

    def idle(self) -> float:
        """Return the CPU time of the process while nobody visits."""
        start = self._cpu()
        time.sleep(IDLE)
        return self._cpu() - start

    def edits_per_second(self) -> float:
        """Return how many edits are made at once by all writers."""
        list(self._executor.map(_Writer.log_in, self._writers))
        start = time.monotonic()
        list(self._executor.map(_Writer.edits, self._writers))
        return WRITERS * EDITS_OF_A_WRITER / (time.monotonic() - start)

    def _per(self, times: int, action: Callable[[], object]) -> float:
        action()
        start = self._cpu()
        for _ in range(times):
            action()
        return (self._cpu() - start) / times

    def _cost(self, measure: Callable[[], float]) -> float:
        """Return what is measured of the process, and add what the database does for it."""
        start = cpu(self._backends())
        cost = measure()
        return cost + (cpu(self._backends()) - start) / REQUESTS

    def _cpu(self) -> float:
        return cpu([self._site.process.pid, *self._backends()])


class _Writer:
    """Edits the title of an image of their own, again and again."""

    def __init__(self, site: Site) -> None:
        self._url = site.process.url
        self._eid = create_file(site.manager, "a.png", "image/png", image(2000))
        self._edits = 0

    def log_in(self) -> None:
        """Begin a new session: each edit adds to it, and a full one is an error without."""
        self._visitor = Visitor(self._url)
        self._visitor.login()
        self._form = self._visitor.form(f"file/{self._eid}?vid=edition")

    def edit(self) -> None:
        """Edit the title; see the page that follows."""
        self._edits += 1
        title = {"title": f"title {self._edits}"}
        response = self._visitor.submit(self._form, self._eid, title)
        if response.status_code != 303:
            raise RuntimeError(f"not edited: {response.status_code} {response.text}")
        self._visitor.get(response.headers["Location"])

    def edits(self) -> None:
        """Make as many edits as one round has."""
        for _ in range(EDITS_OF_A_WRITER):
            self.edit()
