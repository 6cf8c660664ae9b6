"""The page for operators, and the same in JSON: what is wrong with the site, then all of it."""

import re
import time
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import lxml.etree
import lxml.html
import psycopg2
import pytest
from documents import CHECKOUT, anchors
from pictures import picture
from servers.instance import Instance, Process
from servers.postgresql import Database as Where
from servers.postgresql import PostgreSQL
from servers.squid import Squid
from servers.support import free_port, wait_until
from servers.visitor import Visitor

from cubicweb_hasite.monitoring import presence
from cubicweb_hasite.monitoring.overview import Database, Overview, Replica
from cubicweb_hasite.monitoring.presence import INTERVAL, MAX_TEXT, Told
from cubicweb_hasite.monitoring.problems import problems as problems_of

PAGE = "view?vid=hasite"
JSON = "hasite.json"
#: within which a change is seen, in seconds: two looks of an instance, on a busy machine
SOON = 2 * INTERVAL + 5
HOSTILE = "<script>alert(1)</script>"


class Site:
    """An instance on a database server of its own, by an ordinary role."""

    def __init__(self, instance: Instance, postgresql: PostgreSQL) -> None:
        self.instance = instance
        self.postgresql = postgresql

    def connect(self, **options: str) -> psycopg2.extensions.connection:
        """Return a connection to the database by the role of the site."""
        database = self.instance.database
        return psycopg2.connect(
            host=database.host,
            port=database.port,
            user=database.user,
            dbname=database.name,
            **options,
        )


@pytest.fixture(scope="module")
def site(server_directory: Callable[[str], Path]) -> Iterator[Site]:
    """A site whose database may be mistreated."""
    with PostgreSQL(server_directory("postgresql")) as server:
        server.sql("CREATE ROLE site LOGIN")
        database = replace(server.create_database("site"), user="site")
        server.sql("ALTER DATABASE site OWNER TO site")
        instance = Instance(server_directory("instance"), ["hasite", "file"], database)
        instance.create()
        instance.shell(
            "cnx.create_entity('CWUser', login='alice', upassword='alice', "
            "in_group=cnx.find('CWGroup', name='users').one())\ncommit()\n"
        )
        yield Site(instance, server)


@pytest.fixture(scope="module")
def process(site: Site) -> Iterator[Process]:
    with site.instance.process() as process:
        yield process


@pytest.fixture(scope="module")
def manager(process: Process) -> Visitor:
    return logged_in(process)


def logged_in(process: Process, user: str = "admin") -> Visitor:
    visitor = Visitor(process.url)
    visitor.login(user, user)
    return visitor


def facts(manager: Visitor) -> dict[str, Any]:
    """Return the state of the site as JSON tells it."""
    response = manager.get(JSON)
    assert response.status_code == 200, response.text
    assert response.headers["Cache-Control"] == "no-store"
    assert response.headers["Content-Type"] == "application/json"
    return response.json()


def page(manager: Visitor) -> lxml.html.HtmlElement:
    """Return the page."""
    response = manager.get(PAGE)
    assert response.status_code == 200, response.text
    assert response.headers["Cache-Control"] == "no-store"
    # as the tests of an application do with each startup view (cubicweb_web.devtools)
    lxml.etree.fromstring(response.content)
    return lxml.html.fromstring(response.content)


def problems(manager: Visitor) -> list[str]:
    """Return what is wrong, which the page and JSON tell alike."""
    found: list[str] = []

    def agree() -> bool:  # they are asked for one after the other
        found[:] = _first_on_page(manager)
        return found == [problem["text"] for problem in facts(manager)["problems"]]

    wait_until(agree, "the page and JSON to agree")
    return found


def _first_on_page(manager: Visitor) -> Iterator[str]:
    """Yield the problems that the page begins with; each has a link to what to do."""
    for item in page(manager).xpath("//h1/following-sibling::*[1][@class='problems']/li"):
        [link] = item.xpath("a")
        document, anchor = link.get("href").rsplit("/", 1)[1].split("#")
        assert anchor in anchors(CHECKOUT / "docs" / document)
        yield item.text.strip()


def rows(document: lxml.html.HtmlElement, title: str) -> list[dict[str, str]]:
    """Return the rows of the table under a title."""
    [table] = document.xpath(f"//h2[.='{title}']/following-sibling::table[1]")
    return [
        {cell.get("data-column"): cell.text_content() for cell in row.xpath("td")}
        for row in table.xpath("tbody/tr")
    ]


