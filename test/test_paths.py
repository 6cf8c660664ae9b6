"""A path that is not in normal form leads to the one that is, in every process."""

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from servers.asking import Answer, ask
from servers.instance import Instance, Process

from cubicweb_hasite.paths import asked_target, normal_form

#: the normal form of paths, None where there is none
FORMS = {
    "/": "/",
    "/livez": "/livez",
    "//livez": "/livez",
    "///": "/",
    "/%6Civez": "/livez",
    "/%6c%69%76%65%7A": "/livez",
    "/./livez": "/livez",
    "/%2e/livez": "/livez",
    "/x/../livez": "/livez",
    "/x/%2E%2e/livez": "/livez",
    "/x//..//livez": "/livez",
    "/livez/.": "/livez/",
    "/x/..": "/",
    "/x/y/..": "/x/",
    "/x//": "/x/",
    "/...": "/...",
    "/.x/..y": "/.x/..y",
    "/livez;a": "/livez;a",
    "/LIVEZ": "/LIVEZ",
    "/%c3%a9": "/%C3%A9",
    "/a%7Eb": "/a~b",
    # decoded once
    "/%252e%252E/%2541": "/%252e%252E/%2541",
    # another path to URLs, the same to WSGI: names of files may hold it
    "/x%2f..%2Fy": "/x%2F..%2Fy",
    "/a%0a%00": "/a%0A%00",
    "/a!$&'()*+,;=:@b": "/a!$&'()*+,;=:@b",
    "/..": None,
    "/../livez": None,
    "/x/%2e./../livez": None,
    "": None,
    "*": None,
    "livez": None,
    "/%": None,
    "/%2": None,
    "/%zz": None,
    # the first would become a part of the second
    "/%2%35": None,
}


@pytest.mark.parametrize("path", FORMS)
def test_normal_form(path: str) -> None:
    normal = FORMS[path]
    assert normal_form(path) == normal
    if normal is not None:
        assert normal_form(normal) == normal


@pytest.mark.parametrize(
    ("target", "asked"),
    [
        ("//a?b=//c?d", ("//a", "?b=//c?d")),
        ("/a?", ("/a", "?")),
        ("/a#b?c", ("/a", "")),
        ("http://www.example.org//a?b", ("//a", "?b")),
        ("http://www.example.org", ("/", "")),
        ("http://www.example.org?a", ("/", "?a")),
        ("*", ("*", "")),
        ("", None),
    ],
)
def test_asked_target(target: str, asked: tuple[str, str] | None) -> None:
    for name in ("RAW_URI", "REQUEST_URI"):
        assert asked_target({name: target, "PATH_INFO": "/decoded"}) == asked


@pytest.fixture(scope="module", params=["waitress", "gunicorn", "uwsgi"])
def running(request: pytest.FixtureRequest, instance: Instance) -> Iterator[Process]:
    """A process of the instance, which takes another URL for its own."""
    with instance.process(
        base_url="http://www.example.org/",
        gunicorn=request.param == "gunicorn",
        uwsgi=request.param == "uwsgi",
        hasite_page_max_age="index:60",
    ) as process:
        yield process


@pytest.fixture
def asked(running: Process) -> Callable[..., Answer]:
    """A function that asks the process."""
    return lambda target, **kwargs: ask(running.port, target, host="evil.example", **kwargs)


@pytest.mark.parametrize(
    "path", [p for p, normal in FORMS.items() if p[:1] == "/" and p != normal]
)
@pytest.mark.parametrize("query", ["", "?x=%7e//../%zz"])
def test_answer(asked: Callable[..., Answer], path: str, query: str) -> None:
    answer = asked(path + query)
    normal = FORMS[path]
    if normal is None:
        assert answer.status == 400
    else:
        # not to the host that the visitor gives, nor elsewhere
        location = f"http://www.example.org{normal}{query}"
        assert (answer.status, answer.headers["location"]) == (308, location)
    assert answer.headers["cache-control"] == "no-store"
    assert "set-cookie" not in answer.headers


def test_normal_path(asked: Callable[..., Answer]) -> None:
    for path in ("/livez", "/view?vid=index", "/x%2F..%2Fy", "/livez;a", "/%C3%A9", "/a!$&'()*+"):
        assert asked(path).status in (200, 404), path


def test_form(asked: Callable[..., Answer]) -> None:
    """It is sent again as it was: 308."""
    assert asked("//login", method="POST", Content_Length="0").status == 308


def test_line_break(asked: Callable[..., Answer]) -> None:
    """Pyramid takes a line break at the end of a path for nothing."""
    for path in ("/livez%0A", "/readyz%0A", "/metrics%0A", "/view%0A?vid=monitor_hostname"):
        answer = asked(path)
        assert answer.status == 404, path
        assert "OK" not in answer.text


@pytest.mark.parametrize(
    "query", ["%76id=monitor_hostname", "vid=monitor%5fhostname", "x=%zz&vid=monitor_hostname"]
)
def test_monitor_in_other_words(asked: Callable[..., Answer], query: str) -> None:
    answer = asked(f"/view?{query}")
    assert (answer.status, answer.text) == (200, asked("/view?vid=monitor_hostname").text)
    assert answer.headers["cache-control"] == "no-store"


@pytest.mark.parametrize(
    "query",
    [
        "vid=index&vid=monitor_db",
        "vid=monitor_db&vid=index",
        "vid=monitor_db&%76id=monitor_db",
        "vid=&vid=monitor_db",
    ],
)
def test_monitor_and_another_view(asked: Callable[..., Answer], query: str) -> None:
    """Programs differ in which of the two they take: none is answered."""
    answer = asked(f"/view?{query}")
    assert (answer.status, answer.text) == (400, "ServiceKO : vid is given more than once")


def test_name_of_shared_pages(asked: Callable[..., Answer]) -> None:
    """It is the balancer's, who compares what is written."""
    assert "s-maxage" in asked("/_anonymous/en/").headers["cache-control"]
    for path in ("/_anonymous%2Fen/", "/_anonymous%2fen%2f", "/_Anonymous/en/"):
        answer = asked(path)
        assert answer.status in (308, 404)
        assert answer.headers["cache-control"] == "no-store"
    # nor is anybody led to it
    answer = asked("/_anonymous/en//view?vid=index")
    assert answer.headers["location"] == "http://www.example.org/view?vid=index"


def test_page_that_ends_like_a_monitor(
    instance: Instance, server_directory: Callable[[str], Path]
) -> None:
    """It is a request in flight, for which drains wait."""
    folder = server_directory("run")
    with instance.process(runtime_dir=folder) as process:
        [requests] = folder.glob("*.requests")
        for path, counts in (
            ("/livez", False),
            ("/view?vid=index&vid=monitor_hostname", False),
            ("/view?%76id=monitor_hostname", False),
            ("/cwuser/livez", True),
            ("/cwuser/view?vid=monitor_hostname", True),
        ):
            before = requests.stat().st_mtime_ns
            ask(process.port, path, host="127.0.0.1")
            assert (requests.stat().st_mtime_ns > before) == counts, path
