"""The settings of rehearsals. Above all, `preproduction.anonymise`: what the SQL removes is left
nowhere, and nobody could read it meanwhile."""

import contextlib
import json
import re
import subprocess
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

import psycopg2
import pytest
from deploying import SITES
from rehearsing import Production, SiteFolder
from servers.postgresql import PostgreSQL
from servers.support import listens

from cubicweb_hasite.deploy import document, load, render
from cubicweb_hasite.upgrades.instance import RehearsalInstance
from cubicweb_hasite.upgrades.server import Server

#: part of all personal data
PERSONAL = "xqvpersonal"

# Addresses of persons, in their tables and in the full-text index, as CubicWeb would store them.
_ADD = f"""
BEGIN;
CREATE TEMPORARY TABLE new AS
    SELECT n, (SELECT max(eid) FROM entities) + n AS eid FROM generate_series(1, 500) n;
INSERT INTO entities (eid, type) SELECT eid, 'EmailAddress' FROM new;
INSERT INTO cw_emailaddress (cw_eid, cw_address, cw_alias, cw_cwuri, cw_creation_date,
        cw_modification_date)
    SELECT eid, 'jane' || n || '@{PERSONAL}.example', '{PERSONAL} ' || n % 5,
        'http://example.org/' || eid, now(), now() FROM new;
INSERT INTO is_relation (eid_from, eid_to)
    SELECT eid, (SELECT cw_eid FROM cw_cwetype WHERE cw_name = 'EmailAddress') FROM new;
INSERT INTO is_instance_of_relation SELECT i.* FROM is_relation i JOIN new ON eid = eid_from;
INSERT INTO appears (uid, words) SELECT eid, to_tsvector('simple', '{PERSONAL}') FROM new;
UPDATE entities_id_seq SET last = (SELECT max(eid) FROM entities);
UPDATE cw_cwuser SET cw_surname = '{PERSONAL}';
COMMIT;
ANALYZE;
"""

_ANONYMISE = """\
CREATE TEMPORARY TABLE gone AS SELECT cw_eid AS eid FROM cw_emailaddress;
DELETE FROM appears WHERE uid IN (SELECT eid FROM gone);
DELETE FROM is_relation WHERE eid_from IN (SELECT eid FROM gone);
DELETE FROM is_instance_of_relation WHERE eid_from IN (SELECT eid FROM gone);
DELETE FROM cw_emailaddress;
DELETE FROM entities WHERE eid IN (SELECT eid FROM gone);
UPDATE cw_cwuser SET cw_surname = NULL;
"""
# SQL that tells all that it can, and fails
_TELLS = """\
SELECT * FROM cw_emailaddress;
COPY cw_emailaddress TO STDOUT;
DO $$ BEGIN RAISE WARNING '%', (SELECT string_agg(cw_address, ' ') FROM cw_emailaddress); END $$;
"""
_FAILS = {
    "value in the message": (
        "SELECT cw_address::integer FROM cw_emailaddress;",
        "invalid text representation (SQLSTATE 22P02)",
    ),
    "value in the details": (
        "CREATE UNIQUE INDEX ON cw_emailaddress (cw_alias);",
        "unique violation (SQLSTATE 23505)",
    ),
    "error of its own": (
        "DO $$ BEGIN RAISE EXCEPTION '%', (SELECT min(cw_address) FROM cw_emailaddress) "
        "USING ERRCODE = 'XQ001'; END $$;",
        "fails: SQLSTATE XQ001",
    ),
}

_KEYS = {
    "configuration": "/nowhere/cubicweb.d",
    "checks": '  { path = "/999999999", status = 404 },\n',
    "upgrade": 'requirements = "next/packages.txt"\nmax_age_hours = 1\nbackup = ""\n',
}


@pytest.fixture(scope="module")
def site(production: Production) -> Iterator[Production]:
    """The production, with personal data, and with a reader of another name than the default.

    On the server for the copies there is a stranger, who may read all tables.
    """
    production.primary.sql(_ADD, production.name, timeout=60)
    production.primary.sql("CREATE USER copier IN ROLE pg_read_all_data")
    production.primary.sql("ALTER USER rehearsal NOLOGIN")
    production.other.sql("CREATE USER stranger IN ROLE pg_read_all_data")
    before = production.checksums()
    yield production
    assert production.checksums() == before


def site_folder(site: Production, path: Path, **options: str) -> SiteFolder:
    """Return a folder whose site file sets all keys that other tests leave out."""
    preproduction = (
        'reader = "copier"\n'
        'anonymise = "sql/anonymise.sql"\n'
        f'configuration = "{site.instance.directory}"\n'
        "jobs = 3\n"
    )
    folder = site.site_folder(path, preproduction=preproduction, **_KEYS, **options)
    folder.release()
    (folder.folder / "next").mkdir()
    for file in folder.folder.glob("*.whl"):
        file.rename(folder.folder / "next" / file.name)
    (folder.folder / "requirements.txt").rename(folder.folder / "next" / "packages.txt")
    (folder.folder / "sql").mkdir()
    anonymise(folder, _ANONYMISE)
    return folder


