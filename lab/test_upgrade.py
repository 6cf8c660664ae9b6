"""Upgrades with a new cube, a change of the schema and a slow migration: rehearsed on a host of
their own, then done in production by the rehearsal, while visitors come.
"""

import re
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from hosts import CHECKOUT, Host
from installation import Site
from rehearsing import CUBE, ENTITIES, FILL, NEW, OLD, cube, with_migration
from results import Results, Row
from servers import runbook
from servers.support import wait_until
from traffic import Report, Traffic, lost_writes

_CTL = Path(sys.executable).with_name("cubicweb-ctl")
PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
_FOLDER = "/srv/mysite"  # on the pre-production host

# what an application of this cube lists, with the wheel of its release
_PACKAGES = ("cubicweb-hasite[metrics,rehearse,web]", "gunicorn", "psycopg2-binary")

_SECTIONS = f"""
[upgrade]
longest_wait = 20
checks = [{{ path = "/news", text = "News" }}, {{ path = "/" }}]
reach = "{CHECKOUT}/lab/run {{host}} env PATH={PATH} sh -c"

[preproduction]
address = "10.0.0.51"
"""


#: a migration that locks tables for a minute, and takes away meanwhile what both versions need
_LOCKS = """
import os
add_attribute("News", "summary")
add_cube("tag")
sql("ALTER TABLE cw_file RENAME COLUMN cw_title TO cw_away")
commit()
sql("LOCK TABLE cw_news, cw_file IN ACCESS EXCLUSIVE MODE")
sql("SELECT pg_sleep(60)")
commit()
assert not os.path.exists("/srv/fail"), "half-way"
sql("ALTER TABLE cw_file RENAME COLUMN cw_away TO cw_title")
commit()
"""


@contextmanager
def _as_before(site: Site) -> Iterator[None]:
    """Let the site have its database and its environment again at the end of the block."""
    database = site.primary().run("cd /; su postgres -c 'pg_dump mysite'", timeout=120)
    web = site.with_role("web")
    links = [host.run("readlink /opt/cubicweb").strip() for host in web]
    yield
    for host, link in zip(web, links, strict=True):
        host.run(f"systemctl stop 'cubicweb-*'; ln -sfn {link} /opt/cubicweb", timeout=120)
    site.primary().run(
        "cd /; su postgres -c 'dropdb --force mysite && "
        "createdb --owner=mysite --template=template0 mysite && psql --quiet mysite'",
        stdin=database,
        timeout=120,
    )
    # as after the restoration of any backup: chapter 5 of the runbook
    web[0].run("mysite-ctl hasite-advance-eids mysite", timeout=120)
    for host in web:
        host.run("systemctl restart squid cubicweb-mysite@1 cubicweb-mysite@2", timeout=300)


@pytest.fixture
def former(site: Site, tmp_path: Path) -> Iterator[Site]:
    """The site, with the former release of the cube and its entities."""
    with _as_before(site):
        _install_former(site, tmp_path)
        yield site


def _install_former(site: Site, tmp_path: Path) -> None:
    package = cube(tmp_path / OLD, OLD, depends=True)
    for host in site.with_role("web"):
        _copy(host, package, "/root")
    site.administrator.words["YOUR_PACKAGES"] = f"/root/{package.name}"
    for block in runbook.blocks(site.runbook, 2):
        if block.step in (2, 3):
            site.administrator.carry_out(block)
    first = site.with_role("web")[0]
    first.write("/tmp/add.py", f'add_cube("{CUBE}")\n')
    said = first.run("mysite-ctl shell mysite /tmp/add.py", timeout=300)
    assert "Traceback" not in said, said
    site.sql(f"BEGIN;{FILL.format(count=ENTITIES)};COMMIT")
    for host in site.with_role("web"):
        host.run("systemctl restart cubicweb-mysite@1 cubicweb-mysite@2", timeout=300)
    site.wait_until_well()


def _copy(host: Host, file: Path, folder: str) -> None:
    host.receive(folder, ["tar", "--create", "--owner=root", "-C", file.parent, file.name])


