"""No eid is given out twice: caches and browsers keep images under their eids for up to a year."""

import re
import shutil
import subprocess
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from pictures import picture
from servers.instance import CUBICWEB_CTL, Instance
from servers.postgresql import Database, PostgreSQL
from servers.squid import Squid
from servers.support import free_port
from servers.visitor import Visitor

from cubicweb_hasite.database.eids import LARGEST, STEP

LAST = "SELECT last FROM entities_id_seq"


@pytest.fixture(scope="module")
def server(server_directory: Callable[[str], Path]) -> Iterator[PostgreSQL]:
    """The server of the site, which each test leaves running."""
    with PostgreSQL(server_directory("postgresql")) as server:
        yield server


@pytest.fixture(scope="module")
def site(server: PostgreSQL, server_directory: Callable[[str], Path]) -> Instance:
    return new_instance(server_directory, server.create_database("site"))


def new_instance(server_directory: Callable[[str], Path], database: Database) -> Instance:
    instance = Instance(
        server_directory("instance"),
        ["hasite_testapp"],
        database,
        options={"hasite-image-max-age": 31536000},
    )
    instance.create()
    return instance


def create_image(admin: Visitor, colour: str) -> int:
    """Create an image; return its eid."""
    response = admin.create("File", files={"data": ("a.png", picture(colour), "image/png")})
    assert response.status_code == 303, response.text
    return int(re.search(r"/file/(\d+)", response.headers["Location"])[1])


def ctl(instance: Instance, *args: str) -> subprocess.CompletedProcess[str]:
    """Run `cubicweb-ctl hasite-advance-eids`, whatever its exit status."""
    return subprocess.run(
        [CUBICWEB_CTL, "hasite-advance-eids", *args],
        env=instance.environ(),
        cwd=instance.directory,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )


def test_restored_backup(
    server: PostgreSQL, site: Instance, server_directory: Callable[[str], Path]
) -> None:
    """As chapter 5 of the runbook does: the backup, the eids, the caches, the instances."""
    backup = server_directory("backup")
    squid = Squid(server_directory("squid"), port := free_port())
    process = site.process(port, base_url=squid.url)

    def image(eid: int) -> bytes:
        visits = [Visitor(squid.url).get(f"/file/{eid}/raw/a.png") for _ in range(2)]
        assert visits[1].headers["X-Cache"].startswith("HIT")
        assert visits[0].headers["Cache-Control"].endswith("max-age=31536000, immutable")
        assert visits[0].content == visits[1].content
        return visits[1].content

    with process, squid:
        admin = Visitor(squid.url)
        admin.login()
        kept = create_image(admin, "green")
        base_backup = PostgreSQL(backup, primary=server)
        base_backup.start()  # makes it
        base_backup.stop()
        lost = create_image(admin, "red")
        assert image(lost) == picture("red")
        process.stop()
        server.stop()
        cluster = server.directory / "cluster"
        shutil.move(cluster, cluster.with_suffix(".lost"))
        subprocess.run(["cp", "-a", backup / "cluster", cluster], check=True)
        (cluster / "standby.signal").unlink()
        (cluster / "postgresql.auto.conf").write_text("")
        server.start()
        last = int(server.sql(LAST, "site"))
        assert last < lost

        result = ctl(site, site.name)
        said = f"{site.name}: the last eid was {last}, the next is {last + STEP + 1}\n"
        assert result.returncode == 0, result.stdout
        assert said in result.stdout
        process.start()
        squid.stop()
        squid.start()

        assert image(kept) == picture("green")
        assert Visitor(squid.url).get(f"/file/{lost}/raw/a.png").status_code == 404
        admin = Visitor(squid.url)
        admin.login()
        new = create_image(admin, "blue")
        assert new > last + STEP
        assert image(new) == picture("blue")


