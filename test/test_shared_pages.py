"""Pages of anonymous visitors in the caches of a rendered site: one rendering for all, no other's.

Real HAProxy, Squid or Varnish, Apache or not, two instances, PostgreSQL.
"""

import re
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
import requests
from selenium.webdriver.common.by import By
from selenium.webdriver.common.keys import Keys
from servers.instance import Instance
from servers.postgresql import Database, PostgreSQL
from servers.rendered import RenderedSite, rendered_site
from servers.support import wait_until
from servers.visitor import Visitor
from test_browser import Browser
from webob import Response

from cubicweb_hasite.caches import policy

NAME = "_anonymous/en/"
#: that make a page of each visitor's own
OWN_VIEWS = ("form", "token", "message", "session", "cookie")
#: longer than any test, so that no page is rendered again because of its age
MAX_AGE = ",".join(
    f"{view}:600" for view in ("index", "primary", *(f"test_{name}" for name in OWN_VIEWS))
)
MAX_AGE += ",test_headers:600,test_guarded:600,manage:1,list:600"
SITE_KEYS = f"""\
languages = ["en", "fr"]
options = {{ "hasite-page-max-age" = "{MAX_AGE}" }}
"""
HTML = "text/html,application/xhtml+xml,application/xml;q=0.9,*/*;q=0.8"
VISITORS = 1000
THREADS = 100


@pytest.fixture(scope="module")
def configuration(server_directory: Callable[[str], Path]) -> Iterator[Instance]:
    """The instance's configuration, and its database."""
    with PostgreSQL(server_directory("postgresql")) as server:
        server.sql("CREATE USER site")
        server.sql("CREATE DATABASE site OWNER site TEMPLATE template0", timeout=60)
        database = Database("postgres", "site", "127.0.0.1", server.port, "site")
        instance = Instance(server_directory("instance"), ["hasite_testapp"], database)
        instance.create()
        yield instance


@pytest.fixture(scope="module", params=["squid-apache", "squid", "varnish"])
def site(
    request: pytest.FixtureRequest,
    configuration: Instance,
    server_directory: Callable[[str], Path],
) -> Iterator[RenderedSite]:
    """The programs of a rendered site that shares pages; both instances are in service."""
    running = rendered_site(
        configuration,
        server_directory("rendered"),
        cache=request.param.partition("-")[0],
        apache=request.param.endswith("-apache"),
        site_keys=SITE_KEYS,
    )
    with running:
        wait_until(lambda: len(running.in_service()) == 2, "both in service", timeout=60)
        yield running


@pytest.fixture
def admin(site: RenderedSite) -> Visitor:
    """The manager, who has logged in."""
    admin = Visitor(site.url)
    admin.login()
    return admin


def ask(site: RenderedSite, path: str, method: str = "GET", **headers: str) -> requests.Response:
    """Ask for a page as a visitor does who was never here."""
    headers = {"Accept": HTML, **{name.replace("_", "-"): v for name, v in headers.items()}}
    return requests.request(
        method, f"{site.url}{path}", headers=headers, timeout=60, allow_redirects=False
    )


def is_hit(response: requests.Response) -> bool:
    return response.headers.get("X-Cache", "").startswith("HIT")


def has_nothing_of_a_visitor(response: requests.Response) -> None:
    """Check what was answered to an anonymous visitor from a cache, or for it."""
    assert response.status_code == 200, response.text
    assert "Set-Cookie" not in response.headers
    assert "csrf_token" not in response.text
    # the visitor may log in, and those in between know nothing of it
    assert response.headers["Cache-Control"] == "private, no-cache"


def renderings(site: RenderedSite, path: str) -> int:
    """Return how often the instances have rendered a page."""
    line = f'"GET {path} HTTP/1.1" 200'
    return sum(instance.log.count(line) for instance in site.instances.values())


def create_file(admin: Visitor, title: str) -> str:
    """Create a file; return the path of its page."""
    upload = {"data": ("a.txt", b"Hello", "text/plain")}
    response = admin.create("File", {"title": title}, upload)
    assert response.status_code == 303, response.text
    admin.get(response.headers["Location"])  # shows the message
    return re.search(r"/(file/[0-9]+)", response.headers["Location"])[1]