@pytest.fixture
def preproduction(former: Site, tmp_path: Path) -> Iterator[Host]:
    """The pre-production host, prepared by chapter 8, with the site's folder."""
    site = former
    [packages] = re.findall(r"(?m)^ *- preprod: `(apt-get install .*)`$", site.runbook)
    host = site.lab.add("preprod", "10.0.0.51/24", packages=packages)
    host.boot()
    try:
        site.let_in(host)
        _copy(host, next((tmp_path / OLD).glob("*.whl")), "/root")
        for block in runbook.blocks(site.runbook, 8):
            site.administrator.carry_out(block)
        yield host
    finally:
        host.remove()
        site.sql("DROP ROLE IF EXISTS rehearsal")


def _give_folder(site: Site, host: Host, tmp_path: Path, migration: str) -> None:
    """Give the host what its operator writes: the site file, and the packages to install."""
    text = (site.lab.folder / "site.toml").read_text()
    host.write(
        f"{_FOLDER}/site.toml", text.partition("\n# How production is upgraded")[0] + _SECTIONS
    )
    package = cube(tmp_path / NEW, NEW, depends=True)
    with_migration(package, migration, tmp_path)
    package = tmp_path / package.name
    _copy(host, package, _FOLDER)
    host.write(f"{_FOLDER}/requirements.txt", "\n".join([*_PACKAGES, f"./{package.name}", ""]))


def _checksums(site: Site) -> str:
    tables = site.sql(
        "SELECT string_agg(format('SELECT %L, md5(coalesce(string_agg(t::text, '','' ORDER BY "
        "t::text), '''')) FROM %I t', relname, relname), ' UNION ALL ' ORDER BY relname) "
        "FROM pg_class WHERE relkind = 'r' AND relnamespace = 'public'::regnamespace"
    )
    return site.sql(f"{tables} ORDER BY 1")


def _contents(site: Site) -> list[str]:
    """Return the checksums without what a new timeline of PostgreSQL changes: eids."""
    own = ("entities_id_seq|", "hasite_origin|")
    return [line for line in _checksums(site).splitlines() if not line.startswith(own)]


def _rehearse(site: Site, host: Host, tmp_path: Path, migration: str = "") -> tuple[str, Path]:
    """Rehearse an upgrade; return the verdict and the folder of the rehearsal on this machine.

    :param migration: instead of the migration script of the new version
    """
    _give_folder(site, host, tmp_path, migration)
    before = _checksums(site)
    said = host.run(
        f"cd {_FOLDER} && /opt/cubicweb/bin/cubicweb-ctl hasite-rehearse site.toml", timeout=900
    )
    assert _checksums(site) == before
    verdict, name = re.search(r"(\S+): see .*(rehearsal-\S+?)/report.html", said).groups()
    folder = tmp_path / "site"
    folder.mkdir()
    archive = host.command("tar", "-C", _FOLDER, "--exclude=work", "-cf", "-", ".")
    content = subprocess.run(archive, check=True, capture_output=True).stdout
    subprocess.run(["tar", "-C", folder, "-xf", "-"], input=content, check=True)
    return verdict, folder / name


def _upgrade(rehearsal: Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [_CTL, "hasite-upgrade", "site.toml", "--runbook", rehearsal.name, "--yes"],
        cwd=rehearsal.parent,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=1800,
    )


def _give_up(rehearsal: Path) -> None:
    """Do what the chapter “Rollback” of the report says."""
    back = (rehearsal / "report.md").read_text().partition("### Rollback")[2]
    for line, printed, repeated in runbook.commands(back):

        def is_done(line: str = line, printed: str = printed, repeated: bool = repeated) -> bool:
            result = subprocess.run(
                line, shell=True, cwd=rehearsal.parent, capture_output=True, text=True
            )
            assert repeated or result.returncode == 0, (line, result)
            output = [text.strip() for text in result.stdout.splitlines()]
            return all(text in output for text in printed.splitlines())

        if repeated:
            wait_until(is_done, line, timeout=180, interval=0.5)
        else:
            assert is_done(), line


