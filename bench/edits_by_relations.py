"""What an edit that replaces an image costs, by the number of its relations.

A manager edits two files of the test application in their edition forms, as a browser with
JavaScript does, and uploads other bytes each time:

- a picture, which is *replaced*: it gets a new eid, and all that is linked to it follows;
- a file that is no image, for which the cube does nothing: it is updated as by stock CubicWeb.

Both are of one type, on one instance, with as many bytes and as many relations: what differs is
the replacement, with its comparison of the bytes. (Uploading the same bytes again would not do for
a plain update, nor would leaving the upload out: they store no data.) So that the plain update is
that of stock CubicWeb, what makes both cheaper by the same time is off.

A third of the relations are tags, a third comments and a third illustrations of articles: CubicWeb
stores them in a table of their own, by object; in a column of the other entity; by subject.

The form is not measured, only its submission is: from the request to the response for the visitor,
and in CPU time of the process that serves and of PostgreSQL.
"""

import re
import time
from collections.abc import Iterator
from typing import NamedTuple
from urllib.parse import urlsplit

from measure import Row, Sample, cpu
from servers.instance import Process
from servers.postgresql import PostgreSQL
from servers.visitor import Visitor, validation
from sites import Bench, create_file, image

RELATIONS = (1, 100, 10_000)
TITLES = ("", "plain update", "", "replacement", "ratio", "of", "expected", "")
SIZE = 100_000
#: how much a replacement should cost at most, in plain updates, at how many relations
EXPECTED, AT = 1.5, 100
DATABASE = "relations"
#: edits of each file that are not measured: a connection of PostgreSQL plans its checks of
#: foreign keys anew each of the first times, 10 ms the first one
WARM_UP = 6


class File(NamedTuple):
    """A file to edit."""

    name: str
    media_type: str


PICTURE = File("picture.png", "image/png")
PLAIN = File("file.bin", "application/octet-stream")


class Cost(NamedTuple):
    """What an edit took, in milliseconds."""

    wall: float
    server: float
    database: float

    @property
    def cpu(self) -> float:
        """CPU time of all the servers."""
        return self.server + self.database


class Site:
    """An instance, its database and a manager who edits there."""

    def __init__(self, server: PostgreSQL, process: Process) -> None:
        self._server = server
        self._process = process
        self._manager = Visitor(process.url)
        self._manager.login()
        self._edits = 0

    def create(self, file: File, relations: int) -> int:
        """Create a file with so many relations, and return its eid."""
        eid = create_file(self._manager, file.name, file.media_type, self._data())
        for number, link in enumerate((self._tag, self._comment, self._illustrate)):
            link(eid, len(range(number, relations, 3)))
        return eid

    def tidy(self) -> None:
        """Let PostgreSQL know what was created, and not find it out while it is measured."""
        self._sql("VACUUM ANALYZE")

    def edit(self, file: File, eid: int) -> tuple[int, Cost]:
        """Give a file other bytes; return the eid that it has then, and what it took."""
        form = self._manager.form(f"file/{eid}?vid=edition")
        upload = {"data": (file.name, self._data(), file.media_type)}
        server, database = [self._process.pid], self._backends()
        before = cpu(server), cpu(database)
        response = self._manager.submit(form, eid, files=upload, controller="validateform")
        time.sleep(0.02)  # they may still be about it
        cost = Cost(
            response.elapsed.total_seconds() * 1000,
            cpu(server) - before[0],
            cpu(database) - before[1],
        )
        valid, url, _entity = validation(response)
        if not valid:
            raise RuntimeError(f"{file.name} was not edited: {url}")
        # A page shows the message of success, which the session keeps until then; not the page
        # of the file, which takes seconds to show 10,000 relations.
        self._manager.get(f"?{urlsplit(url).query}")
        return int(re.search(r"/file/([0-9]+)", url)[1]), cost

    def _data(self) -> bytes:
        """Return other bytes at each call."""
        self._edits += 1
        return image(SIZE - 8) + b"%08d" % self._edits

    def _backends(self) -> list[int]:
        """Return the ids of the processes of PostgreSQL that serve the instance."""
        sql = f"SELECT pid FROM pg_stat_activity WHERE datname='{DATABASE}'"
        return [int(pid) for pid in self._server.sql(sql).split()]

    def _tag(self, eid: int, count: int) -> None:
        new = self._new_entities("Tag", "cw_name", "'tag ' || n", count)
        self._sql(f"INSERT INTO tags_relation SELECT n, {eid} FROM {new}")

    def _comment(self, eid: int, count: int) -> None:
        self._new_entities("Comment", "cw_content, cw_comments", f"'Look!', {eid}", count)

    def _illustrate(self, eid: int, count: int) -> None:
        new = self._new_entities("Article", "cw_title", "'article ' || n", count)
        self._sql(f"INSERT INTO illustrates_relation SELECT {eid}, n FROM {new}")

    def _new_entities(self, etype: str, columns: str, values: str, count: int) -> str:
        """Create entities at once, and return the SQL of their eids, called n.

        :param columns: those without a default, the values of which are in terms of n
        """
        last = int(self._sql(f"UPDATE entities_id_seq SET last=last+{count} RETURNING last"))
        new = f"generate_series({last - count + 1}, {last}) AS n"
        self._sql(f"""
            INSERT INTO entities SELECT n, '{etype}' FROM {new};
            INSERT INTO cw_{etype} (
                cw_eid, cw_creation_date, cw_modification_date, cw_cwuri, {columns}
            ) SELECT n, now(), now(), '{self._process.base_url}' || n, {values} FROM {new};
        """)
        for rtype, table, condition in (
            ("is", "CWEType", f"cw_name='{etype}'"),
            ("is_instance_of", "CWEType", f"cw_name='{etype}'"),
            ("created_by", "CWUser", "cw_login='admin'"),
            ("owned_by", "CWUser", "cw_login='admin'"),
        ):
            self._sql(
                f"INSERT INTO {rtype}_relation "
                f"SELECT n, cw_eid FROM {new}, cw_{table} WHERE {condition}"
            )
        return new

    def _sql(self, query: str) -> str:
        return self._server.sql(query, DATABASE, timeout=60)


