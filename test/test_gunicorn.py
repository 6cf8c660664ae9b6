"""In production gunicorn or uWSGI runs an instance, and restarts lose no request."""

import os
import re
import signal
import subprocess
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path

import pytest
import requests
from pictures import picture
from servers.haproxy import HAProxy
from servers.instance import CUBICWEB_CTL, GUNICORN, Instance, Process, application
from servers.load import RATE, Load
from servers.postgresql import PostgreSQL
from servers.squid import Squid
from servers.support import free_port, listens, wait_until
from servers.visitor import Visitor
from test_health import ENDPOINTS

THREADS = 4
_ESTABLISHED = "01"  # in /proc/net/tcp

#: a cache that takes 120 ms for each purge
SLOW_PURGES = """\
external_acl_type slow ttl=0 negative_ttl=0 cache=0 children-max=1 children-startup=1 %URI \
    /bin/sh -c "while read uri; do sleep 0.12; echo OK; done"
acl slow external slow
acl PURGE method PURGE
http_access allow PURGE localhost slow
http_access deny PURGE
"""

each_server = pytest.mark.parametrize("server", ["gunicorn", "uwsgi"])


def drain(instance: Instance, process: Process, *args: str) -> None:
    """Run `hasite-drain` on the host of a process."""
    command = [CUBICWEB_CTL, "hasite-drain", *args, instance.name]
    subprocess.run(command, env=process.env, check=True, stdout=subprocess.DEVNULL)


def upload(visitor: Visitor, title: str) -> int:
    """Create an image and return its eid."""
    files = {"data": ("a.png", picture("red"), "image/png")}
    location = visitor.create("File", {"title": title}, files).headers["Location"]
    return int(re.search(r"/file/(\d+)", location)[1])


@each_server
def test_rolling_restart(
    site: Instance, server_directory: Callable[[str], Path], server: str
) -> None:
    """Two web servers are restarted one after the other, while visitors come."""
    ports = [free_port(), free_port()]
    with HAProxy(server_directory("haproxy"), ports) as haproxy:
        # a machine that is busy with other tests is no reason to be out of service
        options = {"base_url": haproxy.url, server: True, "hasite_probe_deadline": 20}
        first, second = (
            site.process(port, runtime_dir=server_directory("run"), **options) for port in ports
        )
        with first, second:
            admin = Visitor(haproxy.url)
            admin.base_url = first.url
            admin.login()
            eid = upload(admin, "a")
            wait_until(lambda: haproxy.up() == set(ports), "both processes")
            image = f"file/{eid}/raw/a.png"
            # to log in takes long to compute, on purpose
            with Load(haproxy.url, ["", image, image, image] * 5 + ["login"]) as load:
                load.wait_for(RATE)
                for process in (first, second):
                    drain(site, process, "--wait", "--quiet=2")
                    assert haproxy.up() == set(ports) - {process.port}
                    load.wait_for(RATE)
                    process.stop()
                    load.wait_for(RATE)
                    # no need to undo anything
                    process.start()
                    wait_until(lambda: haproxy.up() == set(ports), "both processes")
                    load.wait_for(RATE)
            assert set(load.outcomes) == {"200"}, load.outcomes
            assert load.outcomes["200"] > 8 * RATE


@contextmanager
def hung_requests(server: PostgreSQL, process: Process, number: int) -> Iterator[list]:
    """Yield the futures of requests that last until the end."""
    with ThreadPoolExecutor(number) as executor:
        server.pause()
        try:
            yield [executor.submit(Visitor(process.url).get, timeout=60) for _ in range(number)]
        finally:
            server.resume()


@pytest.fixture
def site(postgresql: PostgreSQL, server_directory: Callable[[str], Path]) -> Instance:
    """An instance on a server of its own."""
    database = postgresql.create_database("site")
    instance = Instance(server_directory("instance"), ["hasite", "file"], database)
    instance.create()
    return instance


@each_server
@pytest.mark.parametrize("number", [1, THREADS])
def test_requests_in_flight_are_answered(
    postgresql: PostgreSQL, site: Instance, server: str, number: int
) -> None:
    """Whichever threads they are on, and whichever of them are idle."""
    with site.process(threads=THREADS, **{server: True}) as process:
        with hung_requests(postgresql, process, number) as hung:
            wait_until(lambda: _connections(process) >= number, "requests in flight")
            wait_until(lambda: _is_locked(site.directory / "site.requests"), "the first")
            time.sleep(0.5)  # until the others are with the application too
            os.kill(process.pid, signal.SIGTERM)
            wait_until(lambda: not process.answers(), "end of its listening")
            assert process.running
        assert [request.result().status_code for request in hung] == [200] * number
        wait_until(lambda: not process.running, f"end of {server}")


def _connections(process: Process) -> int:
    """Return how many clients are connected to a process."""
    # number, local address, remote address, state…
    rows = [row.split() for row in Path("/proc/net/tcp").read_text().splitlines()[1:]]
    port = f":{process.port:04X}"
    return sum(row[1].endswith(port) and row[3] == _ESTABLISHED for row in rows)


def _is_locked(path: Path) -> bool:
    return subprocess.run(["flock", "--nonblock", path, "true"]).returncode != 0


