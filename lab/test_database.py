"""Failures of the database."""

import time
from collections.abc import Callable

import pytest
from hosts import Host
from installation import Site
from results import Results, Row
from servers.support import wait_until
from traffic import Traffic, good, lost_writes


def kill(host: Host) -> None:
    """Kill the primary, as the kernel would for want of memory; Patroni lives."""
    host.run(
        "pid=$(head -n 1 /var/lib/postgresql/15/hasite/postmaster.pid)\n"
        "children=$(pgrep -P $pid)\n"
        "kill -9 $pid $children || true"
    )


def nothing(_host: Host) -> None:
    pass


@pytest.mark.parametrize(
    ("name", "fail", "repair", "limit"),
    [
        ("kill -9 the primary PostgreSQL", kill, nothing, 10),
        pytest.param(
            *("power off the primary's host", Host.power_off, Host.boot, 20),
            marks=pytest.mark.long,
        ),
        pytest.param(
            *("the primary's host loses its network", Host.cut_off, Host.reconnect, 20),
            marks=pytest.mark.long,
        ),
    ],
    ids=["killed", "powered off", "cut off"],
)
def test_lost_primary(
    site: Site,
    traffic: Traffic,
    results: Results,
    name: str,
    fail: Callable[[Host], None],
    repair: Callable[[Host], None],
    limit: float,
) -> None:
    traffic.run(5)
    primary = site.primary()
    failed_at = time.monotonic()
    fail(primary)
    two_primaries = False

    def pages_are_back() -> bool:
        nonlocal two_primaries
        two_primaries |= len(site.writable()) > 1
        # all the visitors, for as long as it takes each to look at some pages
        last = traffic.report(since=time.monotonic() - 5).of("page")
        return (
            time.monotonic() > failed_at + 6 and last.count > 10 and all(map(good, last.outcomes))
        )

    wait_until(pages_are_back, "pages", timeout=120)
    repaired_at = time.monotonic()
    repair(primary)
    wait_until(
        lambda: site.standbys() == 2, "the lost node follows the primary again", timeout=120
    )
    two_primaries |= len(site.writable()) > 1
    traffic.run(3)
    report = traffic.report()
    trouble = traffic.report(since=failed_at, until=repaired_at)
    failed_pages = [o for o in trouble.of("page", "login").outcomes if not good(o)]
    pages = max((o.started + o.seconds for o in failed_pages), default=failed_at) - failed_at
    images = trouble.cached(traffic.report(until=failed_at))
    lost = lost_writes(site, report)
    row = Row(
        name,
        f"pages back within {limit} s; cached images served; no acknowledged write lost; "
        "never two primaries; the lost node comes back as a standby",
        report,
        lost=len(lost),
        measured=f"last failed page ended {pages:.1f} s after the failure; "
        f"{len(images.failed)} of {images.count} cached images failed",
    )
    shortcomings = []
    if pages > limit:
        shortcomings.append(f"pages failed for {pages:.1f} s")
    if images.failed:
        shortcomings.append(f"{len(images.failed)} cached images failed")
    row.short = "; ".join(shortcomings)
    results.add(row)
    assert lost == []
    assert not two_primaries
    assert pages < 3 * limit
    assert not report.lost_sessions, report.details()
    assert not traffic.report(since=time.monotonic() - 3).failed, "still failing"


@pytest.mark.long
def test_no_database(site: Site, traffic: Traffic, results: Results) -> None:
    traffic.run(8)
    nodes = site.with_role("database")
    monitor = site.lab["monitor"]
    ask = "curl -sf --max-time 5 http://10.0.0.21:9081/readyz"
    assert monitor.succeeds(ask)
    started = time.monotonic()
    for host in nodes:
        host.power_off()
    noticed = wait_until(lambda: not monitor.succeeds(ask), "a monitor says so")
    noticed = time.monotonic() - started
    # what the caches hold, for visitors who have never come
    while time.monotonic() < started + 60:
        time.sleep(1)
    cached = traffic.report(since=started).cached(traffic.report(until=started))
    booted = time.monotonic()
    for host in nodes:
        host.boot()
    wait_until(lambda: site.in_service() == site.instances(), "all in service", timeout=120)
    back = time.monotonic() - booted
    site.wait_until_well()
    traffic.run(5)
    report = traffic.report()
    lost = lost_writes(site, report)
    failed = cached.failed
    row = Row(
        "all database nodes down for 60 s",
        "every cached image still served; monitors say so within 5 s; all comes back without "
        "restarting anything",
        report,
        lost=len(lost),
        measured=f"a monitor said so after {noticed:.1f} s; {len(failed)} of {cached.count} "
        f"cached images failed; all back {back:.1f} s after the nodes' power",
    )
    row.short = "; ".join(
        text
        for text, true in (
            (f"monitors after {noticed:.1f} s", noticed > 5),
            (f"{len(failed)} images failed", failed),
        )
        if true
    )
    results.add(row)
    assert noticed < 15
    assert lost == []
    assert not traffic.report(since=time.monotonic() - 3).failed
    assert cached.count > 100
    assert not failed, cached.details()
