"""Pages from standbys through all that may befall the nodes: each rule and each failure."""

import re
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path

import psycopg2
import pytest
import requests
from browsers import Browser
from pictures import picture
from selenium.webdriver.common.by import By
from servers.instance import Process
from servers.postgresql import PostgreSQL
from servers.support import wait_until
from servers.visitor import Visitor, validation
from standby_site import NAME, SOON, Site, Template, created, made_again, metrics, readable, reads

ALBUMS = "view?rql=Any A WHERE A is Album"
PAGES = ["", "album", ALBUMS, "view?rql=Any X WHERE X is File", "add/Album"]
#: how long a page may take while a node is lost, in seconds
LONGEST = 4.0


@pytest.fixture(scope="module")
def template(server_directory: Callable[[str], Path]) -> Template:
    return Template(server_directory("template"))


@pytest.fixture(scope="module")
def shared(template: Template, server_directory: Callable[[str], Path]) -> Iterator[Site]:
    with Site(template, server_directory("shared")) as site:
        yield site


@pytest.fixture
def site(shared: Site) -> Iterator[Site]:
    """A site whose primary is the same in all tests."""
    yield shared
    shared.repair()


@pytest.fixture
def own_site(template: Template, server_directory: Callable[[str], Path]) -> Iterator[Site]:
    with Site(template, server_directory("own")) as site:
        yield site


class Load:
    """Visitors who ask for pages, one after the other, each in a thread."""

    def __init__(self, visitors: list[Visitor], pages: list[str]) -> None:
        self.outcomes: Counter[str] = Counter()
        self.longest = 0.0
        self._visitors, self._pages = visitors, pages
        self._stop = threading.Event()

    @contextmanager
    def running(self) -> Iterator["Load"]:
        with ThreadPoolExecutor(len(self._visitors)) as executor:
            tasks = [executor.submit(self._visit, visitor) for visitor in self._visitors]
            try:
                yield self
            finally:
                self._stop.set()
        for task in tasks:
            task.result()

    def _visit(self, visitor: Visitor) -> None:
        while not self._stop.is_set():
            for page in self._pages:
                started = time.monotonic()
                try:
                    response = visitor.get(page)
                    outcome = str(response.status_code)
                    if "auth_tkt" in visitor.session.cookies and "logout" not in response.text:
                        outcome = "logged out"
                except requests.RequestException as error:
                    outcome = repr(error)
                self.outcomes[outcome] += 1
                self.longest = max(self.longest, time.monotonic() - started)

    def more(self, count: int) -> None:
        """Wait until so many more pages were answered."""
        goal = self.outcomes.total() + count
        wait_until(lambda: self.outcomes.total() >= goal, f"{count} pages", timeout=120)


def visitors(process: Process, users: int = 2) -> list[Visitor]:
    """Return visitors who have visited: users who are logged in, and an anonymous one."""
    found = [Visitor(process.url) for _ in range(users + 1)]
    for visitor in found[:users]:
        visitor.login()
    created(found[0], "Album", name="album")  # a list of none is 404
    for visitor in found:
        wait_until(lambda v=visitor: from_standby(process, v), "the standby to catch up")
    return found


def from_standby(process: Process, visitor: Visitor) -> bool:
    before = reads(process, "standby")
    visitor.get()
    return reads(process, "standby") == before + 1


def primary_up(process: Process) -> bool:
    return metrics(process)["hasite_primary_up"] == 1


@pytest.mark.parametrize("end", [PostgreSQL.kill, PostgreSQL.stop, PostgreSQL.pause])
def test_primary_is_lost(site: Site, end: Callable[[PostgreSQL], None]) -> None:
    """No GET fails, and users stay logged in, whether the primary is gone or silent."""
    process = site.process()
    found = visitors(process)
    load = Load([*found, *visitors(process)], PAGES)
    with load.running():
        load.more(50)
        end(site.primary)
        load.more(300)
        if end is PostgreSQL.pause:
            site.primary.resume()
        else:
            assert requests.post(f"{process.url}login", timeout=60).status_code >= 400
            site.primary.start()
        wait_until(lambda: primary_up(process), "the primary")
        load.more(50)
    assert set(load.outcomes) <= {"200", "403"}, load.outcomes
    assert load.outcomes["403"] <= load.outcomes.total() / 5  # who may add nothing
    assert load.longest < LONGEST
    assert created(found[0], "Album", name="after")


