"""The session of a visitor: in a cookie that never overflows, with the rest of it in a table."""

import re
import secrets
import sqlite3
import time
import zlib
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from configparser import ConfigParser
from pathlib import Path
from typing import Any

import backend
import pytest
import requests
from pyramid.request import Request
from pyramid.response import Response
from pyramid.session import PickleSerializer, SignedCookieSessionFactory
from servers.instance import Instance, Process
from servers.postgresql import Database, PostgreSQL
from servers.support import wait_until
from servers.visitor import Visitor
from webob.cookies import SignedSerializer

from cubicweb_hasite.sessions import cookie, packing

FORMS = 300
TOO_LONG = "a" * 300
ALBUMS = "view?rql=Any A WHERE A is Album"
#: what was typed and cannot be compressed
TYPED = secrets.token_hex(10000)
FORGOTTEN = "the oldest forms are forgotten"


class Tab(Visitor):
    """A tab of a browser, in which no answer is an error, and no cookie is too long."""

    def request(self, method: str, url: str, **kwargs: Any) -> requests.Response:
        response = super().request(method, url, **kwargs)
        assert response.status_code < 500, response.text
        for header in response.raw.headers.getlist("Set-Cookie"):
            assert len(header) <= 4093
        return response

    def open(self, what: str) -> requests.Response:
        """Open a form, of a new article or of the one that is named."""
        response = self.get(what)
        assert response.status_code == 200
        assert "entityForm" in response.text
        return response

    def other(self) -> "Tab":
        """Return another tab of the same browser, as it is now."""
        tab = Tab(self.base_url)
        tab.session.cookies.update(self.session.cookies)
        return tab


class Site:
    """An instance, and what is known of it in its database."""

    def __init__(self, instance: Instance, cluster: PostgreSQL | None) -> None:
        self.instance = instance
        self.cluster = cluster
        ini = ConfigParser(interpolation=None)
        ini.read(instance.directory / instance.name / "pyramid.ini")
        self.secret = ini["main"]["cubicweb.session.secret"]

    def sql(self, query: str) -> str:
        if self.cluster:
            return self.cluster.sql(query, self.instance.database.name)
        with sqlite3.connect(self.instance.database.name) as connection:
            row = connection.execute(query).fetchone()
        return str(row[0]) if row else ""

    def rows(self) -> int:
        return int(self.sql("SELECT COUNT(*) FROM hasite_session"))

    def value(self, visitor: Visitor) -> tuple[float, float, dict[str, Any]]:
        """Return what the cookie of a visitor holds."""
        return self.signer().loads(visitor.session.cookies["session"].encode())

    def session(self, visitor: Visitor) -> dict[str, Any]:
        """Return the session of a visitor, with what is in the database."""
        _accessed, _created, state = self.value(visitor)
        row = state.pop("hasite.row", None)
        if row is None:
            return state
        data = self.sql(f"SELECT data FROM hasite_session WHERE id='{row[0]}'")
        signer = packing.signed(self.secret, "hasite.session.", plain=0, limit=2**24)
        name, items = signer.loads(data.encode())
        assert name == row[0]
        return items | state

    def signer(self) -> SignedSerializer:
        return packing.signed(self.secret, "pyramid.session.", plain=2000, limit=2**16)

    def give(self, visitor: Visitor, value: bytes | str) -> None:
        """Give a visitor another cookie."""
        visitor.session.cookies.set("session", None)
        text = value if isinstance(value, str) else value.decode()
        visitor.session.cookies.set("session", text, domain="127.0.0.1", path="/")


@pytest.fixture(scope="module")
def site(
    server_directory: Callable[[str], Path], new_database: Callable[[], Database]
) -> Iterator[Site]:
    cluster = PostgreSQL(server_directory("postgresql")) if backend.POSTGRES else None
    try:
        if cluster:
            cluster.start()
        database = cluster.create_database("site") if cluster else new_database()
        instance = Instance(server_directory("instance"), ["hasite_testapp"], database)
        instance.create()
        yield Site(instance, cluster)
    finally:
        if cluster:
            cluster.stop()


@pytest.fixture(scope="module")
def process(site: Site) -> Iterator[Process]:
    with site.instance.process() as process:
        yield process


@pytest.fixture
def editor(process: Process) -> Tab:
    return log_in(process)


@pytest.fixture(scope="module")
def album(process: Process) -> int:
    response = log_in(process).create("Album", {"name": "an album"})
    return int(re.search(r"/album/(\d+)", response.headers["Location"])[1])


def log_in(process: Process) -> Tab:
    tab = Tab(process.url)
    tab.login()
    return tab


