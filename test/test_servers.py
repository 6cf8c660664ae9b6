"""The servers that the tests are run on are what they are taken for."""

import subprocess
import time
from collections.abc import Callable
from pathlib import Path

import backend
import pytest
from base import HasiteTC
from servers.instance import Instance, Process
from servers.postgresql import PostgreSQL
from servers.squid import Squid
from servers.support import wait_until
from servers.visitor import Visitor, validation

PNG = b"\x89PNG\r\n\x1a\n"


class TestPostgreSQL:
    def test_pause(self, postgresql: PostgreSQL) -> None:
        postgresql.pause()
        with pytest.raises(subprocess.TimeoutExpired):
            postgresql.sql("SELECT 1", timeout=0.5)
        postgresql.resume()
        assert postgresql.is_ready()

    def test_pause_holds_open_connections(self, postgresql: PostgreSQL) -> None:
        started = time.monotonic()
        command = ["psql", "-XAtq", "-c", "SELECT pg_sleep(0.3)", "-h", postgresql.host]
        command += ["-p", str(postgresql.port), "-U", postgresql.user, "postgres"]
        with subprocess.Popen(command, stdout=subprocess.DEVNULL) as client:
            time.sleep(0.2)
            postgresql.pause()
            time.sleep(1)
            assert client.poll() is None
            postgresql.resume()
            assert client.wait(10) == 0
        assert time.monotonic() - started > 1

    def test_kill_then_start_recovers(self, postgresql: PostgreSQL) -> None:
        postgresql.create_database("kept")
        postgresql.sql("CREATE TABLE kept (n int)", "kept")
        postgresql.kill()
        assert not postgresql.is_ready()
        postgresql.start()
        assert postgresql.sql("SELECT count(*) FROM kept", "kept") == "0"

    def test_stop(self, postgresql: PostgreSQL) -> None:
        postgresql.stop()
        assert not postgresql.is_ready()


class TestInstance:
    def test_two_processes_serve_one_site(self, instance: Instance, process: Process) -> None:
        visitor = Visitor(process.url)
        visitor.login()
        created = visitor.create("Album", {"name": "Seen from the other"})
        with instance.process(base_url=process.url) as other:
            visitor.base_url = other.url
            page = visitor.get(created.headers["Location"])
            assert "Seen from the other" in page.text
            assert "admin" in page.text  # still logged in
        assert not other.answers()
        assert process.answers()

    def test_pause(self, instance: Instance) -> None:
        with instance.process() as process:
            process.pause()
            visitor = Visitor(process.url)
            with pytest.raises(OSError, match="timed out"):
                visitor.get(timeout=0.5)
            process.resume()
            assert visitor.get().status_code == 200
            process.stop()
            assert "GET / HTTP" in process.log

    def test_closed(self, closed_instance: Instance) -> None:
        with closed_instance.process() as process:
            response = Visitor(process.url).get()
            assert response.status_code == 303
            assert "login" in response.headers["Location"]


class TestSquid:
    def test_hit(self, squid: Squid) -> None:
        visitor = Visitor(squid.url)
        page = visitor.get()
        assert "MISS" in page.headers["X-Cache"]
        icon = page.text.split('<link rel="shortcut icon" href="')[1].split('"')[0]
        assert icon.startswith(squid.url)
        visitor.get(icon)
        assert "HIT from squid.test" in visitor.get(icon).headers["X-Cache"]
        wait_until(lambda: "TCP_MEM_HIT" in squid.access_log, "line of the log")

    def test_kill_then_start(
        self, server_directory: Callable[[str], Path], process: Process
    ) -> None:
        with Squid(server_directory("squid"), process.port) as squid:
            squid.kill()
            with pytest.raises(OSError, match="refused"):
                Visitor(squid.url).get("login")
            squid.start()
            assert Visitor(squid.url).get("login").status_code == 200


@pytest.mark.parametrize("controller", ["edit", "validateform"])
def test_visitor_edits(process: Process, controller: str) -> None:
    visitor = Visitor(process.url)
    visitor.login()
    upload = {"data": ("a.png", PNG, "image/png")}
    location = visitor.create("File", {"title": "Before"}, upload).headers["Location"]
    eid = int(location.split("?")[0].rsplit("/", 1)[1])

    response = visitor.edit(eid, "File", {"title": "After"}, controller=controller)

    if controller == "edit":
        assert response.status_code == 303
        assert response.headers["Location"].startswith(f"{process.url}file/{eid}")
    else:
        valid, location, entity = validation(response)
        assert valid
        assert location.startswith(f"{process.url}file/{eid}")
        assert entity["title"] == "After"
    assert "After" in visitor.get(f"file/{eid}").text


def test_visitor_is_told_of_errors(process: Process) -> None:
    visitor = Visitor(process.url)
    visitor.login()
    valid, errors, _entity = validation(
        visitor.create("Album", {"name": ""}, controller="validateform")
    )
    assert not valid
    assert "name-subject" in errors[1]


def test_visitor_fills_inlined_forms(process: Process) -> None:
    visitor = Visitor(process.url)
    visitor.login()
    cover = {"data-subject:B": ("cover.png", PNG, "image/png")}
    created = visitor.create("Article", {"title": "Text", "title-subject:B": "Cover"}, cover)
    page = visitor.get(created.headers["Location"])
    assert "Text" in page.text
    assert "Cover (cover.png)" in page.text


class TestTestCase(HasiteTC):
    def test_database_is_the_one_asked_for(self) -> None:
        expected = "postgres" if backend.POSTGRES else "sqlite"
        assert self.repo.system_source.dbdriver == expected

    def test_workflow(self) -> None:
        with self.admin_access.cnx() as cnx:
            assert cnx.execute(
                "Any N ORDERBY N WHERE S is State, S name N, S state_of W, W workflow_of E, "
                "E name 'File'"
            ).rows == [["draft"], ["published"]]

    def test_webapp(self) -> None:
        assert self.webapp.get("/", status=200)
