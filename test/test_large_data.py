"""Large data in PostgreSQL: what is asked of it, and what else is served meanwhile."""

import hashlib
import os
import resource
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import backend
import pytest
from pictures import picture
from servers.instance import Instance, Process
from servers.link import Link
from servers.support import wait_until
from servers.visitor import Visitor

pytestmark = pytest.mark.skipif(not backend.POSTGRES, reason="SQLite has no COPY")

SIZE = 50_000_000
#: what else comes from the database with each request, in bytes
MARGIN = 30_000

#: bytes of hashes cannot be compressed, as those of images
_RANDOM = f"""
SELECT substr(string_agg(sha512(number::text::bytea), ''::bytea ORDER BY number), 1, {SIZE})
FROM generate_series(1, {SIZE} / 64 + 1) AS number
"""
_COMPRESSES = f"SELECT decode(repeat('61', {SIZE}), 'hex')"


def create(process: Process, data: bytes = picture("red")) -> int:
    """Create a file of few bytes and return its eid."""
    visitor = Visitor(process.url)
    visitor.login()
    response = visitor.create("File", {"title": "large"}, {"data": ("a.png", data, "image/png")})
    return int(response.headers["Location"].split("?")[0].rpartition("/")[2])


def fill(instance: Instance, eid: int, data: str) -> str:
    """Let a file have many bytes, which a query returns; return their digest."""
    name, server = instance.database.name, backend.postgresql()
    server.sql(f"UPDATE cw_File SET cw_data=({data}) WHERE cw_eid={eid}", name, timeout=120)
    digest = f"SELECT encode(sha256(cw_data), 'hex') FROM cw_File WHERE cw_eid={eid}"
    return server.sql(digest, name, timeout=60)


@pytest.fixture(scope="module")
def link() -> Iterator[Link]:
    """What is between the process and PostgreSQL."""
    with Link(backend.postgresql().port) as link:
        yield link


@pytest.fixture(scope="module")
def process(instance: Instance, link: Link) -> Iterator[Process]:
    """A process with few connections to the database."""
    options = {"db_port": link.port, "connections_pool_max_size": 3}
    with instance.process(**options) as process:
        yield process


@pytest.fixture(scope="module")
def large(instance: Instance, process: Process) -> tuple[str, str]:
    """The URL of a large image, and the digest of its bytes."""
    eid = create(process)
    return f"file/{eid}/raw/a.png", fill(instance, eid, _RANDOM)


def check_idle(process: Process) -> None:
    """Check that no connection is in use."""
    assert "0.0%" in Visitor(process.url).get("view?vid=monitor_pool").text


def test_only_what_is_needed(process: Process, link: Link, large: tuple[str, str]) -> None:
    url, digest = large
    visitor = Visitor(process.url)
    whole = visitor.get(url)
    assert hashlib.sha256(whole.content).hexdigest() == digest
    before = link.forwarded
    head = visitor.head(url)
    assert (head.status_code, head.headers["Content-Length"]) == (200, str(SIZE))
    for asked, first, last in (
        ("bytes=0-999", 0, 999),
        ("bytes=26214000-26214999", 26214000, 26214999),
        ("bytes=-7", SIZE - 7, SIZE - 1),
    ):
        part = visitor.get(url, headers={"Range": asked})
        assert part.headers["Content-Range"] == f"bytes {first}-{last}/{SIZE}"
        assert (part.status_code, part.content) == (206, whole.content[first : last + 1])
    unchanged = visitor.get(url, headers={"If-None-Match": whole.headers["ETag"]})
    assert (unchanged.status_code, unchanged.content) == (304, b"")
    assert link.forwarded - before < MARGIN
    before = link.forwarded
    part = visitor.get(url, headers={"Range": "bytes=10000000-29999999"})
    assert (part.status_code, part.content) == (206, whole.content[10000000:30000000])
    # and not twice as much, as in hexadecimal digits
    assert link.forwarded - before < 20_000_000 * 1.01 + MARGIN


@pytest.mark.parametrize("server", ["waitress", "gunicorn", "uwsgi"])
def test_servers(instance: Instance, large: tuple[str, str], server: str) -> None:
    """Each sends a file in its own way."""
    url, digest = large
    chosen = {"gunicorn": server == "gunicorn", "uwsgi": server == "uwsgi"}
    with instance.process(**chosen) as process:
        visitor = Visitor(process.url)
        whole = visitor.get(url)
        assert whole.headers["Content-Length"] == str(SIZE)
        assert hashlib.sha256(whole.content).hexdigest() == digest
        for first, last in ((0, 999_999), (20_000_000, 29_999_999), (49_000_000, SIZE - 1)):
            part = visitor.get(url, headers={"Range": f"bytes={first}-{last}"})
            assert part.status_code == 206
            assert part.headers["Content-Length"] == str(last + 1 - first)
            assert part.content == whole.content[first : last + 1]


