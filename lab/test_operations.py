"""What operators do by the runbook, whose commands are run as they are written."""

import time

import pytest
from installation import Site
from results import Results, Row
from servers import runbook
from servers.support import wait_until
from traffic import Traffic, lost_writes


@pytest.mark.long
def test_rolling_restart(site: Site, traffic: Traffic, results: Results) -> None:
    """Step 3 of chapter 2, to another environment with the same versions."""
    blocks = {block.before: block for block in runbook.blocks(site.runbook, 2)}
    [environment] = [block for block in blocks.values() if "-m venv" in block.text]
    site.administrator.carry_out(environment)
    traffic.run(3)
    for host in site.with_role("web"):
        block = blocks[f"On {host.name}:"]
        assert block.text.count("hasite-drain") == 2
        assert block.text.count("systemctl restart") == 2
        site.administrator.carry_out(block)
        site.wait_until_well()
    traffic.run(5)
    report = traffic.report()
    results.add(
        Row(
            "rolling restart of all instances by the runbook",
            "0 failed requests, 0 sessions lost",
            report,
        )
    )
    assert report.count > 200, report.details()
    assert not report.failed, report.details()
    assert lost_writes(site, report) == []


@pytest.mark.long
def test_switchover(site: Site, traffic: Traffic, results: Results) -> None:
    """Chapter 6."""
    traffic.run(5)
    old = site.primary()
    [block] = runbook.blocks(site.runbook, 6)
    started = time.monotonic()
    site.administrator.carry_out(block)
    wait_until(lambda: site.primary() not in (None, old), "another primary", timeout=60)
    wait_until(lambda: site.standbys() == 2, "standbys", timeout=120)
    traffic.run(8)
    report = traffic.report()
    after = traffic.report(since=started)
    forms = after.failed_posts
    first = min((o.started for o in forms), default=0)
    last = max((o.started + o.seconds for o in forms), default=0)
    settled = traffic.report(since=time.monotonic() - 5)
    lost = lost_writes(site, report)
    connected = old.run(
        "su postgres -c 'psql -AtX'",
        stdin="SELECT count(*) FROM pg_stat_activity WHERE usename = 'mysite' "
        "AND application_name NOT IN ('hasite-reads', 'hasite-standbys')",
    )
    row = Row(
        "planned database switchover by the runbook",
        "no page, image or file fails, forms for at most 2 s; then nothing; no connection that "
        "writes stays on the old primary",
        report,
        lost=len(lost),
        measured=f"{len(after.failed_gets)} GETs failed, forms for {last - first:.1f} s; "
        f"{connected.strip()} connections that write on the old primary",
    )
    if last - first > 2:
        row.short = f"forms failed for {last - first:.1f} s"
    results.add(row)
    assert lost == []
    assert not settled.failed, settled.details()
    assert int(connected) == 0
    assert not after.failed_gets, after.details()
    assert last - first < 15
    assert not report.lost_sessions, report.details()


@pytest.mark.long
def test_backup(site: Site) -> None:
    """Chapter 2, step 1."""
    [block] = [block for block in runbook.blocks(site.runbook, 2) if block.step == 1]
    assert block.prints == ["is a verified backup"]
    site.administrator.carry_out(block)