def _switch_over(site: Site) -> None:
    """Let another node be the primary: chapter 6, once a standby is synchronous."""
    old = site.primary()
    listed = "patronictl -c /etc/patroni/config.yml list"
    wait_until(lambda: "Sync Standby" in old.run(listed), "a synchronous standby")
    [block] = runbook.blocks(site.runbook, 6)
    site.administrator.carry_out(block)
    wait_until(lambda: site.primary() not in (None, old), "another primary")
    site.wait_until_well()


def _version(site: Site) -> str:
    first = site.with_role("web")[0]
    return first.run("curl -s 'http://10.0.0.21:9081/view?vid=monitor_version'")


@pytest.mark.long
def test_upgrade(
    former: Site,
    preproduction: Host,
    tmp_path: Path,
    results: Results,
) -> None:
    site = former
    verdict, rehearsal = _rehearse(site, preproduction, tmp_path)
    assert verdict == "rolling"
    visitors = Traffic(site, tmp_path / "visitors", anonymous=16, users=4, viewers=4, pause=2)
    editors = Traffic(site, tmp_path / "editors", anonymous=1, editors=2, viewers=1, pause=25)
    with visitors as traffic, editors:
        traffic.run(5)
        result = _upgrade(rehearsal)
        traffic.run(5)
    report = Report(traffic.report().outcomes + editors.report().outcomes)
    assert result.returncode == 0, result.stdout + report.details()
    text = (rehearsal / "report.md").read_text()
    results.add(
        Row(
            "upgrade with a new cube, a changed schema, a slow migration, by its rehearsal",
            "0 failed requests",
            report,
            measured=re.search(r"^\*\*(.*?)\*\*", text, re.M)[1],
        )
    )
    assert f"{CUBE}: {NEW}" in _version(site)
    assert report.count > 200, report.details()
    assert not report.failed, report.details()
    assert lost_writes(site, report) == []


@pytest.mark.long
def test_read_only_upgrade(
    former: Site,
    preproduction: Host,
    tmp_path: Path,
    results: Results,
) -> None:
    """It fails half-way and is given up; then it is done."""
    site = former
    verdict, rehearsal = _rehearse(site, preproduction, tmp_path, _LOCKS)
    assert verdict == "read-only", (rehearsal / "report.md").read_text()
    first = site.with_role("web")[0]
    first.write("/srv/fail", "")
    with Traffic(site, tmp_path / "failing", anonymous=16, users=4, viewers=4, pause=2) as traffic:
        traffic.run(10)  # users have logged in
        before = _contents(site)
        result = _upgrade(rehearsal)
        assert result.returncode == 1, result.stdout
        assert "half-way" in result.stdout
        report = traffic.report()
        started = time.monotonic()
        _give_up(rehearsal)
        site.wait_until_well()
        took = time.monotonic() - started
        given_up = traffic.report(since=started)
    results.add(
        Row(
            "read-only upgrade whose migration fails half-way, given up by its report",
            "no page, image or file fails until it is given up; then all is as it was",
            report,
            measured=f"as it was {took:.0f} s after the first command of the rollback; meanwhile "
            f"{len(given_up.failed_gets)} of {given_up.count} GETs failed",
        )
    )
    assert not report.failed_gets, report.details()
    assert not report.lost_sessions, report.details()
    assert _contents(site) == before
    assert f"{CUBE}: {OLD}" in _version(site)

    first.run("rm /srv/fail")
    _switch_over(site)
    with Traffic(
        site, tmp_path / "visitors", anonymous=16, users=4, viewers=4, editors=2, pause=2
    ) as traffic:
        traffic.run(5)
        result = _upgrade(rehearsal)
        traffic.run(5)
        report = traffic.report()
    assert result.returncode == 0, result.stdout + report.details()
    lost = lost_writes(site, report)
    text = (rehearsal / "report.md").read_text()
    results.add(
        Row(
            "read-only upgrade whose migration locks a table for a minute, by its rehearsal",
            "no page, image or file fails; no session is lost; no acknowledged write lost",
            report,
            lost=len(lost),
            measured=re.search(r"^\*\*(.*?)\*\*", text, re.M)[1],
        )
    )
    assert f"{CUBE}: {NEW}" in _version(site)
    assert not report.failed_gets, report.details()
    assert not report.lost_sessions, report.details()
    assert lost == []
    assert not traffic.report(since=time.monotonic() - 3).failed
