"""What goes wrong in a rehearsal is reported, and it goes on; production is only read."""

import json
import os
import re
import signal
import subprocess
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import psycopg2
import pytest
from rehearsing import Production, SiteFolder
from servers.support import wait_until

# says that it is half-way, and waits until it may go on
_WAITS = """
import os, time
add_attribute("News", "summary")
open("{folder}/half-way", "w").close()
while not os.path.exists("{folder}/go-on"):
    time.sleep(0.05)
sql("SELECT 1")
add_cube("tag")
"""


#: on a machine that is busy, pages may take too long for an upgrade to be rolling
PASSED = ("rolling", "stopped")


@pytest.fixture
def folder(
    request: pytest.FixtureRequest, production: Production, server_directory: Callable[[str], Path]
) -> Iterator[SiteFolder]:
    """A site folder. Whatever happens there, production stays as it is."""
    before = production.checksums()
    options = getattr(request, "param", {})
    folder = production.site_folder(server_directory("site"), **options)
    folder.release()
    yield folder
    assert production.checksums() == before


def verdict(folder: SiteFolder) -> str:
    [rehearsal] = folder.rehearsals
    return json.loads((rehearsal / "state.json").read_text())["verdict"]


def report(folder: SiteFolder) -> str:
    [rehearsal] = folder.rehearsals
    return (rehearsal / "report.md").read_text()


def test_migration_that_fails_half_way(folder: SiteFolder) -> None:
    folder.release('add_attribute("News", "summary")\nsql("SELECT no_such_thing FROM cw_news")\n')
    result = folder.rehearse()
    assert result.returncode == 1, result.stdout
    assert verdict(folder) == "failed"
    text = report(folder)
    assert "do not upgrade production" in text
    assert 'column "no_such_thing" does not exist' in text
    assert "hasite-upgrade" not in text
    [rehearsal] = folder.rehearsals
    refused = subprocess.run(
        folder.command("upgrade", "--runbook", rehearsal.name, "--yes"),
        cwd=folder.folder,
        env=folder.environ(),
        capture_output=True,
        text=True,
    )
    assert refused.returncode == 1
    assert "this rehearsal failed; run hasite-rehearse again" in refused.stderr
    # it is repaired
    folder.release()
    result = folder.rehearse()
    assert result.returncode == 0, result.stdout
    assert re.search(r"^copy: was done", result.stdout, re.M)
    assert re.search(r"^restore: was done", result.stdout, re.M)
    assert re.search(r"^packages: done", result.stdout, re.M)
    assert verdict(folder) in PASSED
    assert not (rehearsal / "work").exists()
    databases = folder.production.other.sql("SELECT datname FROM pg_database")
    assert "rehearsal" not in databases


@contextmanager
def in_background(folder: SiteFolder) -> Iterator[subprocess.Popen[str]]:
    """Run a rehearsal in the background, to its end or that of the block."""
    with subprocess.Popen(
        folder.command("rehearse"),
        cwd=folder.folder,
        env=folder.environ(),
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    ) as process:
        try:
            yield process
        finally:
            process.kill()


@contextmanager
def rehearsing(folder: SiteFolder) -> Iterator[subprocess.Popen[str]]:
    """Run a rehearsal in the background whose migration is half-way."""
    folder.release(_WAITS.format(folder=folder.folder))
    with in_background(folder) as process:
        wait_until(
            lambda: (folder.folder / "half-way").exists() or process.poll() is not None,
            "migration",
            timeout=180,
        )
        assert process.poll() is None, process.stdout.read()
        yield process


def test_database_server_that_is_lost(folder: SiteFolder) -> None:
    """It is tried again, from a copy that no migration has touched."""
    with rehearsing(folder) as process:
        folder.production.other.kill()
        (folder.folder / "go-on").touch()
        folder.production.other.start()
        output, _ = process.communicate(timeout=300)
    assert process.returncode == 0, output
    assert re.search(r"^upgrade: .*: trying again$", output, re.M)
    assert verdict(folder) in PASSED
    assert "## Errors" in report(folder)


def test_process_that_is_killed(folder: SiteFolder) -> None:
    """Nothing of it lives on, and it goes on where it was."""
    with rehearsing(folder) as process:
        other = folder.production.other
        clients = "SELECT count(*) FROM pg_stat_activity WHERE usename = 'preproduction'"
        assert int(other.sql(clients)) > 0
        second = folder.rehearse()
        assert second.returncode == 1
        assert "another rehearsal or upgrade is running" in second.stderr
        os.kill(process.pid, signal.SIGKILL)
        process.communicate()
        wait_until(lambda: other.sql(clients) == "0", "end of all that it had started")
    assert verdict(folder) == ""
    (folder.folder / "go-on").touch()
    result = folder.rehearse()
    assert result.returncode == 0, result.stdout
    assert re.search(r"^copy: was done", result.stdout, re.M)
    assert re.search(r"^packages: was done", result.stdout, re.M)
    assert verdict(folder) in PASSED


