"""GET and HEAD are read from hot standbys, and nobody notices."""

import re
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import requests
from pictures import picture
from servers.instance import Process
from servers.support import wait_until
from servers.visitor import Visitor
from standby_site import Site, Template, created, made_again, metrics, readable, reads

ALBUMS = "view?rql=Any A WHERE A is Album"
#: pages of all kinds
PAGES = ["", "album", "view?rql=Any X WHERE X is File", "search?rql=Any X", "add/Album"]


@pytest.fixture(scope="module")
def template(server_directory: Callable[[str], Path]) -> Template:
    return Template(server_directory("template"))


@pytest.fixture(scope="module")
def shared(
    template: Template, server_directory: Callable[[str], Path]
) -> Iterator[tuple[Site, Process]]:
    with Site(template, server_directory("standbys")) as site:
        yield site, site.process()


@pytest.fixture
def site(shared: tuple[Site, Process]) -> Iterator[Site]:
    yield shared[0]
    shared[0].go_on()
    wait_until(lambda: readable(shared[1]) == 2, "both standbys to be readable")


@pytest.fixture
def process(site: Site, shared: tuple[Site, Process]) -> Process:
    return shared[1]


def test_browsing_asks_the_primary_nothing(site: Site, process: Process) -> None:
    admin = Visitor(process.url)
    admin.login()
    eid = created(admin, "Album", name="album")
    pages = [*PAGES, f"album/{eid}", f"album/{eid}?vid=edition"]
    visitors = [admin, Visitor(process.url)]
    for visitor in visitors:  # what the process remembers is read from the primary
        wait_until(lambda v=visitor: is_read_from_standby(process, v), "the standby to catch up")
        for page in pages:
            assert visitor.get(page).status_code in (200, 403), page
    before = reads(process, "primary"), reads(process, "standby")
    for visitor in visitors:
        for page in pages:
            visitor.get(page)
    assert reads(process, "primary") == before[0]
    assert reads(process, "standby") - before[1] == len(pages) * len(visitors)


def is_read_from_standby(process: Process, visitor: Visitor) -> bool:
    before = reads(process, "standby")
    assert visitor.get().status_code == 200
    return reads(process, "standby") == before + 1


def test_author_sees_what_he_has_written(site: Site, process: Process) -> None:
    admin, other = Visitor(process.url), Visitor(process.url)
    admin.login()
    wait_until(lambda: is_read_from_standby(process, admin), "the standby to catch up")
    site.pause()
    for number in range(4):
        eid = created(admin, "Album", name=f"first {number}")
        assert f"first {number}" in admin.get(f"album/{eid}").text
        assert admin.edit(eid, "Album", {"name": f"second {number}"}).status_code == 303
        assert f"second {number}" in admin.get(f"album/{eid}").text
        # it is made again on the primary, which has it
        assert other.get(f"album/{eid}").status_code == 200
    assert made_again(process, "404") >= 1
    assert "hasite_position" in admin.session.cookies
    site.go_on()
    wait_until(lambda: is_read_from_standby(process, admin), "the standby to catch up")


def test_cookie(process: Process) -> None:
    admin = Visitor(process.url)
    admin.login()
    response = admin.create("Album", {"name": "cookie"})
    [cookie] = [
        each
        for each in response.raw.headers.getlist("Set-Cookie")
        if each.startswith("hasite_position=")
    ]
    assert re.fullmatch(
        r"hasite_position=1-[0-9a-f]+-[0-9.]+; Max-Age=60; Path=/; expires=[^;]+; HttpOnly; "
        "SameSite=Lax",
        cookie,
    )


def test_reading_sets_no_cookie(process: Process) -> None:
    visitor = Visitor(process.url)
    wait_until(lambda: is_read_from_standby(process, visitor), "the standby")
    assert "hasite_position" not in visitor.session.cookies


@pytest.mark.parametrize("value", ["", "x", "1-ffffffffffffffff-1.0", "2-1-1.0", "1-1-1.0;x=\"'"])
def test_forged_cookie(process: Process, value: str) -> None:
    visitor = Visitor(process.url)
    for _ in range(3):
        response = requests.get(
            process.url + ALBUMS, headers={"Cookie": f"hasite_position={value}"}, timeout=30
        )
        assert response.status_code == 200
    assert visitor.get(ALBUMS).status_code == 200


def test_lag_is_bounded(site: Site, process: Process) -> None:
    """A standby that is too old is not read, until it has caught up."""
    site.pause()
    wait_until(lambda: change_and_count(site, process) == 0, "both to be too old", timeout=30)
    before = reads(process, "standby")
    assert Visitor(process.url).get(ALBUMS).status_code == 200
    assert reads(process, "standby") == before
    assert metrics(process)['hasite_standby_refusals_total{reason="stale"}'] >= 1
    site.go_on()
    wait_until(lambda: is_read_from_standby(process, Visitor(process.url)), "the standby")


def change_and_count(site: Site, process: Process) -> int:
    site.primary.sql("CREATE TABLE IF NOT EXISTS beat (); DROP TABLE beat")
    return readable(process)


def test_public_is_never_older_than_its_purge(site: Site, process: Process) -> None:
    """Images come from the primary as long as it can be asked: caches keep them."""
    admin, visitor = Visitor(process.url), Visitor(process.url)
    admin.login()
    response = admin.create(
        "File", {"title": "t"}, {"data": ("a.png", picture("red"), "image/png")}
    )
    assert response.status_code == 303, response.text
    [eid] = re.findall(r"/file/(\d+)", response.headers["Location"])
    site.pause()
    image = f"file/{eid}/raw/a.png"
    before = visitor.get(image)
    assert (before.status_code, before.headers["Cache-Control"][:6]) == (200, "public")
    upload = {"data": ("a.png", picture("blue"), "image/png")}
    response = admin.edit(int(eid), "File", files=upload)
    assert response.status_code == 303
    assert visitor.get(image).status_code == 301


def test_form_of_an_old_state_is_a_conflict(site: Site, process: Process) -> None:
    """Without it a title would be overwritten silently: seen with the time of the clock."""
    admin, other = Visitor(process.url), Visitor(process.url)
    admin.login()
    other.login()
    eid = created(admin, "Album", name="first")
    wait_until(lambda: is_read_from_standby(process, other), "the standby to catch up")
    site.pause()
    assert admin.edit(eid, "Album", {"name": "second"}).status_code == 303
    before = reads(process, "standby")
    form = other.form(f"album/{eid}?vid=edition")
    assert reads(process, "standby") == before + 1
    assert form.fields[f"name-subject:{eid}"] == "first"
    other.submit(form, eid, {"name": "third"})
    assert "second" in admin.get(f"album/{eid}").text


def test_own_edit_is_no_conflict(process: Process) -> None:
    admin = Visitor(process.url)
    admin.login()
    eid = created(admin, "Album", name="0")
    for number in range(1, 10):
        wait_until(lambda: is_read_from_standby(process, admin), "the standby to catch up")
        assert admin.edit(eid, "Album", {"name": f"name {number}"}).status_code == 303
        assert f"name {number}" in admin.get(f"album/{eid}").text


def test_session_that_is_too_long_for_its_cookie(site: Site, process: Process) -> None:
    """Its row is read wherever it is."""
    admin = Visitor(process.url)
    admin.login()
    site.pause()
    for _ in range(12):
        assert admin.get("add/Article").status_code == 200
        bad = admin.create("Article", {"title": "", "content": "x" * 3000})
        assert bad.status_code == 303
        assert "x" * 3000 in admin.get(bad.headers["Location"]).text
