"""What it costs to read pages from a hot standby, and what is left to the primary.

Both sides are processes of one instance on one database, one of them with the option
`hasite-standby-hosts`. The CPU time is that of the process and of PostgreSQL on both nodes.
"""

import time
from collections.abc import Iterator
from functools import partial

from measure import Row, Sample, cpu, in_turn
from servers.postgresql import PostgreSQL
from servers.support import wait_until
from servers.visitor import Visitor
from sites import Bench, Site, create_file, image

TITLES = ("", "primary", "", "standby", "ratio", "of", "expected", "")
PRIMARY, STANDBY = "primary", "standby"
#: requests of a page in each round
REQUESTS = 20
#: how much more CPU time a page may use, and which share of the transactions may be on the primary
MOST, BROWSING, EDITING = 1.03, 0.0, 0.05
#: one of so many visits is an edit, where editors are among the visitors
VISITS_OF_AN_EDIT = 20
#: after which the counters of PostgreSQL are up to date, in seconds
_COUNTED = 2.0


def rows(bench: Bench, rounds: int) -> Iterator[Row]:
    """Compare the CPU time of pages, and count the transactions on the primary."""
    [instance] = bench.create(standbys="hasite,file")
    standby = bench.stack.enter_context(
        PostgreSQL(bench.directory / "standby", primary=bench.server)
    )
    hosts = f"{standby.host}:{standby.port}"
    sides = {}
    for name, options in ((PRIMARY, {}), (STANDBY, {"hasite_standby_hosts": hosts})):
        process = instance.process(**options)
        site = Site(bench.stack.enter_context(process))
        sides[name] = _Side(site, [bench.server, standby])
    eid = create_file(sides[PRIMARY].site.manager, "a.png", "image/png", image(2000))
    time.sleep(_COUNTED)
    pages = {
        "home page": ("/", False),
        "page of an entity": (f"/file/{eid}", False),
        "page of an entity, of a user": (f"/file/{eid}", True),
        "edition form": (f"/file/{eid}?vid=edition", True),
    }
    for what, (path, user) in pages.items():
        found = in_turn(
            {name: partial(side.page, path, user=user) for name, side in sides.items()}, rounds
        )
        yield Row(
            f"{what}, CPU ms",
            stock=found[PRIMARY],
            ours=found[STANDBY],
            ratio=found[STANDBY].over(found[PRIMARY]),
            of="standby / primary",
            most=MOST,
        )
    side = sides[STANDBY]
    for what, edits, most in (
        ("browsing", 0, BROWSING),
        ("of which one in 20 edits", 1, EDITING),
    ):
        share = Sample([side.share([path for path, _user in pages.values()], eid, edits)])
        yield Row(f"transactions on the primary, {what}", ratio=share, of="all", most=most)


class _Side:
    """A process, and the nodes of its database."""

    def __init__(self, site: Site, nodes: list[PostgreSQL]) -> None:
        self.site = site
        self._nodes = nodes
        self._edits = 0

    def page(self, path: str, *, user: bool) -> float:
        """Return the CPU time of a GET, in ms: of an anonymous visitor, or of a user."""
        cookies = "; ".join(
            f"{each.name}={each.value}"
            for each in self.site.manager.session.cookies
            if each.name != "hasite_position"
        )
        pids = [pid for node in self._nodes for pid in _backends(node)]
        start = cpu(pids)
        headers = {"Cookie": cookies} if user else None
        cost = self.site.cost(path, REQUESTS, lambda status, _body: status == 200, headers=headers)
        return cost + (cpu(pids) - start) / REQUESTS

    def share(self, paths: list[str], eid: int, edits: int) -> float:
        """Return which share of the transactions of some hundred visits is on the primary.

        :param edits: how many of :data:`VISITS_OF_AN_EDIT` visits are edits
        """
        visitor = Visitor(self.site.process.url)
        editor = Visitor(self.site.process.url)
        editor.login()
        time.sleep(_COUNTED)
        before = [_transactions(node) for node in self._nodes]
        for number in range(10 * VISITS_OF_AN_EDIT):
            if number % VISITS_OF_AN_EDIT < edits:
                self._edits += 1
                editor.edit(eid, "File", {"title": f"title {self._edits}"})
            else:
                visitor.get(paths[number % 2])
        time.sleep(_COUNTED)
        after = [_transactions(node) for node in self._nodes]
        primary, standby = (b - a for a, b in zip(before, after, strict=True))
        return primary / (primary + standby)


def _backends(node: PostgreSQL) -> list[int]:
    sql = (
        "SELECT pid FROM pg_stat_activity WHERE datname = 'standbys' "
        "AND application_name NOT IN ('hasite-standbys', 'hasite-probes', 'hasite-notices')"
    )
    return [int(pid) for pid in node.sql(sql).split()]


def _transactions(node: PostgreSQL) -> int:
    """Return how many rows were read by visits: what is asked all the time reads nearly none."""
    wait_until(node.is_ready, "the node")
    return int(node.sql("SELECT tup_returned FROM pg_stat_database WHERE datname = 'standbys'"))
