"""Behind real caches in their ordinary configuration: public images are hits, nothing else is.

None of them is told to ignore `Cache-Control` or `Set-Cookie`: what they keep, and give to others,
is what the headers of the instance let them.
"""

import re
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from itertools import cycle, product
from pathlib import Path

import pytest
import requests
from pictures import picture
from servers.apache import Apache
from servers.instance import Instance, Process
from servers.nginx import Nginx
from servers.postgresql import Database
from servers.squid import Squid
from servers.support import Server
from servers.varnish import Varnish
from servers.visitor import Upload, Visitor

from cubicweb_hasite.deploy import load, render

# Varnish's built-in VCL gives every request with a cookie to the instance. It need not, since
# the headers of a download say who else may have it, whoever asked.
_DOWNLOADS_DESPITE_COOKIES = r"""
sub vcl_recv {
    if (req.method ~ "^(GET|HEAD)$"
            && req.url ~ "^/([a-z]+/)?[0-9]+(/(raw|thumb)/|/download$|\?vid=download$)") {
        return (hash);
    }
}
"""

_SITE = Path(__file__).parent / "sites" / "no_apache.toml"


def _collapsing(directory: Path, origin_port: int) -> Squid:
    """Return a Squid which lets requests wait for the answer to another as a site's does."""
    rendering = render.render(load.load(_SITE), drawing=False)
    rendered = rendering["web1/etc/squid/hasite.conf"].content.decode()
    kept = re.search(r"# --- what is kept\n(.*?)# ---", rendered, re.DOTALL)[1]
    return Squid(directory, origin_port, re.sub("cache deny monitors|cache_mem .*", "", kept))


CACHES: dict[str, Callable[[Path, int], Server]] = {
    "squid": Squid,
    "squid-collapsing": _collapsing,
    "nginx": Nginx,
    "apache": Apache,
    "varnish": partial(Varnish, extra_vcl=_DOWNLOADS_DESPITE_COOKIES),
    "varnish-builtin": Varnish,
}

DOWNLOADS = (
    "/file/{eid}/raw/a.png",
    "/file/{eid}/thumb/a_75x75.png",
    "/file/{eid}?vid=download",
    "/file/{eid}/download",
    "/{eid}/download",
)

PAGES = (
    "/",
    "/login",
    "/file/{eid}",
    "/file/{eid}?vid=edition",
    "/view?vid=index",
    "/view?vid=monitor_db",
    "/nowhere",
)

# In `cubicweb-ctl shell`: anonymous visitors, who are the guests, read the files so entitled only
_HIDE_OTHER_FILES = """
rql('DELETE X read_permission G WHERE X is CWEType, X name "File", G name "guests"')
rql('INSERT RQLExpression E: E exprtype "ERQLExpression", E mainvars "X", \
E expression "X title \\\\"public\\\\"", X read_permission E WHERE X is CWEType, X name "File"')
commit()
"""


@dataclass
class Site:
    """An instance behind a cache."""

    #: where the cache is
    url: str
    #: logged in, through the cache
    admin: Visitor
    #: whether the cache looks at requests with cookies
    with_cookies: bool


@pytest.fixture(scope="module")
def instance_with_secrets(
    server_directory: Callable[[str], Path], new_database: Callable[[], Database]
) -> Instance:
    """An instance of which anonymous visitors read the files that are entitled `public`."""
    instance = Instance(server_directory("instance"), ["hasite_testapp"], new_database())
    instance.create()
    instance.shell(_HIDE_OTHER_FILES)
    return instance


# One process is behind all the caches, to save time. It writes its own URL in its pages and
# redirects, for which visitors ask the cache all the same.


@pytest.fixture(scope="module")
def open_process(instance_with_secrets: Instance) -> Iterator[Process]:
    """A process that serves anonymous visitors."""
    with instance_with_secrets.process() as process:
        yield process


@pytest.fixture(scope="module")
def closed_process(instance_with_secrets: Instance) -> Iterator[Process]:
    """A process that wants its visitors to log in."""
    with instance_with_secrets.process(anonymous_user="") as process:
        yield process


@pytest.fixture(scope="module", params=CACHES)
def open_site(
    request: pytest.FixtureRequest,
    server_directory: Callable[[str], Path],
    open_process: Process,
) -> Iterator[Site]:
    """A site with public and private files, behind each of the caches."""
    with _behind(request.param, server_directory("cache"), open_process) as site:
        yield site


@pytest.fixture(scope="module", params=CACHES)
def closed_site(
    request: pytest.FixtureRequest,
    server_directory: Callable[[str], Path],
    closed_process: Process,
) -> Iterator[Site]:
    """A site where visitors are to log in, behind each of the caches."""
    with _behind(request.param, server_directory("cache"), closed_process) as site:
        yield site


