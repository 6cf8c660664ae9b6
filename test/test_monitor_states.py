"""What the monitors answer, and how soon, in each state of the database and of the instance."""

import re
import socket
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, closing, contextmanager
from dataclasses import replace
from pathlib import Path

import backend
import psycopg2
import pytest
import requests
from servers.instance import Instance, Process
from servers.link import Link
from servers.postgresql import PostgreSQL
from servers.support import free_port, wait_until

#: option hasite-probe-deadline, in seconds
DEADLINE = 1.0
#: in which monitors that need no database answer, in seconds
PROMPT = 0.2
#: for how long a busy machine may keep a process waiting, in seconds
SLACK = 1.0
MAX_CONNECTIONS = 30
#: who has asked nothing for so long is asked on a new connection (MAX_AGE, and some slack)
MAX_AGE = 30 + 15

HOST = re.escape(socket.gethostname())
OK = r"ServiceOK : 2 users in DB"
VERSIONS_OK = r"ServiceOK : FS config cubicweb: [\d.]+ \|.* == DB config cubicweb: [\d.]+ \|.*"
POOL = r"\d+\.\d%"

Expected = dict[str, tuple[int, str]]


def table(db: tuple[int, str], version: tuple[int, str], pool: str = POOL) -> Expected:
    """Return the row of a state: status and text of each monitor."""
    return {
        "monitor_pool": (200, pool),
        "monitor_db": db,
        "monitor_version": version,
        "monitor_hostname": (200, HOST),
    }


ORDINARY = table((200, OK), (200, VERSIONS_OK))


def unavailable(text: str) -> Expected:
    """Return the row of a state in which the database does not answer."""
    return table((503, f"ServiceKO : {text}"), (503, f"ServiceKO : {text}"))


class Site:
    """An instance, its database server, and the link between them."""

    def __init__(self, instance: Instance, postgresql: PostgreSQL, link: Link) -> None:
        self.instance = instance
        self.postgresql = postgresql
        self.link = link

    @property
    def flag(self) -> Path:
        """The file that says that the instance is being drained."""
        return self.instance.directory / f"{self.instance.name}.draining"

    def sql(self, query: str) -> str:
        return self.postgresql.sql(query, self.instance.database.name)

    def connect(self) -> psycopg2.extensions.connection:
        """Return a connection of ours to the database."""
        return psycopg2.connect(
            host=self.postgresql.host,
            port=self.postgresql.port,
            user=self.postgresql.user,
            dbname=self.instance.database.name,
        )


@pytest.fixture(scope="module")
def site(server_directory: Callable[[str], Path]) -> Iterator[Site]:
    """A site of its own, whose processes and whose database may be mistreated."""
    server = PostgreSQL(server_directory("postgresql"), max_connections=MAX_CONNECTIONS)
    with server, Link(server.port) as link:
        database = replace(server.create_database("states"), port=link.port)
        options = {
            "hasite-probe-deadline": DEADLINE,
            "connections-pool-max-size": 4,
            "log-threshold": "WARNING",
            # the password is not asked for before `require_password`
            "db-password": "notasecret",
        }
        instance = Instance(
            server_directory("instance"), ["hasite", "file"], database, options=options
        )
        instance.create()
        yield Site(instance, server, link)


@pytest.fixture
def process(site: Site) -> Iterator[Process]:
    with site.instance.process() as process:
        yield process


def poll(
    process: Process, name: str, path: str = "view", headers: dict[str, str] | None = None
) -> tuple[requests.Response, float]:
    """Ask a monitor, and return its answer and how long it took, in seconds."""
    started = time.monotonic()
    response = requests.get(
        f"{process.url}{path}",
        params={"vid": name},
        timeout=30,
        allow_redirects=False,
        headers={"Connection": "close", **(headers or {})},
    )
    return response, time.monotonic() - started


def check(process: Process, expected: Expected, **kwargs: object) -> None:
    """Assert what each monitor answers, and how soon, three times."""
    for name, (status, text) in expected.items():
        times = []
        for _ in range(3):
            response, elapsed = poll(process, name, **kwargs)
            times.append(elapsed)
            assert response.status_code == status, (name, response.text)
            assert re.fullmatch(text, response.text), (name, response.text)
            assert response.headers["Content-Type"] == "text/plain; charset=utf-8"
            assert response.headers["Cache-Control"] == "no-store"
            assert "Set-Cookie" not in response.headers
            for secret in ("notasecret", "Traceback", "host=", "dbname="):
                assert secret not in response.text
        asks_database = name in ("monitor_db", "monitor_version")
        assert min(times) < (DEADLINE + SLACK if asks_database else PROMPT), (name, times)
        assert max(times) < (DEADLINE if asks_database else PROMPT) + SLACK, (name, times)