def test_burst(site: RenderedSite, admin: Visitor) -> None:
    """A thousand visitors at once are answered by two renderings at most."""
    path = create_file(admin, "Breaking news")
    start = threading.Barrier(THREADS)

    def visit(number: int) -> requests.Response:
        if number < THREADS:
            start.wait(60)
        return ask(
            site, path, **{"Cookie": f"_ga=GA1.{number}; _pk_id.1.2=x"} if number % 2 else {}
        )

    with ThreadPoolExecutor(THREADS) as pool:
        pages = list(pool.map(visit, range(VISITORS)))
    for page in pages:
        has_nothing_of_a_visitor(page)
        assert "Breaking news" in page.text
    assert renderings(site, f"/{path}") <= 2
    assert "admin" in admin.get(path).text


def test_facets(site: RenderedSite, admin: Visitor, tmp_path: Path) -> None:
    """A page with facets is shared, and the facets work for who has no token yet."""
    for title in ("violin", "trumpet"):
        create_file(admin, title)
    path = "view?rql=Any+X+WHERE+X+is+File&vid=list"
    for hit in (False, True):
        page = ask(site, path)
        has_nothing_of_a_visitor(page)
        assert "cubicweb:facetargs" in page.text
        assert is_hit(page) == hit
    browser = Browser(site.url, tmp_path / "profile", tmp_path)
    try:
        browser.open(path)
        assert browser.driver.get_cookie("csrf_token") is None
        assert "trumpet" in browser.driver.page_source
        words = browser.driver.find_element(By.NAME, "has_text-facet")
        words.send_keys("violin", Keys.ENTER)
        browser.wait(lambda: "trumpet" not in browser.driver.page_source)
        assert "violin" in browser.driver.page_source
        assert browser.driver.get_cookie("csrf_token")
    finally:
        browser.driver.quit()
    # filtered in the browser alone
    assert is_hit(ask(site, path))


def test_logged_in_first(site: RenderedSite, admin: Visitor) -> None:
    path = create_file(admin, "News")
    for _ in range(3):
        page = admin.get(path, headers={"Accept": HTML})
        assert "admin" in page.text
        assert not is_hit(page)
    for hit in (False, True):
        page = ask(site, path)
        has_nothing_of_a_visitor(page)
        assert "admin" not in re.sub(r"(?s)<head>.*?</head>", "", page.text)
        assert is_hit(page) == hit


def test_anonymous_first(site: RenderedSite, admin: Visitor) -> None:
    path = create_file(admin, "News")
    for hit in (False, True):
        assert is_hit(ask(site, path)) == hit
    page = admin.get(path, headers={"Accept": HTML})
    assert "admin" in page.text
    assert not is_hit(page)
    # the name in the cache is not for visitors
    assert admin.get(f"{NAME}{path}", headers={"Accept": HTML}).status_code == 404
    assert is_hit(ask(site, path))


def test_login_and_logout(site: RenderedSite) -> None:
    """One visitor, from anonymous to user and back."""
    visitor = Visitor(site.url)
    visitor.session.headers["Accept"] = HTML
    ask(site, "")
    assert is_hit(visitor.get(""))
    visitor.login()
    assert "admin" in visitor.get("").text
    assert visitor.get("logout").status_code == 303
    assert 'href="javascript' not in visitor.get("").text
    assert "/logout" not in visitor.get("").text


@pytest.mark.parametrize("view", OWN_VIEWS)
def test_page_of_ones_own(site: RenderedSite, view: str) -> None:
    """What a page did decides, whatever the option says of its view."""
    path = f"view?vid=test_{view}"
    for _ in range(3):
        page = ask(site, path)
        assert page.status_code == 200
        assert not is_hit(page)
        assert "private" in page.headers["Cache-Control"]
    tokens = set()
    for _ in range(2):
        page = ask(site, path)
        tokens |= set(page.cookies.values())
    assert len(tokens) >= 2 or view == "cookie"