def test_monitors(site: Site) -> None:
    process = site.process()
    assert requests.get(f"{process.management}readyz", timeout=30).text == "ServiceOK : ready"
    state = f"{process.management}readyz?format=json"
    assert requests.get(state, timeout=30).json()["state"] == "ready"
    site.primary.kill()
    wait_until(lambda: not primary_up(process), "the loss to be noticed")
    ready = requests.get(f"{process.management}readyz", timeout=30)
    assert ready.status_code == 200
    assert ready.text.startswith("ServiceOK : reads only, but "), ready.text
    found = requests.get(state, timeout=30).json()
    assert (found["status"], found["state"]) == ("warn", "reads only")
    db = requests.get(f"{process.management}view?vid=monitor_db", timeout=30)
    assert db.status_code == 503
    assert db.text.endswith("; pages are read from a standby"), db.text
    for standby in site.standbys:
        standby.kill()
    wait_until(lambda: not readable(process), "the loss to be noticed")
    ready = requests.get(f"{process.management}readyz", timeout=30)
    assert (ready.status_code, ready.text[:12]) == (503, "ServiceKO : ")
    assert requests.get(state, timeout=30).json()["state"] == "not ready"
    db = requests.get(f"{process.management}view?vid=monitor_db", timeout=30)
    assert "standby" not in db.text


def test_all_but_one_standby_are_lost(site: Site) -> None:
    process = site.process()
    load = Load(visitors(process), PAGES[:4])
    with load.running():
        site.primary.kill()
        site.standbys[0].kill()
        load.more(100)
        site.standbys[0].start()
        wait_until(lambda: readable(process) == 2, "the standby to be back")
        site.standbys[1].kill()
        load.more(100)
    assert set(load.outcomes) == {"200"}, load.outcomes


@pytest.mark.parametrize("number", [0, 1])
def test_silent_standby(site: Site, number: int) -> None:
    """No request waits for it longer than until it is noticed."""
    process = site.process()
    load = Load(visitors(process), PAGES[:4])
    with load.running():
        load.more(30)
        site.standbys[number].pause()
        load.more(100)
        site.standbys[number].resume()
        load.more(30)
    assert set(load.outcomes) == {"200"}, load.outcomes
    assert load.longest < LONGEST
    wait_until(lambda: readable(process) == 2, "both standbys to be readable")


def test_promotion_while_in_use(own_site: Site) -> None:
    """The standby that is read becomes the primary, the other one follows it."""
    site = own_site
    process = site.process()
    users = visitors(process)
    before = created(users[0], "Album", name="before")
    old_position = users[0].session.cookies["hasite_position"]
    wait_until(lambda: from_standby(process, users[0]), "the standby to catch up")
    load = Load(users, PAGES[:4])
    with load.running():
        load.more(30)
        site.primary.kill()
        load.more(30)
        promoted, follower = site.standbys
        promoted.promote()
        follower.configure(
            "primary_conninfo",
            f"host={promoted.host} port={promoted.port} user={promoted.user}",
        )
        wait_until(lambda: primary_up(process), "the new primary")
        load.more(50)
        wait_until(lambda: readable(process) == 1, "the follower to be proven", timeout=60)
        load.more(50)
    assert set(load.outcomes) == {"200"}, load.outcomes
    after = created(users[0], "Album", name="after")
    assert after >= before + 1_000_000
    assert "after" in users[0].get(f"album/{after}").text
    assert users[0].session.cookies["hasite_position"].startswith("2-")
    # a position of the lost timeline is compared with none of the new one
    stale = requests.get(
        process.url, headers={"Cookie": f"hasite_position={old_position}"}, timeout=30
    )
    assert stale.status_code == 200
    primary = reads(process, "primary")
    requests.get(process.url, headers={"Cookie": f"hasite_position={old_position}"}, timeout=30)
    assert reads(process, "primary") == primary + 1


def test_user_who_was_not_met(site: Site) -> None:
    """A process serves a user whom it has not met while the primary is down."""
    met, other = site.process(), site.process()
    user = Visitor(met.url)
    user.login()
    wait_until(lambda: from_standby(met, user), "the standby to catch up")
    site.primary.kill()
    wait_until(lambda: not primary_up(other), "the loss to be noticed")
    user.base_url = other.url
    for _ in range(3):
        page = user.get()
        assert page.status_code == 200
        assert "logout" in page.text
    site.primary.start()
    wait_until(lambda: primary_up(other), "the primary")
    assert created(user, "Album", name="by whom it has met now")