def anonymise(folder: SiteFolder, text: str) -> None:
    """Write the SQL that makes copies anonymous."""
    (folder.folder / "sql" / "anonymise.sql").write_text(text)


def copies(site: Production) -> list[str]:
    """Return the databases that rehearsals have left."""
    query = "SELECT datname FROM pg_database WHERE datname LIKE '%rehearsal%'"
    return site.other.sql(query, timeout=60).split()


def files_with_personal_data(folder: Path) -> list[str]:
    """Return the files of a folder that hold personal data."""
    files = (path for path in folder.rglob("*") if path.is_file())
    return [str(path) for path in files if PERSONAL.encode() in path.read_bytes()]


def check_nothing_is_told(folder: SiteFolder, result: subprocess.CompletedProcess[str]) -> None:
    """Assert that no personal data is in any file of the folder, nor in the output."""
    names = {path.name for path in folder.rehearsals[-1].iterdir()}
    assert names >= {"report.md", "report.html", "rehearsal.log", "state.json"}
    assert (folder.folder / "journal.md").exists()
    assert PERSONAL not in result.stdout + result.stderr
    assert files_with_personal_data(folder.folder) == []


def check_failed(
    site: Production, folder: SiteFolder, result: subprocess.CompletedProcess[str]
) -> None:
    """Assert that a rehearsal failed, without leaving a copy or telling what is in it."""
    assert result.returncode == 1, result.stdout + result.stderr
    assert "the copy was deleted, since it may hold personal data" in result.stdout
    check_nothing_is_told(folder, result)
    assert copies(site) == []
    assert not list(folder.folder.glob("rehearsal-*/work/*"))


@dataclass
class Watch:
    """What a stranger and a superuser see on the server for the copies while the block runs."""

    server: PostgreSQL
    port: int
    #: databases that the stranger was let into
    entered: set[str] = field(default_factory=set)
    #: databases that the stranger was kept out of
    refused: set[str] = field(default_factory=set)
    #: who was connected while the SQL ran, which databases there were, which ports listened
    users: set[str] = field(default_factory=set)
    databases: set[str] = field(default_factory=set)
    ports: set[int] = field(default_factory=set)

    def __enter__(self) -> "Watch":
        self._end = threading.Event()
        self._thread = threading.Thread(target=self._run)
        self._thread.start()
        return self

    def __exit__(self, *exc_info: object) -> None:
        self._end.set()
        self._thread.join()

    def _connect(self, database: str, user: str) -> psycopg2.extensions.connection:
        connection = psycopg2.connect(
            host=self.server.host, port=self.server.port, dbname=database, user=user
        )
        connection.autocommit = True
        return connection

    def _run(self) -> None:
        with contextlib.closing(self._connect("postgres", self.server.user)) as connection:
            cursor = connection.cursor()
            while not self._end.wait(0.05):
                cursor.execute("SELECT datname FROM pg_database WHERE datname LIKE '%rehearsal%'")
                databases = {name for (name,) in cursor.fetchall()}
                for name in databases:
                    self._try(name)
                cursor.execute(
                    "SELECT usename FROM pg_stat_activity WHERE datname LIKE '%rehearsal%' "
                    "AND backend_type = 'client backend' AND EXISTS (SELECT FROM pg_stat_activity "
                    "WHERE query LIKE 'SELECT pg_sleep%' AND state = 'active')"
                )
                if users := {name for (name,) in cursor.fetchall()}:
                    self.users |= users
                    self.databases |= databases
                    ports = range(self.port, self.port + 4)
                    self.ports |= {port for port in ports if listens(port)}

    def _try(self, name: str) -> None:
        try:
            self._connect(name, "stranger").close()
        except psycopg2.OperationalError as error:
            if "permission denied for database" in str(error):
                self.refused.add(name)
        else:
            self.entered.add(name)


@dataclass
class Rehearsed:
    """A rehearsal that passed, with all the settings, and with its copies kept."""

    folder: SiteFolder
    watch: Watch
    result: subprocess.CompletedProcess[str]

    @property
    def report(self) -> str:
        return (self.folder.rehearsals[-1] / "report.md").read_text()

    @property
    def log(self) -> str:
        return (self.folder.rehearsals[-1] / "rehearsal.log").read_text()


