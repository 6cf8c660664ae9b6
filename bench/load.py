"""How much a site bears: two instances, the cache, a thousand visitors at once."""

import re
import subprocess
import time
from collections.abc import Iterator

from measure import Row, Sample, cpu, in_turn
from servers.haproxy import HAProxy
from servers.instance import Instance
from servers.postgresql import Database
from servers.rendered import RenderedSite, rendered_site
from servers.squid import Squid
from servers.support import find_program, free_port, wait_until
from servers.visitor import Visitor
from sites import OURS, STOCK, Bench, create_file, image

#: of ab, which makes the requests
CONNECTIONS = 8
PAGES, DOWNLOADS, HITS, VISITORS = 200, 200, 10_000, 1000
BROWSER = ("-H", "Accept: text/html,application/xhtml+xml", "-H", "Accept-Encoding: gzip")
#: of the 99 % of visitors who are answered first, in milliseconds
EXPECTED_P99 = 300


def rows(bench: Bench, rounds: int) -> Iterator[Row]:
    """Measure requests per second, with ab on the same machine."""
    yield from _two_instances(bench, rounds)
    yield _hits(bench, rounds)
    yield from _burst(bench, rounds)


def _ab(
    url: str, requests: int, connections: int, *options: str, may_fail: bool = False
) -> dict[str, float]:
    """Make requests, and return how many a second, and the time of all but 1 % of them in ms.

    :param may_fail: whether some may fail, as those of stock CubicWeb do when two threads look up
        the line of a controller at once: see cubicweb_hasite.upstream.remember_source_lines
    :raises RuntimeError: one failed.
    """
    command = [find_program("ab", "apache2-utils"), "-q", "-n", str(requests)]
    command += ["-c", str(connections), *options, url]
    text = subprocess.run(command, capture_output=True, text=True, timeout=300).stdout
    figures = {
        name: re.search(pattern, text)
        for name, pattern in (
            ("rate", r"Requests per second: +([0-9.]+)"),
            ("p99", r" 99% +([0-9]+)"),
            ("failed", r"(?:Non-2xx responses|Connect: [1-9]|Exceptions: [1-9]).*"),
        )
    }
    if (figures["failed"] and not may_fail) or not figures["rate"] or not figures["p99"]:
        raise RuntimeError(f"{url}: {text}")
    return {name: float(figures[name][1]) for name in ("rate", "p99")}


def _two_instances(bench: Bench, rounds: int) -> Iterator[Row]:
    """One and two processes of an instance behind HAProxy."""
    port = free_port()
    base_url = f"http://127.0.0.1:{port}/"
    instance = bench.instances[OURS]
    with instance.process(base_url=base_url) as one, instance.process(base_url=base_url) as two:
        processes = [one, two]
        pids = [process.pid for process in processes]
        rates: dict[int, list[float]] = {1: [], 2: []}
        costs: dict[int, list[float]] = {1: [], 2: []}
        for count in rates:
            ports = [process.port for process in processes[:count]]
            haproxy = HAProxy(bench.directory / f"haproxy{count}", ports)
            bench.stack.enter_context(haproxy)
            wait_until(lambda haproxy=haproxy, ports=ports: haproxy.up() == set(ports), "up")

            def measure(haproxy: HAProxy = haproxy, count: int = count) -> float:
                before = cpu(pids)
                rate = _ab(haproxy.url, PAGES, CONNECTIONS)["rate"]
                rates[count].append(rate)
                costs[count].append((cpu(pids) - before) / PAGES)
                return rate

            measure()
            rates[count].clear()
            costs[count].clear()
            for _ in range(rounds):
                measure()
    for what, found, most in (
        ("home pages per second", rates, None),
        ("the same, CPU ms of the instances per page", costs, 1.1),
    ):
        single, double = Sample(found[1]), Sample(found[2])
        yield Row(
            f"{what}, 1 instance and 2",
            stock=single,
            ours=double,
            ratio=double.over(single),
            of="2 instances / 1",
            most=most,
        )


def _hits(bench: Bench, rounds: int) -> Row:
    """An image of 2 kB, of stock CubicWeb and of Squid in front of the cube."""
    stock, ours = bench.sites[STOCK], bench.sites[OURS]
    urls = {
        name: f"file/{create_file(site.manager, 'hit.png', 'image/png', image(2000))}/raw/hit.png"
        for name, site in ((STOCK, stock), (OURS, ours))
    }
    with Squid(bench.directory / "squid", ours.process.port) as squid:
        found = in_turn(
            {
                STOCK: lambda: _ab(
                    f"{stock.process.url}{urls[STOCK]}",
                    DOWNLOADS,
                    CONNECTIONS,
                    "-k",
                    may_fail=True,
                )["rate"],
                OURS: lambda: _ab(f"{squid.url}{urls[OURS]}", HITS, CONNECTIONS, "-k")["rate"],
            },
            rounds,
        )
    return Row(
        "image of 2 kB per second, of CubicWeb and as Squid's hits",
        stock=found[STOCK],
        ours=found[OURS],
        ratio=found[OURS].over(found[STOCK]),
        of="Squid / stock",
        least=100,
    )


def _burst(bench: Bench, rounds: int) -> Iterator[Row]:
    """A thousand visitors at once on a page, of a rendered site: HAProxy, Squid, instances."""
    bench.server.sql("CREATE USER site")
    bench.server.sql("CREATE DATABASE site OWNER site TEMPLATE template0", timeout=60)
    server = bench.server
    database = Database("postgres", "site", server.host, server.port, "site")
    instance = Instance(bench.directory / "site", ["hasite", "file"], database)
    instance.create()
    site = rendered_site(
        instance,
        bench.directory / "rendered",
        cache="squid",
        site_keys='languages = ["en"]\noptions = { "hasite-page-max-age" = "primary:60" }',
    )
    renderings, waits = [], []
    with site:
        wait_until(lambda: len(site.in_service()) == 2, "both in service", timeout=60)
        manager = Visitor(site.url)
        manager.login()
        for _ in range(rounds):
            # as one that is just published: nobody has asked for it yet
            eid = create_file(manager, "news.png", "image/png", image(2000))
            time.sleep(1)  # what the creation left to do
            before = _renderings(site, eid)
            waits.append(_ab(f"{site.url}file/{eid}", VISITORS, VISITORS, *BROWSER)["p99"])
            renderings.append(_renderings(site, eid) - before)
    yield Row(
        f"{VISITORS:,} visitors at once, renderings",
        ours=Sample(renderings),
        ratio=Sample(renderings),
        of="renderings",
        most=2,
    )
    yield Row(
        f"{VISITORS:,} visitors at once, ms until 99 % are answered",
        ours=Sample(waits),
        ratio=Sample(waits),
        of="ms",
        most=EXPECTED_P99,
    )


def _renderings(site: RenderedSite, eid: int) -> int:
    line = f'"GET /file/{eid} HTTP/1.1" 200'
    return sum(instance.log.count(line) for instance in site.instances.values())
