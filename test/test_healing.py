"""An instance heals by itself after any trouble with its database, and says 503 meanwhile."""

import html
import socket
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from pathlib import Path

import psycopg2
import pytest
import requests
from pictures import picture
from servers.instance import Instance, Process
from servers.postgresql import PostgreSQL
from servers.support import wait_until
from servers.visitor import Visitor, validation

TIMES = 20
POOL = 4
ALBUMS = "view?rql=Any A WHERE A is Album"


@pytest.fixture(scope="module")
def cluster(server_directory: Callable[[str], Path]) -> Iterator[PostgreSQL]:
    with PostgreSQL(server_directory("postgresql")) as server:
        yield server


@pytest.fixture
def server(cluster: PostgreSQL) -> Iterator[PostgreSQL]:
    """A running PostgreSQL server to be mistreated by the tests of this module."""
    yield cluster
    if not cluster.is_ready():
        cluster.start()


@pytest.fixture(scope="module")
def site(cluster: PostgreSQL, server_directory: Callable[[str], Path]) -> Instance:
    """An instance with a small pool, on that server."""
    instance = Instance(
        server_directory("instance"),
        ["hasite_testapp"],
        cluster.create_database("site"),
        options={"connections-pool-max-size": POOL, "hasite-pool-timeout": 0.2},
    )
    instance.create()
    return instance


@pytest.fixture
def healing(server: PostgreSQL, site: Instance) -> Iterator[Process]:
    """A process of the instance, with more threads than connections."""
    with site.process(threads=POOL + 4) as process:
        yield process


def check_rest(process: Process, rest: str = "0.0%") -> None:
    """Assert that no connection is in use, and that pages work, at the first attempt."""
    wait_until(lambda: pool(process) == rest, f"rest of the pool, {pool(process)}")
    visitor = Visitor(process.url)
    for _ in range(POOL + 1):
        assert visitor.get().status_code == 200
    wait_until(lambda: pool(process) == rest, f"rest of the pool, {pool(process)}")


def pool(process: Process) -> str:
    return Visitor(process.url).get("view?vid=monitor_pool").text


def check_unavailable(response: requests.Response) -> None:
    """Assert that a visitor is asked to come back, and told nothing of the inside."""
    assert response.status_code == 503, response.text
    assert response.headers["Retry-After"] == "1"
    assert response.headers["Cache-Control"] == "no-store"
    assert "The database cannot answer at the moment" in response.text
    assert "Traceback" not in response.text
    assert "postgres" not in response.text


@contextmanager
def locked(server: PostgreSQL, table: str) -> Iterator[psycopg2.extensions.connection]:
    """Let whoever uses a table wait; yield the connection that has locked it."""
    connection = psycopg2.connect(
        host=server.host, port=server.port, user=server.user, dbname="site"
    )
    try:
        connection.cursor().execute(f"LOCK TABLE {table} IN ACCESS EXCLUSIVE MODE")
        yield connection
    finally:
        connection.close()


def waiting_for_lock(server: PostgreSQL) -> int:
    """Return how many connections wait until a table is not locked any more."""
    query = "SELECT count(*) FROM pg_stat_activity WHERE wait_event_type = 'Lock'"
    return int(server.sql(query))


def fill_pool(server: PostgreSQL, process: Process) -> None:
    """Let all the connections of the pool be opened."""
    # the process reads what it remembers of the database when it has started
    wait_until(lambda: pool(process) == "0.0%", "the pool to be idle")
    with ThreadPoolExecutor(POOL) as executor:
        with locked(server, "cw_Album"):
            waiting = [executor.submit(Visitor(process.url).get, ALBUMS) for _ in range(POOL)]
            wait_until(lambda: waiting_for_lock(server) == POOL, "exhaustion of the pool")
        assert [response.result().status_code for response in waiting] == [200] * POOL


@pytest.mark.parametrize("pooled", [True, False])
def test_a_connection_is_opened_once(server: PostgreSQL, site: Instance, pooled: bool) -> None:
    def sessions() -> int:
        return int(server.sql("SELECT sessions FROM pg_stat_database WHERE datname = 'site'"))

    with site.process(threads=2, connections_pooler_enabled="y" if pooled else "n") as process:
        before = sessions()
        for _ in range(3):
            assert Visitor(process.url).get().status_code == 200
    if not pooled:
        wait_until(lambda: sessions() > before, "the connections to be counted")
    assert sessions() - before < 20