def test_promotion_that_loses_transactions(
    server: PostgreSQL, site: Instance, server_directory: Callable[[str], Path]
) -> None:
    """Nothing has to be done: PostgreSQL notices that it is on another timeline."""
    with PostgreSQL(server_directory("standby"), primary=server) as standby:
        with site.process(hasite_image_max_age=60) as process:
            admin = Visitor(process.url)
            admin.login()
            before = create_image(admin, "green")
            wait = f"SELECT pg_last_wal_replay_lsn() >= '{_lsn(server)}'"
            while standby.sql(wait) != "t":
                pass
            standby.stop()
            lost = create_image(admin, "red")
            assert before < lost < before + 100
        server.kill()
        standby.start()
        standby.promote()
        # several processes at once, and other programs than CubicWeb
        counted = int(standby.sql(LAST, "site"))
        assert counted < lost
        with ThreadPoolExecutor(5) as executor:
            update = "UPDATE entities_id_seq SET last = last + 1"
            list(executor.map(lambda _: standby.sql(update, "site", timeout=20), range(5)))
        assert int(standby.sql(LAST, "site")) == counted + STEP + 5
        assert f"new eids go on at {counted + STEP + 1}, since" in standby.log
        with site.process(db_port=standby.port) as process:
            admin = Visitor(process.url)
            admin.login()
            assert counted + STEP + 5 < create_image(admin, "blue") < counted + 2 * STEP
    server.start()


def _lsn(server: PostgreSQL) -> str:
    return server.sql("SELECT pg_current_wal_flush_lsn()")


def test_dump_restored_elsewhere(
    server: PostgreSQL, site: Instance, server_directory: Callable[[str], Path]
) -> None:
    address = ["-h", server.host, "-p", str(server.port), "-U", server.user]
    dump = subprocess.run(["pg_dump", *address, "site"], check=True, capture_output=True).stdout
    last = int(server.sql(LAST, "site"))
    with PostgreSQL(server_directory("other")) as other:
        other.create_database("site")
        address = ["-h", other.host, "-p", str(other.port), "-U", other.user]
        subprocess.run(["psql", "-q", *address, "site"], check=True, input=dump)
        site.options["db-port"] = other.port
        try:
            script = "print('eid', cnx.create_entity('CWGroup', name='new').eid)\ncommit()\n"
            assert int(re.search(r"eid (\d+)", site.shell(script))[1]) > last + STEP
        finally:
            site.options["db-port"] = server.port


def test_what_the_command_refuses(server: PostgreSQL, site: Instance) -> None:
    before = server.sql(LAST, "site")
    for number in ("0", "-3"):
        result = ctl(site, f"--by={number}", site.name)
        assert result.returncode != 0
        assert "hasite-advance-eids: --by needs a number of 1 or more" in result.stdout
    result = ctl(site, f"--by={LARGEST}", site.name)
    assert result.returncode != 0
    assert f"nothing was changed: {LARGEST} is too many: the last eid is {before}" in result.stdout
    result = ctl(site, "--by=many", site.name)
    assert result.returncode != 0
    assert server.sql(LAST, "site") == before
    # entities that were written by others than CubicWeb count too
    server.sql("INSERT INTO entities VALUES (5000000, 'File')", "site")
    result = ctl(site, "--by=7", site.name)
    assert f"the last eid was {before}, the next is 5000008" in result.stdout, result.stdout
    assert "hasite-advance-eids" in (site.directory / site.name / "journal.md").read_text()
    server.stop()
    result = ctl(site, site.name)
    assert result.returncode != 0
    assert "nothing was changed: " in result.stdout
    assert "Traceback" not in result.stdout
    server.start()
    result = ctl(site, "nosuch")
    assert result.returncode != 0
    assert "Traceback" not in result.stdout


def test_sqlite(server_directory: Callable[[str], Path]) -> None:
    directory = server_directory("sqlite")
    directory.mkdir()
    site = new_instance(server_directory, Database("sqlite", str(directory / "site")))
    result = ctl(site, "--by=10", site.name)
    last = int(re.search(r"the last eid was (\d+)", result.stdout)[1])
    assert f"the next is {last + 11}" in result.stdout


def test_command_of_the_documentation() -> None:
    document = Path(__file__).parent.parent / "docs" / "database.md"
    commands = re.findall(r"(?m)^```sh\n(.*)\n```$", document.read_text())
    assert commands == ["cubicweb-ctl hasite-advance-eids mysite"]