def test_get_that_writes(site: Site) -> None:
    """It is made again on the primary, with nothing kept of the first try."""
    process = site.process(hasite_edit_by_get="yes")
    admin = Visitor(process.url)
    admin.login()
    eid = created(admin, "Album", name="one")
    wait_until(lambda: from_standby(process, admin), "the standby to catch up")
    form = admin.form(f"album/{eid}?vid=edition")
    values = {name: value or "" for name, value in form.form_values()}
    values[f"name-subject:{eid}"] = "two"
    response = admin.get("edit", params=values)
    assert response.status_code == 303, response.text
    assert made_again(process, "writes") == 1
    assert "two" in admin.get(f"album/{eid}").text


def test_recovery_conflict(site: Site) -> None:
    """What is replayed takes a lock away from a page: it is made again on the primary."""
    process = site.process()
    for standby in site.standbys:
        standby.configure("max_standby_streaming_delay", "0")
    visitor = visitors(process)[-1]
    with (
        psycopg2.connect(
            host=site.primary.host, port=site.primary.port, user=site.primary.user, dbname=NAME
        ) as connection,
        ThreadPoolExecutor(1) as executor,
    ):
        cursor = connection.cursor()
        cursor.execute("LOCK TABLE cw_Album IN ACCESS EXCLUSIVE MODE")
        _change(site)  # whose commit is sent at once, with what was written before it
        locks = "SELECT count(*) FROM pg_locks WHERE mode = 'AccessExclusiveLock'"
        wait_until(lambda: all(node.sql(locks) == "1" for node in site.standbys), "the lock")
        # CubicWeb sorts the tables of a query: one is locked before that of albums
        query = "view?rql=Any A, N WHERE A is Album, A name N, A created_by U"
        page = executor.submit(visitor.get, query)
        wait_until(lambda: any(map(_locked_by_who_waits, site.standbys)), "the page to wait")
        [tables] = filter(None, map(_locked_by_who_waits, site.standbys))
        cursor.execute(f"LOCK TABLE {tables} IN ACCESS EXCLUSIVE MODE")
        _change(site)
        wait_until(lambda: not any(map(_locked_by_who_waits, site.standbys)), "the conflict")
        connection.commit()
        assert page.result().status_code == 200
    connection.close()
    for standby in site.standbys:
        standby.configure("max_standby_streaming_delay", None)
    assert made_again(process, "conflict") == 1


def _locked_by_who_waits(node: PostgreSQL) -> str:
    """Return the tables that are locked by a transaction that waits for another lock."""
    return node.sql(
        "SELECT string_agg(DISTINCT relname, ', ') FROM pg_locks JOIN pg_class ON "
        "relation = pg_class.oid WHERE granted AND relkind = 'r' AND relnamespace = "
        "'public'::regnamespace AND pid IN (SELECT pid FROM pg_locks WHERE NOT granted)",
        NAME,
    )


def test_line_at_the_top_of_pages(site: Site) -> None:
    """A page says so while the site can be read only, in the language of the visitor."""
    process = site.process()
    visitor = Visitor(process.url)
    visitor.session.headers["Accept-Language"] = "fr"
    lines = {"fr": "en lecture seule", "en": "can be read only"}
    wait_until(lambda: from_standby(process, visitor), "the standby to catch up")
    assert lines["fr"] not in visitor.get().text
    site.primary.kill()
    wait_until(lambda: not primary_up(process), "the loss to be noticed")
    assert lines["fr"] in visitor.get().text
    assert lines["en"] in Visitor(process.url).get().text
    site.primary.start()
    wait_until(lambda: primary_up(process), "the primary")
    assert lines["fr"] not in visitor.get().text


def test_form_that_is_sent_while_the_primary_is_down(site: Site) -> None:
    """The answer says what to do, and runs nothing that somebody has put into the form."""
    process = site.process()
    admin = Visitor(process.url)
    admin.login()
    eid = created(admin, "Album", name="kept")
    form = admin.form(f"album/{eid}?vid=edition")
    site.primary.kill()
    wait_until(lambda: not primary_up(process), "the loss to be noticed")
    response = admin.submit(form, eid, {"name": "typed"}, controller="edit")
    assert response.status_code == 503
    assert "The database cannot answer at the moment" in response.text
    assert "with all that you have typed, reload this page" in response.text
    form.fields["__domid"] = "x');alert('"
    response = admin.submit(form, eid, {"name": "typed"}, controller="validateform")
    valid, [_entity, errors] = validation(response)[:2]
    assert not valid
    assert [*errors.values()] == ["The database cannot answer at the moment. Please try again."]
    assert (response.status_code, response.headers["Cache-Control"]) == (503, "no-store")
    assert "alert" not in response.text