@pytest.fixture(scope="module")
def rehearsed(site: Production, server_directory: Callable[[str], Path]) -> Rehearsed:
    folder = site_folder(site, server_directory("site"))
    # the first try fails in the SQL, the second one goes on
    anonymise(folder, f"{_ANONYMISE}SELECT 1 / 0;\n")
    check_failed(site, folder, folder.rehearse("--keep"))
    anonymise(folder, f"{_ANONYMISE}SELECT pg_sleep(3);\n")
    with Watch(site.other, folder.port) as watch:
        result = folder.rehearse("--keep")
    assert result.returncode == 0, result.stdout + result.stderr
    return Rehearsed(folder, watch, result)


def test_nothing_personal_is_left(site: Production, rehearsed: Rehearsed) -> None:
    check_nothing_is_told(rehearsed.folder, rehearsed.result)
    # even in deleted rows and in statistics: in no file of a database
    for server in (site.primary, site.other):
        server.sql("CHECKPOINT", timeout=60)
    assert files_with_personal_data(site.primary.directory / "cluster" / "base")
    assert len(copies(site)) == 2
    assert files_with_personal_data(site.other.directory / "cluster" / "base") == []
    for name in copies(site):
        for count, table in [
            ("0", "cw_emailaddress"),
            ("0", "cw_cwuser WHERE cw_surname <> ''"),
            ("5000", "cw_news"),
        ]:
            assert site.other.sql(f"SELECT count(*) FROM {table}", name, timeout=60) == count


def test_nobody_reaches_a_copy(site: Production, rehearsed: Rehearsed) -> None:
    """Least of all before the SQL has run: no instance has started then."""
    watch = rehearsed.watch
    assert watch.entered == set()
    [personal] = [name for name in watch.refused if name.endswith("_personal")]
    assert watch.refused == {*copies(site), personal}
    assert watch.users == {"preproduction"}
    assert watch.databases == {personal}
    assert watch.ports == set()


def test_goes_on_with_other_sql(rehearsed: Rehearsed) -> None:
    """What had failed left no dump: production is copied again."""
    output = rehearsed.result.stdout
    assert re.search(r"^rehearsal-\S+ goes on$", output, re.M)
    for step in ("copy", "restore", "packages", "upgrade"):
        assert re.search(rf"^{step}: done", output, re.M), step


def test_settings(site: Production, rehearsed: Rehearsed) -> None:
    report, log = rehearsed.report, rehearsed.log
    assert "| anonymised by | sql/anonymise.sql |" in report
    assert "within 1 hours of the rehearsal" in report
    assert "Make it yourself, now." in report
    assert "| hasite_news | 0.1.0 | **0.2.0** |" in report  # by next/packages.txt
    assert re.search(r'"%\{http_code\}".*/999999999.*\n```\n\nIt prints:\n\n    404\n', report)
    assert "was not tried" not in report  # the running version, with its configuration
    assert len(re.findall(r"\$ pg_(?:dump|restore) .*--jobs=3 ", log)) == 6
    assert "/nowhere/cubicweb.d" not in log
    reader = "SELECT count(*) FROM pg_stat_activity WHERE usename = 'copier'"
    assert site.primary.sql(reader) == site.standby.sql(reader) == "0"


def make_old(rehearsal: Path) -> None:
    """Let a rehearsal be older than `upgrade.max_age_hours`."""
    path = rehearsal / "state.json"
    path.write_text(re.sub(r'"created": "\d{4}', '"created": "2024', path.read_text()))


def test_rehearsal_that_is_too_old(rehearsed: Rehearsed) -> None:
    folder = rehearsed.folder
    [rehearsal] = folder.rehearsals
    path = rehearsal / "state.json"
    content = path.read_text()
    make_old(rehearsal)
    try:
        refused = subprocess.run(
            folder.command("upgrade", "--runbook", rehearsal.name, "--yes"),
            cwd=folder.folder,
            env=folder.environ(),
            capture_output=True,
            text=True,
        )
    finally:
        path.write_text(content)
    assert refused.returncode == 1
    assert "hours old; the limit is 1 (upgrade.max_age_hours)" in refused.stderr


@pytest.mark.parametrize("failure", _FAILS)
def test_sql_that_fails(
    site: Production, server_directory: Callable[[str], Path], failure: str
) -> None:
    folder = site_folder(site, server_directory("site"))
    statement, meaning = _FAILS[failure]
    left = copies(site)  # that were kept
    anonymise(folder, f"{_TELLS}{statement}\n")
    result = folder.rehearse()
    assert result.returncode == 1, result.stdout + result.stderr
    check_nothing_is_told(folder, result)
    assert copies(site) == left
    [rehearsal] = folder.rehearsals
    assert not list(rehearsal.glob("work/*"))
    line = len(f"{_TELLS}{statement}".splitlines())
    assert f"preproduction.anonymise: line {line} of anonymise.sql fails: " in result.stdout
    assert meaning in result.stdout
    assert json.loads((rehearsal / "state.json").read_text())["verdict"] == "failed"


