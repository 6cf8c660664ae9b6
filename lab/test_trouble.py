"""Disks that are full, and a clock that is wrong."""

import json
import time
from collections.abc import Callable

import pytest
from hosts import Host
from installation import Site
from results import Results, Row
from servers.support import wait_until
from traffic import Traffic, good, lost_writes

pytestmark = pytest.mark.long

_VISITORS = {"anonymous": 16, "users": 4, "editors": 2, "viewers": 4, "pause": 2}


def put_on_disk(host: Host, folder: str, megabytes: int) -> None:
    """Put a folder on a disk of its own."""
    host.run(
        f"truncate -s {megabytes}M /var/disk.img; mkfs.ext4 -q /var/disk.img\n"
        "mkdir -p /mnt/disk; mount -o loop /var/disk.img /mnt/disk\n"
        f"cp -a {folder}/. /mnt/disk/; chown --reference={folder} /mnt/disk\n"
        f"chmod --reference={folder} /mnt/disk; rmdir /mnt/disk/lost+found\n"
        f"umount /mnt/disk; mount -o loop /var/disk.img {folder}"
    )


def fill_disk(host: Host, folder: str) -> None:
    host.run(f"dd if=/dev/zero of={folder}/junk bs=64K 2>/dev/null || true; sync")


def alert(site: Site, name: str, host: str) -> str:
    """Return the state of an alert about a host: `pending`, then `firing`; none: nothing."""
    said = site.lab["monitor"].run(
        "promtool query --format=json instant http://10.0.0.41:9090 "
        f'\'ALERTS{{alertname="{name}", host="{host}"}}\''
    )
    states = [found["metric"]["alertstate"] for found in json.loads(said)]
    return states[0] if states else ""


def test_full_disk_of_squid(
    site: Site, new_traffic: Callable[..., Traffic], results: Results
) -> None:
    host = site.lab["web1"]
    host.run("systemctl stop squid")
    put_on_disk(host, "/var/log/squid", 32)
    host.run("systemctl start squid")
    site.wait_until_well()
    try:
        with new_traffic(**_VISITORS) as traffic:
            traffic.run(3)
            fill_disk(host, "/var/log/squid")
            waited = wait_until(
                lambda: alert(site, "DiskNearlyFull", host.name), "alert", timeout=90
            )
            traffic.run(5)
            report = traffic.report()
    finally:
        host.run("systemctl stop squid; umount /var/log/squid; rm /var/disk.img")
        host.run("systemctl start squid")
    row = Row(
        "a full disk of Squid's",
        "site up; the right alert fires",
        report,
        measured=f"DiskNearlyFull pending after {waited:.0f} s (it fires 5 minutes later); "
        "Squid's cache is in memory, the disk is that of its logs",
    )
    results.add(row)
    assert not report.failed, report.details()