def told(process: Process, text: str) -> int:
    """Return how many times the log says so."""
    return process.log.count(text)


def wait_until_ordinary(process: Process) -> None:
    """Wait until the database is found well again, then assert that all is as it should be."""
    wait_until(
        lambda: poll(process, "monitor_db")[0].status_code == 200, "the database", timeout=MAX_AGE
    )
    check(process, ORDINARY)


def test_ordinary(process: Process) -> None:
    check(process, ORDINARY)
    assert "cubicweb_hasite" not in process.log


def test_database_stopped(site: Site, process: Process) -> None:
    check(process, ORDINARY)
    site.postgresql.stop()
    try:
        # the link is there, and closes what it cannot forward
        wait_until(lambda: not site.link.connections, "connections to be closed")
        check(process, unavailable(r"the database .*"))
        text = poll(process, "monitor_db")[0].text
        assert told(process, text.removeprefix("ServiceKO : ")) == 1
    finally:
        site.postgresql.start()
    check(process, ORDINARY)
    assert told(process, "the database answers") == 1


def test_database_stopped_without_anything_between(site: Site) -> None:
    with site.instance.process(db_port=site.postgresql.port) as process:
        check(process, ORDINARY)
        site.postgresql.stop()
        try:
            check(process, unavailable("the database is stopped: connection refused"))
        finally:
            site.postgresql.start()
        check(process, ORDINARY)


@pytest.mark.parametrize("part", ["postgresql", "link"])
def test_database_hung(site: Site, process: Process, part: str) -> None:
    """The server is frozen; or packets are dropped on the way to it."""
    check(process, ORDINARY)
    before = site.link.connections
    silence = f"no answer from the database in {DEADLINE:g} seconds"
    hung = getattr(site, part)
    hung.pause()
    try:
        check(process, unavailable(silence))
        with ThreadPoolExecutor(8) as executor:
            answers = list(executor.map(lambda _: poll(process, "monitor_db"), range(24)))
        for response, elapsed in answers:
            assert (response.status_code, response.text) == (503, f"ServiceKO : {silence}")
            # eight ask at once, and four are answered at once
            assert elapsed < 2 * DEADLINE + SLACK
        assert told(process, silence) == 1
    finally:
        hung.resume()
    if part == "postgresql":
        check(process, ORDINARY)
    else:  # TCP asks again every second, to begin with
        wait_until_ordinary(process)
    wait_until(lambda: site.link.connections <= before, "connections to be closed")


def test_database_frozen_while_nobody_asks(site: Site, process: Process) -> None:
    """No connection is there yet."""
    site.postgresql.pause()
    try:
        check(process, unavailable(f"no answer from the database in {DEADLINE:g} seconds"))
    finally:
        site.postgresql.resume()
    check(process, ORDINARY)


def test_read_only_by_setting(site: Site, process: Process) -> None:
    check(process, ORDINARY)
    site.postgresql.configure("default_transaction_read_only", "on")
    try:
        text = "the database is read-only, transaction_read_only is on"
        wait_until(lambda: text in poll(process, "monitor_db")[0].text, "read-only")
        check(process, table((503, f"ServiceKO : {text}"), (200, VERSIONS_OK)))
        assert told(process, text) == 1
    finally:
        site.postgresql.configure("default_transaction_read_only", None)
    wait_until_ordinary(process)


def test_standby(site: Site, process: Process) -> None:
    check(process, ORDINARY)
    site.postgresql.demote()
    try:
        text = "the database is read-only, it is a standby"
        check(process, table((503, f"ServiceKO : {text}"), (200, VERSIONS_OK)))
        assert told(process, text) == 1
    finally:
        site.postgresql.promote()
    check(process, ORDINARY)


def test_standby_refused_by_libpq(site: Site) -> None:
    """The connection is asked for with `target_session_attrs`, as to several servers."""
    option = {"db_extra_arguments": "target_session_attrs=read-write"}
    with site.instance.process(**option) as process:
        check(process, ORDINARY)
        site.postgresql.demote()
        try:
            check(process, unavailable("the database is read-only"))
        finally:
            site.postgresql.promote()
        check(process, ORDINARY)


def filled(site: Site) -> ExitStack:
    """Take all the connections that are left; to close what is returned gives them back."""
    stack = ExitStack()
    with pytest.raises(psycopg2.OperationalError, match="too many clients"):  # noqa: PT012
        for _ in range(MAX_CONNECTIONS + 1):
            stack.enter_context(closing(site.connect()))
    return stack