def names(manager: Visitor) -> list[str]:
    return [instance["name"] for instance in facts(manager)["instances"]]


def on_port(process: Process) -> str:
    return f":{process.port}"


def sees(manager: Visitor, process: Process) -> bool:
    return any(name.endswith(on_port(process)) for name in names(manager))


def test_nothing_is_wrong(process: Process, manager: Visitor) -> None:
    wait_until(lambda: facts(manager)["instances"][0]["schema"] == "same", "a look", timeout=SOON)
    assert problems(manager) == []
    document = page(manager)
    assert document.xpath("//h1/following-sibling::*[1][@class='well']")
    [instance] = rows(document, "Instances")
    assert instance["State"] == "in service"
    assert instance["Instance"].endswith(f"{on_port(process)} (answers)")
    assert instance["Schema"] == "as installed"
    [node] = rows(document, "Database nodes")
    assert node["Role"] == "primary"
    told = facts(manager)
    assert told["others_seen"]
    assert told["database"]["replicas"] == []
    assert told["caches"] == []


def test_another_instance(site: Site, process: Process, manager: Visitor, tmp_path: Path) -> None:
    """It is seen, is seen to be drained, and is not seen any more when it is killed."""
    with site.instance.process(runtime_dir=tmp_path) as other:
        wait_until(lambda: sees(manager, other), "the other instance", timeout=SOON)
        assert len(names(manager)) == 2
        assert sees(logged_in(other), process)
        [own, second] = rows(page(manager), "Instances")
        assert own["Instance"].endswith("(answers)")
        assert second["Instance"].endswith(on_port(other))
        (tmp_path / f"{site.instance.name}.draining").touch()
        wait_until(lambda: problems(manager), "the drain", timeout=SOON)
        [problem] = problems(manager)
        assert re.fullmatch(rf".*{on_port(other)}: being drained, gets no visitors", problem)
        assert [row["State"] for row in rows(page(manager), "Instances")] == [
            "in service",
            "draining",
        ]
        other.kill()
        wait_until(lambda: not sees(manager, other), "the end", timeout=5)
    assert problems(manager) == []


def test_hung_instance(site: Site, manager: Visitor) -> None:
    with site.instance.process() as other:
        wait_until(lambda: sees(manager, other), "the other instance", timeout=SOON)
        other.pause()
        try:
            wait_until(lambda: problems(manager), "silence", timeout=4 * INTERVAL)
            [problem] = problems(manager)
            assert re.fullmatch(rf".*{on_port(other)}: nothing heard for \d+ seconds", problem)
        finally:
            other.resume()
        wait_until(lambda: not problems(manager), "a sign", timeout=SOON)


def edit_image(manager: Visitor) -> None:
    """Create an image and edit it, so that caches are purged."""
    files = {"data": ("red.png", picture("red"), "image/png")}
    created = manager.create("File", {"title": "red"}, files)
    eid = int(created.headers["Location"].partition("?")[0].rpartition("/")[2])
    manager.edit(eid, "File", files={"data": ("blue.png", picture("blue"), "image/png")})


def test_dead_cache(site: Site) -> None:
    """It is told by the instance that was to purge it, and by the others."""
    url = f"http://127.0.0.1:{free_port()}/"
    with site.instance.process(hasite_purge_urls=url) as process, site.instance.process() as other:
        manager = logged_in(process)
        assert [cache["url"] for cache in facts(manager)["caches"]] == [url]
        assert rows(page(manager), "Caches that this instance purges")[0]["State"] == (
            "nothing to purge yet"
        )
        edit_image(manager)
        wait_until(lambda: problems(manager), "a purge to fail")
        expected = rf"The cache {url} does not answer: \d+ purges wait"
        assert re.fullmatch(expected, problems(manager)[0])
        assert rows(page(manager), "Caches that this instance purges")[0]["State"] == (
            "does not answer"
        )
        elsewhere = logged_in(other)
        wait_until(lambda: problems(elsewhere), "the other instance to hear", timeout=SOON)
        assert problems(elsewhere)[0].endswith("purges wait for a cache that does not answer")


def test_cache_that_refuses(site: Site, server_directory: Callable[[str], Path]) -> None:
    cache = Squid(server_directory("squid"), free_port())  # its configuration allows no PURGE
    with cache, site.instance.process(hasite_purge_urls=cache.url) as process:
        manager = logged_in(process)
        edit_image(manager)
        wait_until(lambda: problems(manager), "a purge to fail")
        expected = f"The cache {cache.url} refuses purges: it may hold former images"
        assert problems(manager) == [expected]
        [row] = rows(page(manager), "Caches that this instance purges")
        assert row["State"] == "refuses purges"
        assert int(row["Purges failed"]) > 0


