"""What a backup is for: a table that is dropped, nodes that are lost for good, a new standby; and
a backup that is damaged.
"""

import subprocess
import sys
import time
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path

import pytest
from hosts import CHECKOUT
from installation import Site
from results import Results, Row
from servers import runbook
from servers.support import wait_until
from test_trouble import alert
from traffic import Report, Traffic, lost_writes

pytestmark = pytest.mark.long

_CTL = Path(sys.executable).with_name("cubicweb-ctl")
_PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
_REACH = f'reach = "{CHECKOUT}/lab/run {{host}} env PATH={_PATH} sh -c"\n'
_DATA = "/var/lib/postgresql/15/hasite"
_REPOSITORY = "/var/lib/pgbackrest/backup/hasite"
#: visitors of whom most write
_EDITORS = {"anonymous": 4, "users": 1, "editors": 7, "viewers": 2, "pause": 1}
#: flips a bit in the middle of the largest file of the last full backup; twice, it is as before
_DAMAGE = f"""
set -eu
last=$(ls -d {_REPOSITORY}/*F/bundle | tail -n 1)
largest=$(ls -S "$last"/* | head -n 1)
perl -e '
    open(my $file, "+<", $ARGV[0]) or die $!;
    my $middle = int((-s $file) / 2);
    seek($file, $middle, 0);
    read($file, my $byte, 1);
    seek($file, $middle, 0);
    print $file $byte ^ chr(1);
    close($file) or die $!;
' "$largest"
"""


def _restore(site: Site, folder: Path, *options: str) -> str:
    """Run `hasite-restore` on this machine, without its questions; return what it says."""
    text = (site.lab.folder / "site.toml").read_text()
    path = folder / "site.toml"
    path.write_text(text.replace("\n[upgrade]\n", f"\n[upgrade]\n{_REACH}", 1))
    result = subprocess.run(
        [_CTL, "hasite-restore", "--yes", *options, path.name],
        cwd=folder,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=900,
    )
    assert result.returncode == 0, result.stdout
    return result.stdout


def _written(report: Report, until: float) -> Report:
    """Return the report of what was acknowledged until a time of `time.monotonic()`."""
    return Report([o for o in report.outcomes if o.written and o.started + o.seconds <= until])


def _remove_former(site: Site) -> None:
    for host in site.with_role("database"):
        host.run(f"rm -rf {_DATA}.20*")


def test_dropped_table(
    site: Site, new_traffic: Callable[..., Traffic], results: Results, tmp_path: Path
) -> None:
    """The site is restored to one second before, to the last edit."""
    with new_traffic(**_EDITORS) as traffic:
        traffic.run(30)
        until, moment = time.monotonic() - 1, time.time() - 1
        site.sql("DROP TABLE cw_file CASCADE")
        traffic.run(3)
        written = _written(traffic.report(), until)
        started = time.monotonic()
        _restore(site, tmp_path, "--to", datetime.fromtimestamp(moment, UTC).isoformat())
        took = time.monotonic() - started
        site.wait_until_well()
        traffic.run(5)
        after = traffic.report(since=time.monotonic() - 3)
    _remove_former(site)
    lost = lost_writes(site, written)
    results.add(
        Row(
            "a table is dropped while editors write; restored to one second before",
            "every edit that was acknowledged until then is there",
            written,
            lost=len(lost),
            measured=f"restored {took:.0f} s after the command, standbys too",
        )
    )
    assert len(written.outcomes) > 30
    assert lost == []
    # editors ask for what they made in the seconds that are lost
    assert {o.status for o in after.failed} <= {404}, after.details()


def test_new_standby(site: Site, traffic: Traffic, results: Results) -> None:
    """It is made from the backup, not at the expense of the primary."""
    host = next(host for host in site.with_role("database") if host is not site.primary())
    traffic.run(3)
    began = host.run("date '+%Y-%m-%d %H:%M:%S'").strip()
    host.run(f"systemctl stop patroni; rm -rf {_DATA}")
    started = time.monotonic()
    host.run("systemctl start patroni")
    wait_until(lambda: site.standbys() == 2, "the new standby", timeout=180)
    took = time.monotonic() - started
    traffic.run(5)
    report = traffic.report()
    results.add(
        Row(
            "a standby is made from the backup while the site serves",
            "0 failed requests; nothing is copied from the primary",
            report,
            measured=f"it follows {took:.0f} s after Patroni's start",
        )
    )
    said = host.run(f"journalctl -u patroni --since '{began}'")
    assert "replica has been created using pgbackrest" in said
    assert not report.failed, report.details()
    assert lost_writes(site, report) == []


def test_damaged_backup(site: Site) -> None:
    """The weekly test finds it, and an alert says so until a test succeeds."""
    [host] = site.with_role("backup")
    test = "systemctl start hasite-test-restoration"
    host.run(test, timeout=300)
    host.run(_DAMAGE)
    try:
        assert not host.succeeds(test, timeout=300)
        name = "RestorationTestFailed"
        wait_until(lambda: alert(site, name, host.name) == "firing", name, timeout=180)
    finally:
        host.run(_DAMAGE)
    host.run(test, timeout=300)
    wait_until(lambda: not alert(site, name, host.name), f"end of {name}", timeout=120)


def _install(site: Site, names: list[str]) -> None:
    """Install new database nodes in the place of lost ones, as chapter 5 says."""
    for block in runbook.blocks(site.runbook, 1):
        if block.step <= 3 or "firewall" in block.text:
            site.administrator.carry_out(block, only=names)
    for block in runbook.blocks(site.runbook, 5):
        if not block.step:
            site.administrator.carry_out(block)


def test_all_database_nodes_are_lost(
    site: Site, new_traffic: Callable[..., Traffic], results: Results, tmp_path: Path
) -> None:
    """With their disks: the site is restored from the backup host alone."""
    nodes = site.with_role("database")
    with new_traffic(**_EDITORS) as traffic:
        traffic.run(75)  # longer than it takes to send a change to the archive
        lost_at = time.monotonic()
        for host in nodes:
            host.remove()
        traffic.run(3)
        written = _written(traffic.report(), lost_at)
        for host in nodes:
            new = site.lab.add(host.name, *host.addresses, packages=host.packages)
            new.boot()
            site.let_in(new)
        site.lab["admin"].run("rm -f /root/.ssh/known_hosts")
        started = time.monotonic()
        _install(site, [host.name for host in nodes])
        installed = time.monotonic() - started
        _restore(site, tmp_path, "--to", "latest", "--lost")
        took = time.monotonic() - started
        site.wait_until_well()
        traffic.run(5)
        after = traffic.report(since=time.monotonic() - 3)
    lost = set(lost_writes(site, written))
    ages = [lost_at - o.started - o.seconds for o in written.outcomes if o.written in lost]
    oldest = max(ages, default=0)
    row = Row(
        "all database nodes are lost with their disks; restored from the backup host",
        "at most the edits of the last 60 s are lost",
        written,
        lost=len(lost),
        measured=f"the oldest lost edit was {oldest:.0f} s old; new nodes installed in "
        f"{installed:.0f} s, all restored {took:.0f} s after the first command",
    )
    if oldest > 60:
        row.short = f"edits of the last {oldest:.1f} s are lost"
    results.add(row)
    assert len(written.outcomes) > 100
    assert oldest <= 65  # a file takes its time to the archive
    assert len(lost) < len(written.outcomes)
    # editors ask for what they made in the seconds that are lost
    assert {o.status for o in after.failed} <= {404}, after.details()
