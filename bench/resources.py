"""What an instance takes to start, in memory, and of the database."""

import re
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path

from measure import Row, Sample, cpu, less
from servers.instance import Process
from sites import ARTICLE, OURS, STOCK, Bench, Site, create_file, image

PAGES = 30
REQUESTS = 5
_STATEMENT = re.compile(r"duration: [0-9.]+ ms  statement: (?!BEGIN|COMMIT|ROLLBACK)")


def rows(bench: Bench, rounds: int) -> Iterator[Row]:
    """Compare starts, memory, and the SQL statements of each request."""
    found: dict[str, list[tuple[float, float]]] = {STOCK: [], OURS: []}
    for number in range(rounds):
        for name in list(found) if number % 2 else reversed(found):
            with bench.instances[name].process() as process:
                started = cpu([process.pid])
                site = Site(process)
                for _ in range(PAGES):
                    site.get("/", site.cookies)
                found[name].append((started, _memory(process)))
    for index, what in enumerate(("start-up, CPU ms", f"memory after {PAGES} pages, MB")):
        samples = {name: Sample([pair[index] for pair in pairs]) for name, pairs in found.items()}
        yield less(what, samples[STOCK], samples[OURS])

    for name in (STOCK, ARTICLE, OURS):
        bench.server.sql(f"ALTER DATABASE {name} SET log_min_duration_statement = 0")
    counts = {name: _statements(bench, name) for name in (STOCK, ARTICLE, OURS)}
    for name in counts:
        bench.server.sql(f"ALTER DATABASE {name} RESET log_min_duration_statement")
    for what in counts[OURS]:
        sides = {name: count.get(what) for name, count in counts.items()}
        samples = {
            name: None if count is None else Sample([count, count])
            for name, count in sides.items()
        }
        other = samples[STOCK] or samples[ARTICLE]
        yield Row(
            f"{what}, SQL statements",
            samples[STOCK],
            samples[ARTICLE],
            samples[OURS],
            other.over(samples[OURS]) if other and sides[OURS] else None,
            "stock / hasite" if samples[STOCK] else "article / hasite",
        )


def _memory(process: Process) -> float:
    """Return the resident memory of a process, in MB."""
    status = Path(f"/proc/{process.pid}/status").read_text()
    return int(re.search(r"VmRSS:\s+([0-9]+) kB", status)[1]) / 1024


def _statements(bench: Bench, name: str) -> dict[str, float]:
    """Return how many SQL statements each kind of request makes, the transaction's apart."""
    with bench.instances[name].process() as process:
        site = Site(process)
        eid = create_file(site.manager, "Sunset.png", "image/png", image(2000))
        url = f"/file/{eid}/raw/Sunset.png"
        validators = {"If-None-Match": site.manager.get(url).headers.get("ETag", "")}
        asked: dict[str, tuple[str, dict[str, str]]] = {
            "home page": ("/", {}),
            "entity page": (f"/file/{eid}", {}),
            "image 200": (url, {}),
        }
        if name == OURS:
            asked["image 304"] = (url, validators)
        if name != STOCK:
            asked["monitor_db"] = ("/view?vid=monitor_db", {})
            asked["monitor_version"] = ("/view?vid=monitor_version", {})
        return {
            what: _count(bench, partial(site.get, path, site.cookies | extra))
            for what, (path, extra) in asked.items()
        }


def _count(bench: Bench, request: Callable[[], object]) -> float:
    for _ in range(3):
        request()
    before = len(_STATEMENT.findall(bench.server.log))
    for _ in range(REQUESTS):
        request()
    return (len(_STATEMENT.findall(bench.server.log)) - before) / REQUESTS
