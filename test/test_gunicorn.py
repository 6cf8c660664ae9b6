"""In production an instance runs under gunicorn, and is restarted without a failed request."""

import os
import signal
import subprocess
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path

import pytest
from pictures import picture
from servers.haproxy import HAProxy
from servers.instance import CUBICWEB_CTL, GUNICORN, Instance, Process, application
from servers.load import RATE, Load
from servers.postgresql import PostgreSQL
from servers.support import free_port, wait_until
from servers.visitor import Visitor


def drain(instance: Instance, process: Process, *args: str) -> None:
    """Run `hasite-drain` on the host of a process."""
    command = [CUBICWEB_CTL, "hasite-drain", *args, instance.name]
    subprocess.run(command, env=process.env, check=True, stdout=subprocess.DEVNULL)


def test_rolling_restart(site: Instance, server_directory: Callable[[str], Path]) -> None:
    """Two web servers are restarted one after the other, while visitors come."""
    ports = [free_port(), free_port()]
    with HAProxy(server_directory("haproxy"), ports) as haproxy:
        # a machine that is busy with other tests is no reason to be out of service
        options = {"base_url": haproxy.url, "gunicorn": True, "hasite_probe_deadline": 20}
        first, second = (
            site.process(port, runtime_dir=server_directory("run"), **options) for port in ports
        )
        with first, second:
            admin = Visitor(haproxy.url)
            admin.base_url = first.url
            admin.login()
            upload = {"data": ("a.png", picture("red"), "image/png")}
            location = admin.create("File", {"title": "a"}, upload).headers["Location"]
            eid = location.split("?")[0].rsplit("/", 1)[1]
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
def hung_request(server: PostgreSQL, process: Process) -> Iterator[Future]:
    """Yield a request that lasts until the end."""
    with ThreadPoolExecutor(1) as executor:
        server.pause()
        try:
            yield executor.submit(Visitor(process.url).get, timeout=60)
        finally:
            server.resume()


@pytest.fixture
def site(postgresql: PostgreSQL, server_directory: Callable[[str], Path]) -> Instance:
    """An instance on a server of its own."""
    database = postgresql.create_database("site")
    instance = Instance(server_directory("instance"), ["hasite"], database)
    instance.create()
    return instance


def test_requests_in_flight_are_answered(postgresql: PostgreSQL, site: Instance) -> None:
    with site.process(gunicorn=True) as process:
        with hung_request(postgresql, process) as request:
            wait_until(lambda: _is_locked(site.directory / "site.requests"), "request in flight")
            os.kill(process.pid, signal.SIGTERM)
            wait_until(lambda: not process.answers(), "end of its listening")
            assert process.running
        assert request.result().status_code == 200
        wait_until(lambda: not process.running, "end of gunicorn")


def _is_locked(path: Path) -> bool:
    return subprocess.run(["flock", "--nonblock", path, "true"]).returncode != 0


@pytest.mark.parametrize("gunicorn", [True, False])
def test_start_while_the_database_is_down(
    postgresql: PostgreSQL, site: Instance, gunicorn: bool
) -> None:
    """It ends with a status at which a supervisor starts it again, and says why in one line."""
    port = free_port()
    reason = f'connection to server at "127.0.0.1", port {postgresql.port} failed: '

    def start() -> subprocess.CompletedProcess[str]:
        command = [CUBICWEB_CTL, "start", site.name]
        if gunicorn:
            command = [*GUNICORN, f"--bind=127.0.0.1:{port}", application(site.name)]
        return subprocess.run(
            command, env=site.environ({"port": port}), capture_output=True, text=True, timeout=60
        )

    postgresql.stop()
    result = start()
    assert result.returncode == (3 if gunicorn else 8)
    lines = [line for line in result.stderr.splitlines() if reason in line]
    if gunicorn:
        assert len(lines) == 1
        assert lines[0].startswith("instance site not started: cannot reach its database: ")
        assert "Traceback" not in result.stderr
    else:
        assert f"instance site not started: {reason}Connection refused" in lines

    postgresql.start()
    site.shell('rql(\'SET P value "0.0.1" WHERE P pkey "system.version.hasite"\')\ncommit()\n')
    result = start()
    assert result.returncode == (3 if gunicorn else 4)
    assert 'Run "cubicweb-ctl upgrade site"' in result.stderr
    assert "Traceback" not in result.stderr