@contextmanager
def _behind(cache_name: str, directory: Path, process: Process) -> Iterator[Site]:
    cache = CACHES[cache_name](directory, process.port)
    cache.start()
    try:
        admin = Visitor(cache.url)
        admin.login()
        yield Site(cache.url, admin, with_cookies=cache_name != "varnish-builtin")
    finally:
        cache.kill()  # nothing of it is looked at any more, and Squid stops slowly


def create_image(site: Site, colour: str, *, public: bool) -> int:
    """Create an image in its form; return its eid."""
    title = {"title": "public" if public else "secret"}
    return _eid_of_page(site, site.admin.create("File", title, _upload(colour)))


def replace_image(site: Site, eid: int, colour: str) -> int:
    """Give an image other data in its form; return its new eid."""
    return _eid_of_page(site, site.admin.edit(eid, "File", files=_upload(colour)))


def _upload(colour: str) -> dict[str, Upload]:
    return {"data": ("a.png", picture(colour), "image/png")}


def _eid_of_page(site: Site, response: requests.Response) -> int:
    # Goes there as a browser does: else CubicWeb keeps its message in the cookie of the session,
    # which soon is longer than what nginx takes for a header
    page = site.admin.get(response.headers["Location"])
    return int(re.search(r"/file/(\d+)", page.url)[1])


def is_hit(response: requests.Response) -> bool:
    """Return whether the cache says that it answered by itself."""
    return response.headers.get("X-Cache", "").startswith("HIT")


def variants(original: requests.Response) -> list[tuple[str, dict[str, str], int]]:
    """Return what browsers ask of the URL of a download: method, headers, and status to expect.

    :param original: the answer to an ordinary GET
    """
    etag = original.headers["ETag"]
    return [
        ("GET", {}, 200),
        ("HEAD", {}, 200),
        ("GET", {"Range": "bytes=10-19"}, 206),
        ("GET", {"Range": "bytes=10-19", "If-Range": etag}, 206),
        ("GET", {"If-None-Match": etag}, 304),
        ("GET", {"If-Modified-Since": original.headers["Last-Modified"]}, 304),
    ]


def check_content(response: requests.Response, original: requests.Response) -> None:
    """Check the content of the answer to one of the variants of a request."""
    whole = b"" if response.request.method == "HEAD" else original.content
    assert response.content == {200: whole, 206: whole[10:20], 304: b""}[response.status_code]


def check_private(site: Site, url: str) -> None:
    """Check that the download is the administrator's alone, and never comes from the cache."""
    original = site.admin.get(url)
    assert (original.status_code, is_hit(original)) == (200, False)
    assert original.headers["Cache-Control"] == "private, max-age=3600"
    stranger = Visitor(site.url)
    for method, headers, status in variants(original):
        response = site.admin.request(method, url, headers=headers)
        # a cache that hoped to store the answer has asked for all of it
        assert response.status_code in (status, 200)
        check_content(response, original)
        assert not is_hit(response)
        assert "Set-Cookie" not in response.headers
        check_refused(stranger.request(method, url, headers=headers))


def check_refused(response: requests.Response) -> None:
    """Check that a stranger got an error or was sent to the login, and not by the cache."""
    assert response.status_code in (303, 403, 404)
    assert not is_hit(response)
    assert response.headers["Cache-Control"] == "no-store"
    assert not response.headers["Content-Type"].startswith("image/")


def check_page(site: Site, url: str) -> None:
    """Check that everybody gets a page, and cookies, of his own, in HTML and in RDF."""
    owners: dict[str, Visitor] = {}
    visitors = (site.admin, Visitor(site.url), Visitor(site.url), site.admin)
    for visitor, accepted in product(visitors, ("text/html", "text/turtle")):
        response = visitor.get(url, headers={"Accept": accepted})
        assert not is_hit(response)
        assert re.search("private|no-store", response.headers.get("Cache-Control", ""))
        for cookie in response.cookies.values():
            assert owners.setdefault(cookie, visitor) is visitor


