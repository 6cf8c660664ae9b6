"""The cube is added to an existing instance, and upgraded, with its data kept."""

import lzma
import re
from collections.abc import Callable
from pathlib import Path

import backend
import pytest
from pictures import picture
from servers.instance import Instance, Process
from servers.postgresql import Database
from servers.visitor import Visitor

RED = picture("red")
BLUE = picture("blue")
#: databases as `pg_dump --no-owner --no-acl` wrote them, named for the version of the cube
DUMPS = Path(__file__).with_name("dumps")


@pytest.fixture
def existing(server_directory, new_database) -> Instance:
    """An instance without the cube, as `cubicweb-ctl create` makes it."""
    instance = Instance(server_directory("instance"), ["file"], new_database())
    instance.create()
    return instance


def visit(process: Process) -> Visitor:
    """Return an administrator of the instance."""
    visitor = Visitor(process.url)
    visitor.login()
    return visitor


def eid_in(url: str) -> int:
    return int(re.search(r"/file/(\d+)", url)[1])


def check(process: Process, eid: int, data: bytes) -> None:
    """Assert that the instance works with the cube, and has kept its data."""
    visitor = Visitor(process.url)
    response = visitor.get(f"/file/{eid}/raw/a.png", allow_redirects=True)
    assert response.content == data
    assert response.headers["Cache-Control"] == "public, max-age=3600"
    page = visitor.get(f"/file/{eid}", headers={"Accept": "text/html"}, allow_redirects=True)
    assert "a title" in page.text
    response = visitor.get("/view?vid=monitor_version")
    assert response.status_code == 200, response.text
    assert "hasite: " in response.text


def check_table(instance: Instance) -> None:
    """Assert that the instance has the table of long sessions."""
    count = 'cnx.system_sql("SELECT COUNT(*) FROM hasite_session").fetchone()'
    assert "(0,)" in instance.shell(f"print({count})\n")


def test_existing_instance(existing: Instance) -> None:
    process = existing.process()
    process.start()
    response = visit(process).create(
        "File", {"title": "a title"}, {"data": ("a.png", RED, "image/png")}
    )
    eid = eid_in(response.headers["Location"])
    process.stop()

    existing.shell("add_cube('hasite')\n")
    check_table(existing)

    process.start()
    check(process, eid, RED)
    response = visit(process).edit(eid, "File", files={"data": ("a.png", BLUE, "image/png")})
    assert eid_in(response.headers["Location"]) != eid
    check(process, eid, BLUE)
    process.stop()

    # as if the cube had been of an earlier version
    older = 'SET P value "0.0.1" WHERE P pkey "system.version.hasite"'
    drop = 'cnx.system_sql("DROP TABLE hasite_session")'
    existing.shell(f"rql({older!r})\n{drop}\ncommit()\n")
    existing.ctl("upgrade", "--force", "--verbosity=0", "--backup-db=y", existing.name)
    check_table(existing)

    process.start()
    check(process, eid, BLUE)
    process.stop()


def test_first_code(server_directory: Callable[[str], Path], database: Database) -> None:
    """An instance that the first code of the cube has made is upgraded; it needed cubicweb-web.

    The dump has an image, red when it was created and blue since it was edited.
    """
    if not backend.POSTGRES:
        pytest.skip("SQLite does not read the dump")
    dump = lzma.decompress((DUMPS / "0.1.0.sql.xz").read_bytes()).decode()
    backend.postgresql().restore(dump, database)
    instance = Instance(server_directory("instance"), ["hasite", "web", "file"], database)
    instance.configure()
    instance.ctl("upgrade", "--force", "--verbosity=0", "--backup-db=n", instance.name)
    check_table(instance)
    cubes = instance.shell("print(sorted(repo.get_versions()))\n")
    assert {"file", "hasite", "web"} <= set(re.findall(r"\w+", cubes))
    with instance.process() as process:
        check(process, 829, BLUE)
        response = visit(process).edit(830, "File", files={"data": ("a.png", RED, "image/png")})
        assert eid_in(response.headers["Location"]) > 830
        for former in (829, 830):
            check(process, former, RED)


def test_removal(existing: Instance) -> None:
    """The cube takes its tables with it."""
    existing.shell("add_cube('hasite')\n")
    existing.shell("drop_cube('hasite')\n")
    with pytest.raises(RuntimeError, match="hasite_session"):
        check_table(existing)
    # nothing of it is in the way of new eids
    existing.shell("create_entity('CWGroup', name='later')\ncommit()\n")