def test_too_many_connections(site: Site, process: Process) -> None:
    check(process, ORDINARY)
    with ExitStack() as stack:
        stack.enter_context(closing(filled(site)))
        # the connection of the probes is there still, and is opened anew from time to time
        text = "the database refuses: too many connections"
        wait_until(lambda: text in poll(process, "monitor_db")[0].text, "refusal", timeout=MAX_AGE)
        check(process, unavailable(text))
        assert told(process, text) == 1
    wait_until_ordinary(process)


def test_password_refused(site: Site, process: Process) -> None:
    check(process, ORDINARY)
    site.postgresql.require_password(True)
    try:
        text = "the database refuses the user or the password"
        wait_until(lambda: text in poll(process, "monitor_db")[0].text, "refusal", timeout=MAX_AGE)
        check(process, unavailable(text))
        assert told(process, text) == 1
        assert "notasecret" not in process.log
    finally:
        site.postgresql.require_password(False)
    wait_until_ordinary(process)


def test_messages_in_french() -> None:
    """PostgreSQL speaks the language of its `lc_messages`; those of Debian are often not there."""
    from cubicweb_hasite.monitoring import refusals

    prefix = 'connection to server at "db1" (10.0.0.7), port 5432 failed: FATAL:  '
    for message, cause in {
        "désolé, trop de clients sont déjà connectés": "too many connections",
        "les emplacements de connexion restants sont réservés": "too many connections",
        'authentification par mot de passe échouée pour l\'utilisateur "x"': "password",
        "lo siento, ya tenemos demasiados clientes": "too many connections",
        'la autentificación password falló para el usuario "x"': "password",
        'database "password" does not exist': "no such database",
    }.items():
        found = refusals.cause(psycopg2.OperationalError(prefix + message))
        assert cause in found, message
        assert "10.0.0.7" not in found


@contextmanager
def visitors_who_wait(site: Site, process: Process, number: int) -> Iterator[None]:
    """Let visitors wait for a table that another transaction holds."""
    with closing(site.connect()) as connection, ThreadPoolExecutor(number) as executor:
        connection.cursor().execute("LOCK TABLE cw_file IN ACCESS EXCLUSIVE MODE")
        try:
            pages = [
                executor.submit(requests.get, f"{process.url}file", timeout=60)
                for _ in range(number)
            ]
            waiting = (
                "SELECT COUNT(*) FROM pg_stat_activity "
                "WHERE wait_event_type = 'Lock' AND datname = current_database()"
            )

            def all_wait() -> bool:
                answered = [page.result() for page in pages if page.done()]
                assert not answered, [(page.status_code, page.text) for page in answered]
                return site.sql(waiting) == str(number)

            wait_until(all_wait, "visitors to wait")
            yield
        finally:
            connection.rollback()
        for page in pages:
            assert page.result().status_code < 500


def test_pool_exhausted(site: Site) -> None:
    with (
        site.instance.process(connections_pool_max_size=2) as process,
        visitors_who_wait(site, process, 2),
    ):
        check(process, table((200, OK), (200, VERSIONS_OK), pool=r"100\.0%"))
        response = requests.get(f"{process.url}readyz", timeout=30)
        assert response.status_code == 503
        assert response.text == "ServiceKO : pool exhausted, 2 of 2 connections in use"


def test_one_connection(site: Site, process: Process) -> None:
    """Each process has one connection for its probes, however often they are asked."""
    count = "SELECT COUNT(*) FROM pg_stat_activity WHERE application_name = 'hasite-probes'"
    wait_until(lambda: site.sql(count) == "1", "the first look")
    for _ in range(5):
        check(process, ORDINARY)
    assert site.sql(count) == "1"
    process.stop()
    wait_until(lambda: site.sql(count) == "0", "the connection to be closed")


def test_table_locked(site: Site, process: Process) -> None:
    """A query that waits in a healthy database is ended there too."""
    with closing(site.connect()) as connection:
        connection.cursor().execute("LOCK TABLE cw_cwuser IN ACCESS EXCLUSIVE MODE")
        for _ in range(3):
            response, elapsed = poll(process, "monitor_db")
            assert response.status_code == 503
            assert elapsed < DEADLINE + SLACK
            assert poll(process, "monitor_version")[0].status_code == 200
        queries = (
            "SELECT COUNT(*) FROM pg_stat_activity "
            "WHERE application_name = 'hasite-probes' AND state = 'active'"
        )
        assert int(site.sql(queries)) <= 1
    check(process, ORDINARY)


def test_versions_differ(site: Site, process: Process) -> None:
    key = "'system.version.file'"
    version = site.sql(f"SELECT cw_value FROM cw_cwproperty WHERE cw_pkey = {key}")
    site.sql(f"UPDATE cw_cwproperty SET cw_value = '0.0.1' WHERE cw_pkey = {key}")
    try:
        text = rf"ServiceKO : FS config .*file: {version}.* != DB config .*file: 0\.0\.1.*"
        check(process, table((200, OK), (503, text)))
        assert told(process, "file: 0.0.1") == 1
    finally:
        site.sql(f"UPDATE cw_cwproperty SET cw_value = '{version}' WHERE cw_pkey = {key}")
    check(process, ORDINARY)


