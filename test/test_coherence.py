"""What one process changes, another knows within a second: permissions, properties, users."""

import re
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import backend
import pytest
import requests
from pictures import picture
from servers.instance import Instance, Process
from servers.postgresql import Database, PostgreSQL
from servers.squid import ALLOW_PURGE, Squid
from servers.support import free_port, wait_until
from servers.visitor import Visitor

pytestmark = pytest.mark.skipif(not backend.POSTGRES, reason="SQLite has one process")

RED = picture("red")
#: within which the other process must know, in seconds
DEADLINE = 1.0


class Site:
    """Two processes of an instance, on a PostgreSQL server of their own."""

    def __init__(self, server: PostgreSQL, instance: Instance, processes: list[Process]) -> None:
        self.server = server
        self.instance = instance
        self.processes = processes
        self._logins = 0

    def admin(self, number: int = 0) -> Visitor:
        """Return an administrator who works with one of the processes."""
        return self.visitor(number, "admin")

    def visitor(self, number: int, login: str = "") -> Visitor:
        """Return a visitor of one of the processes, logged in with a login as password."""
        visitor = Visitor(self.processes[number].url)
        if login:
            visitor.login(login, login)
        return visitor

    def rql(self, query: str, number: int = 0) -> list[list[object]]:
        """Execute RQL in one of the processes, as administrator."""
        return self.rql_at_once([query], number)

    def rql_at_once(self, queries: list[str], number: int = 0) -> list[list[object]]:
        """Execute RQL queries in one transaction; return the rows of the first one."""
        response = self.admin(number).request(
            "POST",
            "api/v1/rql",
            json=[{"query": query, "params": {}} for query in queries],
            headers={"X-Client-Name": "test"},
        )
        assert response.status_code == 200, response.text
        rows: list[list[object]] = response.json()["result_sets"][0]["rows"]
        return rows

    def new_user(self) -> tuple[int, str]:
        """Create a user; return the eid and the login, which is the password too."""
        self._logins += 1
        login = f"user{self._logins}"
        [[eid]] = self.rql(
            f"INSERT CWUser U: U login '{login}', U upassword '{login}', U in_group G "
            "WHERE G name 'users'"
        )
        return int(str(eid)), login

    def user_of(self, how: str) -> tuple[int, str]:
        """Return eid and login of a user for :meth:`change_password`; it is the password too."""
        if how == "command":
            [[eid]] = self.rql("Any U WHERE U login 'admin'")
            return int(str(eid)), "admin"
        return self.new_user()

    def change_password(self, how: str, eid: int, login: str, password: str) -> None:
        """Give a user another password, in one of the ways that the site has.

        :param how: by a manager in the form, in `cubicweb-ctl shell`, or by the command that
            changes the administrator's alone; cubicweb-api refuses to
        """
        if how == "form":
            manager = self.admin()
            assert submit_password(manager, eid, login, password).status_code == 303
            assert is_logged_in(manager)
        elif how == "shell":
            self.instance.shell(
                f"cnx.entity_from_eid({eid}).cw_set(upassword={password.encode()!r})\ncommit()\n"
            )
        else:
            assert login == "admin"
            self.instance.ctl("reset-admin-pwd", "--password", password, self.instance.name)

    def notify(self, count: int, parts: str) -> None:
        """Send notices at once, which PostgreSQL does not take for one: their texts differ."""
        self.server.sql(
            f"DO $$ BEGIN FOR i IN 1..{count} LOOP PERFORM pg_notify('hasite', '{parts}' || "
            "repeat(' ', i)); END LOOP; END $$",
            "site",
        )

    def fail_to_take_away(self) -> None:
        """Take a permission away in a transaction that fails at its end."""
        response = self.admin().request(
            "POST",
            "api/v1/rql",
            json=[
                {"query": query, "params": {}}
                for query in (
                    'DELETE E read_permission G WHERE E name "File", G name "guests"',
                    "INSERT Tag T: T name 'rolled back'",
                )
            ],
            headers={"X-Client-Name": "test"},
        )
        assert response.status_code != 200

    def change_state(self, eid: int, transition: str) -> None:
        """Fire a transition of the workflow of users."""
        self.instance.shell(
            f"cnx.entity_from_eid({eid}).cw_adapt_to('IWorkflowable')"
            f".fire_transition('{transition}')\ncommit()\n"
        )


