"""Reboots, and a power cut of the whole site: all comes back by itself."""

import random
import time
from concurrent.futures import ThreadPoolExecutor

import pytest
from hosts import Host
from installation import Site
from results import Results, Row
from servers.support import wait_until
from traffic import Traffic, lost_writes
from visitors import CONNECTIONS

pytestmark = pytest.mark.long


def failed_units(host: Host) -> str:
    """Return the units that have failed on a host, once it has booted."""
    host.run("systemctl is-system-running --wait || true", timeout=120)
    return host.run("systemctl --failed --no-legend --plain")


@pytest.mark.parametrize("role", ["balancer", "web", "database", "backup", "monitoring"])
def test_reboot(site: Site, traffic: Traffic, results: Results, role: str) -> None:
    traffic.run(3)
    active, primary = site.active_balancer(), site.primary()
    hosts = [active] if role == "balancer" else site.with_role(role)
    host = next(host for host in hosts if host is not primary)
    started = time.monotonic()
    host.reboot()
    site.wait_until_well()
    back = time.monotonic() - started
    traffic.run(5)
    report = traffic.report()
    failed = failed_units(host)
    lost = lost_writes(site, report)
    row = Row(
        f"reboot of a host: {role}",
        "all well again within 60 s, without a failed unit",
        report,
        lost=len(lost),
        measured=f"all well {back:.1f} s after the command",
    )
    if failed:
        row.short = f"failed: {', '.join(line.split()[0] for line in failed.splitlines())}"
    results.add(row)
    assert lost == []
    after = traffic.report(since=started + back)
    if role == "balancer":
        # each connection from before that was idle meanwhile is gone when it is used next
        assert {o.error for o in after.failed} <= {"reset", "disconnected"}, after.details()
        assert max(after.clients_that_failed.values(), default=0) <= CONNECTIONS, after.details()
    else:
        assert not after.failed, after.details()


def test_power_cut(site: Site, traffic: Traffic, results: Results) -> None:
    traffic.run(8)
    hosts = [host for host in site.lab.hosts.values() if host is not site.client]
    for host in hosts:
        host.power_off()
    random.shuffle(hosts)
    with ThreadPoolExecutor(3) as executor:
        list(executor.map(Host.boot, hosts))
    booted = time.monotonic()
    wait_until(lambda: site.in_service() == site.instances(), "all in service", timeout=180)
    back = time.monotonic() - booted
    site.wait_until_well()
    traffic.run(5)
    report = traffic.report()
    failed = [unit for host in hosts for unit in failed_units(host).splitlines()]
    lost = lost_writes(site, report)
    row = Row(
        "power cut of the whole site, hosts booted in any order",
        "all in service within 60 s of the last boot; no acknowledged write lost; nothing is "
        "started by hand",
        report,
        lost=len(lost),
        measured=f"all in service {back:.1f} s after the last boot",
    )
    shortcomings = []
    if back > 60:
        shortcomings.append(f"all in service after {back:.1f} s")
    if failed:
        shortcomings.append(f"failed: {', '.join(line.split()[0] for line in failed)}")
    row.short = "; ".join(shortcomings)
    results.add(row)
    assert lost == []
    assert not report.lost_sessions, report.details()
    assert not traffic.report(since=time.monotonic() - 3).failed, "still failing"
