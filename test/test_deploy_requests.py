"""What the rendered programs make of a request: its host, its path, its length, its encoding.

Two sites on one balancer, one by `https`. Real HAProxy, Squid or Varnish, Apache or not, gunicorn,
PostgreSQL.
"""

import gzip
import random
import re
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

import pytest
from pictures import picture
from servers import haproxy
from servers.asking import Answer, ask
from servers.instance import Instance
from servers.postgresql import Database, PostgreSQL
from servers.rendered import (
    RenderedApache,
    RenderedHAProxy,
    RenderedInstance,
    RenderedSquid,
    RenderedVarnish,
)
from servers.support import consecutive_ports, wait_until
from servers.visitor import Visitor

from cubicweb_hasite.deploy import limits, load, output, render
from cubicweb_hasite.paths import normal_form

SITE = """\
[hosts.all]
address = "127.0.0.1"
roles = ["balancer", "web", "database"]
processors = 1
memory = 1

[sites.one]
url = "https://www.one.example/"
aliases = ["one.example", "One.Example.org"]
certificate = "{certificate}"
cache_port = {one_cache}
apache_port = {one_apache}
instance_port = {one_instance}
management_port = {one_management}
languages = ["en", "fr"]
options = {{ "hasite-page-max-age" = "index:600,primary:600" }}

[sites.two]
url = "http://www.two.example/"
cache_port = {two_cache}
apache_port = {two_apache}
instance_port = {two_instance}
management_port = {two_management}
languages = ["en", "fr"]
options = {{ "hasite-page-max-age" = "index:600,primary:600" }}

[balancer]
http_port = {http}
https_port = {https}
management_port = {statistics}

[{cache}]
memory = 64
manager_port = {manager}

{apache}

[instances]
virtualenv = "{virtualenv}"
configuration = "{configuration}"

[postgresql]
port = {postgresql}
"""
HTML = "text/html,application/xhtml+xml,application/xml;q=0.9,*/*;q=0.8"
ONE, TWO = "www.one.example", "www.two.example"


@dataclass
class Host:
    """A rendered host with two sites.

    :param ports: those of the site file
    :param programs: the ports by which the second site is reached, from the balancer inwards
    """

    ports: dict[str, int]
    programs: dict[str, int]

    def ask(self, target: str, *, host: str | None = TWO, **kwargs) -> Answer:
        """Ask the balancer, by `http`."""
        return ask(self.ports["http"], target, host=host, **kwargs)

    def ask_by_tls(self, target: str, *, host: str | None = ONE, **kwargs) -> Answer:
        """Ask the balancer, by `https`."""
        return ask(self.ports["https"], target, host=host, tls=True, **kwargs)

    def page(self, target: str, **kwargs) -> Answer:
        """Ask the balancer as a browser does that was never here."""
        return self.ask(target, Accept=HTML, Accept_Encoding="gzip, deflate", **kwargs)

    def everywhere(self, target: str, **kwargs) -> dict[str, Answer]:
        """Ask each of the programs for a page of the second site."""
        return {
            name: ask(port, target, host=TWO, **kwargs) for name, port in self.programs.items()
        }

    def name(self, site: str) -> str:
        """Return what `monitor_hostname` answers on a site."""
        return f"all:{self.ports[f'{site}_instance']}"

    @property
    def admin(self) -> Visitor:
        """The manager of the second site, who has logged in."""
        visitor = Visitor(f"http://127.0.0.1:{self.ports['http']}/")
        visitor.session.headers["Host"] = TWO
        visitor.login()
        return visitor

    def create_file(self, name: str, data: bytes, media_type: str) -> int:
        """Create a file on the second site; return its eid."""
        response = self.admin.create("File", files={"data": (name, data, media_type)})
        assert response.status_code == 303, response.text
        return int(re.search(r"/file/(\d+)", response.headers["Location"])[1])


def is_hit(answer: Answer) -> bool:
    assert answer.status == 200, answer.text
    return answer.headers["x-cache"].startswith("HIT")