def test_database_too_slow(site: Site) -> None:
    """The rest of the page is there, with the instance that answers."""
    with site.instance.process(hasite_probe_deadline=0) as process:
        manager = logged_in(process)
        assert problems(manager)[0] == (
            "The database cannot be asked: no answer from the database in 0 seconds"
        )
        [instance] = facts(manager)["instances"]
        assert (instance["port"], instance["here"]) == (process.port, True)
        assert not facts(manager)["others_seen"]


def test_versions_of_the_database(site: Site, manager: Visitor) -> None:
    """An instance is not ready with other versions in the database, unless it accepts them."""
    name = site.instance.name
    key = "'system.version.file'"
    value = f"SELECT cw_value FROM cw_cwproperty WHERE cw_pkey = {key}"
    change = "UPDATE cw_cwproperty SET cw_value = '{}' WHERE cw_pkey = " + key
    database = site.instance.database.name
    version = site.postgresql.sql(value, database)
    text = manager.get("view?vid=monitor_version").text.partition(" == DB config ")[2]
    site.postgresql.sql(change.format("99.0.0"), database)
    try:
        wait_until(lambda: problems(manager), "a look", timeout=SOON)
        assert ": not ready: FS config " in problems(manager)[0]
        assert rows(page(manager), "Instances")[0]["Schema"] == "differs"
        site.instance.ctl("hasite-accept", name, text.replace(f"file: {version}", "file: 99.0.0"))
        wait_until(lambda: not problems(manager), "acceptance", timeout=SOON)
        assert rows(page(manager), "Instances")[0]["Schema"] == "accepted"
    finally:
        site.postgresql.sql(change.format(version), database)
        site.instance.ctl("hasite-accept", "--undo", name)
        (site.instance.directory / name / "journal.md").unlink(missing_ok=True)


def test_limits() -> None:
    """What takes too long to make really: a replica that is late, and many connections."""
    late = Replica("db2", None, connected=True, state="", behind=200_000_000)
    near = replace(late, name="db3", behind=1_000_000)
    database = Database(
        node="db1:5432",
        version="15.1",
        standby=False,
        read_only=False,
        receives=False,
        connections=91,
        max_connections=100,
        replayed=None,
        replicas=[late, near],
    )
    found = problems_of(Overview([], [], database))
    assert [str(problem) for problem in found] == [
        "The replica db2 has 200 MB to catch up",
        "The database has 91 of 100 connections in use",
    ]
    sections = anchors(CHECKOUT / "docs" / "monitor.md")
    assert {problem.section for problem in found} <= sections
    well = replace(database, connections=90, replicas=[near])
    assert problems_of(Overview([], [], well)) == []


@contextmanager
def read_only(site: Site) -> Iterator[None]:
    site.postgresql.configure("default_transaction_read_only", "on")
    try:
        yield
    finally:
        site.postgresql.configure("default_transaction_read_only", None)


def test_read_only_by_setting(site: Site, process: Process, manager: Visitor) -> None:
    with read_only(site):
        wait_until(lambda: problems(manager), "read-only", timeout=SOON)
        expected = "The database is read-only: default_transaction_read_only is on"
        assert problems(manager)[0] == expected
        assert problems(logged_in(process))[0] == expected
    wait_until(lambda: not problems(manager), "writes", timeout=SOON)


def test_primary_is_lost(site: Site, process: Process, manager: Visitor) -> None:
    site.postgresql.demote()
    try:
        wait_until(lambda: problems(manager), "the standby", timeout=SOON)
        expected = "The database is read-only: there is no primary"
        assert problems(manager)[0] == expected
        [node] = rows(page(manager), "Database nodes")
        assert (node["Role"], node["State"]) == ("standby", "not connected to a primary")
        # instances say that they are out of service
        reason = "not ready: the database is read-only, it is a standby"
        wait_until(lambda: reason in str(problems(manager)), "a look", timeout=SOON)
        assert problems(logged_in(process))[0] == expected
    finally:
        site.postgresql.promote()
    wait_until(lambda: not problems(manager), "the primary", timeout=SOON)