def test_page_of_ones_own_at_once(site: RenderedSite) -> None:
    """Visitors who ask for it at the same time each get a token of their own."""
    for _ in range(5):
        with ThreadPoolExecutor(16) as executor:
            responses = list(executor.map(lambda _: ask(site, "view?vid=test_token"), range(16)))
        tokens = [response.cookies["csrf_token"] for response in responses]
        assert len(set(tokens)) == len(tokens)
        for token, response in zip(tokens, responses, strict=True):
            assert token in response.text
            assert not is_hit(response)


def test_validators() -> None:
    """By an ETag that says nothing but groups Squid would take an answer for that to another."""
    response = Response(etag="index/guests", last_modified=0)
    policy.protect(response, static=False, own=True)
    assert not {"ETag", "Last-Modified"} & {*response.headers}


def test_session(site: RenderedSite) -> None:
    """What was put into the session of an anonymous visitor is there on his next visit."""
    visitor = Visitor(site.url)
    visitor.session.headers["Accept"] = HTML
    for number in range(1, 4):
        assert f"visits: {number};" in visitor.get("view?vid=test_session").text
    # he has a session: pages are his own from now on
    assert is_hit(ask(site, "")) or is_hit(ask(site, ""))
    assert not is_hit(visitor.get(""))


def test_message_of_an_edit(site: RenderedSite, admin: Visitor) -> None:
    path = create_file(admin, "News")
    assert not is_hit(ask(site, path))
    response = admin.edit(int(path.split("/")[1]), "File", {"title": "Old"})
    url = response.headers["Location"]
    assert "_cwmsgid" in url
    path = url.split("/", 3)[3]
    for _ in range(2):  # the URL, without the session
        page = ask(site, path)
        assert not is_hit(page)
        assert "private" in page.headers["Cache-Control"]
    assert "entity edited" in admin.get(url, headers={"Accept": HTML}).text


def test_edits_purge(site: RenderedSite, admin: Visitor) -> None:
    """Of an entity: its page, in all languages, the list of its type, the home page."""
    path = create_file(admin, "News")
    eid = int(path.split("/")[1])
    asked = [(place, language) for place in (path, str(eid), "") for language in ("en", "fr")]

    def stored() -> dict[tuple[str, str], bool]:
        return {
            (place, language): is_hit(ask(site, place, Accept_Language=language))
            for place, language in asked
        }

    stored()
    assert all(stored().values())
    admin.edit(eid, "File", {"title": "Retracted"})
    wait_until(lambda: "Retracted" in ask(site, path).text, "purge", timeout=10)
    for place in (path, str(eid)):
        for language in ("en", "fr"):
            assert "Retracted" in ask(site, place, Accept_Language=language).text
    stored()

    def files() -> int:
        return int(re.search(r"/File\">\w+</a> \((\d+)\)", ask(site, "").text)[1])

    count = files()
    create_file(admin, "More news")
    wait_until(lambda: files() == count + 1, "purge of the home page", timeout=10)


def test_languages(site: RenderedSite, admin: Visitor) -> None:
    path = create_file(admin, "News")
    words = {"en": "login", "fr": "se connecter"}
    asked = {"fr": "fr", "en": "en", "de": "en", "fr-CH, en;q=0.5": "fr", "de, fr;q=0.3": "fr"}
    for hit in (False, True):
        seen = set()
        for accepted, language in asked.items():
            page = ask(site, path, Accept_Language=accepted)
            has_nothing_of_a_visitor(page)
            assert f'lang="{language}"' in page.text or words[language] in page.text
            assert is_hit(page) == (hit or language in seen), accepted
            seen.add(language)
    before = renderings(site, f"/{path}")
    for number in range(20):
        ask(site, path, Accept_Language=f"x{number}, fr;q=0.{number}")
    assert renderings(site, f"/{path}") == before


def test_nothing_of_the_browser(site: RenderedSite) -> None:
    headers = {
        "Cookie": "_ga=secret1; csrf_token=secret2",
        "User-Agent": "secret3",
        "Referer": "http://secret4/",
        "X-Forwarded-For": "secret5",
    }
    first = ask(site, "view?vid=test_headers", **headers)
    has_nothing_of_a_visitor(first)
    assert "secret" not in first.text
    assert "User-Agent: none;" in first.text
    assert is_hit(ask(site, "view?vid=test_headers"))


