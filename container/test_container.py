"""The image serves, fails and ends as docs/containers.md says."""

import os
import re
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import containers
import pytest
from conftest import MANAGER
from containers import NAME, Container
from pictures import picture
from servers.postgresql import PostgreSQL
from servers.support import wait_until
from servers.visitor import Visitor

from cubicweb_hasite.__pkginfo__ import version

#: seconds between SIGTERM and the end of requests in flight, as container/gunicorn.conf.py has it
GRACE = 30


def manager_of(container: Container) -> Visitor:
    """Return a visitor who has logged in as the manager."""
    visitor = Visitor(container.url)
    visitor.login("admin", MANAGER)
    return visitor


def in_image(*command: str, image: str = NAME, user: str = "10001") -> str:
    """Run a program in a new container of an image and return what it wrote."""
    run = ["run", *os.environ["PODMAN_RUN"].split(), "--rm", "--user", user]
    return containers.podman(*run, "--entrypoint", command[0], image, *command[1:])


def test_image_holds_no_secret() -> None:
    """Nor the settings of the machine that built it."""
    places = ["/etc", "/opt/site", "/root", "/run"]
    files = in_image("find", *places, "-type", "f", "-size", "+0", user="0")
    assert "/opt/site/etc/site/all-in-one.conf" in files
    assert "sources" not in files
    assert "/opt/site/etc/site/pyramid.ini" in files
    assert "secret" not in in_image("cat", "/opt/site/etc/site/pyramid.ini")
    assert not re.search(r"/pip\b|^/run/machine/|99machine", files, re.M)
    environment = in_image("env")
    assert not re.search(r"^(PIP_|\w+_proxy)|PASSWORD|SECRET", environment, re.M | re.I)


def test_missing_settings(site: Path) -> None:
    started = time.monotonic()
    script = re.sub(r"--secret \S*COOKIE_SECRET", "--env CW_DB_HOST=", containers.SERVE)
    script = script.replace("--detach", "--rm")
    result = containers.run(script, site, check=False)
    assert result.returncode == 2
    *_, line = result.stderr.splitlines()
    assert line == "start.py: serve needs CW_DB_HOST, COOKIE_SECRET: not set"
    assert time.monotonic() - started < 10


def test_healthy(container: Container) -> None:
    """As podman sees it, without systemd to ask again and again."""
    wait_until(lambda: _checked(container) == "healthy", "health", timeout=30)


def _checked(container: Container) -> str:
    containers.podman("healthcheck", "run", container.name, check=False)
    state = container.state
    return (state.get("Health") or state["Healthcheck"])["Status"]


def test_monitors(container: Container) -> None:
    visitor = Visitor(container.url)
    for path in ("/livez", "/readyz"):
        for response in (container.monitor(path), visitor.get(path)):
            assert response.status_code == 200
            assert response.text.startswith("ServiceOK : ")
    assert container.monitor("/view?vid=monitor_db").text == "ServiceOK : 2 users in DB"
    assert re.search(
        "ServiceOK.*file: .*hasite: ", container.monitor("/view?vid=monitor_version").text
    )
    assert 'hasite_probe_success{probe="db"} 1.0' in container.monitor("/metrics").text


def test_pages_and_images(container: Container) -> None:
    visitor = Visitor(container.url)
    home = visitor.get()
    assert home.status_code == 200
    assert "Set-Cookie" in home.headers
    data = picture("red")
    location = manager_of(container).create("File", files={"data": ("a.png", data, "image/png")})
    eid = re.search(r"/file/(\d+)", location.headers["Location"])[1]
    image = visitor.get(f"file/{eid}/raw/a.png")
    assert image.content == data
    assert image.headers["Content-Type"] == "image/png"
    assert "max-age=3600" in image.headers["Cache-Control"]
    assert image.headers["ETag"].startswith('"')
    assert "Set-Cookie" not in image.headers


def test_user_and_files(container: Container) -> None:
    """It is not root, may have no right but its own, and writes to /tmp alone."""
    assert container.exec("id", "-u").strip() == "10001"
    pid = container.state["Pid"]
    command = Path(f"/proc/{pid}/cmdline").read_bytes().split(b"\0")
    assert command[1].endswith(b"/gunicorn"), "signals must reach gunicorn"
    assert Path(f"/proc/{pid}").stat().st_uid == 10001
    with pytest.raises(RuntimeError, match=r"Read-only file system|Permission denied"):
        container.exec("touch", "/opt/site/new")
    assert container.exec("find", "/opt", "-user", "10001") == ""


def test_any_user(site: Path) -> None:
    """Some orchestrators draw a user at random."""
    with Container(site, "--user=12345:0", "--cap-drop=all") as container:
        assert container.exec("id", "-u").strip() == "12345"
        assert Visitor(container.url).get().status_code == 200


def test_secrets_in_files(site: Path, tmp_path: Path) -> None:
    """As Kubernetes puts them there."""
    folder = tmp_path / "secrets"
    folder.mkdir()
    (folder / "CW_DB_PASSWORD").write_text(f"{(site / 'password').read_text()}\n")
    (folder / "COOKIE_SECRET").write_text("x" * 32)
    with Container(site, secrets=folder) as container:
        assert Visitor(container.url).get().status_code == 200
        assert "CW_DB_PASSWORD" not in container.exec("env")