def test_full_disk_of_the_database(
    site: Site, new_traffic: Callable[..., Traffic], results: Results
) -> None:
    folder = "/var/lib/postgresql"
    name, other_name = (
        site.sql(f"SELECT application_name FROM pg_stat_replication WHERE sync_priority {which}")
        for which in ("= 0", "> 0")
    )
    host, other = site.lab[name], site.lab[other_name]
    host.run("systemctl stop patroni")
    put_on_disk(host, folder, 512)
    host.run("systemctl start patroni")
    site.wait_until_well()
    # only a synchronous standby may become the primary
    other.run("systemctl stop patroni")
    synchronous = "SELECT application_name FROM pg_stat_replication WHERE sync_priority > 0"
    wait_until(lambda: site.sql(synchronous) == name, "synchronous standby")
    switchover = f"patronictl -c /etc/patroni/config.yml switchover --force --candidate {name}"

    def switched() -> bool:  # Patroni knows a moment later than PostgreSQL
        host.succeeds(f"{switchover} hasite")
        return site.primary() is host

    wait_until(switched, "switchover", interval=3)
    other.run("systemctl start patroni")
    site.wait_until_well()
    try:
        with new_traffic(**_VISITORS) as traffic:
            traffic.run(3)
            started = time.monotonic()
            fill_disk(host, folder)
            # visitors' own writes would take hours to
            host.succeeds(
                "su postgres -c \"psql -qc 'CREATE TABLE junk AS SELECT "
                "repeat(md5(n::text), 40) FROM generate_series(1, 200000) n'\"",
                timeout=60,
            )
            waited = wait_until(lambda: alert(site, "DiskNearlyFull", name), "alert", timeout=90)
            wait_until(
                lambda: (
                    (last := traffic.report(since=time.monotonic() - 5).of("page")).count > 10
                    and not last.failed
                ),
                "pages",
                timeout=200,
            )
            now = site.primary()
            pages = [o for o in traffic.report(since=started).of("page").outcomes if not good(o)]
            ended = max((o.started + o.seconds for o in pages), default=started)
            traffic.run(3)
            report = traffic.report()
            lost = lost_writes(site, report)
    finally:
        host.run(f"rm -f {folder}/junk")
        wait_until(lambda: site.standbys() == 2, "standbys", timeout=120)
        host.run(f"systemctl stop patroni; cp -a {folder} /var/tmp/database; umount {folder}")
        host.run(
            f"rm -rf {folder}/15/hasite; cp -a /var/tmp/database/. {folder}/\n"
            f"rm -rf {folder}/lost+found /var/disk.img /var/tmp/database; systemctl start patroni"
        )
    row = Row(
        "a full disk of the primary of the database, its log included",
        "site up; the right alert fires",
        report,
        lost=len(lost),
        measured=f"primary then: {now.name}, before {name}; last failed page ended "
        f"{ended - started:.1f} s after; DiskNearlyFull pending after {waited:.0f} s",
    )
    shortcomings = []
    if pages:
        shortcomings.append(f"pages failed for {ended - started:.1f} s")
    if lost:
        shortcomings.append(f"{len(lost)} edits that were acknowledged are not in the database")
    row.short = "; ".join(shortcomings)
    results.add(row)
    assert lost == []


def test_clock_skew(site: Site, new_traffic: Callable[..., Traffic], results: Results) -> None:
    """All of web2's programs are two minutes ahead."""
    host = site.lab["web2"]
    # libfaketime 0.9.10 makes clock_nanosleep fail, by which Python sleeps
    host.write(
        "/srv/skew/sitecustomize.py",
        "import select, time\ntime.sleep = lambda seconds: select.select([], [], [], seconds)\n",
    )
    units = ("squid", "apache2", "cubicweb-mysite@")
    library = "/usr/lib/x86_64-linux-gnu/faketime/libfaketime.so.1"
    for unit in units:
        host.write(
            f"/etc/systemd/system/{unit}.service.d/skew.conf",
            "[Service]\nEnvironment=PYTHONPATH=/srv/skew\n"
            f"Environment=LD_PRELOAD={library} FAKETIME=+120s FAKETIME_DONT_FAKE_MONOTONIC=1\n",
        )
    running = "squid apache2 cubicweb-mysite@1 cubicweb-mysite@2"
    try:
        host.run(f"systemctl daemon-reload; systemctl restart {running}")
        site.wait_until_well()
        said = host.run("curl -sI http://127.0.0.1:8081/livez | grep -i ^date")
        ahead = host.run(
            f"echo $(($(date -d '{said.split(':', 1)[1].strip()}' +%s) - $(date +%s)))"
        )
        with new_traffic(**_VISITORS) as traffic:
            traffic.run(15)
            # his visitors pass to the other host, with sessions of the future, and back
            host.cut_off()
            wait_until(lambda: site.in_service() == {"web1-1", "web1-2"}, "web2 out of service")
            traffic.run(10)
            host.reconnect()
            wait_until(lambda: site.in_service() == site.instances(), "web2 in service")
            traffic.run(10)
            report = traffic.report()
            lost = lost_writes(site, report)
    finally:
        for unit in units:
            host.run(f"rm -f /etc/systemd/system/{unit}.service.d/skew.conf")
        host.run(f"systemctl daemon-reload; systemctl restart {running}")
    hits = sum(o.cache.startswith("HIT") for o in report.of("image").outcomes)
    row = Row(
        "the clock of one web host is 2 minutes ahead; it is lost meanwhile",
        "sessions and caches still right",
        report,
        lost=len(lost),
        measured=f"{int(ahead)} s ahead; {hits} of {report.of('image').count} images from caches",
    )
    results.add(row)
    assert 115 <= int(ahead) <= 125
    in_flight = sum(1 for o in report.outcomes if o.seconds > 3 or not o.status)
    assert len(report.failed_gets) <= in_flight, report.details()
    assert not report.lost_sessions, report.details()
    assert hits > report.of("image").count / 2
    assert lost == []