def test_exhaustions(server: PostgreSQL, healing: Process) -> None:
    visitor = Visitor(healing.url)
    visitor.login()
    with ThreadPoolExecutor(POOL) as executor:
        for _ in range(TIMES):
            with locked(server, "cw_Album"):
                waiting = [
                    executor.submit(Visitor(healing.url).get, ALBUMS, timeout=60)
                    for _ in range(POOL)
                ]
                # each of them, not one that will be given back at once
                wait_until(lambda: waiting_for_lock(server) == POOL, "exhaustion of the pool")
                assert pool(healing) == "100.0%"
                for url in ("", ALBUMS):
                    started = time.monotonic()
                    check_unavailable(Visitor(healing.url).get(url))
                    check_unavailable(visitor.get(url))
                    # 0.2 s each, against 15 s for one with the stock pool
                    assert time.monotonic() - started < 5
            assert [response.result().status_code for response in waiting] == [200] * POOL
    check_rest(healing)


@pytest.mark.parametrize("end", [PostgreSQL.stop, PostgreSQL.kill])
def test_restarts(server: PostgreSQL, healing: Process, end: Callable) -> None:
    anonymous, admin = Visitor(healing.url), Visitor(healing.url)
    admin.login()
    for _ in range(TIMES // 2):
        assert anonymous.get(ALBUMS).status_code == 200
        end(server)
        for _ in range(POOL + 1):
            check_unavailable(anonymous.get(ALBUMS))
            check_unavailable(admin.get())
        server.start()
        for _ in range(POOL + 1):
            assert anonymous.get(ALBUMS).status_code == 200
            assert admin.get().status_code == 200
    check_rest(healing)


def test_connections_from_before_a_restart(server: PostgreSQL, healing: Process) -> None:
    """They are not used any more, though nobody has noticed that they are dead."""
    fill_pool(server, healing)
    server.stop()
    server.start()
    for _ in range(POOL + 1):
        assert Visitor(healing.url).get(ALBUMS).status_code == 200
    fill_pool(server, healing)
    check_rest(healing)


@pytest.mark.parametrize(
    ("options", "rest"),
    [
        ({"connections_pool_max_size": 0}, "unlimited pool : 0 connections in use"),
        ({"connections_pooler_enabled": "no"}, "no pool : each request opens a connection"),
    ],
)
def test_without_maximum_or_pool(
    server: PostgreSQL, site: Instance, options: dict[str, object], rest: str
) -> None:
    with site.process(**options) as process:
        visitor = Visitor(process.url)
        for _ in range(3):
            server.stop()
            for _ in range(POOL + 1):
                check_unavailable(visitor.get(ALBUMS))
            server.start()
            assert visitor.get(ALBUMS).status_code == 200
        check_rest(process, rest)


def test_restarts_under_load(server: PostgreSQL, healing: Process) -> None:
    statuses = set()
    stop = False

    def visit() -> None:
        visitor = Visitor(healing.url)
        while not stop:
            statuses.add(visitor.get(ALBUMS).status_code)

    with ThreadPoolExecutor(POOL + 2) as executor:
        visits = [executor.submit(visit) for _ in range(POOL + 2)]
        try:
            for _ in range(5):
                server.stop()
                server.start()
                wait_until(lambda: Visitor(healing.url).get(ALBUMS).status_code == 200, "page")
        finally:
            stop = True
        for future in visits:
            future.result()
    assert statuses == {200, 503}
    check_rest(healing)


def new_album(visitor: Visitor, name: str) -> requests.Response:
    return visitor.create("Album", {"name": name})


def test_first_visit_of_a_user(server: PostgreSQL, site: Instance) -> None:
    """To an instance that knows nothing of him yet, and cannot ask."""
    with site.process() as process, site.process(base_url=process.url) as other:
        visitor = Visitor(process.url)
        visitor.login()
        visitor.base_url = other.url
        server.stop()
        check_unavailable(visitor.get())
        server.start()
        wait_until(lambda: visitor.get().status_code == 200, "its return")
        assert "/logout" in visitor.get().text


def test_visitors_are_told_in_their_language(server: PostgreSQL, healing: Process) -> None:
    server.stop()
    headers = {"Accept": "text/html", "Accept-Language": "fr-CH, fr;q=0.9, en;q=0.5"}
    response = Visitor(healing.url).get(headers=headers)
    assert response.status_code == 503
    assert "Veuillez réessayer" in html.unescape(response.text)
    response = Visitor(healing.url).get(headers={"Accept": "application/json"})
    assert response.status_code == 503
    assert "cannot answer" in response.json()["message"]


def albums(server: PostgreSQL) -> set[str]:
    return set(server.sql("SELECT cw_name FROM cw_Album", "site").split())


def new_file(server: PostgreSQL, visitor: Visitor, title: str) -> int:
    """Create a file and return its eid."""
    upload = {"data": ("a.png", picture("red"), "image/png")}
    assert visitor.create("File", {"title": title}, upload).status_code == 303
    return int(server.sql(f"SELECT cw_eid FROM cw_File WHERE cw_title = '{title}'", "site"))


def title(server: PostgreSQL, eid: int) -> str:
    return server.sql(f"SELECT cw_title FROM cw_File WHERE cw_eid = {eid}", "site")


@pytest.mark.parametrize("controller", ["edit", "validateform"])
def test_half_a_transaction_is_never_committed(
    server: PostgreSQL, healing: Process, controller: str
) -> None:
    visitor = Visitor(healing.url)
    visitor.login()
    eid = new_file(server, visitor, f"before the cut of {controller}")
    form = visitor.form(f"file/{eid}?vid=edition")

    with ThreadPoolExecutor() as executor:
        # the full-text index reads it after the update, before the commit
        with locked(server, "cw_TrInfo"):
            submission = executor.submit(
                visitor.submit, form, eid, {"title": "after"}, controller=controller
            )
            cut = "SELECT pg_terminate_backend(pid) FROM pg_stat_activity "
            cut += "WHERE wait_event_type = 'Lock'"
            wait_until(lambda: server.sql(cut), "update that waits")
        response = submission.result()

    assert title(server, eid) == f"before the cut of {controller}"
    if controller == "edit":
        check_unavailable(response)
    else:  # for the script of the page, which shows it above the form as it was filled in
        valid, [_entity, errors] = validation(response)[:2]
        assert not valid
        assert [*errors.values()] == [
            "The database cannot answer at the moment. Please try again."
        ]
    assert visitor.edit(eid, "File", {"title": "after"}).status_code == 303
    assert title(server, eid) == "after"
    check_rest(healing)


def test_error_of_the_index_is_not_ignored(server: PostgreSQL, healing: Process) -> None:
    """An edit of which nothing was saved is not said to be."""
    visitor = Visitor(healing.url)
    visitor.login()
    eid = new_file(server, visitor, "before")
    check = f"ADD CONSTRAINT unlucky CHECK (uid <> {eid}) NOT VALID"
    server.sql(f"ALTER TABLE appears {check}", "site")
    try:
        response = visitor.edit(eid, "File", {"title": "after"})
        assert response.status_code == 500
        response = visitor.edit(eid, "File", {"title": "after"}, controller="validateform")
        valid, error = validation(response)[:2]
        assert not valid
        assert "nothing was saved" in error
    finally:
        server.sql("ALTER TABLE appears DROP CONSTRAINT unlucky", "site")
    assert title(server, eid) == "before"
    assert visitor.edit(eid, "File", {"title": "after"}).status_code == 303
    assert title(server, eid) == "after"
    check_rest(healing)


# of a script of `cubicweb-ctl shell`, which is a migration as that of `cubicweb-ctl upgrade` is
_HALF = "sql('CREATE TABLE half ()', ask_confirm=False)\n"
_LOSE = """
[[pid]] = sql("SELECT pg_backend_pid()", ask_confirm=False)
other = repo.system_source.get_connection()
other.cursor().execute("SELECT pg_terminate_backend(%s, 5000)", [pid])
sql("CREATE TABLE rest ()", ask_confirm=False)
"""


def tables(server: PostgreSQL) -> str:
    return server.sql("SELECT relname FROM pg_class WHERE relname IN ('half', 'rest')", "site")


def test_half_a_migration_is_never_committed(server: PostgreSQL, site: Instance) -> None:
    with pytest.raises(RuntimeError, match="connection already closed"):
        site.shell(f"{_HALF}{_LOSE}commit()\n")
    assert tables(server) == ""


def test_migration_that_could_not_be_indexed(server: PostgreSQL, site: Instance) -> None:
    server.sql("ALTER TABLE appears ADD CONSTRAINT unlucky CHECK (false) NOT VALID", "site")
    try:
        with pytest.raises(RuntimeError, match="nothing was saved"):
            site.shell(f"{_HALF}create_entity('Tag', name='new')\ncommit()\n")
    finally:
        server.sql("ALTER TABLE appears DROP CONSTRAINT unlucky", "site")
    assert tables(server) == ""


def test_deadlock(server: PostgreSQL, site: Instance) -> None:
    """The transaction that PostgreSQL ends fails as a whole."""
    # how long it waits before it looks for a deadlock, and ends itself
    server.sql("ALTER DATABASE site SET deadlock_timeout = '5s'")
    with site.process() as process, ThreadPoolExecutor() as executor:
        visitor = Visitor(process.url)
        visitor.login()
        eid = new_file(server, visitor, "before the deadlock")
        form = visitor.form(f"file/{eid}?vid=edition")
        with locked(server, "cw_TrInfo") as connection:
            cursor = connection.cursor()
            cursor.execute("SET deadlock_timeout = '1h'")
            submission = executor.submit(visitor.submit, form, eid, {"title": "after"})
            wait_until(lambda: waiting_for_lock(server) == 1, "update that waits")
            cursor.execute("UPDATE cw_File SET cw_title = cw_title WHERE cw_eid = %s", [eid])
        check_unavailable(submission.result())
        assert title(server, eid) == "before the deadlock"
        check_rest(process)


@pytest.mark.parametrize("first", ["create", "edit", "validateform"])
def test_pinned_to_a_read_only_server(server: PostgreSQL, site: Instance, first: str) -> None:
    """All the connections are from before the server that they reach became writable.

    Or from after it was demoted: it answers, and refuses to write.
    """
    with site.process(threads=POOL + 1) as process:
        visitor = Visitor(process.url)
        visitor.login()
        assert new_album(visitor, f"old-{first}").status_code == 303
    eid = int(server.sql(f"SELECT cw_eid FROM cw_Album WHERE cw_name = 'old-{first}'", "site"))
    server.sql("ALTER DATABASE site SET default_transaction_read_only = on")
    try:
        process.start()
        fill_pool(server, process)
        if first == "create":
            form = visitor.form("add/Album")
    finally:
        server.sql("ALTER DATABASE site RESET default_transaction_read_only")
    try:
        if first == "create":
            check_unavailable(visitor.submit(form, form.fields["__maineid"], {"name": "lost"}))
        elif first == "edit":
            check_unavailable(visitor.edit(eid, "Album", {"name": "lost"}))
        else:
            response = visitor.edit(eid, "Album", {"name": "lost"}, controller="validateform")
            valid, _errors, _entity = validation(response)
            assert not valid
        for number in range(POOL + 1):
            name = f"new-{first}-{number}"
            assert new_album(visitor, name).status_code == 303
            assert name in albums(server)
        assert visitor.edit(eid, "Album", {"name": f"edited-{first}"}).status_code == 303
        assert f"edited-{first}" in albums(server)
        assert "lost" not in albums(server)
        check_rest(process)
    finally:
        process.stop()


def test_creation_while_the_server_is_read_only(server: PostgreSQL, site: Instance) -> None:
    """Eids come from a connection of their own, which is given up after the error."""
    server.sql("ALTER DATABASE site SET default_transaction_read_only = on")
    try:
        with site.process() as process:
            visitor = Visitor(process.url)
            visitor.login()
            check_unavailable(new_album(visitor, "lost"))
            server.sql("ALTER DATABASE site RESET default_transaction_read_only")
            assert new_album(visitor, "created").status_code == 303
            assert "created" in albums(server)
            check_rest(process)
    finally:
        server.sql("ALTER DATABASE site RESET default_transaction_read_only")


def test_failover(
    server: PostgreSQL, site: Instance, server_directory: Callable[[str], Path]
) -> None:
    standby = PostgreSQL(
        server_directory("standby"), server.port, host="127.0.0.2", primary=server
    )
    options = {
        "db_host": f"{server.host},{standby.host}",
        "db_extra_arguments": "target_session_attrs=read-write connect_timeout=2 "
        "tcp_user_timeout=3000 keepalives_idle=2 keepalives_interval=1 keepalives_count=3",
    }
    with standby, site.process(**options) as process:
        visitor = Visitor(process.url)
        visitor.login()
        assert new_album(visitor, "before").status_code == 303
        wait_until(
            lambda: "before" in standby.sql("SELECT cw_name FROM cw_Album", "site"), "replication"
        )
        server.kill()
        for _ in range(POOL + 1):
            check_unavailable(Visitor(process.url).get(ALBUMS))
        standby.promote()
        # at the first attempt, each time
        for _ in range(POOL + 1):
            assert Visitor(process.url).get(ALBUMS).status_code == 200
        assert new_album(visitor, "after").status_code == 303
        check_rest(process)


@contextmanager
def silent_host(host: str, port: int) -> Iterator[None]:
    """An address where connections are neither taken nor refused, as that of a host cut off."""
    with socket.socket() as listener, ExitStack() as stack:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)  # as PostgreSQL does
        listener.bind((host, port))
        listener.listen(0)
        for _ in range(3):  # the queue of the listener is full with them
            client = stack.enter_context(socket.socket())
            client.setblocking(False)
            client.connect_ex((host, port))
        yield


def test_host_that_is_cut_off(server: PostgreSQL, site: Instance) -> None:
    """It is waited for once, not at each new connection."""
    timeout = 10
    options = {
        "db_host": f"127.0.0.2,{server.host}",
        "db_extra_arguments": f"connect_timeout={timeout}",
    }
    with silent_host("127.0.0.2", server.port), site.process(**options, threads=8) as process:
        # the first of them had to wait
        assert Visitor(process.url).get(ALBUMS).status_code == 200
        started = time.monotonic()
        fill_pool(server, process)
        assert time.monotonic() - started < timeout
        check_rest(process)
