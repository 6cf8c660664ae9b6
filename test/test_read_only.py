"""`cubicweb-ctl hasite-read-only`: pages are read from one standby while the primary changes."""

import shlex
import subprocess
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import psycopg2
import pytest
import requests
from servers.instance import CUBICWEB_CTL, Process
from servers.support import wait_until
from servers.visitor import Visitor
from standby_site import NAME, Site, Template, created, metrics, reads
from test_documentation import command_blocks
from test_standby_failures import PAGES, Load, visitors

[COMMAND] = command_blocks("docs/standbys.md")
#: SQL that changes the versions in the database
VERSIONS = "UPDATE cw_cwproperty SET cw_value = {} WHERE cw_pkey LIKE 'system.version.%'"


@pytest.fixture(scope="module")
def shared(server_directory: Callable[[str], Path]) -> Iterator[Site]:
    template = Template(server_directory("template"))
    with Site(template, server_directory("shared")) as site:
        yield site


@pytest.fixture
def site(shared: Site) -> Iterator[Site]:
    yield shared
    read_only(shared, "--undo")
    shared.repair()


def read_only(site: Site, argument: str, **options: object) -> subprocess.CompletedProcess[str]:
    """Run the command for the processes of this host."""
    command = COMMAND.replace("cubicweb-ctl", str(CUBICWEB_CTL))
    command = command.replace("mysite", site.instance.name).replace("10.0.0.3", argument)
    return subprocess.run(
        shlex.split(command, comments=True),
        env=site.instance.environ({**site.options, **options}),
        cwd=site.instance.directory,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )


def begin(site: Site, number: int, *processes: Process) -> None:
    """Let all be read from a standby, and pause it once all processes do so."""
    standby = site.standbys[number]
    result = read_only(site, standby.host)
    assert result.stdout == f"{site.instance.name} reads {standby.host} alone\n"
    for process in processes:
        wait_until(lambda p=process: state(p) == "reads only", "the standby to hold all")
    site.pause(number)


def state(process: Process) -> str:
    return requests.get(f"{process.management}readyz?format=json", timeout=30).json()["state"]


def test_primary_is_changed_meanwhile(site: Site) -> None:
    """Visitors read what was there; none of them notices that it is locked, changed and lost."""
    first, second = site.process(), site.process()
    found = [*visitors(first), *visitors(second)]
    eid = created(found[0], "Album", name="before")
    load = Load(found, [*PAGES, f"album/{eid}"])
    with load.running():
        load.more(50)
        begin(site, 1, first, second)
        with psycopg2.connect(
            host=site.primary.host, port=site.primary.port, user=site.primary.user, dbname=NAME
        ) as connection:
            cursor = connection.cursor()
            cursor.execute("ALTER TABLE cw_album RENAME TO cw_record")
            cursor.execute(VERSIONS.format("'9.' || cw_value"))
            load.more(100)  # tables are locked
        connection.close()
        load.more(100)
        site.primary.kill()
        site.standbys[0].kill()
        load.more(100)
        site.primary.start()
        site.standbys[0].start()
        site.primary.sql("ALTER TABLE cw_record RENAME TO cw_album", NAME)
        site.primary.sql(VERSIONS.format("substr(cw_value, 3)"), NAME)
        read_only(site, "--undo")
        site.go_on()
        for process in (first, second):
            wait_until(lambda p=process: state(p) != "reads only", "the primary")
        load.more(50)
    assert set(load.outcomes) <= {"200", "403"}, load.outcomes
    assert load.outcomes["403"] <= load.outcomes.total() / 5  # who may add nothing
    primary = reads(first, "primary")
    assert found[0].get(f"album/{eid}").status_code == 200
    assert reads(first, "primary") <= primary + 1