@each_server
def test_one_process_answers(site: Instance, server: str) -> None:
    """So that the monitors, the metrics and the management port speak of what visitors meet."""
    management = free_port()
    visits = 4 * THREADS
    with (
        site.process(hasite_management_port=management, **{server: True}) as process,
        ThreadPoolExecutor(THREADS) as executor,
    ):
        for path in ENDPOINTS:
            url = f"http://127.0.0.1:{management}/{path}"
            assert requests.get(url, timeout=30).status_code == 200
        before = _pages(management)
        pages = executor.map(lambda _: requests.get(process.url, timeout=60), range(visits))
        assert [page.status_code for page in pages] == [200] * visits
        assert _pages(management) == before + visits
        drain(site, process)
        for url in (process.url, f"http://127.0.0.1:{management}/"):
            response = requests.get(f"{url}readyz", timeout=30)
            assert response.status_code == 503
            assert "draining" in response.text


def _pages(management: int) -> float:
    """Return how many pages a process says it has answered."""
    metrics = requests.get(f"http://127.0.0.1:{management}/metrics", timeout=30).text
    return float(re.search(r'^hasite_http_responses_total{status="2xx"} (.*)$', metrics, re.M)[1])


@each_server
def test_restart_of_the_database(postgresql: PostgreSQL, site: Instance, server: str) -> None:
    with site.process(threads=THREADS, **{server: True}) as process:
        visitor = Visitor(process.url)
        for _ in range(3):
            assert visitor.get().status_code == 200
            postgresql.stop()
            for _ in range(THREADS + 1):
                assert visitor.get().status_code == 503
            assert visitor.get("readyz").status_code == 503
            assert visitor.get("livez").status_code == 200
            postgresql.start()
            for _ in range(THREADS + 1):
                assert visitor.get().status_code == 200
            assert visitor.get("readyz").status_code == 200
        rest = "unlimited pool : 0 connections in use"
        wait_until(lambda: visitor.get("view?vid=monitor_pool").text == rest, "rest of the pool")


@each_server
def test_death_of_the_master(site: Instance, server: str) -> None:
    """Its worker goes with it, so that the supervisor can start another at once."""
    with site.process(**{server: True}) as process:
        os.kill(process.pid, signal.SIGKILL)
        wait_until(lambda: not process.running, "end of the master")
        wait_until(lambda: not listens(process.port), "end of the worker")
        process.start()
        assert Visitor(process.url).get().status_code == 200


@each_server
def test_edits_just_before_the_end(
    instance: Instance, server_directory: Callable[[str], Path], server: str
) -> None:
    """It ends when the cache has got their purges."""
    port = free_port()
    squid = Squid(server_directory("squid"), port, SLOW_PURGES)
    options = {"base_url": squid.url, "hasite_purge_urls": squid.url, server: True}
    process = instance.process(port, **options)
    with process, squid:
        admin = Visitor(squid.url)
        admin.login()
        images = [upload(admin, "a") for _ in range(3)]
        urls = [f"file/{eid}/raw/a.png" for eid in images]
        visitor = Visitor(squid.url)
        for url in urls:
            assert [visitor.get(url).content for _ in range(2)] == [picture("red")] * 2
        for eid in images:
            file = ("a.png", picture("blue"), "image/png")
            assert admin.edit(eid, "File", files={"data": file}).status_code == 303
        before = squid.access_log.count(" PURGE ")
        process.stop()
        assert squid.access_log.count(" PURGE ") > before + len(images)  # they had to wait
        process.start()
        for url in urls:
            assert visitor.get(url, allow_redirects=True).content == picture("blue")


#: how each ends when the database is not there, and when it is not upgraded
_STATUSES = {"gunicorn": (3, 3), "uwsgi": (22, 22), "cubicweb-ctl": (8, 4)}


@pytest.mark.parametrize("server", _STATUSES)
def test_start_while_the_database_is_down(
    postgresql: PostgreSQL, site: Instance, server: str
) -> None:
    """It ends with a status at which a supervisor starts it again, and says why in one line."""
    port = free_port()
    reason = f'connection to server at "127.0.0.1", port {postgresql.port} failed: '
    command = {
        "gunicorn": [*GUNICORN, f"--bind=127.0.0.1:{port}", application(site.name)],
        "uwsgi": site.uwsgi(),
        "cubicweb-ctl": [CUBICWEB_CTL, "start", site.name],
    }[server]

    def start() -> subprocess.CompletedProcess[str]:
        environ = site.environ({"port": port, "instance": site.name})
        return subprocess.run(command, env=environ, capture_output=True, text=True, timeout=60)

    down, outdated = _STATUSES[server]
    postgresql.stop()
    result = start()
    assert result.returncode == down
    lines = [line for line in result.stderr.splitlines() if reason in line]
    if server == "cubicweb-ctl":
        assert f"instance site not started: {reason}Connection refused" in lines
    else:
        assert len(lines) == 1
        assert lines[0].startswith("instance site not started: cannot reach its database: ")
        assert "Traceback" not in result.stderr

    postgresql.start()
    site.shell('rql(\'SET P value "0.0.1" WHERE P pkey "system.version.hasite"\')\ncommit()\n')
    result = start()
    assert result.returncode == outdated
    assert 'Run "cubicweb-ctl upgrade site"' in result.stderr
    assert "Traceback" not in result.stderr