@pytest.fixture(scope="module")
def configuration(server_directory: Callable[[str], Path]) -> Iterator[Instance]:
    """The configuration of both instances, and their databases."""
    with PostgreSQL(server_directory("postgresql")) as server:
        server.sql("CREATE USER one")
        server.sql("CREATE USER two IN ROLE one")
        server.sql("CREATE DATABASE one OWNER one TEMPLATE template0", timeout=60)
        database = Database("postgres", "one", "127.0.0.1", server.port, "one")
        instance = Instance(server_directory("instance"), ["hasite_testapp"], database)
        instance.name = "one"
        instance.create()
        # an operator writes it there
        path = instance.directory / "one" / "all-in-one.conf"
        text = path.read_text()
        for option in ("anonymous-user", "anonymous-password"):
            text = re.sub(rf"(?m)^#?{option}=.*$", f"{option}=anon", text)
        path.write_text(text)
        shutil.copytree(instance.directory / "one", instance.directory / "two")
        server.sql("CREATE DATABASE two OWNER two TEMPLATE one", timeout=60)
        yield instance


def _in_service(port: int) -> set[str]:
    """Return the sites whose instance gets requests."""
    rows = haproxy.statistics(f"http://127.0.0.1:{port}/")
    return {
        row["pxname"] for row in rows if row["svname"] == "all-1" and row["status"] == "UP"
    } & {"one", "two"}


