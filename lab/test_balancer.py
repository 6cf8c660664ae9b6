"""Failures of the balancers."""

import time
from collections.abc import Callable

import pytest
from hosts import Host
from installation import Site
from results import Results, Row
from servers.support import wait_until
from traffic import Report, Traffic, lost_writes


def kill(host: Host) -> None:
    host.crash("haproxy")


def repair_killed(host: Host) -> None:
    host.start("haproxy")


@pytest.mark.parametrize(
    ("name", "fail", "repair"),
    [
        ("kill -9 HAProxy on the active balancer", kill, repair_killed),
        # one after the other, whichever keepalived prefers
        ("the active balancer loses its network", Host.cut_off, Host.reconnect),
        ("the other balancer, active now, loses its network", Host.cut_off, Host.reconnect),
    ],
    ids=["killed", "cut off", "other cut off"],
)
def test_lost_balancer(
    site: Site,
    traffic: Traffic,
    results: Results,
    name: str,
    fail: Callable[[Host], None],
    repair: Callable[[Host], None],
) -> None:
    traffic.run(3)
    lost = site.active_balancer()
    [other] = set(site.with_role("balancer")) - {lost}
    failed_at = time.monotonic()
    fail(lost)
    wait_until(lambda: site.has_address(other), "move of the floating address", interval=0.02)
    moved = time.monotonic() - failed_at
    traffic.run(10)
    repaired_at = time.monotonic()
    clock = time.time()
    repair(lost)
    traffic.run(8)
    moves = [line for host in (lost, other) for line in _moves(host, since=clock)]
    report = traffic.report()
    second = traffic.report(since=repaired_at)
    pages = traffic.report(since=failed_at, until=repaired_at).longest_gap("page")
    row = Row(
        name,
        "the floating address moves within 2 s; at most the requests in flight and one "
        "connection attempt per client fail; no second interruption when it returns",
        report,
        measured=f"address moved after {moved:.1f} s, no page for {pages:.1f} s; "
        f"{len(second.failed)} failed when it returned; {_by_client(report)}",
    )
    if moved > 2:
        row.short = f"the address moved after {moved:.1f} s"
    results.add(row)
    assert site.has_address(other)
    assert moves == [], "the address moved again"
    assert moved < 10
    # a connection from before that was idle meanwhile is found to be gone when it is used next
    assert {o.error for o in second.failed} <= {"reset", "disconnected"}, second.details()
    assert max(second.clients_that_failed.values(), default=0) <= 1, second.details()
    assert second.longest_gap("page") < 2
    assert not report.lost_sessions, report.details()
    assert lost_writes(site, report) == []


def _moves(balancer: Host, *, since: float) -> list[str]:
    """Return what keepalived logged of moves of the address to a balancer."""
    said = balancer.run(f"journalctl --quiet --unit=keepalived --since=@{since:.0f} --output=cat")
    return [line for line in said.splitlines() if "Entering MASTER STATE" in line]


def _by_client(report: Report) -> str:
    counts = report.clients_that_failed.values()
    return f"{len(counts)} visitors met a failure, at most {max(counts, default=0)} each"
