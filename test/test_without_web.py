"""An application without cubicweb-web and cubicweb-file, with a front end over cubicweb-api.

`test/without_web` is its only cube, and the folder where its Python starts: both packages are
hidden there, as if they were not installed.
"""

import json
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import backend
import pytest
import requests
from pictures import picture
from servers.instance import Instance, Process
from servers.postgresql import Database
from servers.squid import ALLOW_PURGE, Squid
from servers.support import free_port, wait_until
from servers.visitor import Visitor

from cubicweb_hasite.__pkginfo__ import version

HIDDEN = Path(__file__).with_name("without_web")
SITES = Path(__file__).with_name("sites")
RED, BLUE, GREEN = picture("red"), picture("blue"), picture("green")
PUBLIC = "public, max-age=3600"


class WithoutWeb(Instance):
    """An instance whose commands and processes find neither package."""

    def environ(self, options: dict[str, object] | None = None) -> dict[str, str]:
        return super().environ(options) | {"PYTHONPATH": str(HIDDEN)}


class Client(Visitor):
    """A front end, which knows the site by the API alone."""

    def login(self, user: str = "admin", password: str = "admin") -> None:
        response = self.call("login", json={"login": user, "password": password})
        assert response.status_code == 204, response.text

    def call(self, route: str, **kwargs: Any) -> requests.Response:
        """POST to a route of the API."""
        headers = {"X-Client-Name": "test"}
        return self.request("POST", f"api/v1/{route}", headers=headers, **kwargs)

    def rql(self, query: str, data: bytes | None = None, **params: object) -> list[list[Any]]:
        """Run a query by the API; `data`, if given, is the bytes of its parameter `data`."""
        queries = [{"query": query, "params": params}]
        if data is None:
            response = self.call("rql", json=queries)
        else:
            params["data"] = {"type": "binary_reference", "ref": "data"}
            fields = {"queries": (None, json.dumps(queries), "application/json")}
            response = self.call("rql", files=fields | {"data": ("a.png", data)})
        assert response.status_code == 200, response.text
        return response.json()["result_sets"][0]["rows"]

    def create(self, data: bytes, media_type: str = "image/png") -> int:
        """Return the eid of a new image."""
        insert = (
            "INSERT Image X: X title 'red', X data %(data)s, X data_format %(type)s, "
            "X data_name 'a.png'"
        )
        [[eid]] = self.rql(insert, data, type=media_type)
        return eid

    def replace(self, eid: int, data: bytes) -> int:
        """Edit the data of an image; return the eid that it has then."""
        self.rql("SET X data %(data)s WHERE X eid %(x)s", data, x=eid)
        response = self.get(f"/{eid}/download")
        location = response.headers["Location"]
        return int(location.split("/")[-2])


@pytest.fixture(scope="module")
def cache(server_directory: Callable[[str], Path]) -> Squid:
    """A cache in front of the process, which takes purges, and is started after it."""
    return Squid(server_directory("squid"), free_port(), ALLOW_PURGE)


@pytest.fixture(scope="module")
def site(
    server_directory: Callable[[str], Path], new_database: Callable[[], Database]
) -> WithoutWeb:
    """An instance to which the cube was added, and which was upgraded from an earlier version."""
    directory = server_directory("instance")
    instance = WithoutWeb(directory, ["hasite_front"], new_database(), rest_html=True)
    instance.create()
    instance.shell("add_cube('hasite')\n")
    older = 'SET P value "0.0.1" WHERE P pkey "system.version.hasite"'
    drop = 'cnx.system_sql("DROP TABLE hasite_session")'
    instance.shell(f"rql({older!r})\n{drop}\ncommit()\n")
    instance.ctl("upgrade", "--force", "--verbosity=0", "--backup-db=n", instance.name)
    ini = directory / instance.name / "pyramid.ini"
    auth = "  cubicweb.pyramid.auth\n"
    ini.write_text(ini.read_text().replace(auth, f"{auth}  cubicweb_api.auth.routes\n"))
    # as in an application that has no catalogs
    shutil.rmtree(directory / instance.name / "i18n")
    return instance


