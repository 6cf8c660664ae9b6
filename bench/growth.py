"""How requests grow with the images and the former eids of the database."""

import random
import re
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path

from measure import Row, Sample, cpu, in_turn
from servers.instance import Instance
from servers.postgresql import PostgreSQL
from sites import Bench, Site, image

SIZES = (1_000, 100_000, 1_000_000)
TITLES = ("", "fewer", "", "more", "ratio", "of", "expected", "")
REQUESTS = 30
#: how many times what it costs in the smallest database a request may cost in the largest
EXPECTED = 1.1
#: what the look-up of its eid may be of the cost of a page
EXPECTED_LOOKUP = 0.03
LOOKUPS = 300
NAME = "image.png"

#: the questions of the cube; `{eid}` is one that is there, or was
QUERIES = {
    "what is an eid now": "SELECT type FROM entities WHERE eid={eid}",
    "which entity had an eid": "SELECT cw_current FROM cw_FormerEid WHERE cw_former={former}",
    "which eids an entity had": (
        "SELECT cw_current, cw_former FROM cw_FormerEid WHERE cw_current IN ({eid}) "
        "ORDER BY 1, 2 DESC"
    ),
    "attributes of an image": "SELECT cw_title, cw_data_format FROM cw_File WHERE cw_eid={eid}",
    "its bytes": "SELECT length(cw_data), substr(cw_data, 1, 1048576) FROM cw_File "
    "WHERE cw_eid={eid}",
    "the groups of a visitor": "SELECT cw_name FROM cw_CWGroup, in_group_relation "
    "WHERE cw_eid=eid_to AND eid_from=5",
}

_plans: list[str] = []


