"""What a poll of each monitor costs the process that serves it."""

import time
from collections.abc import Iterator
from contextlib import closing

import psycopg2

from measure import Row, in_turn
from sites import ARTICLE, OURS, Bench

MONITORS = ("monitor_pool", "monitor_db", "monitor_version", "monitor_hostname")
POLLS = 40
#: how many times cheaper than the article's view a poll should be at least
EXPECTED = 10
#: monitor_db in `SELECT 1` on a connection made for it, at most
EXPECTED_SELECTS = 3


def rows(bench: Bench, rounds: int) -> Iterator[Row]:
    """Compare with the article's views, and `monitor_db` with `SELECT 1`: CPU time, per poll.

    Without cookies, as monitoring systems poll; on the port of visitors and on the management
    port. `SELECT 1` is a check that does not go through the instance: it connects, asks and
    leaves; and, on a connection that is open, the floor of what asking a database can cost.
    """
    ours, article = bench.sites[OURS], bench.sites[ARTICLE]
    sides = {
        ARTICLE: (article, None),
        OURS: (ours, None),
        "management": (ours, ours.management_port),
    }
    for monitor in MONITORS:

        def check(status: int, body: bytes, monitor: str = monitor) -> bool:
            ok = monitor in ("monitor_pool", "monitor_hostname") or body.startswith(b"ServiceOK")
            return status == 200 and ok and b"<" not in body

        asked = {
            name: lambda site=site, port=port, monitor=monitor, check=check: site.cost(
                f"/view?vid={monitor}", POLLS, check, headers={}, port=port
            )
            for name, (site, port) in sides.items()
        }
        if monitor == "monitor_db":
            asked |= {
                "connecting": lambda: _select_1(bench, connect=True),
                "connected": lambda: _select_1(bench, connect=False),
            }
        found = in_turn(asked, rounds)
        views = found[ARTICLE]
        yield Row(
            f"{monitor}, CPU ms",
            article=views,
            ours=found[OURS],
            ratio=views.over(found[OURS]),
            of="article / hasite",
            least=EXPECTED,
        )
        yield Row(
            f"{monitor} on the management port, CPU ms",
            article=views,
            ours=found["management"],
            ratio=views.over(found["management"]),
            of="article / hasite",
        )
        if monitor == "monitor_db":
            yield Row(
                "`SELECT 1`, connecting, and monitor_db, CPU ms",
                stock=found["connecting"],
                ours=found[OURS],
                ratio=found[OURS].over(found["connecting"]),
                of="hasite / SELECT 1",
                most=EXPECTED_SELECTS,
            )
            yield Row(
                "`SELECT 1`, connected, and monitor_db, CPU ms",
                stock=found["connected"],
                ours=found[OURS],
                ratio=found[OURS].over(found["connected"]),
                of="hasite / SELECT 1",
            )


def _select_1(bench: Bench, *, connect: bool) -> float:
    """Return the CPU time of a client that asks `SELECT 1`, in milliseconds."""

    def connection() -> psycopg2.extensions.connection:
        server = bench.server
        return psycopg2.connect(host=server.host, port=server.port, user=server.user, dbname=OURS)

    def select(connection: psycopg2.extensions.connection) -> None:
        cursor = connection.cursor()
        cursor.execute("SELECT 1")
        [[_one]] = cursor.fetchall()
        connection.rollback()

    if connect:
        start = time.process_time()
        for _ in range(POLLS):
            with closing(connection()) as one:
                select(one)
    else:
        with closing(connection()) as one:
            start = time.process_time()
            for _ in range(POLLS):
                select(one)
    return (time.process_time() - start) * 1000 / POLLS