@pytest.fixture(scope="module")
def process(site: WithoutWeb, cache: Squid, management_port: int) -> Iterator[Process]:
    process = site.process(
        cache.origin_port,
        base_url=cache.url,
        hasite_replace_always="yes",
        hasite_purge_urls=cache.url,
        hasite_management_port=management_port,
        connections_pool_max_size=4,
    )
    with process, cache:
        yield process


@pytest.fixture(scope="module")
def management_port() -> int:
    return free_port()


@pytest.fixture(scope="module")
def client(process: Process) -> Client:
    """The administrator."""
    client = Client(process.url)
    client.login()
    return client


@pytest.fixture
def visitor(process: Process) -> Client:
    return Client(process.url)


def test_monitors(visitor: Client) -> None:
    for url in ("/livez", "/readyz", "/view?vid=monitor_pool", "/view?vid=monitor_db"):
        response = visitor.get(url)
        assert response.status_code == 200, response.text
        assert response.headers["Cache-Control"] == "no-store"
    assert visitor.get("/view?vid=monitor_db").text == "ServiceOK : 2 users in DB"
    assert visitor.get("/view?vid=monitor_hostname").text
    response = visitor.get("/view?vid=monitor_version")
    assert response.status_code == 200, response.text
    cubes = response.text.partition("==")[2]
    assert f"hasite: {version}" in cubes
    assert " web: " not in cubes
    assert " file: " not in cubes


def test_metrics(client: Client, management_port: int) -> None:
    url = f"http://127.0.0.1:{management_port}/metrics"
    eid = client.create(RED)
    client.get(f"/{eid}/download")
    text = requests.get(url, timeout=5).text
    assert 'hasite_downloads_total{status="200",visibility="public"}' in text
    assert 'hasite_probe_success{probe="db"} 1.0' in text


@pytest.mark.parametrize("url", ["/{eid}/download", "/image/{eid}/download"])
def test_downloads(client: Client, visitor: Client, url: str) -> None:
    eid = client.create(RED)
    url = url.format(eid=eid)
    for each in (client, visitor):  # what all may read is answered to all alike
        response = each.get(url)
        assert response.content == RED
        assert response.headers["Content-Type"] == "image/png"
        assert response.headers["Cache-Control"] == PUBLIC
        assert response.headers["X-Content-Type-Options"] == "nosniff"
        assert "a.png" in response.headers["Content-Disposition"]
        assert "Set-Cookie" not in response.headers
    etag = response.headers["ETag"]
    assert etag.startswith('"')
    assert visitor.get(url, headers={"If-None-Match": etag}).status_code == 304
    part = visitor.get(url, headers={"Range": "bytes=2-5"})
    assert (part.status_code, part.content) == (206, RED[2:6])
    assert visitor.head(url).headers["Content-Length"] == str(len(RED))


def test_media_type_as_meant(client: Client, visitor: Client) -> None:
    """CubicWeb's part of the mend for media types is there without that of cubicweb-file."""
    eid = client.create(RED, "IMAGE/PNG")
    response = visitor.get(f"/{eid}/download")
    assert response.headers["Content-Type"] == "image/png"
    assert response.headers["Cache-Control"] == PUBLIC


def test_replacement(client: Client, visitor: Client, cache: Squid) -> None:
    """The new eid has everything that the image had; former URLs lead to it."""
    first = client.create(RED)
    behind = Visitor(cache.url)
    kept = [f"/{first}/download", f"/image/{first}/download"]
    for url in kept:
        assert [behind.get(url).content for _ in range(2)] == [RED, RED]
        assert "HIT" in behind.get(url).headers["X-Cache"]
    [[album]] = client.rql("INSERT Album A: A name 'a', A shows X WHERE X eid %(x)s", x=first)
    second = client.replace(first, BLUE)
    third = client.replace(second, GREEN)
    assert len({first, second, third}) == 3
    shown = "Any X, T WHERE A shows X, X title T, A eid %(a)s"
    assert client.rql(shown, a=album) == [[third, "red"]]
    for former in (first, second):
        for url in ("/{eid}", "/{eid}/download", "/image/{eid}", "/image/{eid}/download"):
            response = visitor.get(url.format(eid=former))
            assert response.status_code == 301, url
            assert response.headers["Location"].endswith(url.format(eid=third))
        binary = visitor.get(
            f"/api/v1/binary?eid={former}&attribute=data",
            headers={"X-Client-Name": "test"},
            allow_redirects=True,
        )
        assert binary.content == GREEN
    assert visitor.get(f"/{third}/download").content == GREEN
    for url in kept:
        wait_until(lambda url=url: behind.get(url).status_code == 301, "the purge", timeout=5)


