"""The rendered web server part of a site, run for real: HAProxy, Squid or Varnish, Apache or not,
two instances, PostgreSQL."""

import re
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import requests
from pictures import picture
from requests.adapters import HTTPAdapter
from servers.instance import Instance
from servers.postgresql import Database, PostgreSQL
from servers.rendered import RenderedSite, site_file
from servers.support import listens, wait_until
from servers.visitor import Visitor

from cubicweb_hasite.deploy import dashboards, load, output, render

ADDRESSES = [f"127.0.1.{number}" for number in range(1, 17)]


class _From(HTTPAdapter):
    """Connects from an address of this machine."""

    def __init__(self, address: str) -> None:
        self.address = address
        super().__init__()

    def init_poolmanager(self, *args, **kwargs) -> None:
        super().init_poolmanager(*args, source_address=(self.address, 0), **kwargs)


def visitor(site: RenderedSite, address: str) -> Visitor:
    """Return a visitor who comes from an address."""
    visitor = Visitor(site.url)
    visitor.session.mount("http://", _From(address))
    return visitor


def instance_of(visitor: Visitor) -> str:
    """Return the name of the instance that answers a visitor."""
    response = visitor.get("view?vid=monitor_hostname")
    assert response.status_code == 200, response.text
    return response.text


@pytest.fixture(scope="module")
def database_server(server_directory: Callable[[str], Path]) -> Iterator[PostgreSQL]:
    with PostgreSQL(server_directory("postgresql")) as server:
        server.sql("CREATE USER site")
        server.sql("CREATE DATABASE site OWNER site TEMPLATE template0", timeout=60)
        yield server


@pytest.fixture(scope="module")
def configuration(
    database_server: PostgreSQL, server_directory: Callable[[str], Path]
) -> Instance:
    """The instance's configuration, and its database."""
    database = Database("postgres", "site", "127.0.0.1", database_server.port, "site")
    instance = Instance(server_directory("instance"), ["hasite_testapp"], database)
    instance.create()
    # an operator writes it there; other options of the test's are in the environment
    path = instance.directory / "site" / "all-in-one.conf"
    text = path.read_text()
    for option in ("anonymous-user", "anonymous-password"):
        text = re.sub(rf"(?m)^#?{option}=.*$", f"{option}=anon", text)
    path.write_text(text)
    return instance


@pytest.fixture(scope="module", params=["squid-apache", "squid", "varnish"])
def site(
    request: pytest.FixtureRequest,
    configuration: Instance,
    database_server: PostgreSQL,
    server_directory: Callable[[str], Path],
) -> Iterator[RenderedSite]:
    """The programs of a rendered site; both instances are in service."""
    folder = server_directory("rendered")
    folder.mkdir()
    text, ports = site_file(
        "site",
        cache=request.param.partition("-")[0],
        apache=request.param.endswith("-apache"),
        configuration=configuration.directory,
        postgresql=database_server.port,
    )
    (folder / "site.toml").write_text(text)
    output.write(render.render(load.load(folder / "site.toml")), folder / "out")
    running = RenderedSite(folder / "out" / "all", "site", ports, server_directory("running"))
    with running:
        wait_for_both(running)
        yield running


def wait_for_both(site: RenderedSite) -> None:
    wait_until(lambda: len(site.in_service()) == 2, "both instances in service", timeout=60)


def wait_for_loss(site: RenderedSite, name: str) -> None:
    wait_until(lambda: site.in_service() == site.instances.keys() - {name}, "loss noticed")


def create_image(admin: Visitor) -> str:
    """Create an image; return its URL."""
    response = admin.create("File", files={"data": ("a.png", picture("red"), "image/png")})
    assert response.status_code == 303, response.text
    return f"/file/{re.search(r'/file/([0-9]+)', response.headers['Location'])[1]}/raw/a.png"


def is_hit(response: requests.Response) -> bool:
    assert response.status_code == 200, response.text
    return response.headers["X-Cache"].startswith("HIT")


def test_one_address_stays_on_one_instance(site: RenderedSite) -> None:
    seen = {}
    for address in ADDRESSES:
        visits = [visitor(site, address) for _ in range(3)]  # without cookies in common
        names = {instance_of(visit) for visit in visits for _ in range(3)}
        assert len(names) == 1, f"{address} was on {names}"
        seen[address] = names.pop()
    shares = [list(seen.values()).count(name) for name in site.instances]
    assert sum(shares) == len(ADDRESSES)
    assert min(shares) >= 3, f"unevenly spread: {shares}"


def test_logged_in_visitor_of_a_killed_instance(site: RenderedSite) -> None:
    admin = visitor(site, ADDRESSES[0])
    admin.login()
    name = instance_of(admin)
    assert "admin" in admin.get("").text
    site.instances[name].kill()
    try:
        # at once, and while the balancer notices
        for _ in range(30):
            page = admin.get("")
            assert page.status_code == 200, page.text
            assert "admin" in page.text, "logged out"
        [other] = site.instances.keys() - {name}
        assert instance_of(admin) == other
        wait_for_loss(site, name)
        assert "admin" in admin.get("").text
    finally:
        site.instances[name].start()
    wait_for_both(site)
    # where he was: the others were not moved either
    assert instance_of(admin) == name
    assert "admin" in admin.get("").text


