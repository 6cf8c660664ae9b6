"""Backups by pgBackRest, and restorations to a moment: a real archive, and real restorations."""

import os
import re
import shlex
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import closing
from datetime import UTC, datetime, timedelta
from pathlib import Path

import psycopg2
import pytest
from deploying import SITES, hasite, hasite_here, tree
from servers.pgbackrest import PASSPHRASE, BackedUp
from servers.runbook import chapter
from servers.support import free_port, wait_until

from cubicweb_hasite.database import eids
from cubicweb_hasite.deploy import load, render
from cubicweb_hasite.restorations import run
from cubicweb_hasite.restorations.plan import Plan
from cubicweb_hasite.upgrades.console import Console

BIN = Path("/usr/lib/postgresql/15/bin")
#: runs a command while the folder $1 is on a disk of 10 MB
_SMALL_DISK = 'mount -t tmpfs -o size=10m,mode=777 none "$1" && shift && exec "$@"'


class Editors:
    """Write rows, one transaction each, until their table is gone; and know which are committed.

    :param site: the database
    """

    def __init__(self, site: BackedUp) -> None:
        self._site = site
        #: when the commit of each row was acknowledged
        self.acknowledged: dict[int, datetime] = {}
        self._threads = [threading.Thread(target=self._write, args=(n,)) for n in range(3)]

    def start(self) -> None:
        for thread in self._threads:
            thread.start()

    def _write(self, first: int) -> None:
        server = self._site.database
        where = f"host={server.host} port={server.port} user={server.user} dbname=site"
        with closing(psycopg2.connect(where)) as connection, connection.cursor() as cursor:
            for number in range(first, 10**9, len(self._threads)):
                try:
                    cursor.execute("INSERT INTO edits VALUES (%s)", [number])
                    connection.commit()
                except psycopg2.Error:
                    return
                self.acknowledged[number] = datetime.now(UTC)
                time.sleep(0.02)

    def wait(self) -> None:
        """Wait until they have noticed that their table is gone."""
        for thread in self._threads:
            thread.join(30)


@pytest.fixture(scope="module")
def site(server_directory: Callable[[str], Path]) -> Iterator[BackedUp]:
    """A database with a backup, and a table that is dropped at a known second while it is used."""
    with BackedUp(server_directory("restore")) as site:
        site.database.create_database("site")
        site.database.sql("CREATE TABLE entities (eid int)", "site")
        site.database.sql("INSERT INTO entities SELECT generate_series(1, 42)", "site")
        site.database.sql("CREATE TABLE entities_id_seq (last int)", "site")
        site.database.sql("INSERT INTO entities_id_seq VALUES (42)", "site")
        for statement in eids._STATEMENTS:
            site.database.sql(statement, "site")
        assert "is a verified backup" in site.back_up()
        yield site


@pytest.fixture(scope="module")
def dropped(site: BackedUp) -> tuple[datetime, Editors]:
    """The moment one second before editors lost their table, and the editors."""
    site.database.sql("CREATE TABLE edits (number int)", "site")
    editors = Editors(site)
    editors.start()
    wait_until(lambda: len(editors.acknowledged) > 50, "edits")
    time.sleep(1.5)
    dropped = datetime.now(UTC)
    site.database.sql("DROP TABLE edits", "site", timeout=30)
    editors.wait()
    site.pgbackrest("check")  # all is in the archive
    return dropped - timedelta(seconds=1), editors


def restore(site: BackedUp, *arguments: object) -> subprocess.CompletedProcess[str]:
    """Run `hasite-restore`, without questions."""
    return hasite_here("restore", "--yes", *arguments, site.site_file, cwd=site.directory)


def rows(site: BackedUp, folder: Path, query: str) -> list[str]:
    """Return what a restored database answers, a line for each row."""
    where = ["--host", folder, "--port", str(site.database.port), "--dbname", "site"]
    return site.run("store", BIN / "psql", "-XAt", *where, "-c", query).stdout.split()