def test_what_is_said(site: Site) -> None:
    """Forms are refused, images are kept by no cache; the monitors say why."""
    process = site.process()
    admin = visitors(process)[0]
    eid = created(admin, "Album", name="kept")
    form = admin.form(f"album/{eid}?vid=edition")
    begin(site, 0, process)
    refused = admin.submit(form, eid, {"name": "lost"})
    assert refused.status_code == 503
    assert "reload this page" in refused.text
    assert "can be read only" in admin.get().text
    assert "auth_tkt" in admin.session.cookies
    ready = requests.get(f"{process.management}readyz", timeout=30)
    assert (ready.status_code, ready.text) == (
        200,
        "ServiceOK : reads only, but nothing is written, by order of hasite-read-only; pages are "
        "read from a standby",
    )
    db = requests.get(f"{process.management}view?vid=monitor_db", timeout=30)
    assert db.status_code == 503
    assert db.text.startswith("ServiceKO : nothing is written, by order of hasite-read-only")
    assert metrics(process)["hasite_primary_up"] == 1
    site.standbys[0].kill()
    wait_until(lambda: state(process) == "not ready", "the loss to be noticed")
    assert admin.get().status_code == 503
    site.standbys[0].start()
    wait_until(lambda: state(process) == "reads only", "the standby")
    assert "kept" in admin.get(f"album/{eid}").text
    read_only(site, "--undo")
    wait_until(lambda: state(process) == "ready", "the end of the order")
    assert admin.edit(eid, "Album", {"name": "written"}).status_code == 303


def test_request_that_writes_is_waited_for(site: Site) -> None:
    """The standby is read alone only when it has what was acknowledged after the order."""
    process = site.process()
    admin = visitors(process)[0]
    eid = created(admin, "Album", name="before")
    form = admin.form(f"album/{eid}?vid=edition")
    with (
        psycopg2.connect(
            host=site.primary.host, port=site.primary.port, user=site.primary.user, dbname=NAME
        ) as connection,
        ThreadPoolExecutor(1) as executor,
    ):
        connection.cursor().execute("LOCK TABLE cw_Album IN EXCLUSIVE MODE")
        edit = executor.submit(admin.submit, form, eid, {"name": "after"})
        waiting = "SELECT count(*) FROM pg_stat_activity WHERE wait_event_type = 'Lock'"
        wait_until(lambda: site.primary.sql(waiting) != "0", "the edit to wait")
        read_only(site, site.standbys[0].host)
        wait_until(lambda: _is_refused(process), "the order")
        time.sleep(1)  # longer than it takes without an edit
        assert state(process) == "ready"
        connection.commit()
        assert edit.result().status_code == 303
    connection.close()
    wait_until(lambda: state(process) == "reads only", "the standby to hold all")
    site.pause(0)
    assert "after" in admin.get(f"album/{eid}").text


def _is_refused(process: Process) -> bool:
    return Visitor(process.url).post("login", {"__login": "admin"}).status_code == 503


def test_order_outlives_a_restart(site: Site) -> None:
    """A process of the same versions obeys it too, one of other versions does not."""
    process = site.process()
    visitors(process)
    begin(site, 0, process)
    later = site.process(ready=False)
    wait_until(lambda: state(later) == "reads only", "the order to be seen")
    path = next(site.instance.directory.glob("**/*.read-only"))
    path.write_text(path.read_text().replace("cubicweb-hasite ", "cubicweb-hasite 9."))
    for each in (process, later):
        wait_until(lambda p=each: state(p) == "ready", "the order to be ignored")


def test_refused(site: Site) -> None:
    """A standby that is not known; an instance that reads none."""
    result = read_only(site, "127.0.0.9")
    assert result.returncode == 2
    hosts = ", ".join(standby.host for standby in site.standbys)
    assert f"no standby '127.0.0.9'; give one of: {hosts}" in result.stdout
    result = read_only(site, "127.0.0.9", hasite_standby_hosts="")
    assert result.returncode == 2
    assert "this instance reads no standbys" in result.stdout
    assert not list(site.instance.directory.glob("**/*.read-only"))