def rows(bench: Bench, rounds: int) -> Iterator[Row]:
    """Compare a replacement with a plain update, and with one at fewer relations."""
    [instance] = bench.create(**{DATABASE: "hasite_testapp"})
    with instance.process(hasite_speed_ups="n") as process:
        site = Site(bench.server, process)
        before: tuple[int, Sample] | None = None
        for relations in RELATIONS:
            plain, replacement = measure(site, relations, rounds)
            for what in ("wall", "cpu"):
                update, replaced = (
                    Sample([getattr(cost, what) for cost in costs])
                    for costs in (plain, replacement)
                )
                yield Row(
                    f"edit of data, {relations:,} relations, "
                    f"{'ms' if what == 'wall' else 'CPU ms with PostgreSQL'}",
                    stock=update,
                    ours=replaced,
                    ratio=replaced.over(update),
                    of="replacement / plain",
                    most=EXPECTED if relations == AT else None,
                )
                if what == "wall" and before:
                    fewer, faster = before
                    yield Row(
                        f"replacement at {fewer:,} and at {relations:,} relations, ms",
                        stock=faster,
                        ours=replaced,
                        ratio=replaced.over(faster),
                        of="more / fewer",
                        most=relations // fewer,
                    )
                if what == "wall":
                    before = relations, replaced


def measure(site: Site, relations: int, rounds: int) -> tuple[list[Cost], list[Cost]]:
    """Return what plain updates and replacements take, for files with so many relations."""
    eids = {file: site.create(file, relations) for file in (PLAIN, PICTURE)}
    site.tidy()
    costs: dict[File, list[Cost]] = {file: [] for file in eids}
    for number in range(WARM_UP + rounds):
        for file in (PLAIN, PICTURE) if number % 2 else (PICTURE, PLAIN):
            eid, cost = site.edit(file, eids[file])
            if (eid != eids[file]) != (file is PICTURE):
                raise RuntimeError(f"{file.name} had eid {eids[file]} and has {eid}")
            eids[file] = eid
            if number >= WARM_UP:
                costs[file].append(cost)
    return costs[PLAIN], costs[PICTURE]