def remove(site: BackedUp, folder: Path) -> None:
    """Remove what was restored, as the output of the command says."""
    script = site.directory / "store" / "hasite-restore-beside"
    site.run("store", script, "--remove", folder)
    assert not folder.exists()


def local(moment: datetime) -> str:
    """Return a moment as its user writes it: in the time zone of this machine."""
    return moment.astimezone().replace(tzinfo=None).isoformat(" ")


def test_yesterdays_row(site: BackedUp, dropped: tuple[datetime, Editors]) -> None:
    """A dropped table is restored beside: every edit acknowledged until then is there."""
    moment, editors = dropped
    folder = site.directory / "yesterday"
    result = restore(site, "--to", local(moment), "--beside", folder)
    assert result.returncode == 0, result.stderr
    found = set(map(int, rows(site, folder, "SELECT number FROM edits")))
    until = {n for n, when in editors.acknowledged.items() if when <= moment}
    since = {n for n, when in editors.acknowledged.items() if when > moment + timedelta(seconds=1)}
    assert len(until) > 20
    assert until <= found
    assert not since & found
    # those that were committed in that very moment, but not yet acknowledged
    assert len(found - until) <= 60
    assert rows(site, folder, "SELECT count(*) FROM entities") == ["42"]
    # production has gone on, without the table
    assert site.database.sql("SELECT to_regclass('edits') IS NULL", "site") == "t"
    journal = (site.directory / "journal.md").read_text()
    assert f"--beside {folder}" in journal
    result = restore(site, "--to", "latest", "--beside", folder)
    assert result.returncode == 1
    assert f"{folder} is not empty; give another folder" in result.stderr
    remove(site, folder)


@pytest.mark.parametrize(
    ("moment", "message"),
    [
        ("yesterday", "refused: 'yesterday' is no moment; give one such as --to"),
        ("2019-11-25 14:03:00", "is before the end of the oldest backup; give a moment since "),
        ("2999-11-25 14:03:00", "has not come yet; give a moment before "),
    ],
)
def test_moments_that_are_not_there(site: BackedUp, moment: str, message: str) -> None:
    folder = site.directory / "nothing"
    result = restore(site, "--to", moment, "--beside", folder)
    assert result.returncode == 1
    assert message in result.stderr
    assert not folder.exists()


def test_moment_after_the_last_change(site: BackedUp, dropped: tuple[datetime, Editors]) -> None:
    """It may come before anything is written: PostgreSQL tells that it was not reached."""
    site.database.stop()
    try:
        folder = site.directory / "late"
        result = restore(site, "--to", local(datetime.now(UTC)), "--beside", folder)
        assert result.returncode == 1
        assert "the archive has no change as late as " in result.stderr
        remove(site, folder)
        # that there is no database any more does not matter
        result = restore(site, "--to", "latest", "--beside", folder)
        assert result.returncode == 0, result.stderr
        remove(site, folder)
    finally:
        site.database.start()


def test_wrong_passphrase(site: BackedUp) -> None:
    site.set_passphrase("Tr0ub4dor&3")
    try:
        result = restore(site, "--to", "latest", "--beside", site.directory / "unreadable")
    finally:
        site.set_passphrase(PASSPHRASE)
    assert result.returncode == 1
    assert result.stderr.startswith(
        "refused: the backups cannot be read: is their passphrase right, is their disk there?\n"
    )
    assert PASSPHRASE not in result.stderr