def test_cubes_on_one_side_only(site: Site, process: Process) -> None:
    # which cubicweb-file depends on
    site.sql("UPDATE cw_cwproperty SET cw_pkey = 'x.gone' WHERE cw_pkey = 'system.version.web'")
    site.sql("UPDATE cw_cwproperty SET cw_pkey = 'system.version.gone' WHERE cw_pkey = 'x.gone'")
    try:
        text = r"ServiceKO : FS config .*gone: \? .*web: [\d.]+ != DB config .*gone: .*web: \?"
        check(process, table((200, OK), (503, text)))
    finally:
        site.sql(
            "UPDATE cw_cwproperty SET cw_pkey = 'system.version.web' "
            "WHERE cw_pkey = 'system.version.gone'"
        )
    check(process, ORDINARY)


def test_closed_to_anonymous_visitors(site: Site) -> None:
    # an option in the environment cannot be emptied there, but can name nobody
    with site.instance.process(anonymous_user="", anonymous_password="") as process:
        assert requests.get(process.url, timeout=30, allow_redirects=False).status_code == 303
        check(process, ORDINARY)


def test_unknown_host(process: Process) -> None:
    check(process, ORDINARY, headers={"Host": "elsewhere.example"})


@pytest.mark.parametrize("receives", [True, False])
def test_path_prefix(site: Site, receives: bool) -> None:
    port = free_port()
    process = site.instance.process(
        port,
        base_url=f"http://127.0.0.1:{port}/some/site/",
        receives_base_url_path="yes" if receives else "no",
    )
    with process:
        path = "some/site/" if receives else ""
        check(process, ORDINARY, path=f"{path}view")
        for name in ("livez", "readyz"):
            response = requests.get(f"{process.url}{path}{name}", timeout=30)
            assert response.status_code == 200
            assert response.text.startswith("ServiceOK : ")


def test_draining(site: Site, process: Process) -> None:
    def readyz() -> tuple[int, str]:
        response = requests.get(f"{process.url}readyz", timeout=30)
        return response.status_code, response.text

    assert readyz() == (200, "ServiceOK : ready")
    site.flag.touch()
    try:
        check(process, ORDINARY)
        assert readyz() == (503, "ServiceKO : draining")
    finally:
        site.flag.unlink()
    assert readyz() == (200, "ServiceOK : ready")


@pytest.mark.skipif(not backend.POSTGRES, reason="SQLite does not hang; PostgreSQL's run tests it")
def test_polls_during_a_minute_of_a_hung_database(site: Site) -> None:
    """Ten polls a second, whatever becomes of the ones before, cost nothing that stays."""
    with site.instance.process(hasite_management_port=free_port()) as process:
        check(process, ORDINARY)
        site.postgresql.pause()
        try:
            with ThreadPoolExecutor(40) as executor:
                polls = [executor.submit(poll, process, "monitor_db") for _ in range(20)]
                for each in polls:  # what is made once is made
                    each.result()
                before = resources(site, process)
                polls = []
                started = time.monotonic()
                while time.monotonic() < started + 60:
                    polls.append(executor.submit(poll, process, "monitor_db"))
                    if len(polls) % 50 == 0:
                        assert site.link.connections <= before["connections"] + 1
                    time.sleep(0.1)
                answers = [each.result() for each in polls]
                assert {response.status_code for response, _elapsed in answers} == {503}
                times = [round(elapsed, 2) for _response, elapsed in answers]
                assert max(times) < 2 * DEADLINE + SLACK, times
                after = resources(site, process)
        finally:
            site.postgresql.resume()
        assert len(polls) > 300
        response, elapsed = poll(process, "monitor_db")
        assert re.fullmatch(OK, response.text)
        assert elapsed < DEADLINE + SLACK
        assert after["threads"] <= before["threads"]
        # descriptors of connections that are closed a little later
        assert after["descriptors"] <= before["descriptors"] + 2
        assert after["kilobytes"] < before["kilobytes"] + 5000
        assert after["connections"] <= before["connections"]


def resources(site: Site, process: Process) -> dict[str, int]:
    """Return what a process holds."""
    status = Path(f"/proc/{process.pid}/status").read_text()
    return {
        "connections": site.link.connections,
        "kilobytes": int(re.search(r"^VmRSS:\s+(\d+)", status, re.M)[1]),
        "threads": int(re.search(r"^Threads:\s+(\d+)", status, re.M)[1]),
        "descriptors": len(list(Path(f"/proc/{process.pid}/fd").iterdir())),
    }
