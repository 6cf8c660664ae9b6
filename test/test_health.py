"""`/livez`, `/readyz`, JSON, who may ask, and the management port."""

import os
import re
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
import requests
from servers.instance import Instance, Process
from servers.support import ServerProcess, free_port, wait_until
from test_monitor_states import PROMPT, SLACK, Site, site, visitors_who_wait  # noqa: F401

MONITORS = ("monitor_pool", "monitor_db", "monitor_version", "monitor_hostname")
ENDPOINTS = (*(f"view?vid={name}" for name in MONITORS), "livez", "readyz", "metrics")
TOKEN = "a.b+c/d=="


def get(url: str, **kwargs: object) -> requests.Response:
    return requests.get(url, timeout=30, allow_redirects=False, **kwargs)


@pytest.fixture(scope="module")
def managed(instance: Instance) -> Iterator[tuple[Process, str]]:
    """A process with a management port, and the URL of that."""
    port = free_port()
    with instance.process(hasite_management_port=port) as process:
        yield process, f"http://127.0.0.1:{port}/"


class TestText:
    def test_well(self, managed: tuple[Process, str]) -> None:
        process, management = managed
        for url in (process.url, management):
            for path, text in {"livez": "alive", "readyz": "ready"}.items():
                response = get(f"{url}{path}")
                assert response.status_code == 200
                assert response.text == f"ServiceOK : {text}"
                assert response.headers["Content-Type"] == "text/plain; charset=utf-8"
                assert response.headers["Cache-Control"] == "no-store"
                assert "Set-Cookie" not in response.headers
                head = requests.head(f"{url}{path}", timeout=30)
                assert head.status_code == 200
                assert head.headers["Content-Length"] == str(len(response.content))
                assert not head.content

    def test_all_that_fails_is_listed(self, site: Site) -> None:  # noqa: F811
        key = "'system.version.file'"
        version = site.sql(f"SELECT cw_value FROM cw_cwproperty WHERE cw_pkey = {key}")
        with site.instance.process() as process:
            site.sql(f"UPDATE cw_cwproperty SET cw_value = '0.0.1' WHERE cw_pkey = {key}")
            site.flag.touch()
            site.postgresql.configure("default_transaction_read_only", "on")
            try:
                wait_until(lambda: "read-only" in get(f"{process.url}readyz").text, "read-only")
                response = get(f"{process.url}readyz")
                assert response.status_code == 503
                assert re.fullmatch(
                    r"ServiceKO : draining; the database is read-only, transaction_read_only is "
                    r"on; FS config .* != DB config .*file: 0\.0\.1.*",
                    response.text,
                )
                assert get(f"{process.url}livez").status_code == 200
            finally:
                site.postgresql.configure("default_transaction_read_only", None)
                site.flag.unlink()
                wait_until(lambda: site.sql("SHOW transaction_read_only") == "off", "reload")
                site.sql(f"UPDATE cw_cwproperty SET cw_value = '{version}' WHERE cw_pkey = {key}")
            wait_until(lambda: get(f"{process.url}readyz").status_code == 200, "readiness")

    def test_database_stopped(self, site: Site) -> None:  # noqa: F811
        with site.instance.process(db_port=site.postgresql.port) as process:
            site.postgresql.stop()
            try:
                response = get(f"{process.url}readyz")
                assert response.status_code == 503
                assert response.text == ("ServiceKO : the database is stopped: connection refused")
                started = time.monotonic()
                assert get(f"{process.url}livez").status_code == 200
                assert time.monotonic() - started < PROMPT + SLACK
            finally:
                site.postgresql.start()
            assert get(f"{process.url}readyz").status_code == 200


class TestJson:
    @pytest.mark.parametrize(
        ("kwargs", "media_type"),
        [
            ({"params": {"format": "json"}}, "application/json"),
            ({"headers": {"Accept": "application/json"}}, "application/json"),
        ],
    )
    def test_ready(
        self, managed: tuple[Process, str], kwargs: dict[str, object], media_type: str
    ) -> None:
        response = get(f"{managed[1]}readyz", **kwargs)
        assert response.status_code == 200
        assert response.headers["Content-Type"] == media_type
        health = response.json()
        assert health["status"] == "pass"
        assert health["serviceId"] == "site"
        assert "output" not in health
        assert set(health["checks"]) == {
            "database:writable",
            "pool:utilization",
            "versions:consistency",
            "instance:draining",
        }
        for [check] in health["checks"].values():
            assert check["status"] == "pass"
            assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\+00:00", check["time"])
        [database] = health["checks"]["database:writable"]
        assert (database["observedValue"], database["observedUnit"]) == (2, "users")
        [versions] = health["checks"]["versions:consistency"]
        assert versions["installed"] == versions["database"]
        assert "hasite" in versions["installed"]

    def test_not_ready(self, instance: Instance, managed: tuple[Process, str]) -> None:
        flag = instance.directory / f"{instance.name}.draining"
        flag.touch()
        try:
            response = get(f"{managed[1]}readyz?format=json")
        finally:
            flag.unlink()
        assert response.status_code == 503
        health = response.json()
        assert health["status"] == "fail"
        assert health["output"] == "ServiceKO : draining"
        [check] = health["checks"]["instance:draining"]
        assert (check["status"], check["output"]) == ("fail", "ServiceKO : draining")

    def test_alive(self, managed: tuple[Process, str]) -> None:
        health = get(f"{managed[1]}livez?format=json").json()
        assert health["status"] == "pass"
        assert "checks" not in health

    @pytest.mark.parametrize("name", MONITORS)
    def test_monitors(self, managed: tuple[Process, str], name: str) -> None:
        response = get(f"{managed[1]}view?vid={name}&format=json")
        assert response.status_code == 200
        assert len(response.json()["checks"]) == 1