def test_weekly_test(site: BackedUp, dropped: tuple[datetime, Editors]) -> None:
    """It restores, checks all tables and indexes, and removes all; a damaged backup fails it."""
    script = site.directory / "store" / "hasite-restore-beside"
    folder = site.directory / "test"
    said = site.run("store", script, "--test", folder).stdout
    assert "site: 42 entities" in said
    assert "all tables and indexes of the restored database are sound" in said
    assert not folder.exists()
    tell(site, "--tell-test", "success")
    assert metrics(site, "restoration-test")["hasite_restoration_test_failed"] == 0
    last = metrics(site, "restoration-test")["hasite_restoration_test_timestamp_seconds"]
    assert time.time() - last < 60

    bundles = sorted((site.repository / "backup" / "hasite").glob("*F/bundle/*"))
    largest = max(bundles, key=lambda path: path.stat().st_size)
    whole = largest.read_bytes()
    half = len(whole) // 2
    largest.write_bytes(whole[:half] + bytes([whole[half] ^ 1]) + whole[half + 1 :])
    try:
        result = site.run("store", script, "--test", folder, check=False)
    finally:
        largest.write_bytes(whole)
    assert result.returncode == 1
    assert "pgBackRest could not restore it, as it says above" in result.stdout
    assert not folder.exists()
    tell(site, "--tell-test", "exit-code")
    found = metrics(site, "restoration-test")
    assert found["hasite_restoration_test_failed"] == 1
    assert found["hasite_restoration_test_timestamp_seconds"] == last


def tell(site: BackedUp, option: str, result: str) -> None:
    """Tell the node exporter how a unit ended, as systemd does."""
    script = site.directory / "store" / "hasite-backup"
    site.run("store", "env", f"SERVICE_RESULT={result}", script, option)


def metrics(site: BackedUp, name: str) -> dict[str, float]:
    """Return what the node exporter reads."""
    path = site.directory / "store" / "metrics" / f"hasite-{name}.prom"
    return {key: float(value) for key, value in map(str.split, path.read_text().splitlines())}


def test_metrics_of_backups(site: BackedUp) -> None:
    for result, failed in (("success", 0), ("timeout", 1)):
        tell(site, "--tell", result)
        found = metrics(site, "backup")
        assert found["hasite_backup_failed"] == failed
        assert time.time() - found["hasite_backup_timestamp_seconds"] < 600


def test_backups_of_a_week(site: BackedUp) -> None:
    """The first of a week is a full one; the next ones hold what has changed."""
    assert site.back_up().splitlines()[-1].endswith("I is a verified backup")


def test_full_disk(site: BackedUp) -> None:
    """It is told: pgBackRest itself leaves the reason out if it has tried twice."""
    folder = site.directory / "full"
    folder.mkdir()
    namespace = ["unshare", "--mount"]
    back: list[str] = []
    if os.geteuid():
        namespace = ["unshare", "--user", "--map-root-user", "--mount"]
        back = ["unshare", "--user", f"--map-user={os.geteuid()}", "--"]
    script = site.directory / "store" / "hasite-restore-beside"
    command = [*namespace, "sh", "-c", _SMALL_DISK, "sh", folder, *back, script, folder]
    result = site.run("store", *command, check=False, account=False)
    assert result.returncode == 1
    assert "pgBackRest could not restore it, as it says above" in result.stdout
    assert re.search(rf"the disk of {folder} has [\d.]+[KM]? left\n", result.stdout)


def copy_of_site(folder: Path, site: BackedUp, old: str, new: str) -> Path:
    """Write another site file, alone in its folder."""
    text = site.site_file.read_text()
    assert old in text
    folder.mkdir()
    (folder / "site.toml").write_text(text.replace(old, new))
    return folder


def refused(folder: Path, *arguments: object) -> str:
    """Run the command as its user does; return its error, which is all but for the journal."""
    before = tree(folder)
    result = hasite("restore", *arguments, "site.toml", cwd=folder)
    assert result.returncode == 1, result.stdout
    assert "Traceback" not in result.stderr
    own = ("journal.md", ".hasite.lock")
    assert {path: file for path, file in tree(folder).items() if path not in own} == before
    return result.stderr


def test_sites_without_backups(tmp_path: Path, site: BackedUp) -> None:
    text = site.site_file.read_text()
    section = text[text.index("[backup]") : text.index("[upgrade]")]
    folder = copy_of_site(tmp_path / "site", site, section, "")
    path = folder / "site.toml"
    path.write_text(path.read_text().replace('"backup", "monitoring"', '"monitoring"'))
    error = refused(folder, "--yes", "--to", "latest")
    assert "refused: site.toml: there is no section [backup]" in error