@pytest.fixture(scope="module")
def site(server_directory: Callable[[str], Path]) -> Iterator[Site]:
    with PostgreSQL(server_directory("postgresql")) as server:
        database: Database = server.create_database("site")
        options = {"hasite-monitor-token": "secret"}
        cubes = ["hasite_testapp", "api"]
        instance = Instance(server_directory("instance"), cubes, database, options=options)
        instance.create()
        with instance.process() as first, instance.process(base_url=first.url) as second:
            yield Site(server, instance, [first, second])


@pytest.fixture(params=["ordinary", "cut", "restart", "flood", "rollback"])
def after(request: pytest.FixtureRequest, site: Site) -> None:
    """What was before: nothing special, lost connections, notices, or changes that failed.

    The connections are those of the listeners, or all.
    """
    if request.param == "ordinary":
        return
    if request.param == "flood":
        site.notify(1000, "properties schema users")
        return
    if request.param == "rollback":
        site.fail_to_take_away()
        return
    listeners = "application_name = 'hasite-notices'"
    if request.param == "cut":
        site.server.sql(
            f"SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE {listeners}", "site"
        )
    else:
        site.server.stop()
        site.server.start()
    count = f"SELECT count(*) FROM pg_stat_activity WHERE {listeners} AND query LIKE '%LISTEN%'"
    wait_until(lambda: site.server.sql(count, "site").strip() == "2", "both listen again")
    time.sleep(0.5)  # that each has read all again


def until(condition: Callable[[], object], what: str) -> None:
    """Wait until the other process knows, and print the time."""
    print(f"{what}: {wait_until(condition, what, timeout=DEADLINE, interval=0.02):.3f} s")


@pytest.mark.usefixtures("after")
def test_permission(site: Site) -> None:
    """An image that guests may not read any longer is given to none, in both processes."""
    eid = _image(site)
    url = f"file/{eid}/raw/a.png"

    def readable() -> set[bool]:
        """Return whether anonymous visitors may read it, in each of the processes."""
        return {site.visitor(number).get(url).status_code == 200 for number in (0, 1)}

    assert readable() == {True}
    site.rql('DELETE E read_permission G WHERE E name "File", G name "guests"')
    until(lambda: readable() == {False}, "permission taken away")
    site.rql('SET E read_permission G WHERE E name "File", G name "guests"')
    until(lambda: readable() == {True}, "permission given back")


_GUESTS = 'X read_permission G WHERE G name "guests", '
_FILE = 'X is CWEType, X name "File"'
_DATA = 'X from_entity E, E name "File", X relation_type R, R name "data"'
_EXPRESSION = (
    "INSERT RQLExpression Y: Y exprtype 'ERQLExpression', Y mainvars 'X', "
    "Y expression 'X title \"none\"', X read_permission Y WHERE "
)


@pytest.mark.parametrize(
    ("lost", "given_back"),
    [
        ([f"DELETE {_GUESTS}{_FILE}"], []),
        ([f"DELETE {_GUESTS}{_DATA}"], []),
        (
            [f"DELETE {_GUESTS}{_FILE}", _EXPRESSION + _FILE],
            [f'DELETE X read_permission Y WHERE Y expression ~= "%none%", {_FILE}'],
        ),
    ],
    ids=["type", "attribute", "expression"],
)
def test_permission_that_caches_forget(
    site: Site, server_directory: Callable[[str], Path], lost: list[str], given_back: list[str]
) -> None:
    """What guests lose is forgotten by a cache, in front of a process that is told of it."""
    port = free_port()
    squid = Squid(server_directory("squid"), port, ALLOW_PURGE)
    options = {
        "base_url": squid.url,
        "hasite_purge_urls": squid.url,
        "hasite_page_max_age": "primary:600",
    }
    process = site.instance.process(port, **options)
    with site.instance.process(**options) as other, process, squid:
        pair = Site(site.server, site.instance, [process, other])
        eid = _image(pair)
        visitor = Visitor(squid.url)
        urls = [f"file/{eid}/raw/a.png"]
        if _FILE in lost[0]:  # those who may not read the data alone see the page
            urls.append(f"_anonymous/en/file/{eid}")
        for url in urls:
            responses = [visitor.get(url) for _ in range(2)]
            assert [response.status_code for response in responses] == [200, 200]
            assert responses[1].headers["X-Cache"].startswith("HIT")
        try:
            pair.rql_at_once(lost, number=1)
            for url in urls:
                until(lambda: visitor.get(url).status_code in (303, 403), f"{url} lost")  # noqa: B023
        finally:
            group = lost[0].removeprefix("DELETE ")
            pair.rql_at_once([f"SET {group}", *given_back], number=1)
        until(lambda: visitor.get(urls[0]).status_code == 200, "permission given back")