def test_slow_visitor(instance: Instance, process: Process) -> None:
    """Has the bytes of one moment, and neither a connection nor a lock of the database."""
    eid = create(process)
    digest = fill(instance, eid, _RANDOM)
    with Visitor(process.url).get(f"file/{eid}/raw/a.png", stream=True) as response:
        chunks = response.iter_content(2**16)
        received = hashlib.sha256(next(chunks))
        check_idle(process)
        editor = Visitor(process.url)
        editor.login()
        edited = editor.edit(eid, "File", files={"data": ("a.png", b"new", "image/png")})
        assert edited.status_code == 303
        for chunk in chunks:
            received.update(chunk)
    assert received.hexdigest() == digest
    assert editor.get(f"file/{eid}/raw/a.png", allow_redirects=True).content == b"new"


def test_what_is_compressed(instance: Instance, process: Process) -> None:
    """PostgreSQL expands it once, and not for each slice again."""
    eid = create(process)
    digest = fill(instance, eid, _COMPRESSES)
    url, visitor = f"file/{eid}/raw/a.png", Visitor(process.url)
    visitor.get(url, headers={"Range": "bytes=0-9"})  # opens the connection
    # not those of autovacuum, which end by themselves
    clients = f"datname='{instance.database.name}' AND backend_type='client backend'"
    activity = f"SELECT pid FROM pg_stat_activity WHERE {clients}"
    pids = [int(pid) for pid in backend.postgresql().sql(activity).split()]

    def seconds() -> float:
        # the CPU clocks of these processes: see CPUCLOCK_SCHED in Linux's posix-timers.h
        return sum(time.clock_gettime(~pid << 3 | 2) for pid in pids)

    before = seconds()
    assert hashlib.sha256(visitor.get(url).content).hexdigest() == digest
    once = seconds() - before
    before = seconds()
    visitor.get(url, headers={"Range": f"bytes={SIZE - 10}-"})  # for which all is expanded
    assert once < 8 * (seconds() - before)


def test_full_disk(process: Process, large: tuple[str, str]) -> None:
    """There is no space for a temporary file: large data has to wait."""
    url, digest = large
    visitor = Visitor(process.url)
    small = f"file/{create(process)}/raw/a.png"
    usual = resource.prlimit(process.pid, resource.RLIMIT_FSIZE)
    resource.prlimit(process.pid, resource.RLIMIT_FSIZE, (10_000_000, usual[1]))
    try:
        response = visitor.get(url)
        assert response.status_code == 503
        assert response.headers["Cache-Control"] == "no-store"
        assert response.headers["Retry-After"] == "1"
        assert visitor.get(small).status_code == 200
        assert visitor.get(url, headers={"Range": "bytes=0-999"}).status_code == 206
    finally:
        resource.prlimit(process.pid, resource.RLIMIT_FSIZE, usual)
    check_idle(process)
    assert hashlib.sha256(visitor.get(url).content).hexdigest() == digest
    log = process.log_path.read_text()
    assert "no temporary file can be written" in log


def test_lost_connection(process: Process, link: Link, large: tuple[str, str]) -> None:
    """While bytes come from the database."""
    url, digest = large
    visitor = Visitor(process.url)
    visitor.get(url, headers={"Range": "bytes=0-9"})
    link.pace = 0.001
    before = link.forwarded
    with ThreadPoolExecutor(1) as executor:
        answer = executor.submit(visitor.get, url)
        wait_until(lambda: link.forwarded > before + 500_000, "half a megabyte")
        link.cut()
        link.pace = 0.0
        response = answer.result()
    assert response.status_code == 503
    assert response.headers["Cache-Control"] == "no-store"
    check_idle(process)
    assert hashlib.sha256(visitor.get(url).content).hexdigest() == digest


def test_no_file_is_left(process: Process, large: tuple[str, str]) -> None:
    """When a visitor has all, or goes away before."""
    visitor = Visitor(process.url)
    visitor.get(large[0])
    with visitor.get(large[0], stream=True) as response:
        next(response.iter_content(2**16))

    def open_files() -> list[str]:
        directory = f"/proc/{process.pid}/fd"
        paths = [os.path.realpath(f"{directory}/{fd}") for fd in os.listdir(directory)]
        found = [path for path in paths if path.endswith("(deleted)")]
        print(found)
        return found

    wait_until(lambda: not open_files(), "the end of the temporary files")