def test_no_moment(tmp_path: Path, site: BackedUp) -> None:
    folder = copy_of_site(tmp_path / "site", site, "[squid]", "[squid]")
    assert refused(folder, "--yes").startswith("give the moment: --to ")
    error = refused(folder, "--yes", "--to", "2026-13-25 14:03:00")
    assert error.startswith("refused: '2026-13-25 14:03:00' is no moment; give one such as --to")


def test_backup_host_that_is_not_reached(tmp_path: Path, site: BackedUp) -> None:
    ssh = f"ssh -o BatchMode=yes -o ConnectTimeout=10 -p {free_port()} root@127.0.0.1"
    folder = copy_of_site(tmp_path / "site", site, f"{site.directory}/on {{host}}", ssh)
    error = refused(folder, "--yes", "--to", "latest")
    message = "refused: store does not say what backups it has: the status of"
    assert error.startswith(f"{message} `{ssh}")
    assert "is the host up, and is upgrade.reach right?" in error


def test_nobody_answers(tmp_path: Path, site: BackedUp) -> None:
    """Without --yes it is stopped before the first stage."""
    folder = copy_of_site(tmp_path / "site", site, "[squid]", "[squid]")
    error = refused(folder, "--to", "latest")
    assert error.startswith("stopped before 1/7 Stop the instances: the interruption begins; run")
    assert site.database.sql("SELECT 1") == "1"


def test_production(site: BackedUp, dropped: tuple[datetime, Editors]) -> None:
    """The node is restored; it is the primary, archives, and gives no eid twice.

    The instances and the caches are for the lab: their commands are those of the runbook.
    """
    moment, editors = dropped
    site_file = load.load(site.site_file)
    steps = [
        step
        for step in Plan(site_file.site, moment).production(lost=False)
        if "the database on db1" in step.title
    ]
    assert [step.final for step in steps] == [False, True]
    site.database.sql("UPDATE entities_id_seq SET last = 50", "site")  # it will be lost
    noted: list[str] = []
    run.carry_out(site_file, steps, "here", Console(), lambda *_step: True, noted.append)
    assert len(noted) == 2
    until = {n for n, when in editors.acknowledged.items() if when <= moment}
    found = site.database.sql("SELECT number FROM edits", "site").split()
    assert until <= set(map(int, found))
    left = "SELECT count(*) FROM pg_file_settings WHERE name ~ '^(recovery|restore)_'"
    assert site.database.sql(left) == "0"
    last = site.database.sql("UPDATE entities_id_seq SET last = last + 1 RETURNING last", "site")
    assert int(last) > 50 + eids.STEP - 10
    assert list((site.directory / "db").glob("cluster.20*"))
    site.pgbackrest("check")
    assert "is a verified backup" in site.back_up()


@pytest.mark.parametrize("name", ["backup", "backup_alone"])
@pytest.mark.parametrize("when", [datetime(2026, 11, 25, 14, 3, tzinfo=UTC), None])
def test_commands_are_those_of_the_runbook(name: str, when: datetime | None) -> None:
    [path] = [path for path in SITES if path.stem == name]
    site_file = load.load(path)
    text = render.render(site_file, drawing=False)["runbook.md"].content.decode()
    fifth = " ".join(chapter(text, 5).split()).replace("MOMENT", "2026-11-25 14:03:00+00")
    # waits for what the runbook has people look at
    own = ("curl", "psql -Atc 'SELECT count")
    for step in Plan(site_file.site, when).production(lost=False):
        for command in step.commands:
            line = shlex.split(command.line)[-1]
            line = line.removeprefix("cd /; ")
            if line.startswith("su postgres"):
                line = shlex.split(line)[-1]
            if "--type=default" in line:
                continue
            if line.startswith("systemctl stop cubicweb"):
                line = "systemctl stop 'cubicweb-*'"
            assert line.startswith(own) or line in fifth, line
