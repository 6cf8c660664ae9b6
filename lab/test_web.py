"""Failures of the web servers."""

import pytest
from installation import Site
from results import Results, Row
from servers.support import wait_until
from traffic import Report, Traffic, lost_writes


def check_nothing_failed(site: Site, report: Report, *, posts: int = 0) -> None:
    """Assert that all GETs and sessions went well, and no more than so many POSTs failed.

    A program that is killed may have sent a part of an answer, which is rare.
    """
    assert report.count > 100, report.details()
    assert len(report.failed_gets) == len(report.cut_short) <= 2, report.details()
    assert not report.lost_sessions, report.details()
    assert len(report.failed_posts) <= posts, report.details()
    assert lost_writes(site, report) == []


def all_but(site: Site, *names: str) -> set[str]:
    return site.instances() - set(names)


def wait_for_service(site: Site, wanted: set[str], timeout: float = 120) -> float:
    """Wait until the active balancer has these instances in service; return for how long."""
    return wait_until(
        lambda: site.in_service() == wanted, f"in service: {wanted}", timeout=timeout
    )


def test_killed_instance(site: Site, traffic: Traffic, results: Results) -> None:
    traffic.run(3)
    site.lab["web1"].crash("cubicweb-mysite@1")
    noticed = wait_for_service(site, all_but(site, "web1-1"))
    traffic.run(5)
    site.lab["web1"].start("cubicweb-mysite@1")
    back = wait_for_service(site, site.instances())
    traffic.run(5)
    report = traffic.report()
    row = Row(
        "kill -9 one instance, for some seconds",
        "0 failed GETs; its visitors stay logged in",
        report,
        measured=f"out of service after {noticed:.1f} s, back {back:.1f} s after its start",
    )
    results.add(row)
    # a POST that it was answering is not sent again
    check_nothing_failed(site, report, posts=2)


@pytest.mark.long
def test_instance_that_systemd_starts_again(
    site: Site, traffic: Traffic, results: Results
) -> None:
    traffic.run(2)
    site.lab["web2"].kill("cubicweb-mysite@2")
    traffic.run(3)
    wait_for_service(site, site.instances())
    traffic.run(3)
    report = traffic.report()
    results.add(Row("kill -9 one instance, which systemd starts again", "0 failed GETs", report))
    check_nothing_failed(site, report, posts=2)


def test_frozen_instance(site: Site, traffic: Traffic, results: Results) -> None:
    traffic.run(3)
    site.lab["web1"].freeze("cubicweb-mysite@1")
    noticed = wait_for_service(site, all_but(site, "web1-1"), timeout=30)
    traffic.run(5)
    site.lab["web1"].thaw("cubicweb-mysite@1")
    wait_for_service(site, site.instances())
    traffic.run(3)
    traffic.stop()
    report = traffic.report()
    in_flight = sum(1 for o in report.outcomes if o.seconds > 3 or not o.status)
    row = Row(
        "freeze one instance (SIGSTOP)",
        "at most the requests in flight on it; out of rotation within 5 s",
        report,
        measured=f"out of service after {noticed:.1f} s; {in_flight} requests took over 3 s",
    )
    results.add(row)
    if noticed > 5:
        row.short = f"out of rotation after {noticed:.1f} s"
    assert noticed < 15
    # each visitor's and editor's own request, and those of its pictures
    assert len(report.failed_gets) <= in_flight, report.details()
    assert not report.lost_sessions, report.details()
    assert lost_writes(site, report) == []


def test_killed_squid(site: Site, traffic: Traffic, results: Results) -> None:
    traffic.run(3)
    site.lab["web1"].crash("squid")
    noticed = wait_for_service(site, all_but(site, "web1-1", "web1-2"))
    traffic.run(5)
    site.lab["web1"].start("squid")
    wait_for_service(site, site.instances())
    traffic.run(3)
    report = traffic.report()
    row = Row(
        "kill -9 one Squid, for some seconds",
        "0 failed GETs",
        report,
        measured=f"out of service after {noticed:.1f} s",
    )
    results.add(row)
    check_nothing_failed(site, report, posts=2)


def test_killed_apache(site: Site, traffic: Traffic, results: Results) -> None:
    """Squid does without it."""
    traffic.run(3)
    site.lab["web1"].crash("apache2")
    traffic.run(8)
    site.lab["web1"].start("apache2")
    traffic.run(5)
    report = traffic.report()
    results.add(Row("kill -9 one Apache, for some seconds", "0 failed GETs", report))
    assert {o.served_by for o in report.outcomes} >= site.instances()
    check_nothing_failed(site, report, posts=2)


def test_web_host_without_network(site: Site, traffic: Traffic, results: Results) -> None:
    traffic.run(3)
    site.lab["web2"].cut_off()
    noticed = wait_for_service(site, all_but(site, "web2-1", "web2-2"))
    traffic.run(10)
    site.lab["web2"].reconnect()
    back = wait_for_service(site, site.instances())
    traffic.run(5)
    traffic.stop()
    report = traffic.report()
    in_flight = sum(1 for o in report.outcomes if o.seconds > 3 or not o.status)
    row = Row(
        "one web host loses its network",
        "0 failed GETs beyond those in flight; back in rotation by itself",
        report,
        measured=f"out of service after {noticed:.1f} s, back after {back:.1f} s; "
        f"{in_flight} requests took over 3 s",
    )
    results.add(row)
    assert len(report.failed_gets) <= in_flight, report.details()
    assert not report.lost_sessions, report.details()
    assert lost_writes(site, report) == []
