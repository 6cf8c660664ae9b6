"""An upgrade with a new cube, a change of the schema and a slow migration: rehearsed on a host of
its own, then done in production by the rehearsal, while visitors come.
"""

import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from hosts import CHECKOUT, Host
from installation import Site
from rehearsing import CUBE, ENTITIES, FILL, NEW, OLD, cube
from results import Results, Row
from servers import runbook
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


@pytest.fixture
def former(site: Site, tmp_path: Path) -> Site:
    """The site, with the former release of the cube and its entities."""
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
    return site


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
        _give_folder(site, host, tmp_path)
        yield host
    finally:
        host.power_off()
        del site.lab.hosts["preprod"]


def _give_folder(site: Site, host: Host, tmp_path: Path) -> None:
    """Give the host what its operator writes: the site file, and the packages to install."""
    text = (site.lab.folder / "site.toml").read_text()
    host.write(
        f"{_FOLDER}/site.toml", text.partition("\n# How production is upgraded")[0] + _SECTIONS
    )
    package = cube(tmp_path / NEW, NEW, depends=True)
    _copy(host, package, _FOLDER)
    host.write(f"{_FOLDER}/requirements.txt", "\n".join([*_PACKAGES, f"./{package.name}", ""]))


def _checksums(site: Site) -> str:
    tables = site.sql(
        "SELECT string_agg(format('SELECT %L, md5(coalesce(string_agg(t::text, '','' ORDER BY "
        "t::text), '''')) FROM %I t', relname, relname), ' UNION ALL ' ORDER BY relname) "
        "FROM pg_class WHERE relkind = 'r' AND relnamespace = 'public'::regnamespace"
    )
    return site.sql(f"{tables} ORDER BY 1")


@pytest.mark.long
def test_upgrade(
    former: Site,
    preproduction: Host,
    tmp_path: Path,
    results: Results,
) -> None:
    site = former
    before = _checksums(site)
    said = preproduction.run(
        f"cd {_FOLDER} && /opt/cubicweb/bin/cubicweb-ctl hasite-rehearse site.toml", timeout=900
    )
    assert _checksums(site) == before
    name = re.search(r"rolling: see .*(rehearsal-\S+?)/report.html", said)[1]
    folder = tmp_path / "site"
    folder.mkdir()
    archive = preproduction.command("tar", "-C", _FOLDER, "--exclude=work", "-cf", "-", ".")
    content = subprocess.run(archive, check=True, capture_output=True).stdout
    subprocess.run(["tar", "-C", folder, "-xf", "-"], input=content, check=True)
    visitors = Traffic(site, tmp_path / "visitors", anonymous=16, users=4, viewers=4, pause=2)
    editors = Traffic(site, tmp_path / "editors", anonymous=1, editors=2, viewers=1, pause=25)
    with visitors as traffic, editors:
        traffic.run(5)
        result = subprocess.run(
            [_CTL, "hasite-upgrade", "site.toml", "--runbook", name, "--yes"],
            cwd=folder,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            timeout=1800,
        )
        traffic.run(5)
    report = Report(traffic.report().outcomes + editors.report().outcomes)
    assert result.returncode == 0, result.stdout + report.details()
    text = (folder / name / "report.md").read_text()
    results.add(
        Row(
            "upgrade with a new cube, a changed schema, a slow migration, by its rehearsal",
            "0 failed requests",
            report,
            measured=re.search(r"^\*\*(.*?)\*\*", text, re.M)[1],
        )
    )
    first = site.with_role("web")[0]
    versions = first.run("curl -s 'http://10.0.0.21:9081/view?vid=monitor_version'")
    assert f"{CUBE}: {NEW}" in versions
    assert report.count > 200, report.details()
    assert not report.failed, report.details()
    assert lost_writes(site, report) == []