def test_not_for_everybody(site: RenderedSite, admin: Visitor) -> None:
    """Those who may not be anonymous, or want no HTML, go to the instance."""
    path = create_file(admin, "News")
    for _ in range(2):
        ask(site, path)
    assert is_hit(ask(site, path))
    for headers in (
        {"Authorization": "Basic YWRtaW46YWRtaW4="},
        {"Cookie": "session=1"},
        {"Cookie": "_ga=1; auth_tkt=1"},
        {"Cookie": "own=1"},
        {"Cookie": "_gallery=1"},
        {"Accept": "text/turtle"},
        {"Accept": "application/json, text/html"},
    ):
        assert not is_hit(ask(site, path, **headers)), headers
    turtle = ask(site, path, Accept="text/turtle")
    assert "text/html" not in turtle.headers["Content-Type"]


def test_view_for_users(site: RenderedSite, admin: Visitor) -> None:
    path = "view?vid=test_guarded"
    for _ in range(2):
        assert "for users" in admin.get(path, headers={"Accept": HTML}).text
        page = ask(site, path)
        assert "for users" not in page.text
        assert not is_hit(page)  # it says that there is no such view


def test_method_and_query(site: RenderedSite, admin: Visitor) -> None:
    path = create_file(admin, "News")
    head = ask(site, path, method="HEAD")
    assert (head.status_code, head.content) == (200, b"")
    ask(site, path)
    head = ask(site, path, method="HEAD")
    assert (is_hit(head), head.content) == (True, b"")
    has_nothing_of_a_visitor(head)
    assert not is_hit(ask(site, f"{path}?vtitle=Mine"))
    assert "Mine" in ask(site, f"{path}?vtitle=Mine").text
    assert "Mine" not in ask(site, path).text
    # a search in progress is the visitor's own
    for _ in range(2):
        page = ask(site, f"{path}?__mode=linksearch:1:tags:subject:Tag".replace("1:tags", "1:x"))
        assert page.status_code >= 400 or not is_hit(page)


def test_age(site: RenderedSite) -> None:
    """A page is rendered again when it is older than its view may be."""
    ask(site, "view?vid=manage")
    before = renderings(site, "/view")
    wait_until(lambda: ask(site, "view?vid=manage") and renderings(site, "/view") > before, "age")


def test_without_a_balancer(instance: Instance) -> None:
    """Where nobody gives the name nothing is shared, nor where it is given wrongly."""
    with instance.process(hasite_page_max_age="index:60") as process:
        url, named = process.url, f"{process.url}{NAME}"
        assert "private" in requests.get(url, timeout=30).headers["Cache-Control"]
        page = requests.get(named, timeout=30)
        assert page.headers["Cache-Control"] == "public, max-age=0, s-maxage=60"
        assert "Vary" not in page.headers
        assert "Set-Cookie" not in page.headers
        admin = Visitor(url)
        admin.login()
        page = admin.get(NAME)
        assert "private" in page.headers["Cache-Control"]
        assert "admin" in page.text
        path = create_file(admin, "Hello")
        for asked, headers in (
            (NAME, {"Authorization": "Basic eDp5"}),
            (NAME, {"Cookie": "other=1"}),
            ("_anonymous/xx/", {}),
            ("_anonymous/", {}),
            (f"{NAME}{path}/raw/a.txt", {}),
            (f"{NAME}{NAME}", {}),
        ):
            page = requests.get(f"{url}{asked}", headers=headers, timeout=30)
            told = page.headers["Cache-Control"]
            assert re.match("(?!.*public).*(private|no-store)", told), asked


def test_closed_to_anonymous(closed_instance: Instance) -> None:
    with closed_instance.process(hasite_page_max_age="index:60") as process:
        page = requests.get(f"{process.url}{NAME}", timeout=30, allow_redirects=False)
        assert page.status_code == 303
        assert page.headers["Cache-Control"] == "no-store"


@pytest.mark.parametrize(
    "value", ["index", "index:0", "index:-1", "index:soon", ":5", "nowhere:5"]
)
def test_option_that_makes_no_sense(instance: Instance, value: str) -> None:
    process = instance.process(hasite_page_max_age=value)
    with pytest.raises(RuntimeError, match="hasite-page-max-age"):
        process.start()