def test_form_in_a_browser(site: Site, tmp_path: Path) -> None:
    """What was typed stays in the form while the primary is lost, and can be sent later."""
    process = site.process()
    admin = Visitor(process.url)
    admin.login()
    eid = created(admin, "Album", name="before")
    browser = Browser(process.url, tmp_path / "profile", tmp_path / "screenshots")
    try:
        browser.login()
        browser.open(f"album/{eid}?vid=edition")
        name = browser.driver.find_element(By.ID, f"name-subject:{eid}")
        name.clear()
        name.send_keys("typed")
        site.primary.kill()
        wait_until(lambda: not primary_up(process), "the loss to be noticed")
        send = "#entityForm button[value=validate]"
        browser.driver.find_element(By.CSS_SELECTOR, send).click()
        error = "#entityFormErrorMessage"
        browser.wait(lambda: browser.driver.find_elements(By.CSS_SELECTOR, error))
        shown = browser.driver.find_element(By.CSS_SELECTOR, error).text
        assert shown == "The database cannot answer at the moment. Please try again."
        assert name.get_attribute("value") == "typed"
        site.primary.start()
        wait_until(lambda: primary_up(process), "the primary")
        browser.driver.find_element(By.CSS_SELECTOR, send).click()
        browser.wait(lambda: "vid=edition" not in browser.driver.current_url)
        browser.wait(lambda: "typed" in browser.driver.page_source)
    finally:
        browser.driver.quit()


def test_images_while_the_primary_is_down(site: Site) -> None:
    """A standby serves them, and no cache keeps them."""
    process = site.process()
    admin, visitor = Visitor(process.url), Visitor(process.url)
    admin.login()
    upload = {"data": ("a.png", picture("red"), "image/png")}
    location = admin.create("File", {"title": "t"}, upload).headers["Location"]
    [eid] = re.findall(r"/file/(\d+)", location)
    image = f"file/{eid}/raw/a.png"
    assert visitor.get(image).headers["Cache-Control"].startswith("public")
    site.primary.kill()
    wait_until(lambda: not primary_up(process), "the loss to be noticed")
    response = visitor.get(image)
    assert (response.status_code, response.content) == (200, picture("red"))
    assert response.headers["Cache-Control"] == "no-store"


def test_who_has_written_what_no_standby_has(site: Site) -> None:
    process = site.process()
    admin = Visitor(process.url)
    admin.login()
    wait_until(lambda: from_standby(process, admin), "the standby to catch up")
    site.pause()
    eid = created(admin, "Album", name="lost")
    site.primary.kill()
    wait_until(lambda: not primary_up(process), "the loss to be noticed")
    assert admin.get(f"album/{eid}").status_code == 503
    assert admin.get().status_code == 503
    assert Visitor(process.url).get().status_code == 200
    site.primary.start()
    site.go_on()
    wait_until(lambda: primary_up(process), "the primary")
    assert "lost" in admin.get(f"album/{eid}").text


def test_standby_that_was_too_old_when_the_primary_was_lost(site: Site) -> None:
    process = site.process(hasite_standby_max_lag=1)
    site.pause()
    wait_until(lambda: _change(site) or not readable(process), "both to be too old")
    site.primary.kill()
    assert Visitor(process.url).get(ALBUMS).status_code == 503


def _change(site: Site) -> None:
    site.primary.sql("CREATE TABLE IF NOT EXISTS beat (); DROP TABLE beat")


def test_longest_outage(site: Site) -> None:
    process = site.process(hasite_standby_max_outage=2)
    site.primary.kill()
    assert Visitor(process.url).get(ALBUMS).status_code == 200
    wait_until(lambda: not readable(process), "the end of the outage", timeout=SOON)
    assert Visitor(process.url).get(ALBUMS).status_code == 503


def test_stranger_for_a_standby(site: Site, template: Template, tmp_path: Path) -> None:
    """A server that is not a standby of the primary is not read."""
    process = site.process(ready=False, hasite_standby_hosts=f"{site.primary.host},127.0.0.9:1")
    time.sleep(2)
    assert readable(process) == 0
    assert Visitor(process.url).get(ALBUMS).status_code == 200
    assert reads(process, "standby") == 0