def test_replica(site: Site, manager: Visitor, server_directory: Callable[[str], Path]) -> None:
    """By its slot, since an ordinary role may not see more."""
    primary = site.postgresql
    primary.sql("SELECT pg_create_physical_replication_slot('db2', true)")
    try:
        assert problems(manager) == ["The replica db2 is not connected"]
        standby = PostgreSQL(server_directory("standby"), primary=primary)
        with standby:
            standby.sql("ALTER SYSTEM SET primary_slot_name = 'db2'")
            standby.sql("SELECT pg_reload_conf()")
            wait_until(lambda: not problems(manager), "the standby", timeout=30)
            _node, replica = rows(page(manager), "Database nodes")
            assert replica["Node"].split() == ["db2"]
            assert (replica["Role"], replica["State"]) == ("replica", "connected")
            [replica] = facts(manager)["database"]["replicas"]
            assert replica["connected"]
            assert replica["behind"] >= 0
            # as an instance sees it that is connected to the standby
            with site.instance.process(db_port=standby.port) as process:
                there = logged_in(process)
                assert problems(there)[0] == (
                    "The database is read-only: this is a standby, whose primary is elsewhere"
                )
        wait_until(lambda: problems(manager), "the loss of the standby", timeout=30)
        assert problems(manager) == ["The replica db2 is not connected"]
    finally:
        primary.sql("SELECT pg_drop_replication_slot('db2')")
    assert problems(manager) == []


def test_versions_differ(site: Site, manager: Visitor) -> None:
    told = Told("old", pid=1, cubicweb="4.0.0", hasite="0.0.1")
    with closing(site.connect()) as connection:
        connection.cursor().execute(presence.write(told) + "SELECT 1")
        [problem] = problems(manager)
        assert "cubicweb 4.0.0, hasite 0.0.1; cubicweb 5." in problem


@pytest.mark.parametrize(
    "query",
    [
        presence.write(Told(HOSTILE, pid=1, cubicweb=HOSTILE, hasite=HOSTILE, reasons=HOSTILE)),
        '/* hasite {"name": "\\ud800\\u0000", "pid": -1, "uptime": 1e400} */ ',
        f"/* hasite {HOSTILE}",
        f"/* hasite {'{' * 900}",
        '/* hasite {"name": 1, "pid": ' + "9" * 500 + "} */ ",
    ],
)
def test_hostile_connection(site: Site, manager: Visitor, query: str) -> None:
    """Whoever has the role of the site may have an instance seen, but no more."""
    with closing(site.connect(application_name=HOSTILE)) as connection:
        closed = "" if "*/" in query else "*/ "
        connection.cursor().execute(f"{query}{closed}SELECT 1")
        assert len(facts(manager)["instances"]) == 2
        response = manager.get(PAGE)
        assert response.status_code == 200
        assert "<script" not in response.text
        assert len(rows(page(manager), "Instances")) == 2
        problems(manager)


def test_older_version_tells_nothing(site: Site, manager: Visitor) -> None:
    with closing(site.connect(application_name="hasite-probes")) as connection:
        connection.cursor().execute("SELECT 1")
        assert problems(manager) == ["? (127.0.0.1): an instance that tells nothing of itself"]


def test_who_may_see_it(site: Site, process: Process) -> None:
    for visitor in (Visitor(process.url), logged_in(process, "alice")):
        response = visitor.get(PAGE)
        assert response.status_code == 403
        assert response.headers["Cache-Control"] == "no-store"
        assert "PostgreSQL" not in response.text
    response = visitor.get(JSON)
    assert (response.status_code, response.headers["Cache-Control"]) == (403, "no-store")
    response = Visitor(process.url).get(JSON)
    assert (response.status_code, response.headers["Cache-Control"]) == (401, "no-store")


def test_closed_site(site: Site) -> None:
    with site.instance.process(anonymous_user="", anonymous_password="") as process:
        visitor = Visitor(process.url)
        assert visitor.get(PAGE).status_code == 303
        assert visitor.get(JSON).status_code == 401
        assert logged_in(process).get(PAGE).status_code == 200


@pytest.mark.parametrize("url", [PAGE, JSON])
def test_one_query(site: Site, process: Process, manager: Visitor, url: str) -> None:
    """Besides those of CubicWeb for any page of a logged-in visitor."""
    site.postgresql.configure("log_statement", "all")
    try:
        wait_until(lambda: "log_statement" in site.postgresql.log, "the setting")
        time.sleep(1)
        before = len(site.postgresql.log)
        assert manager.get(url).status_code == 200
        time.sleep(1)
        log = site.postgresql.log[before:]
    finally:
        site.postgresql.configure("log_statement", None)
    assert log.count("pg_stat_replication") == 1
    ours = [line for line in log.splitlines() if "statement:" in line and presence.MARK in line]
    others = [line for line in log.splitlines() if "statement: SELECT" in line]
    # those of a look of the instance may be among ours
    assert 1 <= len(ours) <= 3
    assert len(others) <= 8, others