def rows(bench: Bench, rounds: int) -> Iterator[Row]:
    """Compare databases of different sizes: CPU time of the process and of PostgreSQL.

    Each request is for another image, drawn at random, which is what costs caches most.
    """
    [instance] = bench.create(growth="hasite,file")
    sites = {}
    for size in SIZES:
        name = f"growth{size}"
        bench.server.sql(f"CREATE DATABASE {name} TEMPLATE growth", timeout=60)
        eids = _fill(bench.server, name, size)
        process = bench.stack.enter_context(instance.process(db_name=name))
        sites[size] = _Site(bench, name, Site(process), eids)
    asked: dict[str, Callable[[_Site], float]] = {
        "look-up of an eid that nothing has, 404": lambda site: site.cost(site.unknown, 404),
        "look-up of a former eid, redirect": lambda site: site.cost(site.former, 301),
        "image 200": lambda site: site.cost(site.image, 200),
        "image 304": lambda site: site.cost(site.image, 304),
        "entity page": lambda site: site.cost(site.page, 200),
    }
    least, most = SIZES[0], SIZES[-1]
    pages = None
    for what, cost in asked.items():
        found = in_turn({str(size): partial(cost, site) for size, site in sites.items()}, rounds)
        for size in SIZES[1:]:
            few, many = found[str(least)], found[str(size)]
            yield Row(
                f"{what}, CPU ms, {least:,} and {size:,}",
                stock=few,
                ours=many,
                ratio=many.over(few),
                of=f"{size:,} / {least:,}",
                most=EXPECTED if size == most else None,
            )
        pages = found[str(most)]
    for what, path in (("image 200", _Site.image), ("redirect", _Site.former)):
        counts = [site.statements(path) for site in sites.values()]
        yield Row(
            f"{what}, SQL statements, {least:,} and {most:,}",
            stock=Sample([counts[0]] * 2),
            ours=Sample([counts[-1]] * 2),
            ratio=Sample([counts[-1] / counts[0]] * 2),
            of=f"{most:,} / {least:,}",
            most=1.0,
        )
    lookups = [_lookup(instance) for _ in range(3)]
    lookup = Sample([lookups[number % 3] for number in range(len(pages.values))])
    yield Row(
        "look-up of the eid of a page, and the page, CPU ms",
        ours=pages,
        stock=lookup,
        ratio=lookup.over(pages),
        of="look-up / page",
        most=EXPECTED_LOOKUP,
    )
    largest = sites[most]
    for what, query in QUERIES.items():
        sql = query.format(eid=largest.eids[len(largest.eids) // 2], former=largest.formers[7])
        plan = bench.server.sql(f"EXPLAIN (ANALYZE, COSTS OFF, TIMING OFF) {sql}", largest.name)
        if "Seq Scan on entities" in plan or re.search("Seq Scan on cw_(file|formereid)", plan):
            raise RuntimeError(f"{what} reads a whole table:\n{plan}")
        _plans.append(f"{what}: `{sql}`\n\n```\n{plan}\n```")


def notes() -> str:
    """Return the query plans in the largest database."""
    title = f"\n## Query plans with {SIZES[-1]:,} images and former eids\n\n"
    return title + "\n\n".join(_plans) + "\n"


class _Site:
    """An instance, and the eids of its images."""

    def __init__(self, bench: Bench, name: str, site: Site, first: int) -> None:
        size = int(name.removeprefix("growth"))
        self._bench = bench
        self.name = name
        self._site = site
        self.eids = range(first, first + size)
        self.formers = range(first + 2 * size, first + 3 * size)
        self._random = random.Random(size)

    def image(self) -> str:
        return f"/file/{self._random.choice(self.eids)}/raw/{NAME}"

    def page(self) -> str:
        return f"/file/{self._random.choice(self.eids)}"

    def former(self) -> str:
        return f"/file/{self._random.choice(self.formers)}/raw/{NAME}"

    def unknown(self) -> str:
        return f"/file/{self._random.randrange(10**8, 10**9)}/raw/{NAME}"

    def cost(self, path: Callable[[], str], status: int) -> float:
        """Return what a request costs, to the process and to PostgreSQL, in milliseconds."""
        headers = dict(self._site.cookies)
        if status == 304:
            headers["If-Modified-Since"] = "Fri, 01 Jan 2100 00:00:00 GMT"
        paths = [path() for _ in range(REQUESTS)]
        self._site.get(path(), headers)
        pids = [self._site.process.pid, *self._bench.backends(self.name)]
        start = cpu(pids)
        for asked in paths:
            found, _body = self._site.get(asked, headers)
            if found != status:
                raise RuntimeError(f"{asked}: {found}\n{self._site.process.log[-2000:]}")
        return (cpu(pids) - start) / REQUESTS

    def statements(self, path: Callable[["_Site"], str]) -> int:
        """Return how many SQL statements a request makes, other than the first for its URL.

        For that the process may have asked for the type of the entity, which it remembers.
        """
        asked = path(self)
        self._bench.server.configure("log_min_duration_statement", "0")
        self._site.get(asked, self._site.cookies)
        before = self._bench.server.log.count(" statement: ")
        self._site.get(asked, self._site.cookies)
        after = self._bench.server.log.count(" statement: ")
        self._bench.server.configure("log_min_duration_statement", None)
        return after - before


def _lookup(instance: Instance) -> float:
    """Return the CPU time of what is asked of the database before a page, in milliseconds.

    Of the process and of PostgreSQL, on a connection that the page takes anyway.
    """
    script = f"""
import os
import runpy
from cubicweb_hasite.images import replacement
cpu = runpy.run_path({str(Path(__file__).with_name("measure.py"))!r})["cpu"]
with repo.internal_cnx() as opened:
    [[backend]] = opened.system_sql("SELECT pg_backend_pid()").fetchall()
    replacement.entity_type(opened, 5)
    start = cpu([os.getpid(), backend])
    for _ in range({LOOKUPS}):
        replacement.entity_type(opened, 5)
    print("RESULT", (cpu([os.getpid(), backend]) - start) / {LOOKUPS})
"""
    path = instance.directory / "lookup.py"
    path.write_text(script)
    output = instance.ctl("shell", instance.name, str(path))
    return float(re.search(r"RESULT ([0-9.e-]+)", output)[1])


def _fill(server: PostgreSQL, database: str, size: int) -> int:
    """Put images into a database, each with a former eid; return the first eid of the images.

    Those of the former eids' own entities follow, and then the former eids.
    """

    def sql(query: str) -> str:
        # without a check of each foreign key
        query = f"SET session_replication_role=replica; {query}"
        return server.sql(query, database, timeout=900)

    first = int(
        sql(f"UPDATE entities_id_seq SET last=last+{3 * size} RETURNING last - {3 * size} + 1")
    )
    images = f"generate_series({first}, {first + size - 1}) AS n"
    formers = f"generate_series({first + size}, {first + 2 * size - 1}) AS n"
    data = image(500).hex()
    sql(f"""
        INSERT INTO entities SELECT n, 'File' FROM {images};
        INSERT INTO entities SELECT n, 'FormerEid' FROM {formers};
        INSERT INTO cw_File (cw_eid, cw_creation_date, cw_modification_date, cw_cwuri, cw_title,
                             cw_data, cw_data_format, cw_data_name)
        SELECT n, now(), now(), 'http://localhost/' || n, 'image ' || n,
               decode('{data}', 'hex'), 'image/png', '{NAME}' FROM {images};
        INSERT INTO cw_FormerEid (cw_eid, cw_creation_date, cw_modification_date, cw_cwuri,
                                  cw_former, cw_current)
        SELECT n, now(), now(), 'http://localhost/' || n, n + {size}, n - {size} FROM {formers};
        INSERT INTO owned_by_relation
        SELECT n, cw_eid FROM {images}, cw_CWUser WHERE cw_login='admin';
        INSERT INTO created_by_relation
        SELECT n, cw_eid FROM {images}, cw_CWUser WHERE cw_login='admin';
    """)
    for etype, series in (("File", images), ("FormerEid", formers)):
        for rtype in ("is", "is_instance_of"):
            sql(
                f"INSERT INTO {rtype}_relation "
                f"SELECT n, cw_eid FROM {series}, cw_CWEType WHERE cw_name='{etype}'"
            )
        sql(f"INSERT INTO cw_source_relation SELECT n, cw_eid FROM {series}, cw_CWSource")
    server.sql("VACUUM ANALYZE", database, timeout=900)
    return first