class TestAccess:
    """On the port of visitors; the management port is open to who reaches it."""

    DETAILS = (
        "metrics",
        "readyz?format=json",
        "livez?format=json",
        "view?vid=monitor_db&format=json",
    )

    def statuses(self, process: Process, paths: tuple[str, ...], **kwargs: object) -> set[int]:
        return {get(f"{process.url}{path}", **kwargs).status_code for path in paths}

    def test_default(self, managed: tuple[Process, str]) -> None:
        process, management = managed
        assert self.statuses(process, ENDPOINTS[:-1]) == {200}
        assert self.statuses(process, self.DETAILS) == {403}
        text = get(f"{process.url}metrics").text
        assert text == "ServiceKO : this needs a token (option hasite-monitor-token)"
        accept = {"Accept": "text/html, application/json"}
        assert self.statuses(process, ("readyz",), headers=accept) == {403}
        # an address proves nothing
        forwarded = {"X-Forwarded-For": "127.0.0.1", "Authorization": "Bearer "}
        assert self.statuses(process, self.DETAILS, headers=forwarded) == {403}
        assert {get(f"{management}{path}").status_code for path in self.DETAILS} == {200}

    def test_token_for_details(self, instance: Instance) -> None:
        with instance.process(hasite_monitor_token="secret") as process:
            assert self.statuses(process, ENDPOINTS[:-1]) == {200}
            assert self.statuses(process, self.DETAILS) == {401}
            bearer = {"Authorization": "Bearer secret"}
            assert self.statuses(process, self.DETAILS, headers=bearer) == {200}
            assert self.statuses(process, ("metrics?token=secret",)) == {200}

    def test_token(self, instance: Instance) -> None:
        options = {"hasite_monitor_access": "token", "hasite_monitor_token": TOKEN}
        with instance.process(**options) as process:
            response = get(f"{process.url}readyz")
            assert response.status_code == 401
            assert response.headers["WWW-Authenticate"].startswith("Bearer ")
            assert response.headers["Cache-Control"] == "no-store"
            assert self.statuses(process, ENDPOINTS) == {401}
            wrong = {"Authorization": "Bearer wrong"}
            assert self.statuses(process, ENDPOINTS, headers=wrong) == {401}
            assert self.statuses(process, ("readyz",), params={"token": "wrong"}) == {401}
            assert self.statuses(process, ENDPOINTS, params={"token": TOKEN}) == {200}
            bearer = {"Authorization": f"bearer {TOKEN}"}
            assert self.statuses(process, ("readyz",), headers=bearer) == {200}
            # the views of CubicWeb are not a way round
            for path in ("?vid=monitor_version", "cwuser?vid=monitor_version"):
                assert "FS config" not in get(f"{process.url}{path}").text

    def test_closed(self, instance: Instance) -> None:
        port = free_port()
        options = {
            "hasite_monitor_access": "closed",
            "hasite_monitor_token": "secret",
            "hasite_management_port": port,
        }
        with instance.process(**options) as process:
            assert self.statuses(process, ENDPOINTS) == {404}
            assert self.statuses(process, ENDPOINTS, params={"token": "secret"}) == {404}
            assert "users in DB" not in get(f"{process.url}?vid=monitor_db").text
            for path in ENDPOINTS:
                assert get(f"http://127.0.0.1:{port}/{path}").status_code == 200

    def test_token_that_is_missing(self, instance: Instance) -> None:
        text = refusal_to_start(instance, hasite_monitor_access="token")
        assert "give the token in hasite-monitor-token" in text

    def test_access_that_is_unknown(self, instance: Instance) -> None:
        text = refusal_to_start(instance, hasite_monitor_access="all")
        assert "is 'all': give one of open, token, closed" in text

    def test_token_that_makes_no_sense(self, instance: Instance) -> None:
        assert "ASCII letters" in refusal_to_start(instance, hasite_monitor_token="à moi")