def test_production_that_is_lost_while_it_is_read(folder: SiteFolder) -> None:
    production = folder.production
    readers = "FROM pg_stat_activity WHERE usename = 'rehearsal' AND wait_event_type = 'Lock'"
    with (
        psycopg2.connect(
            host="127.0.0.1",
            port=production.primary.port,
            dbname="site",
            user=production.primary.user,
        ) as connection,
        connection.cursor() as cursor,
    ):
        # the dump waits for it
        cursor.execute("LOCK TABLE cw_news IN ACCESS EXCLUSIVE MODE")
        # the standby is told of it by the WAL, which is not written at once
        production.primary.sql("CHECKPOINT", timeout=60)
        held = "SELECT count(*) FROM pg_locks WHERE mode = 'AccessExclusiveLock' AND granted"
        wait_until(lambda: int(production.standby.sql(held)), "lock on the standby")
        with in_background(folder) as process:
            nodes = (production.standby, production.primary)
            wait_until(
                lambda: any(int(node.sql(f"SELECT count(*) {readers}")) for node in nodes),
                "dump",
                timeout=180,
            )
            for node in nodes:
                node.sql(f"SELECT pg_terminate_backend(pid) {readers}")
            connection.rollback()
            output, _ = process.communicate(timeout=300)
    assert process.returncode == 0, output
    assert re.search(r"^copy: .*: trying again$", output, re.M)
    assert verdict(folder) in PASSED


_SMALL_DISK = """
set -eu
mkdir small
mount -t tmpfs -o size=400k none small
cp requirements.txt *.whl python site.toml small
cd small
status=0
"$@" || status=$?
cat rehearsal-*/state.json > ../state-1.json
mount -t tmpfs -o remount,size=100m none "$PWD"
"$@"
cp -r rehearsal-* journal.md ..
exit "$status"
"""


def test_full_disk(folder: SiteFolder) -> None:
    user = [] if os.geteuid() == 0 else ["--user", "--map-root-user"]
    prefix = ("unshare", *user, "--mount", "sh", "-c", _SMALL_DISK, "sh")
    result = folder.rehearse(prefix=prefix)
    assert result.returncode == 1, result.stdout + result.stderr
    first, second = result.stdout.split("goes on")
    assert re.search(r"^copy: pg_dump failed .* is full$", first, re.M), first
    assert "copy: done" in second
    assert verdict(folder) in PASSED
    assert "is full" in report(folder)


@pytest.mark.parametrize("folder", [{"longest_wait": 2}], indirect=True)
def test_not_rolling(folder: SiteFolder) -> None:
    """A migration that makes visitors wait, and that the running version cannot live with."""
    folder.release(
        'add_attribute("News", "summary")\nadd_cube("tag")\ncommit()\n'
        'sql("LOCK TABLE cw_news IN ACCESS EXCLUSIVE MODE")\nsql("SELECT pg_sleep(4)")\n'
        'commit()\nsql("ALTER TABLE cw_file DROP COLUMN cw_title")\ncommit()\n'
    )
    result = folder.rehearse()
    assert result.returncode == 0, result.stdout
    assert verdict(folder) == "stopped"
    text = report(folder)
    assert "**The site must be stopped for about" in text
    [row] = re.findall(r"^\| cw_news \| AccessExclusiveLock \| ([\d.]+) s \|.*$", text, re.M)
    assert float(row) >= 3.9
    assert "cw\\_news is locked for" in text
    assert "column cw\\_file.cw\\_title dropped: the running version uses it" in text
    assert re.search(r"a page took [\d.]+ s during the migration \(limit: 2 s\)", text)
    assert "systemctl stop cubicweb-site@1 cubicweb-site@2" in text
    assert "hasite-accept" not in text


# as a page of the running version may do
_DEADLOCK = """
import os, threading, time
add_attribute("News", "summary")
add_cube("tag")
commit()
if not os.path.exists("{folder}/met"):
    open("{folder}/met", "w").close()
    sql("LOCK TABLE cw_news IN ACCESS EXCLUSIVE MODE")
    page = repo.system_source.get_connection().cursor()
    page.execute("LOCK TABLE cw_file IN ACCESS SHARE MODE")
    threading.Thread(target=page.execute, args=["SELECT FROM cw_news"], daemon=True).start()
    # PostgreSQL ends what has waited for a second when it looks, the page if it came last
    time.sleep(2)
    sql("ALTER TABLE cw_file ALTER cw_title SET DEFAULT ''")
    commit()
"""


def test_deadlock(folder: SiteFolder) -> None:
    """A migration that PostgreSQL ends for the sake of a page needs the site to be stopped."""
    folder.release(_DEADLOCK.format(folder=folder.folder))
    result = folder.rehearse()
    assert result.returncode == 0, result.stdout
    assert re.search(r"^upgrade: .*deadlock detected.*: trying again$", result.stdout, re.M)
    assert verdict(folder) == "stopped"
    assert "PostgreSQL ended the migration (deadlock)" in report(folder)