def _image(site: Site) -> int:
    response = site.admin().create("File", {"title": "red"}, {"data": ("a.png", RED, "image/png")})
    return int(re.search(r"/file/(\d+)", response.headers["Location"])[1])


@pytest.mark.usefixtures("after")
def test_property(site: Site) -> None:
    title = lambda: re.search("<title>(.*?)</title>", site.visitor(1).get("").text, re.S)[1]  # noqa: E731
    before = title()
    site.rql("INSERT CWProperty P: P pkey 'ui.site-title', P value 'Another title'")
    until(lambda: "Another title" in title(), "property set")
    site.rql("SET P value 'A third one' WHERE P pkey 'ui.site-title'")
    until(lambda: "A third one" in title(), "property changed")
    site.rql("DELETE CWProperty P WHERE P pkey 'ui.site-title'")
    until(lambda: title() == before, "property deleted")


@pytest.mark.usefixtures("after")
def test_user(site: Site) -> None:
    eid, login = site.new_user()
    visitors = [site.visitor(number, login) for number in (0, 1)]
    assert all(login in visitor.get("").text for visitor in visitors)
    site.rql(f"SET U login '{login}-renamed' WHERE U eid {eid}")
    for visitor in visitors:
        until(lambda: f"{login}-renamed" in visitor.get("").text, "login changed")  # noqa: B023
    site.rql(
        f"INSERT CWProperty P: P pkey 'ui.language', P value 'fr', P for_user U WHERE U eid {eid}"
    )
    for visitor in visitors:
        until(lambda: 'lang="fr"' in visitor.get("").text, "language set")  # noqa: B023


@pytest.mark.usefixtures("after")
@pytest.mark.parametrize("how", ["deactivated", "deleted"])
def test_user_who_is_gone(site: Site, how: str) -> None:
    """Open sessions end, in both processes: no page, no edit, no error."""
    eid, login = site.new_user()
    visitors = [site.visitor(number, login) for number in (0, 1)]
    assert all(login in visitor.get("").text for visitor in visitors)
    if how == "deleted":
        site.rql(f"DELETE CWUser U WHERE U eid {eid}")
    else:
        site.change_state(eid, "deactivate")
    for visitor in visitors:
        cookies = visitor.session.cookies.copy()
        response = visitor.get("")
        assert response.status_code == 200
        assert login not in response.text
        assert "auth_tkt" not in {cookie.name for cookie in visitor.session.cookies}
        assert "private" in response.headers["Cache-Control"]
        visitor.session.cookies = cookies  # a browser that keeps them nevertheless
        answer = visitor.request(
            "POST",
            "api/v1/rql",
            json=[{"query": "INSERT Tag T: T name 'written'", "params": {}}],
            headers={"X-Client-Name": "test"},
        )
        assert answer.status_code in (400, 401, 403), answer.text
    assert not site.rql("Any T WHERE T is Tag, T name 'written'")
    for process in site.processes:
        assert "Traceback" not in process.log.split(login)[-1]


def submit_password(visitor: Visitor, eid: int, login: str, password: str) -> requests.Response:
    """Change a password in the form of its user."""
    changes = {"upassword": password, f"upassword-subject-confirm:{eid}": password}
    return visitor.submit(visitor.form(f"cwuser/{login}?vid=edition"), eid, changes)


def is_logged_in(visitor: Visitor) -> bool:
    """Return whether the site lets a visitor keep the cookie of a login."""
    assert visitor.get("").status_code == 200
    return "auth_tkt" in {cookie.name for cookie in visitor.session.cookies}