def pages(session: dict[str, Any]) -> int:
    """Return the data of how many pages a session has."""
    return sum(isinstance(value, dict) and "rql_varmaker" in value for value in session.values())


def spill(site: Site, tab: Tab) -> None:
    """Open forms until the session has a row."""
    wait_until(
        lambda: tab.open("add/Album") and "hasite.row" in site.value(tab)[2], "row", interval=0
    )


def memory(process: Process) -> int:
    """Return the most memory that a process has had, in bytes."""
    status = Path(f"/proc/{process.pid}/status").read_text()
    return int(re.search(r"VmHWM:\s+(\d+) kB", status)[1]) * 1024


def test_many_forms(site: Site, editor: Tab, album: int) -> None:
    before = site.rows()
    for number in range(FORMS):
        editor.open(f"album/{album}?vid=edition")
        editor.open("add/Album")
        if number % 50 == 0:
            assert editor.get("").status_code == 200
    session = site.session(editor)
    assert pages(session) == FORMS  # forms for new entities alone have data
    assert session["authentication_ticket"]
    # not one for each form
    assert 1 <= site.rows() - before <= 12
    response = editor.create("Album", {"name": "after all"})
    assert "after all" in editor.get(response.headers["Location"], allow_redirects=True).text


def test_messages_are_forgotten_first(site: Site, editor: Tab) -> None:
    accessed, created, state = site.value(editor)
    messages = {secrets.token_hex(16): f"{n} {secrets.token_hex(200)}" for n in range(30)}
    form = {secrets.token_hex(16): {"rql_varmaker": None}}
    # longer than the cookie may be, which the server does not mind
    long = site.signer().dumps((accessed, created, {**form, **state, **messages}))
    site.give(editor, long)
    before = site.rows()
    key = list(messages)[-1]
    assert editor.get("").status_code == 200
    kept = [key for key in messages if key in site.session(editor)]
    assert kept == list(messages)[-len(kept) :]
    assert 8 <= len(kept) < 30
    assert pages(site.session(editor)) == 1
    assert site.rows() == before
    assert messages[key] in editor.get(f"?_cwmsgid={key}").text


@pytest.mark.skipif(not backend.POSTGRES, reason="SQLite logs no statements")
def test_writes(site: Site, process: Process, editor: Tab) -> None:
    """Ordinary pages write nothing to the database, with a row or without."""
    spill(site, editor)
    site.cluster.configure("log_statement", "mod")

    def statements() -> list[str]:
        return re.findall(r"statement: (?:INSERT|UPDATE|DELETE)[^\n]*", site.cluster.log)

    try:
        wait_until(lambda: site.sql("SHOW log_statement") == "mod", "the setting")
        fresh = log_in(process)
        before = len(statements())
        for visitor in (Tab(process.url), fresh, editor):
            for url in ("", ALBUMS, "add/Album", "view?vid=monitor_db"):
                assert visitor.get(url).status_code in (200, 303, 403)
        assert Tab(process.url).get().status_code == 200
        assert statements()[before:] == []
        former = site.value(editor)[2]["hasite.row"]
        while site.value(editor)[2]["hasite.row"] == former:
            editor.open("add/Album")
        assert [line.split()[1] for line in statements()[before:]] == ["INSERT", "DELETE"]
    finally:
        site.cluster.configure("log_statement", None)


def test_full_cookie(site: Site, editor: Tab) -> None:
    """A page that adds nothing writes nothing, although the time changes how long a cookie is."""
    editor.get("")
    accessed, created, state = site.value(editor)
    state |= {secrets.token_hex(3): {"x": secrets.token_hex(1)} for _ in range(350)}
    before = site.rows()
    tried = 0
    while tried < 25:
        full, earlier = state, accessed - secrets.randbelow(1000)
        while len(value := site.signer().dumps((earlier, created, full))) < 4000:
            full = {**full, secrets.token_hex(3): {"x": secrets.token_hex(1)}}
        if len(value) == 4000:
            tried += 1
            site.give(editor, value)
            assert editor.get("").status_code == 200
            assert "hasite.row" not in site.value(editor)[2]
    assert site.rows() == before


def test_two_tabs(site: Site, editor: Tab) -> None:
    """What was in the session before is in that of both, whichever answer comes last."""
    spill(site, editor)
    before = pages(site.session(editor))
    tabs = [editor.other() for _ in range(4)]
    forms = 100  # each passes to a row of its own

    def work(tab: Tab) -> None:
        for _ in range(forms):
            tab.open("add/Album")

    with ThreadPoolExecutor(len(tabs)) as executor:
        list(executor.map(work, tabs))
    for tab in tabs:
        assert pages(site.session(tab)) == before + forms
    # the first tab has kept its cookie: its row is still there
    assert pages(site.session(editor)) == before
    editor.open("add/Album")
    assert pages(site.session(editor)) == before + 1