def test_restart_of_the_database(container: Container, postgresql: PostgreSQL) -> None:
    """It stays alive, says that it is not ready, and recovers."""
    visitor = Visitor(container.url)
    postgresql.stop()
    try:
        assert container.monitor("/readyz").status_code == 503
        assert container.monitor("/livez").status_code == 200
        assert visitor.get().status_code == 503
        assert container.healthy("/livez")
        assert not container.healthy("/readyz")
        assert _checked(container) == "healthy"
    finally:
        postgresql.start()
    wait_until(lambda: container.healthy("/readyz"), "recovery", timeout=10)
    assert visitor.get().status_code == 200


def test_start_while_the_database_is_down(site: Path, postgresql: PostgreSQL) -> None:
    """It ends, for the orchestrator to start it again."""
    container = Container(site)
    postgresql.stop()
    try:
        container.spawn()
        assert container.wait(30) == 3
        assert "cannot reach its database: connection to server" in container.log
    finally:
        postgresql.start()
        container.remove()


def test_request_in_flight(site: Path, postgresql: PostgreSQL) -> None:
    """SIGTERM ends the container when the answer is sent, with the status 0."""
    with Container(site) as container, ThreadPoolExecutor() as executor:
        postgresql.pause()
        try:
            slow = executor.submit(Visitor(container.url).get, timeout=60)
            time.sleep(2)  # until it is with the application
            containers.podman("kill", "--signal", "TERM", container.name)
            started = time.monotonic()
            time.sleep(3)
            assert container.running
            assert not slow.done()
        finally:
            postgresql.resume()
        assert slow.result().status_code == 200
        assert container.wait(GRACE) == 0
        assert time.monotonic() - started < GRACE


def test_drain_and_stop(site: Path) -> None:
    """The commands of the document, which preStop has too."""
    with Container(site) as container:
        drain, stop = containers.STOP.replace("mysite", container.name).splitlines()
        containers.run(drain.replace("--wait", "--wait --quiet=1"), site)
        assert container.monitor("/readyz").text == "ServiceKO : draining"
        assert container.monitor("/livez").status_code == 200
        started = time.monotonic()
        containers.run(stop, site)
        assert container.state["ExitCode"] == 0
        assert time.monotonic() - started < 10  # there was no request to wait for


def test_two_containers(site: Path, container: Container) -> None:
    """A visitor who has logged in on one is known to the other."""
    visitor = manager_of(container)
    with Container(site) as other:
        visitor.base_url = other.url
        assert visitor.form("add/File") is not None
        with pytest.raises(RuntimeError, match="no edition form"):
            Visitor(other.url).form("add/File")


def test_second_creation(site: Path, postgresql: PostgreSQL) -> None:
    """It leaves the database as it is."""
    before = postgresql.sql("SELECT count(*) FROM entities", "mysite")
    assert int(before) > 100
    assert containers.run(containers.CREATE, site, check=False).returncode != 0
    assert postgresql.sql("SELECT count(*) FROM entities", "mysite") == before


def set_version(postgresql: PostgreSQL, version: str) -> None:
    """Let the database be that of a version of the cube."""
    postgresql.sql(
        f"UPDATE cw_CWProperty SET cw_value = '{version}' WHERE cw_pkey = 'system.version.hasite'",
        "mysite",
    )


def test_accepted_versions(container: Container, postgresql: PostgreSQL) -> None:
    """A former pod serves in a rolling upgrade, once it has been told to."""
    set_version(postgresql, "9.9.9")
    try:
        wait_until(lambda: not container.answers("/readyz"), "notice of the upgrade")
        report = container.monitor("/view?vid=monitor_version").text
        [versions] = re.findall("DB config (.*)", report)
        container.exec("cubicweb-ctl", "hasite-accept", "site", versions)
        assert container.answers("/readyz")
        container.exec("cubicweb-ctl", "hasite-accept", "--undo", "site")
        assert not container.answers("/readyz")
    finally:
        set_version(postgresql, version)
    wait_until(lambda: container.answers("/readyz"), "the former version")


def test_upgrade(site: Path, postgresql: PostgreSQL) -> None:
    """The image of a new version serves when its job has upgraded the database."""
    set_version(postgresql, "0.0.1")
    container = Container(site)
    container.spawn()
    try:
        assert container.wait(30) == 3
        assert 'Run "cubicweb-ctl upgrade site"' in container.log
    finally:
        container.remove()
    wrong = re.sub(r"--secret \S*CW_PASSWORD", "--env CW_PASSWORD=wrong", containers.UPGRADE)
    assert containers.run(wrong, site, check=False).returncode != 0
    containers.run(containers.UPGRADE, site)
    with container:
        assert container.monitor("/view?vid=monitor_version").status_code == 200


def test_application(tmp_path: Path) -> None:
    """The image of an application has its cubes, and the versions of a former image."""
    image = f"{NAME}-application"
    script = containers.BUILD_APPLICATION.replace("--tag mysite", f"--tag {image}")
    script = script.replace("myapplication", "tag").replace(" .\n", f" {containers.CHECKOUT}\n")
    containers.run(script, tmp_path)
    try:
        cubes = in_image("cat", "/opt/site/etc/site/bootstrap_cubes", image=image)
        assert re.search(r"^hasite,tag\b", cubes, re.M)
        versions = set((tmp_path / "constraints.txt").read_text().splitlines())
        found = set(in_image("pip", "freeze", image=image).splitlines())
        assert len(versions) > 20
        assert versions < found
        assert {line.partition("==")[0] for line in found - versions} >= {"cubicweb-tag"}
    finally:
        containers.podman("rmi", image)