def test_page_of_an_entity(client: Client, visitor: Client) -> None:
    """The pages of CubicWeb's REST API are not for shared caches."""
    response = visitor.get(f"/{client.create(RED)}")
    assert response.status_code == 200
    assert "public" not in response.headers["Cache-Control"]


def test_private_data_stays_private(client: Client, visitor: Client) -> None:
    """What the API answers to a user is not for shared caches, and a missing eid is no error."""
    response = client.get("/api/v1/current-user", headers={"X-Client-Name": "test"})
    assert response.json()["login"] == "admin"
    assert response.headers["Cache-Control"] in ("private", "no-store")
    response = client.get(
        "/api/v1/binary?eid=999999&attribute=data", headers={"X-Client-Name": "test"}
    )
    assert (response.status_code, response.json()["title"]) == (400, "KeyError")
    for url in ("/999999/download", "/image/999999/download", f"/{2**40}"):
        assert visitor.get(url).status_code == 404


def test_draining(site: WithoutWeb, visitor: Client) -> None:
    site.ctl("hasite-drain", site.name)
    try:
        assert visitor.get("/readyz").status_code == 503
        assert visitor.get("/livez").status_code == 200
    finally:
        site.ctl("hasite-drain", "--undo", site.name)
    assert visitor.get("/readyz").status_code == 200


def test_state_of_the_site(process: Process, client: Client, visitor: Client) -> None:
    """It is in JSON alone."""
    client.rql(
        "INSERT CWUser U: U login 'alice', U upassword 'alice', U in_group G WHERE G name 'users'"
    )
    response = client.get("/hasite.json")
    assert (response.status_code, response.headers["Cache-Control"]) == (200, "no-store")
    told = response.json()
    assert told["others_seen"] == backend.POSTGRES
    assert [instance["port"] for instance in told["instances"]] == [process.port]
    [cache] = told["caches"]
    assert not cache["down"]
    assert visitor.get("/hasite.json").status_code == 401
    visitor.login("alice", "alice")
    response = visitor.get("/hasite.json")
    assert (response.status_code, response.headers["Cache-Control"]) == (403, "no-store")


def test_rendering(site: WithoutWeb, tmp_path: Path) -> None:
    """The commands for files of the architecture need no instance and no pages."""
    site_file = shutil.copy(SITES / "one_host.toml", tmp_path)  # beside it is the journal
    site.ctl("hasite-render", site_file, str(tmp_path / "out"))
    assert any((tmp_path / "out").iterdir())


@pytest.mark.skipif(not backend.POSTGRES, reason="SQLite has no server to lose")
def test_healing(site: WithoutWeb, client: Client, visitor: Client) -> None:
    """Lost connections are replaced; while there are none, the answer is 503."""
    eid = client.create(RED)
    server, name = backend.postgresql(), site.database.name
    # returns when they have ended
    terminate = "SELECT pg_terminate_backend(pid, 5000) FROM pg_stat_activity"
    lose = f"{terminate} WHERE datname = '{name}'"
    server.sql(lose, timeout=10)
    assert visitor.get(f"/{eid}").status_code == 200
    server.sql(f"ALTER DATABASE {name} ALLOW_CONNECTIONS false")
    try:
        server.sql(lose, timeout=10)
        response = visitor.get(f"/{eid}")
        assert response.status_code == 503
        assert response.headers["Retry-After"] == "1"
        assert "database" in response.text
        assert visitor.get("/view?vid=monitor_db").status_code == 503
        assert visitor.get("/livez").status_code == 200
    finally:
        server.sql(f"ALTER DATABASE {name} ALLOW_CONNECTIONS true")
    assert visitor.get(f"/{eid}").status_code == 200
    wait_until(lambda: visitor.get("/readyz").status_code == 200, "ready again", timeout=10)
