"""`cubicweb-ctl hasite-drain` takes an instance out of service and waits for its requests."""

import subprocess
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path

import psycopg2
import pytest
from servers.instance import CUBICWEB_CTL, Instance, Process
from servers.postgresql import PostgreSQL
from servers.support import wait_until
from servers.visitor import Visitor

FILES = "view?rql=Any F WHERE F is File"


def drain(instance: Instance, *args: str, **environ: str) -> subprocess.CompletedProcess[str]:
    """Run `cubicweb-ctl hasite-drain` and return how it ended, and what it wrote."""
    return subprocess.run(
        [CUBICWEB_CTL, "hasite-drain", *args],
        env=instance.environ() | environ,
        cwd=instance.directory,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )


def check_done(result: subprocess.CompletedProcess[str], said: str) -> None:
    assert result.returncode == 0, result.stdout
    assert said in result.stdout


def check_failed(result: subprocess.CompletedProcess[str], said: str) -> None:
    """Assert that it failed, and told why clearly."""
    assert result.returncode != 0
    assert said in result.stdout
    assert "Traceback" not in result.stdout


def check_ready(process: Process, ready: bool) -> None:
    """Assert what balancers are told; visitors are served in any case."""
    visitor = Visitor(process.url)
    response = visitor.get("readyz")
    assert response.status_code == (200 if ready else 503), response.text
    assert ("draining" in response.text) is not ready
    assert visitor.get().status_code == 200


@pytest.fixture(scope="module")
def cluster(server_directory: Callable[[str], Path]) -> Iterator[PostgreSQL]:
    with PostgreSQL(server_directory("postgresql")) as server:
        yield server


@pytest.fixture(scope="module")
def site(cluster: PostgreSQL, server_directory: Callable[[str], Path]) -> Instance:
    """An instance whose requests may be made to last."""
    instance = Instance(
        server_directory("instance"), ["hasite", "file"], cluster.create_database("site")
    )
    instance.create()
    return instance


@contextmanager
def slow_request(cluster: PostgreSQL, process: Process) -> Iterator[None]:
    """Let a request of the process last; it must be answered 200 afterwards."""
    with ThreadPoolExecutor(1) as executor:
        connection = psycopg2.connect(
            host=cluster.host, port=cluster.port, user=cluster.user, dbname="site"
        )
        try:
            connection.cursor().execute("LOCK TABLE cw_File IN ACCESS EXCLUSIVE MODE")
            visit = executor.submit(Visitor(process.url).get, FILES, timeout=60)
            waiting = "SELECT count(*) FROM pg_stat_activity WHERE wait_event_type = 'Lock'"
            wait_until(lambda: cluster.sql(waiting) != "0", "request that waits")
            yield
        finally:
            connection.close()
        assert visit.result().status_code == 200


def test_all_processes_are_drained(site: Instance) -> None:
    with site.process() as one, site.process(base_url=one.url) as other:
        check_ready(one, True)
        check_done(drain(site, site.name), "site is being drained")
        check_ready(one, False)
        check_ready(other, False)
        # a process that starts again is ready
        other.stop()
        other.start()
        check_ready(one, False)
        check_ready(other, True)
        # to drain again concerns it too
        check_done(drain(site, site.name), "site is being drained")
        check_ready(one, False)
        check_ready(other, False)
        check_done(drain(site, site.name, "--undo"), "site is in service again")
        check_ready(one, True)
        check_ready(other, True)
        check_done(drain(site, site.name, "--undo"), "site is in service again")


def test_wait(cluster: PostgreSQL, site: Instance) -> None:
    wait = (site.name, "--wait", "--quiet=1")
    with site.process() as process, site.process(base_url=process.url) as other:
        with slow_request(cluster, process):
            # a shorter one of another thread ends meanwhile
            assert Visitor(process.url).get("login").status_code == 200
            result = drain(site, *wait, "--timeout=2")
            check_failed(result, "site is being drained, but requests are still served after 2 s")
            assert Visitor(other.url).get("readyz").status_code == 503
        check_done(drain(site, *wait), "site is drained")

        # monitors are not waited for, visitors are
        polling = True

        def poll(page: str) -> None:
            while polling:
                Visitor(other.url).get(page)

        for page in ("view?vid=monitor_db", "login"):
            polling = True
            thread = threading.Thread(target=poll, args=(page,))
            thread.start()
            try:
                result = drain(site, *wait, "--timeout=3")
            finally:
                polling = False
                thread.join()
            if page == "login":
                check_failed(result, "requests are still served")
            else:
                check_done(result, "site is drained")


def test_killed_process_is_not_waited_for(cluster: PostgreSQL, site: Instance) -> None:
    with site.process() as process:
        with pytest.raises(OSError, match="Connection"), slow_request(cluster, process):
            process.kill()
        check_done(drain(site, site.name, "--wait", "--quiet=0"), "site is drained")


def test_errors(site: Instance, tmp_path: Path) -> None:
    check_failed(drain(site, "nowhere"), "no such instance nowhere")
    check_failed(drain(site), "missing")
    check_failed(drain(site, site.name, "--undo", "--wait"), "makes no sense")
    file = tmp_path / "file"
    file.touch()
    for directory in (file, file / "run"):
        result = drain(site, site.name, CW_RUNTIME_DIR=str(directory))
        check_failed(result, f"cannot write {directory}")
    result = drain(site, site.name, "--wait", CW_RUNTIME_DIR=str(tmp_path))
    check_failed(result, "cannot tell whether site serves requests")