@pytest.mark.usefixtures("after")
def test_groups(site: Site) -> None:
    """What the groups of a user allow counts at once, in the other process too."""
    eid, login = site.new_user()
    visitors = [site.visitor(number, login) for number in (0, 1)]

    def manage() -> list[bool]:
        """Return whether the user may do what managers may, in each of the processes."""
        return ["entityForm" in visitor.get("add/CWUser").text for visitor in visitors]

    managers = f"U in_group G WHERE U eid {eid}, G name 'managers'"
    assert manage() == [False, False]
    site.rql(f"SET {managers}")
    assert manage() == [True, True]
    site.rql(f"DELETE {managers}")
    assert manage() == [False, False]


def test_own_password(site: Site) -> None:
    """Sessions of the former password end, but for the one in which it was changed."""
    eid, login = site.new_user()
    here, *elsewhere = (site.visitor(number, login) for number in (0, 0, 1))
    response = submit_password(here, eid, login, "another")
    assert response.status_code == 303, response.text
    assert is_logged_in(here)
    here.base_url = site.processes[1].url
    assert is_logged_in(here)
    assert [is_logged_in(visitor) for visitor in elsewhere] == [False, False]
    visitor = site.visitor(0)
    visitor.login(login, "another")
    assert login in visitor.get("").text


@pytest.mark.parametrize("how", ["form", "shell", "command"])
def test_password_that_another_changes(site: Site, how: str) -> None:
    """All sessions of its user end, in both processes."""
    eid, login = site.user_of(how)
    visitors = [site.visitor(number, login) for number in (0, 1)]
    assert all(map(is_logged_in, visitors))
    site.change_password(how, eid, login, "admin" if login == "admin" else "another")
    assert [is_logged_in(visitor) for visitor in visitors] == [False, False]


def test_password_that_ends_no_session(site: Site) -> None:
    """With the option, in whichever way it is changed."""
    with site.instance.process(hasite_password_ends_sessions="no") as process:
        for how in ("own form", "form", "shell", "command"):
            eid, login = site.user_of(how)
            visitor, other = Visitor(process.url), Visitor(process.url)
            visitor.login(login, login)
            other.login(login, login)
            if how == "own form":
                assert submit_password(other, eid, login, "another").status_code == 303
            else:
                site.change_password(how, eid, login, "admin" if login == "admin" else "another")
            assert is_logged_in(visitor), how


def test_permission_that_is_rolled_back(site: Site) -> None:
    """The process that tried has its former permissions again; the other one got no notice."""
    eid = _image(site)
    notices = _metric(site, 1, "hasite_notices_total")
    site.fail_to_take_away()
    until(lambda: site.visitor(0).get(f"file/{eid}/raw/a.png").status_code == 200, "rolled back")
    assert _metric(site, 1, "hasite_notices_total") == notices


def _metric(site: Site, number: int, name: str) -> float:
    text = site.visitor(number).get("metrics?token=secret").text
    return float(re.search(rf"^{name} (\S+)$", text, re.M)[1])


def test_many_notices(site: Site) -> None:
    """A thousand notices at once are read, and the process serves."""
    before = _metric(site, 1, "hasite_notices_total")
    site.notify(1000, "properties")
    until(lambda: _metric(site, 1, "hasite_notices_total") >= before + 1000, "1,000 notices")
    assert site.visitor(1).get("").status_code == 200


def test_change_of_the_schema(site: Site) -> None:
    """An instance that does not know a new type serves, and advises to restart it."""
    ready = lambda: site.visitor(1).get("readyz")  # noqa: E731
    assert ready().text.strip() == "ServiceOK : ready"
    site.rql("INSERT CWEType E: E name 'Novelty', E description 'new', E final FALSE")
    until(lambda: "restart this instance: the schema has changed" in ready().text, "advice")
    assert ready().status_code == 200
    assert _metric(site, 1, "hasite_restart_advised") == 1
    assert site.visitor(0).get("readyz").text.strip() == "ServiceOK : ready"
    site.rql("DELETE CWEType E WHERE E name 'Novelty'")
    until(lambda: ready().text.strip() == "ServiceOK : ready", "no advice any more")


def test_edits_send_no_notice(site: Site) -> None:
    before = _metric(site, 1, "hasite_notices_total")
    _image(site)  # which is an edit, after a login
    time.sleep(0.3)
    assert _metric(site, 1, "hasite_notices_total") == before