def test_journal(site: Site, manager: Visitor) -> None:
    path = site.instance.directory / site.instance.name / "journal.md"
    assert facts(manager)["journal"] == {}
    site.instance.ctl("hasite-drain", "--undo", site.instance.name)
    path.write_text(
        path.read_text()
        + "| 2026-11-01 03:00:00 +0000 | root | db1 | backup of a \\| b | verified |\n"
        + "| 2026-11-02 03:00:00 +0000 | root | db1 | backup | <b>failed</b> |\n"
        + "| broken\n"
        + "| 2026-11-03 10:00:00 +0000 | eve | adm | hasite-upgrade site.toml | done |\n"
    )
    try:
        assert facts(manager)["journal"] == {
            "backup": {
                "when": "2026-11-02 03:00:00 +0000",
                "who": "root",
                "host": "db1",
                "what": "backup",
                "result": "<b>failed</b>",
            },
            "upgrade": {
                "when": "2026-11-03 10:00:00 +0000",
                "who": "eve",
                "host": "adm",
                "what": "hasite-upgrade site.toml",
                "result": "done",
            },
        }
        lines = rows(page(manager), "Journal")
        assert [line["What"] for line in lines] == ["Last backup", "Last upgrade"]
        assert lines[0]["Result"] == "<b>failed</b>"
    finally:
        path.unlink()


def test_link_in_the_menu(manager: Visitor, process: Process) -> None:
    assert PAGE in manager.get("").text
    assert PAGE not in Visitor(process.url).get("").text


def test_sqlite(server_directory: Callable[[str], Path]) -> None:
    """An instance sees itself alone, and says so."""
    directory = server_directory("sqlite")
    directory.mkdir()
    database = Where("sqlite", str(directory / "database"))
    instance = Instance(directory / "instance", ["hasite", "file"], database)
    instance.create()
    with instance.process() as process:
        manager = logged_in(process)
        assert problems(manager) == []
        told = facts(manager)
        assert (told["others_seen"], told["database"]) == (False, None)
        assert len(told["instances"]) == 1
        document = page(manager)
        assert document.xpath("//p[.='Only the instance that answers is seen.']")
        [instance] = rows(document, "Instances")
        assert (instance["State"], instance["Schema"]) == ("in service", "as installed")


def test_told_texts_are_cut() -> None:
    """PostgreSQL cuts a query at 1024 bytes by default."""
    for char in "a", "/", "*/", "\N{SNOWMAN}", "\N{MONKEY}", "\0":
        told = Told(name=char * MAX_TEXT, reasons=char * MAX_TEXT, pid=2**31, draining=True)
        comment = presence.write(told)
        assert len(comment) < 1000
        assert comment.index("*/") == len(comment) - len("*/ ")
        assert "/*" not in comment[2:]
        read = presence.read(f"{comment}SELECT 1")
        assert read is not None
        assert (read.pid, read.draining) == (2**31, True)
        assert read.name.replace("?", char).startswith(told.name[:5])


@pytest.mark.parametrize("language", ["fr", "es"])
def test_page_is_translated(site: Site, manager: Visitor, language: str) -> None:
    """All words of the page, the problems among them."""
    sources = (
        *(CHECKOUT / "cubicweb_hasite" / "views").glob("operators.py"),
        *(CHECKOUT / "cubicweb_hasite" / "monitoring").glob("problems.py"),
    )
    messages = {
        message
        for path in sources
        for message in re.findall(r'\b(?:_|tr)\("([^"]+)"\)', path.read_text())
    }
    assert len(messages) > 40
    catalog = (CHECKOUT / "cubicweb_hasite" / "i18n" / f"{language}.po").read_text()
    translated = dict(re.findall(r'^msgid "(.+)"\nmsgstr "(.+)"$', catalog, re.M))
    assert messages - translated.keys() == set()
    for message in messages:
        places = r"%(?:\(\w+\))?[sd]"
        assert sorted(re.findall(places, message)) == sorted(
            re.findall(places, translated[message])
        ), message