def refusal_to_start(instance: Instance, **options: object) -> str:
    """Start a process that must end by itself, with one line; return what it wrote."""
    process = instance.process(**options)
    with pytest.raises(RuntimeError) as error:
        process.start()
    assert "Traceback" not in process.log
    return str(error.value)


@pytest.mark.parametrize("path", ["view?vid=monitor_db&", "livez?", "readyz?", "metrics?"])
def test_malformed_urls(managed: tuple[Process, str], path: str) -> None:
    for url in managed[0].url, managed[1]:
        for query in (
            "x=%ff",
            "token=%ff",
            "format=%ff",
            "vid=%ff",
            "%ff",
            "token=%00",
            "token=é",
        ):
            response = get(f"{url}{path}{query}")
            assert response.status_code in (200, 400, 403), (url, query)
            assert "Traceback" not in response.text


class TestManagementPort:
    def test_what_is_not_there(self, managed: tuple[Process, str]) -> None:
        _process, url = managed
        for path in ("", "login", "view", "view?vid=index", "view?vid=%ff", "%ff", "livez/x"):
            response = get(f"{url}{path}")
            assert response.status_code in (400, 404), path
            assert response.headers["Content-Type"] == "text/plain; charset=utf-8"
        assert requests.post(f"{url}livez", timeout=30).status_code == 405

    def test_loopback_only(self, managed: tuple[Process, str]) -> None:
        port = managed[1].rstrip("/").rpartition(":")[2]
        listening = subprocess.run(
            ["cat", "/proc/net/tcp", "/proc/net/tcp6"], capture_output=True, text=True
        ).stdout
        addresses = re.findall(rf" ([0-9A-F]+):{int(port):04X} [0-9A-F]+:0000 0A ", listening)
        assert addresses == ["0100007F"]

    def test_port_taken(self, instance: Instance, managed: tuple[Process, str]) -> None:
        port = managed[1].rstrip("/").rpartition(":")[2]
        text = refusal_to_start(instance, hasite_management_port=port)
        assert f"cannot listen on 127.0.0.1:{port}" in text
        assert "its own port" in text

    def test_port_that_makes_no_sense(self, instance: Instance) -> None:
        text = refusal_to_start(instance, hasite_management_port=70000)
        assert "hasite-management-port is 70000: give 0 to 65535" in text

    def test_host_that_makes_no_sense(self, instance: Instance) -> None:
        options = {"hasite_management_port": free_port(), "hasite_management_host": "192.0.2.1"}
        assert "cannot listen on 192.0.2.1" in refusal_to_start(instance, **options)

    def test_all_worker_threads_blocked(self, site: Site) -> None:  # noqa: F811
        port = free_port()
        options = {"hasite_management_port": port, "connections_pool_max_size": 0}
        with site.instance.process(**options) as process, visitors_who_wait(site, process, 4):
            with pytest.raises(requests.Timeout):
                requests.get(f"{process.url}livez", timeout=1)
            for path in ENDPOINTS:
                times = []
                for _ in range(5):
                    started = time.monotonic()
                    response = get(f"http://127.0.0.1:{port}/{path}")
                    times.append(time.monotonic() - started)
                    assert response.status_code == 200, (path, response.text)
                assert min(times) < PROMPT, (path, times)
                assert max(times) < PROMPT + SLACK, (path, times)

    def test_gunicorn(self, instance: Instance) -> None:
        port, management = free_port(), free_port()
        server = ServerProcess(
            [
                str(Path(sys.executable).with_name("gunicorn")),
                "-b",
                f"127.0.0.1:{port}",
                "-w",
                "1",
                "-k",
                "gthread",
                "--threads",
                "4",
                f'cubicweb.pyramid:wsgi_application("{instance.name}")',
            ],
            instance.directory / f"gunicorn-{port}.log",
            env={
                **instance.environ(
                    {
                        "base-url": f"http://127.0.0.1:{port}/",
                        "hasite-management-port": management,
                    }
                ),
                "PATH": os.environ["PATH"],
            },
        )

        def answers() -> bool:
            try:
                return get(f"http://127.0.0.1:{port}/livez").status_code == 200
            except requests.ConnectionError:
                return False

        try:
            server.spawn(answers, timeout=60)
            for path in ENDPOINTS:
                assert get(f"http://127.0.0.1:{management}/{path}").status_code == 200
        finally:
            server.stop()


def test_monitors_are_not_in_the_log(instance: Instance) -> None:
    """A balancer asks two a second: they would hide what visitors do."""
    with instance.process() as process:
        for path in ENDPOINTS:
            get(process.url + path)
        get(f"{process.url}view?vid=nosuch")
        get(f"{process.url}livez/nosuch")
        wait_until(lambda: "livez/nosuch" in process.log, "the last request in the log")
    lines = re.findall(r'view\) "GET (\S+)', process.log)
    # the fixture asks for the login page until the process answers
    assert [line for line in lines if line != "/login"] == ["/view", "/livez/nosuch"]