# a table that cannot be restored, for its rows are right in production alone
_WRONG = f"""
CREATE TABLE wrong (address text CHECK (current_database() = 'site'));
INSERT INTO wrong VALUES ('jane@{PERSONAL}.example');
"""


def test_restore_that_fails(site: Production, server_directory: Callable[[str], Path]) -> None:
    """PostgreSQL quotes the rows that it cannot restore."""
    folder = site_folder(site, server_directory("site"))
    left = copies(site)
    site.primary.sql(_WRONG, site.name, timeout=60)
    try:
        result = folder.rehearse()
    finally:
        site.primary.sql("DROP TABLE wrong", site.name, timeout=60)
    assert result.returncode == 1, result.stdout + result.stderr
    # which of the two pg_restore writes last depends on which of its processes ends first
    shown = (
        'COPY failed for table "wrong": ERROR:  (not shown',
        "a worker process died unexpectedly",
    )
    assert any(text in result.stdout for text in shown), result.stdout
    check_nothing_is_told(folder, result)
    assert copies(site) == left
    assert not list(folder.folder.glob("rehearsal-*/work/*"))


def test_foreign_servers(site: Production, server_directory: Callable[[str], Path]) -> None:
    """A copy from which another server could be written to is refused, unless the SQL drops it."""
    site.other.sql("CREATE USER everything SUPERUSER")
    database = f"host=127.0.0.1 port={site.other.port} user=everything"
    folder = site_folder(site, server_directory("site"), database=database)
    # nothing after the copy is of interest
    (folder.folder / "next" / "packages.txt").write_text("./no-such-package.whl\n")
    site.primary.sql(
        "CREATE FOREIGN DATA WRAPPER any_wrapper; "
        "CREATE SERVER elsewhere FOREIGN DATA WRAPPER any_wrapper",
        site.name,
    )
    try:
        result = folder.rehearse()
        assert result.returncode == 1
        assert "the copy has foreign servers, through which" in result.stdout
        assert ": elsewhere; drop them in the SQL file" in result.stdout
        anonymise(folder, f"{_ANONYMISE}DROP SERVER elsewhere;\n")
        # one that is too old does not go on
        make_old(folder.rehearsals[-1])
        result = folder.rehearse()
        assert re.search(r"^rehearsal-\S+ begins$", result.stdout, re.M), result.stdout
    finally:
        site.primary.sql("DROP FOREIGN DATA WRAPPER any_wrapper CASCADE", site.name, timeout=60)
    assert re.search(r"^restore: done", result.stdout, re.M), result.stdout
    assert re.search(r"^packages: pip failed", result.stdout, re.M), result.stdout


def test_missing_sql(site: Production, server_directory: Callable[[str], Path]) -> None:
    """It is noticed before anything is copied."""
    folder = site_folder(site, server_directory("site"))
    (folder.folder / "sql" / "anonymise.sql").unlink()
    result = folder.rehearse()
    assert result.returncode == 1
    path = folder.folder / "sql" / "anonymise.sql"
    assert result.stderr == f"preproduction.anonymise: {path}: No such file or directory\n"
    assert folder.rehearsals == []


def test_production_lets_the_reader_in(tmp_path: Path) -> None:
    """From the address of the pre-production server, on all database nodes."""
    path = tmp_path / "site.toml"
    text = document.example()
    assert 'address = "10.0.0.51"' in text
    path.write_text(text.replace('#reader = "rehearsal"', 'reader = "copier"'))
    rendering = render.render(load.load(path), drawing=False)
    for host in ("db1", "db2", "db3"):
        [hba] = [
            file.content.decode()
            for name, file in rendering.items()
            if name.startswith(f"{host}/") and b" copier " in file.content
        ]
        assert "host mysite copier 10.0.0.51/32 scram-sha-256" in hba


def test_no_bucket(tmp_path: Path) -> None:
    """An instance of a rehearsal cannot change what production has in a bucket."""
    [path] = [path for path in SITES if path.stem == "every_key"]
    server = Server("copies", {"port": "5432", "user": "rehearsal"}, "1", False, 150000)
    instance = RehearsalInstance(
        load.load(path), "museum", tmp_path, tmp_path, server, "copy", 9990
    )
    assert instance.environ["AWS_DEFAULT_REGION"] == "eu-west-3"  # as rendered
    assert instance.environ["CW_HASITE_S3_BUCKET"] == ""
    assert instance.environ["AWS_S3_ENDPOINT_URL"] == "http://127.0.0.1:1"
