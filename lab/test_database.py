"""Failures of the database."""

import time
from collections.abc import Callable

import pytest
from hosts import Host
from installation import Site
from results import Results, Row
from servers.support import wait_until
from traffic import Traffic, good, lost_writes

Fail = Callable[[Site, Host], None]


def kill(_site: Site, host: Host) -> None:
    """Kill the primary, as the kernel would for want of memory; Patroni lives."""
    host.run(
        "pid=$(head -n 1 /var/lib/postgresql/15/hasite/postmaster.pid)\n"
        "children=$(pgrep -P $pid)\n"
        "kill -9 $pid $children || true"
    )


def nothing(_site: Site, _host: Host) -> None:
    pass


def power_off(_site: Site, host: Host) -> None:
    host.power_off()


def boot(_site: Site, host: Host) -> None:
    host.boot()


def cut_off(_site: Site, host: Host) -> None:
    host.cut_off()


def reconnect(_site: Site, host: Host) -> None:
    host.reconnect()


def isolate(site: Site, host: Host) -> None:
    """Let the primary and a web server reach each other, and nobody else."""
    web = site.with_role("web")[0]
    host.hear_only(web)
    web.hear_only(host)


def rejoin(site: Site, host: Host) -> None:
    for each in (host, site.with_role("web")[0]):
        each.hear_all()


@pytest.mark.parametrize(
    ("name", "fail", "repair", "limit"),
    [
        ("kill -9 the primary PostgreSQL", kill, nothing, 10),
        pytest.param(
            *("power off the primary's host", power_off, boot, 20),
            marks=pytest.mark.long,
        ),
        pytest.param(
            *("the primary's host loses its network", cut_off, reconnect, 20),
            marks=pytest.mark.long,
        ),
        pytest.param(
            *("the primary and a web server reach only each other", isolate, rejoin, 25),
            marks=pytest.mark.long,
        ),
    ],
    ids=["killed", "powered off", "cut off", "isolated"],
)
def test_lost_primary(
    site: Site,
    traffic: Traffic,
    results: Results,
    name: str,
    fail: Fail,
    repair: Fail,
    limit: float,
) -> None:
    traffic.run(5)
    primary = site.primary()
    failed_at = time.monotonic()
    fail(site, primary)
    two_primaries = False

    def writes_are_back() -> bool:
        nonlocal two_primaries
        two_primaries |= len(site.writable()) > 1
        last = traffic.report(since=time.monotonic() - 5).of("edit", method="POST")
        return (
            time.monotonic() > failed_at + 6 and last.count > 1 and all(map(good, last.outcomes))
        )

    try:
        wait_until(writes_are_back, "writes", timeout=120)
    finally:
        repair(site, primary)
    wait_until(
        lambda: site.standbys() == 2, "the lost node follows the primary again", timeout=120
    )
    two_primaries |= len(site.writable()) > 1
    traffic.run(3)
    report = traffic.report()
    trouble = traffic.report(since=failed_at - 3)  # what was in flight, too
    posts = trouble.failed_posts
    writes = max((o.started + o.seconds for o in posts), default=failed_at) - failed_at
    slow = sum(o.seconds > 3 for o in trouble.outcomes)
    lost = lost_writes(site, report)
    row = Row(
        name,
        f"no page, image or file fails; no session is lost; writes back within {limit} s; no "
        "acknowledged write lost; never two primaries; the lost node comes back as a standby",
        report,
        lost=len(lost),
        measured=f"last failed write ended {writes:.1f} s after the failure; "
        f"{len(trouble.failed_gets)} GETs failed, {slow} requests took over 3 s",
    )
    shortcomings = []
    if writes > limit:
        shortcomings.append(f"writes failed for {writes:.1f} s")
    if trouble.failed_gets:
        shortcomings.append(f"{len(trouble.failed_gets)} GETs failed")
    row.short = "; ".join(shortcomings)
    results.add(row)
    assert lost == []
    assert not two_primaries
    assert writes < 3 * limit
    assert not report.lost_sessions, report.details()
    assert not trouble.failed_gets, trouble.details()
    assert not traffic.report(since=time.monotonic() - 3).failed, "still failing"


@pytest.mark.long
def test_one_standby_is_left(site: Site, traffic: Traffic, results: Results) -> None:
    """Without a majority there is no primary: pages are read, and every monitor says so."""
    traffic.run(5)
    primary = site.primary()
    [standby, _other] = [host for host in site.with_role("database") if host is not primary]
    failed_at = time.monotonic()
    for host in (primary, standby):
        host.power_off()
    traffic.run(30)
    monitor = site.lab["monitor"]
    ask = "curl -s --max-time 5 http://10.0.0.21:9081"
    ready = monitor.run(f"{ask}/readyz")
    database = monitor.run(f"{ask}/view?vid=monitor_db")
    wait_until(lambda: site.in_service() == site.instances(), "all in service", timeout=10)
    trouble = traffic.report(since=failed_at - 5)
    for host in (primary, standby):
        host.boot()
    site.wait_until_well()
    traffic.run(5)
    report = traffic.report()
    lost = lost_writes(site, report)
    results.add(
        Row(
            "all database nodes but one standby down for 30 s",
            "no page, image or file fails; no session is lost; every monitor says that pages are "
            "read only",
            report,
            lost=len(lost),
            measured=f"{len(trouble.failed_gets)} of {trouble.count} GETs failed meanwhile",
        )
    )
    assert ready.startswith("ServiceOK : reads only"), ready
    assert database.startswith("ServiceKO"), database
    assert "pages are read from a standby" in database
    assert not trouble.failed_gets, trouble.details()
    assert not report.lost_sessions, report.details()
    assert lost == []
    assert not traffic.report(since=time.monotonic() - 3).failed


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