def test_closed_form(site: Site, editor: Tab) -> None:
    """The page's JavaScript forgets a form that is closed, also one in the row."""
    first = re.search(r'pageid = "(\w+)"', editor.open("add/Album").text)[1]
    spill(site, editor)
    before = site.session(editor)
    assert first in before
    response = editor.post("ajax", {"fname": "user_callback", "pageid": first})
    assert response.status_code < 500
    response = editor.post("ajax", {"fname": "unload_page_data", "pageid": first})
    assert response.status_code == 200
    after = site.session(editor)
    assert first not in after
    assert pages(after) == pages(before) - 1


@pytest.mark.parametrize("length", [20_000, 3_000_000])
def test_refused_form(site: Site, editor: Tab, length: int) -> None:
    typed = secrets.token_hex(length // 2)
    response = editor.create("Caption", {"text": typed})
    assert response.status_code == 303
    form = editor.form(response.headers["Location"])
    [field] = [name for name in form.fields if name.startswith("text-subject")]
    assert form.fields[field].strip() == typed
    assert "maximum size" in form.getroottree().getroot().text_content()
    eid = form.fields["__maineid"]
    # another page meanwhile
    assert editor.get("").status_code == 200
    response = editor.submit(form, eid, {"text": "shorter"})
    assert response.status_code == 303
    assert "shorter" in editor.get(response.headers["Location"], allow_redirects=True).text
    # nothing of it is left
    assert typed not in str(site.session(editor))
    assert "hasite.row" not in site.value(editor)[2]


@pytest.mark.parametrize("spilled", [False, True])
def test_tampered_and_truncated_cookies(
    site: Site, process: Process, editor: Tab, spilled: bool
) -> None:
    if spilled:
        spill(site, editor)
    good = editor.session.cookies["session"]
    middle = len(good) // 2
    other = "A" if good[middle] != "A" else "B"
    bad = [
        good[:middle] + other + good[middle + 1 :],
        other + good[1:],
        *(good[:length] for length in (1, 60, 86, 90, len(good) - 4)),
        "",
        "é",
        "%00",
        "A" * 4000,
        secrets.token_urlsafe(3000),
    ]
    for value in bad:
        tab = editor.other()
        headers = {"Cookie": f"session={value}".encode()}
        response = tab.get("add/Album", headers=headers)
        assert "entityForm" not in response.text
        site.give(tab, value.encode("ascii", "replace"))
        # logged out, with an empty session
        assert tab.get("").status_code == 200
        assert not site.session(tab).get("authentication_ticket")
    editor.open("add/Album")


def test_row_that_is_not_ours(site: Site, process: Process, editor: Tab) -> None:
    spill(site, editor)
    row, _written = site.value(editor)[2]["hasite.row"]
    tab = editor.other()
    spill(site, tab)
    while site.value(tab)[2]["hasite.row"][0] == row:
        tab.open("add/Album")
    another, _written = site.value(tab)[2]["hasite.row"]
    for value in (
        "''",
        "'AAAA'",
        "substr(data, 1, 200)",
        f"(SELECT data FROM hasite_session WHERE id='{another}')",
    ):
        copy = editor.other()
        change = f"UPDATE hasite_session SET data={value} WHERE id='{row}'"
        site.sql(change)
        copy.open("add/Album")
        session = site.value(copy)[2]
        assert "hasite.row" not in session
        assert session["authentication_ticket"]


def test_bomb(site: Site, process: Process) -> None:
    """A cookie that would take all the memory, of somebody who has the secret."""
    packer = zlib.compressobj(9)
    packed = b"".join(packer.compress(bytes(2**20)) for _ in range(150)) + packer.flush()

    class Bomb:
        def dumps(self, value: object) -> bytes:
            return packed

    signed = SignedSerializer(site.secret, "pyramid.session.", "sha512", serializer=Bomb())
    bomb = signed.dumps(None)
    assert len(bomb) < 230_000
    tab = Tab(process.url)
    for value in (bomb[::-1], bomb):  # the first is as long, and not signed
        before = memory(process)
        response = tab.get("", headers={"Cookie": b"session=" + value})
        assert response.status_code == 200
    assert memory(process) - before < 75 * 2**20


def test_cookies_of_stock_cubicweb(site: Site, editor: Tab) -> None:
    """Its cookies are read after the upgrade; it reads the new ones that it could have written."""
    stock = SignedCookieSessionFactory(site.secret, serializer=PickleSerializer())
    request = Request.blank("/", cookies={"session": editor.session.cookies["session"]})
    session = stock(request)
    assert session["authentication_ticket"]
    session["0" * 32] = "a message of the former version"
    response = Response()
    request._process_response_callbacks(response)
    [header] = response.headers.getall("Set-Cookie")
    site.give(editor, re.match("session=([^;]+)", header)[1])
    assert "a message of the former version" in editor.get(f"?_cwmsgid={'0' * 32}").text
    editor.open("add/Album")


def test_logout(site: Site, editor: Tab) -> None:
    spill(site, editor)
    tab = editor.other()
    session = site.value(editor)[2]["hasite.row"][0].split(".")[0]
    ours = f"SELECT COUNT(*) FROM hasite_session WHERE id LIKE '{session}.%'"
    assert int(site.sql(ours))
    assert editor.get("logout").status_code == 303
    assert not any(site.session(editor).values())
    assert site.sql(ours) == "0"
    # the cookie of before is of somebody who is logged in, as with stock CubicWeb
    tab.session.cookies.set("auth_tkt", None)
    assert "entityForm" not in tab.get("add/Album").text
    editor.login()
    editor.open("add/Album")


@pytest.mark.parametrize("trouble", ["read-only", "no table"])
def test_row_that_cannot_be_written(site: Site, album: int, trouble: str) -> None:
    if trouble == "read-only" and not backend.POSTGRES:
        pytest.skip("SQLite has no standby")
    with site.instance.process() as process:
        editor = log_in(process)
        spilled = log_in(process)
        spill(site, spilled)
        if trouble == "read-only":
            site.cluster.configure("default_transaction_read_only", "on")
        else:
            site.sql("ALTER TABLE hasite_session RENAME TO away")
        try:
            for tab in (editor, spilled):
                for _ in range(200):
                    tab.open(f"album/{album}?vid=edition")
                    tab.open("add/Album")
                assert site.value(tab)[2]["authentication_ticket"]
            assert pages(site.value(editor)[2]) > 50
            assert process.log.count(FORGOTTEN) == 1
            assert "hasite.row" not in site.value(editor)[2]
        finally:
            if trouble == "read-only":
                site.cluster.configure("default_transaction_read_only", None)
            else:
                site.sql("ALTER TABLE away RENAME TO hasite_session")
        spill(site, editor)
        assert pages(site.session(spilled)) > 150


def test_one_connection(site: Site, editor: Tab) -> None:
    """The row is read and written without a second connection of the pool."""
    options = {"connections_pool_max_size": 1, "hasite_pool_timeout": 1}
    with site.instance.process(threads=1, **options) as process:
        editor.base_url = process.url
        spill(site, editor)
        former = site.value(editor)[2]["hasite.row"]
        while site.value(editor)[2]["hasite.row"] == former:
            started = time.monotonic()
            editor.open("add/Album")
        assert FORGOTTEN not in process.log
        assert pages(site.session(editor)) > 100
        assert time.monotonic() - started < 1


def test_age(site: Site, process: Process, editor: Tab) -> None:
    """A row is written again while its session is in use, and deleted after that."""
    spill(site, editor)
    accessed, created, state = site.value(editor)
    row, written = state["hasite.row"]
    assert abs(written - time.time()) < 60
    assert written == int(site.sql(f"SELECT written FROM hasite_session WHERE id='{row}'"))
    state["hasite.row"] = row, written - cookie._RENEWAL - 1
    site.give(editor, site.signer().dumps((accessed, created, state)))
    before = pages(site.session(editor))
    assert editor.get("").status_code == 200
    assert site.value(editor)[2]["hasite.row"][0] != row
    assert pages(site.session(editor)) == before
    assert site.sql(f"SELECT COUNT(*) FROM hasite_session WHERE id='{row}'") == "1"

    site.sql(f"UPDATE hasite_session SET written=written - {cookie._AGE} - 1 WHERE id='{row}'")
    other = log_in(process)
    spill(site, other)
    assert site.sql(f"SELECT COUNT(*) FROM hasite_session WHERE id='{row}'") == "0"


def test_check_of_the_database(site: Site, editor: Tab) -> None:
    spill(site, editor)
    rows = site.rows()
    assert "hasite_session" not in site.instance.ctl("db-check", site.instance.name)
    assert site.rows() == rows