def test_images_are_hits(site: RenderedSite) -> None:
    admin = visitor(site, ADDRESSES[0])
    admin.login()
    url = create_image(admin)
    assert not is_hit(admin.get(url))
    for address in ADDRESSES:  # on both ports
        response = visitor(site, address).get(url)
        assert is_hit(response), address
        assert response.content == picture("red")
        assert "Set-Cookie" not in response.headers


def test_change_purges_the_cache(site: RenderedSite) -> None:
    admin = visitor(site, ADDRESSES[0])
    admin.login()
    url = create_image(admin)
    admin.get(url)
    assert is_hit(admin.get(url))
    admin.edit(int(url.split("/")[2]), "File", {"title": "other"})
    wait_until(lambda: not is_hit(admin.get(url)), "purge")


def test_monitors_are_never_cached(site: RenderedSite) -> None:
    for monitor in ("pool", "db", "version", "hostname"):
        for _ in range(3):
            response = visitor(site, ADDRESSES[0]).get(f"view?vid=monitor_{monitor}")
            assert response.headers.get("Age", "0") == "0"  # Varnish always says it
            assert response.headers["X-Cache"].startswith("MISS")


@pytest.mark.parametrize("path", ["livez", "readyz", "metrics", "readyz?format=json"])
def test_not_for_visitors(site: RenderedSite, path: str) -> None:
    assert visitor(site, ADDRESSES[0]).get(path).status_code == 404


def test_visitors_may_not_purge(site: RenderedSite) -> None:
    admin = visitor(site, ADDRESSES[0])
    admin.login()
    url = create_image(admin)
    admin.get(url)
    for method in ("PURGE", "TRACE"):
        assert admin.request(method, url).status_code == 405
    assert is_hit(admin.get(url))
    assert admin.get("squid-internal-mgr/info").status_code in (403, 404)


def test_image_that_is_not_cached_yet(site: RenderedSite) -> None:
    """The neighbour gives it where an instance is dead, whatever the balancer knows."""
    admin = visitor(site, ADDRESSES[0])
    admin.login()
    urls = [create_image(admin) for _ in range(5)]
    name = instance_of(admin)
    site.instances[name].kill()
    try:
        for url in urls:
            assert not is_hit(admin.get(url))
        wait_for_loss(site, name)
    finally:
        site.instances[name].start()
    wait_for_both(site)


def test_monitors_of_a_killed_instance(site: RenderedSite) -> None:
    """Its neighbour answers pages for it, but no monitor, however it is asked for."""
    name = next(iter(site.instances))
    url = f"http://127.0.0.1:{site.cache_ports[name]}/"

    def ask(target: str) -> requests.Response:
        return requests.get(f"{url}{target}", timeout=30)

    site.instances[name].kill()
    try:
        wait_until(lambda: ask("view?vid=index").status_code == 200, "neighbour")
        for target in (
            "livez",
            "readyz?format=json",
            "metrics",
            "view?vid=monitor_hostname",
            "view?%76id=monitor_hostname",
            "view?vid=monitor%5Fhostname",
            "view?%76%69%64=%6donitor_hostname",
            "view?vid=index&vid=monitor_hostname",
            "view?vid=index&x=%20&vid=m%6fnitor_hostname",
        ):
            assert ask(target).status_code >= 500, target
    finally:
        site.instances[name].start()
    wait_for_both(site)


def test_form_sent_to_a_killed_instance(site: RenderedSite) -> None:
    """Squid sent nothing yet, and gives it to the neighbour; Apache and Varnish refuse it,
    and the balancer never sends it twice."""
    admin = visitor(site, ADDRESSES[0])
    admin.get("login")
    name = instance_of(admin)
    instance = site.instances[name]
    instance.kill()
    try:
        wait_until(lambda: not listens(instance.port), "end of the last process")
        response = admin.post("login", {"__login": "admin", "__password": "admin"})
        assert response.status_code in ((303,) if site.only_squid else (303, 503))
        wait_for_loss(site, name)
        admin.login()
    finally:
        instance.start()
    wait_for_both(site)


def test_metrics_of_haproxy(site: RenderedSite) -> None:
    """The alerts and dashboards ask for metrics that exist."""
    wanted = set(re.findall(r"haproxy_[a-z_]+", str(dashboards.load_metrics()["haproxy"])))
    assert len(wanted) >= 8
    metrics = requests.get(f"{site.statistics}metrics", timeout=5).text
    assert wanted <= set(re.findall(r"(?m)^(haproxy_[a-z_]+)", metrics))


def test_site_that_is_down(site: RenderedSite, database_server: PostgreSQL) -> None:
    """Without a database there are no pages; images that are cached are served all the same."""
    admin = visitor(site, ADDRESSES[0])
    admin.login()
    url = create_image(admin)
    admin.get(url)
    database_server.stop()
    try:
        for _ in range(10):
            assert is_hit(admin.get(url))
        wait_until(lambda: not site.in_service(), "loss of the database noticed")
        for address in ADDRESSES:
            assert is_hit(visitor(site, address).get(url))
        page = admin.get("")
        assert page.status_code >= 500
        assert page.headers["Cache-Control"] == "no-store"
    finally:
        database_server.start()
    wait_for_both(site)
    assert "admin" in admin.get("").text