@pytest.fixture(scope="module")
def certificate(server_directory: Callable[[str], Path]) -> Path:
    """A certificate, with its key in the same file."""
    path = server_directory("certificate")
    path.mkdir()
    command = ["openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "2"]
    files = ["-keyout", path / "key", "-out", path / "certificate"]
    subprocess.run([*command, "-subj", f"/CN={ONE}", *files], check=True, capture_output=True)
    pem = path / "one.pem"
    pem.write_text((path / "certificate").read_text() + (path / "key").read_text())
    return pem


@pytest.fixture(scope="module", params=["squid-apache", "squid", "varnish-apache"])
def host(
    request: pytest.FixtureRequest,
    configuration: Instance,
    certificate: Path,
    server_directory: Callable[[str], Path],
) -> Iterator[Host]:
    """The programs of a rendered host with two sites, which are both in service."""
    cache, _, apache = request.param.partition("-")
    kinds = ("cache", "apache", "instance", "management")
    names = [f"{site}_{kind}" for site in ("one", "two") for kind in kinds]
    names += ["http", "https", "statistics", "manager", "status"]
    ports = {name: consecutive_ports(2) for name in names}
    text = SITE.format(
        **ports,
        cache=cache,
        apache=f"[apache]\nstatus_port = {ports['status']}" if apache else "",
        certificate=certificate,
        virtualenv=sys.prefix,
        configuration=configuration.directory,
        postgresql=configuration.database.port,
    )
    folder, running = server_directory("rendered"), server_directory("running")
    for path in (folder, running):
        path.mkdir()
        path.chmod(0o755)
    (folder / "site.toml").write_text(text)
    output.write(render.render(load.load(folder / "site.toml"), drawing=False), folder / "out")
    root = folder / "out" / "all"
    with ExitStack() as stack:
        for site in ("one", "two"):
            own = running / site
            own.mkdir()
            instance = RenderedInstance(root, site, 1, ports[f"{site}_instance"], own)
            stack.enter_context(instance)
        if apache:
            stack.enter_context(RenderedApache(root, ports["one_apache"], running))
        program = RenderedSquid if cache == "squid" else RenderedVarnish
        cache_program = program(root, ports["two_cache"], running)
        stack.callback(cache_program.kill)  # Squid stops slowly
        cache_program.start()
        stack.enter_context(RenderedHAProxy(root, ports["http"], running))
        wait_until(lambda: _in_service(ports["statistics"]) == {"one", "two"}, "both sites")
        programs = {"balancer": ports["http"], "cache": ports["two_cache"]}
        if apache:
            programs["Apache"] = ports["two_apache"]
        programs["instance"] = ports["two_instance"]
        yield Host(ports, programs)


# --- paths

#: ways to write a path; HAProxy, Squid, Varnish, Apache and the instances each had their own
SPELLINGS: dict[str, Callable[[str], str]] = {
    "slashes": lambda path: f"/{path}",
    "slashes inside": lambda path: f"/x/..//{path[1:]}",
    "letter encoded": lambda path: f"/%{ord(path[1]):02X}{path[2:]}",
    "letter encoded in small letters": lambda path: f"/%{ord(path[1]):02x}{path[2:]}",
    "last letter encoded": lambda path: re.sub(r"\w(?=\W*(\?|$))", _encoded, path, count=1),
    "dot": lambda path: f"/.{path}",
    "dot encoded": lambda path: f"/%2e{path}",
    "dots": lambda path: f"/x/..{path}",
    "dots encoded": lambda path: f"/data/%2E%2e{path}",
}
#: the paths that a rule or a pattern of one of the programs looks at
RULES = [
    "/livez",
    "/readyz",
    "/readyz?format=json",
    "/metrics",
    "/_anonymous/en/",
    "/_anonymous/en/view?vid=index",
    "/view?vid=monitor_db",
    "/data/cubicweb.css",
    "/static/x",
    "/fckeditor/x",
    "/file/{eid}",
    "/file/{eid}/raw/a.png",
    "/file/{eid}/thumb/a.png",
    "/file/{eid}/download",
    "/{eid}/download",
    "/{eid}?vid=download",
]


def _encoded(match: re.Match[str]) -> str:
    return f"%{ord(match[0]):02X}"


@pytest.fixture(scope="module")
def eid(host: Host) -> int:
    """An image of the second site."""
    return host.create_file("a.png", picture("red"), "image/png")


@pytest.mark.parametrize("rule", RULES)
def test_path_in_other_words(host: Host, eid: int, rule: str) -> None:
    """It leads to its normal form, whatever program is asked, and is kept by no cache."""
    for spelling in SPELLINGS:
        leads_to_its_normal_form(host, eid, rule, spelling)


def leads_to_its_normal_form(host: Host, eid: int, rule: str, spelling: str) -> None:
    target = rule.format(eid=eid)
    path, mark, query = SPELLINGS[spelling](target).partition("?")
    normal = normal_form(path) + mark + query
    answers = host.everywhere(path + mark + query)
    if path.startswith("//"):
        # Apache takes two slashes at the beginning for one; it is asked by the balancer alone
        answers = {name: answers[name] for name in ("balancer", "instance")}
    for name, answer in answers.items():
        # to a page, where the name of shared pages is asked of the programs behind the balancer
        page = normal if name == "balancer" else re.sub("^/_anonymous/en", "", normal)
        asked = (name, spelling, answer.text)
        assert answer.status == 308, asked
        assert answer.headers["location"] == f"http://{TWO}{page}", asked
        assert answer.headers["cache-control"] == "no-store", asked


@pytest.mark.parametrize(
    "path",
    [
        "/livez",
        "/readyz",
        "/metrics",
        "/readyz?format=json",
        "/livez?",
        "/livez%0A",
        "/metrics%0A",
        "/livez;a",
        "/livez/",
        "/LIVEZ",
        "/livez%00",
        "/livez%3F",
        "/%2Flivez",
        "/x%2F..%2Flivez",
        "/livez%2F",
        "/view%0A?vid=monitor_hostname",
        "/%252Flivez",
        "/view;a?vid=monitor_hostname",
        "/VIEW?vid=monitor_hostname",
        "/%5Clivez",
        "/\\livez",
        "/_anonymous/en/",
        "/_anonymous/",
        "/_anonymous/xx/",
        "/_anonymous%2Fen/",
        "/_anonymous%2Fen%2Fview?vid=index",
        "/_anonymous",
        "/_Anonymous/en/",
        "/%2F_anonymous/en/",
        "/_anonymous;/en/",
        "/data%2F..%2Fview?vid=index",
    ],
)
def test_not_for_visitors(host: Host, path: str) -> None:
    """Neither what the rules name, nor what looks like it."""
    for answer in (host.ask(path), host.page(path), host.ask_by_tls(path)):
        assert answer.status in (302, 404), answer.text
        assert answer.headers.get("cache-control", "no-store") == "no-store"
        assert not re.search("OK|all:", answer.text)
        if answer.status == 302:  # CubicWeb adds what changes with its version
            assert "/data/" in answer.headers["location"]


@pytest.mark.parametrize(
    "path", ["*", "/%", "/%zz", "/a%2", "/%2%35", "/../livez", "/x/../%2E./livez"]
)
def test_path_without_a_normal_form(host: Host, path: str) -> None:
    for name, answer in host.everywhere(path).items():
        assert answer.status == 400, name
    assert host.ask(path).headers["cache-control"] == "no-store"


def test_any_path(host: Host) -> None:
    """HAProxy and the instances have the same normal form."""
    words = ["", "", ".", "..", "a", "B;c", "%2e", "%2E%2e", "%61", "%c3%a9", "%2f", "%", "x%2"]
    draw = random.Random(3)
    for _ in range(300):
        path = "/" + "/".join(draw.choices(words, k=draw.randrange(1, 7)))
        normal = normal_form(path)
        if normal == path:
            continue
        for program in ("balancer", "instance"):
            answer = ask(host.programs[program], f"{path}?x=%7e", host=TWO)
            if normal is None:
                assert answer.status == 400, (program, path)
            else:
                assert answer.status == 308, (program, path)
                location = f"http://{TWO}{normal}?x=%7e"
                assert answer.headers["location"] == location, (program, path)


def test_query_stays_as_it_came(host: Host) -> None:
    """Requests may be signed with it. The monitor says what it was asked for in its log."""
    for query in ("vid=index&x=%7e%2f//../%zz&y=", "vid=index&", "vid=index&x=a?b"):
        assert host.page(f"/view?{query}").status == 200
        redirect = host.ask(f"//view?{query}")
        assert redirect.headers["location"] == f"http://{TWO}/view?{query}"
    # CubicWeb leads to a file with the query that it was given
    query = "x=%7e%2f//../%zz&y="
    assert host.ask(f"/data/cubicweb.css?{query}").headers["location"].endswith(f"?{query}")


@pytest.mark.parametrize("query", ["%76id=monitor_hostname", "vid=monitor%5Fhostname"])
def test_monitor_in_other_words(host: Host, query: str) -> None:
    for name, answer in host.everywhere(f"/view?{query}").items():
        assert (answer.status, answer.text) == (200, host.name("two")), name
        assert answer.headers["cache-control"] == "no-store"
        assert not answer.headers.get("x-cache", "").startswith("HIT")


def test_monitor_and_another_view(host: Host) -> None:
    for query in ("vid=index&vid=monitor_db", "vid=monitor_db&vid=index"):
        for name, answer in host.everywhere(f"/view?{query}").items():
            assert answer.status == 400, name


# --- hosts

#: ways to write the name of a site
HOSTS: dict[str, Callable[[str, int], str]] = {
    "name": lambda name, _port: name,
    "default port": lambda name, port: f"{name}:{port}",
    "capitals": lambda name, _port: name.upper(),
    "dot of the root": lambda name, _port: f"{name}.",
    "all of it": lambda name, port: f"{name.title()}.:{port}",
}
UNKNOWN = [
    "other.example",
    "127.0.0.1",
    "",
    "www.one.example.other.example",
    "one",
    "wwwxone.example",
    "xwww.two.example",
    "www.two.example:8080",
    "www.two.example..",
    "www.two.example:443:80",
    "other.example, www.two.example",
    "www.two.example, other.example",
    "[::1]",
]


@pytest.mark.parametrize("spelling", HOSTS)
def test_name_in_other_words(host: Host, spelling: str) -> None:
    """The right site answers, and nothing is kept twice."""
    write = HOSTS[spelling]
    answer = host.ask_by_tls("/view?vid=monitor_hostname", host=write(ONE, 443))
    assert answer.text == host.name("one")
    answer = host.ask("/view?vid=monitor_hostname", host=write(TWO, 80))
    assert answer.text == host.name("two")
    for port in (80, 443):  # of http, whichever they take for its default
        answer = host.ask("/a?b=//c", host=write(ONE, port))
        assert (answer.status, answer.headers["location"]) == (301, f"https://{ONE}/a?b=//c")
    host.page("/view?vid=index")
    assert is_hit(host.page("/view?vid=index", host=write(TWO, 80)))


@pytest.mark.parametrize("name", UNKNOWN)
def test_unknown_host(host: Host, name: str) -> None:
    """It is told so, and no cache keeps anything for it."""
    target = f"/view?vid=index&x={UNKNOWN.index(name)}"
    for asked in (host.page, host.ask, host.ask_by_tls):
        answer = asked(target, host=name)
        assert answer.status == 421, answer.text
        assert answer.headers["cache-control"] == "no-store"
        assert "x-cache" not in answer.headers
    assert [is_hit(host.page(target)) for _ in range(2)] == [False, True]


def test_no_host(host: Host) -> None:
    assert host.ask("/", host=None).status == 400


def test_host_in_the_target(host: Host) -> None:
    """What a proxy is asked: two names that differ are refused, and one is a name as any other."""
    assert host.ask(f"http://{ONE}/", host=TWO).status == 400
    assert host.ask(f"http://{TWO}/livez").status == 404
    assert host.ask(f"http://{TWO}//livez").status == 308
    answer = host.ask(f"http://{TWO}/view?vid=monitor_hostname")
    assert answer.text == host.name("two")


@pytest.mark.parametrize("alias", ["one.example", "One.Example.:443", "one.example.org:80"])
def test_alias(host: Host, alias: str) -> None:
    for asked in (host.ask, host.ask_by_tls):
        answer = asked("/a?b=c", host=alias)
        assert (answer.status, answer.headers["location"]) == (301, f"https://{ONE}/a?b=c")


def test_monitoring(host: Host) -> None:
    """Health checks name the host, and the management ports take any."""
    port = host.ports["two_management"]
    for name in (TWO, f"127.0.0.1:{port}"):
        assert ask(port, "/readyz", host=name).status == 200


def test_http_2(host: Host) -> None:
    """The same rules hold, though it has no field `Host`."""

    def status(target: str, name: str) -> str:
        url = f"https://127.0.0.1:{host.ports['https']}{target}"
        command = ["curl", "--http2", "-sko", "/dev/null", "--path-as-is", "-H", f"Host: {name}"]
        told = ["-w", "%{http_version} %{http_code} %{redirect_url}", url]
        return subprocess.run([*command, *told], check=True, capture_output=True, text=True).stdout

    assert status("/view?vid=monitor_db", f"{ONE.upper()}.:443") == "2 200 "
    assert status("/view?vid=monitor_db", "other.example") == "2 421 "
    assert status("/livez", ONE) == "2 404 "
    assert status("//livez", ONE) == f"2 308 https://{ONE}/livez"
    assert status("/x/%2E./livez?x", ONE) == f"2 308 https://{ONE}/livez?x"
    assert status(f"/?{'x' * limits.MAX_URL}", ONE) == "2 414 "


# --- lengths


def long_target(path: str, length: int) -> str:
    """Return a target of so many bytes, with a search as CubicWeb's pages have it."""
    rql = "Any%20X%20WHERE%20X%20eid%20"
    start = f"{path}{'&' if '?' in path else '?'}x={rql}"
    return start + "1" * (length - len(start))


@pytest.mark.parametrize(
    "path", ["/view?vid=monitor_hostname", "/view?vid=index", "/data/cubicweb.css", "/logout"]
)
def test_longest_url(host: Host, path: str) -> None:
    """All programs take it, with what the others add; one byte more is refused, and why."""
    target = long_target(path, limits.MAX_URL)
    for language in ("en", "fr"):
        answer = host.page(target, Accept_Language=language)
        assert answer.status in (200, 302, 303), answer.text
        if answer.status == 302:  # with a long Location
            assert answer.headers["location"].endswith("1" * 7000)
    assert host.page(f"/{target}").status == 414
    for asked in (host.page, host.ask, host.ask_by_tls):
        for length in (limits.MAX_URL + 1, 3 * limits.MAX_URL):
            answer = asked(long_target(path, length))
            assert answer.status == 414
            assert str(limits.MAX_URL) in answer.text
            assert answer.headers["cache-control"] == "no-store"


def cookies(length: int) -> str:
    """Return a value for `Cookie`, of so many bytes."""
    return ("; ".join(f"_ga{n}={'x' * 3000}" for n in range(9)))[:length]


def test_longest_header_fields(host: Host) -> None:
    """All in one, or many, beside the longest URL."""
    target = long_target("/view?vid=index", limits.MAX_URL)
    # beside the names, and Host, Accept, Accept-Encoding
    most = limits.MAX_HEADERS - 300
    assert host.page(target, Cookie=cookies(most)).status == 200
    many = {f"X_{n}": "y" * 100 for n in range(most // 120)}
    assert len(many) > limits.MAX_FIELDS
    many = dict(list(many.items())[: limits.MAX_FIELDS - 5])
    assert host.page(target, **many).status == 200
    for asked in (host.page, host.ask_by_tls):
        answer = asked("/view?vid=index", Cookie=cookies(limits.MAX_HEADERS))
        assert answer.status == 431
        assert str(limits.MAX_HEADERS) in answer.text
        answer = asked("/view?vid=index", **{f"X_{n}": "y" for n in range(limits.MAX_FIELDS)})
        assert answer.status == 431
        assert answer.headers["cache-control"] == "no-store"


# --- encodings

SVG = b"<svg xmlns='http://www.w3.org/2000/svg'>" + b"<g><desc>x</desc></g>" * 200 + b"</svg>"
ENCODINGS = ["gzip, deflate, br", "identity", None, "gzip;q=0"]


def _accept(encoding: str | None) -> dict[str, str]:
    return {} if encoding is None else {"Accept_Encoding": encoding}


@pytest.fixture(scope="module")
def svg(host: Host) -> int:
    """A download that it would pay to compress."""
    return host.create_file("a.svg", SVG, "image/svg+xml")


def is_well_encoded(answer: Answer, accepted: str | None) -> str | None:
    """Check the encoding of a whole answer, and return it."""
    encoding = answer.headers.get("content-encoding")
    assert encoding in (None, "gzip")
    if encoding:
        assert "gzip, " in (accepted or "")
        assert "Accept-Encoding" in answer.headers["vary"]
    return encoding


@pytest.mark.parametrize(
    "path",
    [
        "/file/{eid}/raw/a.svg",
        "/file/{eid}/download",
        "/{eid}/download",
        "/file/{eid}?vid=download",
        "/view?rql=Any%20X%20WHERE%20X%20eid%20{eid}&vid=download",
    ],
)
def test_encodings_of_a_download(host: Host, svg: int, path: str) -> None:
    """They have one strong validator and are the same bytes, and so are ranges, to resume it."""
    target = path.format(eid=svg)
    for accepted in ENCODINGS * 2:  # from the cache, too
        for headers in (_accept(accepted), {"Accept": HTML, **_accept(accepted)}):
            whole = host.ask(target, **headers)
            assert (whole.status, whole.body) == (200, SVG)
            assert "vary" not in whole.headers
            part = host.ask(target, Range="bytes=50-", **headers)
            assert (part.status, part.body) == (206, SVG[50:])
            for answer in (whole, part):
                assert is_well_encoded(answer, accepted) is None
            etag = whole.headers.get("etag")
            if etag is None:  # an answer to an anonymous visitor alone has none
                assert "private" in whole.headers["cache-control"]
                continue
            assert etag.startswith('"')
            part = host.ask(target, Range="bytes=50-", If_Range=etag, **headers)
            assert (part.status, part.body, part.headers["etag"]) == (206, SVG[50:], etag)
            assert host.ask(target, If_None_Match=etag, **headers).status == 304


@pytest.mark.parametrize("path", ["/file/{eid}", "/view?vid=index", "/login", "/{css}"])
def test_encodings_of_a_page(host: Host, svg: int, path: str) -> None:
    """They have no strong validator in common, and ranges are of what is sent."""
    css = host.ask("/data/cubicweb.css").headers["location"].split("/", 3)[3]
    target = path.format(eid=svg, css=css)
    for accepted in ENCODINGS * 2:
        headers = {"Accept": HTML, **_accept(accepted)}
        whole = host.ask(target, **headers)
        assert whole.status == 200
        encoding = is_well_encoded(whole, accepted)
        assert (encoding is not None) == ("Apache" in host.programs and "gzip, " in str(accepted))
        body = gzip.decompress(whole.body) if encoding else whole.body
        assert body.startswith(b"/*" if css in target else b"<!DOCTYPE html>")
        part = host.ask(target, Range="bytes=50-", **headers)
        assert is_well_encoded(part, accepted) == encoding
        if part.status == 206:
            assert part.headers["content-range"].endswith(f"/{len(part.body) + 50}")
            assert not encoding or not part.body.startswith(b"\x1f\x8b")
        if etag := whole.headers.get("etag"):
            assert etag.startswith("W/")
            assert host.ask(target, If_None_Match=etag, **headers).status == 304