def test_hit_ratio(open_site: Site) -> None:
    """A thousand requests for ten images, amid requests of all kinds for what is private."""
    stranger, reader = Visitor(open_site.url), Visitor(open_site.url)
    reader.get()
    assert reader.session.cookies
    with_cookies = [reader, open_site.admin] if open_site.with_cookies else []
    visitors = cycle([stranger, *with_cookies])
    public = [
        template.format(eid=create_image(open_site, f"#{number:02x}8000", public=True))
        for number, template in enumerate(DOWNLOADS * 2)
    ]
    secret = create_image(open_site, "red", public=False)
    private = cycle([template.format(eid=secret) for template in DOWNLOADS])
    pages = cycle([page.format(eid=secret) for page in PAGES])

    originals: dict[str, requests.Response] = {}
    hits = 0
    for number in range(1000):
        if number % 100 == 50:
            check_private(open_site, next(private))
            page = next(pages)
            assert not is_hit(open_site.admin.get(page))
            assert not is_hit(reader.get(page))
        url, visitor = public[number % 10], next(visitors)
        if url not in originals:
            response = originals[url] = visitor.get(url)
            assert response.status_code == 200
        else:
            choices = variants(originals[url])
            method, headers, status = choices[number // 10 % len(choices)]
            response = visitor.request(method, url, headers=headers)
            assert response.status_code == status
            check_content(response, originals[url])
        assert "Set-Cookie" not in response.headers
        assert response.headers["Cache-Control"] == "public, max-age=3600"
        hits += is_hit(response)
    print(f"{hits / 10} % of the requests are hits")
    assert hits > 980
    assert not stranger.session.cookies


def test_former_urls(open_site: Site) -> None:
    former = create_image(open_site, "blue", public=True)
    current = replace_image(open_site, former, "green")
    stranger = Visitor(open_site.url)
    for template in DOWNLOADS:
        for hit in (False, True):
            response = stranger.get(template.format(eid=former))
            assert (response.status_code, is_hit(response)) == (301, hit)
            assert "Set-Cookie" not in response.headers
            assert response.headers["Location"].endswith(template.format(eid=current))
    assert stranger.get(f"/file/{current}/raw/a.png").content == picture("green")

    former = create_image(open_site, "blue", public=False)
    current = replace_image(open_site, former, "green")
    for template in DOWNLOADS:
        url = template.format(eid=former)
        for _ in range(2):
            response = open_site.admin.get(url)
            assert (response.status_code, is_hit(response)) == (301, False)
            assert response.headers["Location"].endswith(template.format(eid=current))
            check_refused(stranger.get(url))
        check_private(open_site, template.format(eid=current))


def test_pages(open_site: Site) -> None:
    check_page(open_site, f"/file/{create_image(open_site, 'red', public=False)}")
    eid = create_image(open_site, "red", public=True)
    for page in PAGES:
        check_page(open_site, page.format(eid=eid))


def test_static_file(open_site: Site) -> None:
    """It says nothing, so that caches keep it as they please; it has no cookie, whoever asks."""
    stranger = Visitor(open_site.url)
    url = re.search(r'href="([^"]+\.css)"', stranger.get().text)[1]
    for visitor in (open_site.admin, stranger, Visitor(open_site.url), Visitor(open_site.url)):
        response = visitor.get(url)
        assert response.status_code == 200
        assert "Set-Cookie" not in response.headers
    assert is_hit(response)


def test_at_once(open_site: Site) -> None:
    """Caches that let a request wait for the answer to another do not share what is private."""
    strangers = [Visitor(open_site.url) for _ in range(8)]
    admins = [Visitor(open_site.url) for _ in strangers]
    for admin in admins:
        admin.session.cookies.update(open_site.admin.session.cookies)
    visitors = [visitor for pair in zip(admins, strangers, strict=True) for visitor in pair]
    for public in (False, True):
        url = f"/file/{create_image(open_site, 'red', public=public)}/raw/a.png"
        with ThreadPoolExecutor(len(visitors)) as pool:
            responses = list(pool.map(lambda visitor, url=url: visitor.get(url), visitors))
        for visitor, response in zip(visitors, responses, strict=True):
            if public or visitor in admins:
                assert (response.status_code, response.content) == (200, picture("red"))
                assert public or not is_hit(response)
            else:
                check_refused(response)


def test_pages_at_once(open_site: Site) -> None:
    """Each visitor is given his own, with his own token in the form to log in."""
    visitors = [Visitor(open_site.url) for _ in range(8)]
    admins = visitors[::2]
    for visitor in admins:
        visitor.session.cookies.update(open_site.admin.session.cookies)
    for _ in range(10):
        with ThreadPoolExecutor(len(visitors)) as pool:
            responses = list(pool.map(Visitor.get, visitors))
        for visitor, response in zip(visitors, responses, strict=True):
            assert response.status_code == 200
            assert not is_hit(response)
            assert ("/logout" in response.text) == (visitor in admins)
            if visitor not in admins:
                assert visitor.session.cookies["csrf_token"] in response.text


def test_closed_site(closed_site: Site) -> None:
    """On a site without anonymous access nothing is kept, whoever asked first."""
    eid = create_image(closed_site, "red", public=True)
    for template in DOWNLOADS:
        url = template.format(eid=eid)
        check_refused(Visitor(closed_site.url).get(url))
        check_private(closed_site, url)
    for page in PAGES:
        check_page(closed_site, page.format(eid=eid))
