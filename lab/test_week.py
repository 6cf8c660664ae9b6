"""A week of timers and of log rotation, in which the clock of what timers start is moved.

The clock of a container is the machine's. So each service that a timer starts is started as on the
days of a week, by libfaketime; servers keep the true time.
"""

import re
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path

import pytest
from hosts import Host
from installation import Site
from results import Results, Row
from traffic import Traffic, lost_writes

pytestmark = pytest.mark.long

_DAYS = 7
_LIBRARY = "libfaketime.so.1"
# those of apt need Debian's servers
_SERVICES = r"""
systemctl list-timers --all --plain --no-legend | grep -o '[^ ]*\.service$' | grep -v '^apt-daily'
"""
_CLOCK = f"""\
[Service]
Environment=LD_PRELOAD=/usr/local/lib/{_LIBRARY} NO_FAKE_STAT=1 "FAKETIME=+DAYSd"
"""
_DAY = f"""
for service in $({_SERVICES}); do
    mkdir -p /run/systemd/system/$service.d
    cp /tmp/clock.conf /run/systemd/system/$service.d/clock.conf
done
systemctl daemon-reload
for service in $({_SERVICES}); do
    systemctl start $service || {{ journalctl -u $service -n 20; exit 1; }}
done
"""
_TRUE_TIME = """
rm -r /run/systemd/system/*.service.d/clock.conf
systemctl daemon-reload
"""
#: logs that programs have open although they were rotated or removed. Squid's first process keeps
#: the one with which it has begun, and its child inherits that; it writes to another one.
_ROTATED = r"""
ls -l /proc/[0-9]*/fd 2>/dev/null | grep -E '/var/log/.*(\.[0-9]+|\(deleted\))$' |
    grep -v /var/log/squid/cache.log || true
"""
_CURRENT = "ls -l /proc/[0-9]*/fd 2>/dev/null | grep '/var/log/squid/cache.log$' || true"


@pytest.fixture
def hosts(site: Site) -> Iterator[list[Host]]:
    """The hosts, with a library that moves the clock; their timers get the true time back."""
    [library] = Path("/usr/lib").glob(f"*/faketime/{_LIBRARY}")
    hosts = [host for host in site.lab.hosts.values() if host is not site.client]
    for host in hosts:
        host.receive("/usr/local/lib", ["tar", "-C", library.parent, "-c", library.name])
    yield hosts
    for host in hosts:
        host.run(_TRUE_TIME)


def test_week(hosts: list[Host], site: Site, traffic: Traffic, results: Results) -> None:
    traffic.run(3)
    [store] = site.with_role("backup")
    before = _full_backups(store)
    for day in range(1, _DAYS + 1):
        with ThreadPoolExecutor(3) as executor:
            list(executor.map(partial(_live_through, day), hosts))
        traffic.run(3)
    report = traffic.report()
    lost = lost_writes(site, report)
    rotated = {host.name: host.run("find /var/log -name '*.[0-9]*'").split() for host in hosts}
    full = len(_full_backups(store) - before)
    used = site.with_role("web")[0].run("du -sm /var/log | cut -f1").strip()
    open_files = {host.name: text for host in hosts if (text := host.run(_ROTATED))}
    squids = [host.run(_CURRENT) for host in site.with_role("web")]
    failed = [host.run("systemctl --failed --no-legend --plain") for host in hosts]
    results.add(
        Row(
            f"{_DAYS} days of timers and log rotation",
            "0 failed requests; no timer's service fails; nobody writes to a rotated log; one "
            "full backup is made",
            report,
            lost=len(lost),
            measured=f"rotated logs: {sum(map(len, rotated.values()))}; logs of web1: {used} MB; "
            f"full backups: {full}",
        )
    )
    assert not any(failed), failed
    assert not open_files
    assert all(squids)
    assert all(rotated[host.name] for host in site.with_role("web")), rotated
    assert full == 1
    assert not report.failed, report.details()
    assert lost == []


def _live_through(day: int, host: Host) -> None:
    host.write("/tmp/clock.conf", _CLOCK.replace("DAYS", str(day)))
    host.run(_DAY, timeout=300)


def _full_backups(store: Host) -> set[str]:
    info = store.run("cd /; su postgres -c 'pgbackrest --stanza=hasite info'")
    return set(re.findall("full backup: (.*)", info))
