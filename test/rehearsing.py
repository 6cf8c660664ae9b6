"""A production of the test cube `hasite_news`, and what rehearses its upgrade."""

import os
import re
import shutil
import subprocess
import sys
import sysconfig
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from servers.instance import Instance
from servers.postgresql import Database, PostgreSQL
from servers.support import consecutive_ports

HERE = Path(__file__).parent
CUBE = "hasite_news"
OLD, NEW = "0.1.0", "0.2.0"
#: news and pictures of the production, together
ENTITIES = 10_000

#: a program that can be called instead of Python
LAYER = f"""\
#!/bin/sh
# `python3 -m venv` which makes an environment on top of that of the tests: it takes a second
set -eu
for last; do :; done
exec {sys.executable} {Path(__file__)} layer "$last"
"""

#: SQL that adds entities: each in its tables, as CubicWeb would; a picture of 2 kB, other bytes
FILL = """
CREATE TEMPORARY TABLE new AS
    SELECT n, (SELECT max(eid) FROM entities) + n AS eid FROM generate_series(1, {count}) n;
INSERT INTO entities (eid, type) SELECT eid, CASE WHEN n % 2 = 0 THEN 'News' ELSE 'File' END
    FROM new;
INSERT INTO cw_file (cw_eid, cw_title, cw_data, cw_data_format, cw_data_name, cw_cwuri,
        cw_creation_date, cw_modification_date)
    SELECT eid, 'Picture ' || n, decode(repeat(md5(n::text), 128), 'hex'), 'image/png', 'a.png',
        'http://example.org/' || eid, now(), now() FROM new WHERE n % 2 = 1;
INSERT INTO cw_news (cw_eid, cw_title, cw_picture, cw_cwuri, cw_creation_date,
        cw_modification_date)
    SELECT eid, 'News ' || n, eid - 1, 'http://example.org/' || eid, now(), now()
    FROM new WHERE n % 2 = 0;
INSERT INTO is_relation (eid_from, eid_to)
    SELECT eid, (SELECT cw_eid FROM cw_cwetype
        WHERE cw_name = CASE WHEN n % 2 = 0 THEN 'News' ELSE 'File' END) FROM new;
INSERT INTO is_instance_of_relation SELECT i.* FROM is_relation i JOIN new ON eid = eid_from;
UPDATE entities_id_seq SET last = (SELECT max(eid) FROM entities);
"""


def wheel(sources: Path, folder: Path) -> Path:
    """Build the package of some sources into a folder."""
    command = [sys.executable, "-m", "pip", "wheel", "--quiet", "--no-deps", "--wheel-dir", folder]
    subprocess.run([*command, sources], check=True, capture_output=True)
    return max(folder.glob("*.whl"), key=lambda path: path.stat().st_mtime_ns)


def cube(folder: Path, version: str, *, depends: bool = False) -> Path:
    """Build the package of a version of the cube into a new folder.

    :param depends: whether the package says what it needs, which pip then downloads
    """
    sources = folder / "sources"
    shutil.copytree(HERE / "news", sources, ignore=shutil.ignore_patterns("build", "*.egg-info"))
    if version == NEW:
        shutil.copytree(HERE / "news_0.2.0", sources, dirs_exist_ok=True)
    if not depends:
        project = sources / "pyproject.toml"
        lines = project.read_text().splitlines(keepends=True)
        project.write_text("".join(line for line in lines if not line.startswith("dependencies")))
    return wheel(sources, folder)


def with_migration(package: Path, migration: str, folder: Path) -> None:
    """Write a package into a folder, with another migration script."""
    script = f"cubicweb_{CUBE}/migration/0.2.0_Any.py"
    with (
        zipfile.ZipFile(package) as old,
        zipfile.ZipFile(folder / package.name, "w", zipfile.ZIP_DEFLATED) as new,
    ):
        for entry in old.infolist():
            changed = migration and entry.filename == script
            new.writestr(entry, migration if changed else old.read(entry))


def layer(folder: Path) -> None:
    """Make an environment on top of that of the tests."""
    subprocess.run([sys.executable, "-m", "venv", "--clear", "--without-pip", folder], check=True)
    site_packages = next(folder.glob("lib/python*/site-packages"))
    below = sysconfig.get_path("purelib")
    (site_packages / "below.pth").write_text(f"import site; site.addsitedir({below!r})\n")
    for name in ("pip", "cubicweb-ctl", "gunicorn"):
        script = Path(sys.executable).with_name(name).read_text().partition("\n")[2]
        path = folder / "bin" / name
        path.write_text(f"#!{folder}/bin/python\n{script}")
        path.chmod(0o755)


def install(folder: Path, package: Path) -> None:
    """Install a package in an environment."""
    command = [folder / "bin" / "pip", "install", "--quiet", "--no-deps", "--no-index"]
    subprocess.run([*command, package], check=True, capture_output=True)


class Production:
    """A production: PostgreSQL with a standby, and the configuration of an instance.

    :param folder: where all is
    :param hosts: the addresses of the primary and of the standby
    """

    name = "site"

    def __init__(self, folder: Path, hosts: tuple[str, str] = ("127.0.0.1", "127.0.0.2")) -> None:
        folder.mkdir()
        folder.chmod(0o755)
        self.folder = folder
        self.hosts = hosts
        self.primary = PostgreSQL(folder / "primary", host=hosts[0])
        # on the same port: nodes have it in common
        self.standby = PostgreSQL(
            folder / "standby", self.primary.port, host=hosts[1], primary=self.primary
        )
        #: for the copies: a cluster of its own
        self.other = PostgreSQL(folder / "other")
        self.virtualenv = folder / "old"
        self.database = Database("postgres", self.name, hosts[0], self.primary.port, self.name)
        self.instance = Instance(folder / "etc", [CUBE], self.database)
        self.instance.ctl_path = str(self.virtualenv / "bin" / "cubicweb-ctl")

    @contextmanager
    def running(self) -> Iterator["Production"]:
        """Start the servers, and fill the database."""
        with self.primary:
            layer(self.virtualenv)
            install(self.virtualenv, cube(self.folder / OLD, OLD))
            self.release = cube(self.folder / NEW, NEW)
            self.primary.sql(f"CREATE USER {self.name}")
            self.primary.sql("CREATE USER rehearsal IN ROLE pg_read_all_data")
            command = f"CREATE DATABASE {self.name} OWNER {self.name} TEMPLATE template0"
            self.primary.sql(command, timeout=60)
            self.instance.create()
            # an operator writes it there; other options of the test's are in the environment
            path = self.instance.directory / self.name / "all-in-one.conf"
            text = path.read_text()
            for option in ("anonymous-user", "anonymous-password"):
                text = re.sub(rf"(?m)^#?{option}=.*$", f"{option}=anon", text)
            path.write_text(text)
            fill = FILL.format(count=ENTITIES)
            self.primary.sql(f"BEGIN;{fill};COMMIT", self.name, timeout=120)
            with self.standby, self.other:
                self.other.sql("CREATE USER preproduction CREATEDB")
                yield self

    def checksums(self) -> str:
        """Return a digest of each table of production's database, and the list of databases."""
        tables = self.primary.sql(
            "SELECT string_agg(format('SELECT %L, md5(coalesce(string_agg(t::text, '','' "
            "ORDER BY t::text), '''')) FROM %I t', relname, relname), ' UNION ALL ' "
            "ORDER BY relname) FROM pg_class WHERE relkind = 'r' "
            "AND relnamespace = 'public'::regnamespace",
            self.name,
        )
        sums = self.primary.sql(f"{tables} ORDER BY 1", self.name, timeout=60)
        return sums + self.primary.sql("SELECT datname FROM pg_database ORDER BY 1")

    def contents(self) -> list[str]:
        """Return :meth:`checksums` without what a new timeline of PostgreSQL changes: eids."""
        own = ("entities_id_seq|", "hasite_origin|")
        return [line for line in self.checksums().splitlines() if not line.startswith(own)]

    def site_folder(self, folder: Path, **options: object) -> "SiteFolder":
        """Return a folder with a site file that rehearses on the server for copies."""
        return SiteFolder(self, folder, **options)


_SITE = """\
[hosts.all]
address = "127.0.0.1"
roles = ["balancer", "web"]
processors = 2

[sites.{name}]
url = "http://127.0.0.1:8080/"

[balancer]
http_port = 8080

[squid]

[instances]
virtualenv = "{virtualenv}"
configuration = "{configuration}"

[postgresql]
addresses = ["127.0.0.1", "127.0.0.2"]
port = {port}

[upgrade]
checks = [
  {{ path = "/", text = "News" }},
  {{ path = "/view?rql=Any+X+ORDERBY+X+WHERE+X+is+News", text = "News 2" }},
{checks}]
longest_wait = {longest_wait}
{upgrade}
[preproduction]
database = "{database}"
python = "{python}"
port = {instances}
{preproduction}"""


class SiteFolder:
    """The folder of a site file, from which an upgrade is rehearsed.

    :param database: `preproduction.database`, by default on the server for copies
    :param configuration: `instances.configuration`, by default where it is
    :param checks: more of `upgrade.checks`, in TOML
    :param upgrade: more keys of the section [upgrade], in TOML
    :param preproduction: more keys of the section [preproduction], in TOML
    """

    def __init__(
        self,
        production: Production,
        folder: Path,
        *,
        database: str = "",
        longest_wait: int = 30,
        configuration: str = "",
        checks: str = "",
        upgrade: str = "",
        preproduction: str = "",
    ) -> None:
        folder.mkdir()
        self.folder = folder
        self.production = production
        python = folder / "python"
        python.write_text(LAYER)
        python.chmod(0o755)
        other = production.other
        #: the first of the ports of the instances that are tried
        self.port = consecutive_ports(4)
        self.site = folder / "site.toml"
        self.site.write_text(
            _SITE.format(
                name=production.name,
                virtualenv=production.virtualenv,
                configuration=configuration or production.instance.directory,
                port=production.primary.port,
                database=database or f"host=127.0.0.1 port={other.port} user=preproduction",
                python=python,
                longest_wait=longest_wait,
                checks=checks,
                upgrade=upgrade,
                preproduction=preproduction,
                instances=self.port,
            )
        )

    def release(self, migration: str = "") -> None:
        """Let the new version of the cube be what is to be installed.

        :param migration: instead of its migration script
        """
        with_migration(self.production.release, migration, self.folder)
        (self.folder / "requirements.txt").write_text(f"./{self.production.release.name}\n")

    def rehearse(
        self, *args: str, prefix: tuple[str, ...] = ()
    ) -> subprocess.CompletedProcess[str]:
        """Run hasite-rehearse, as a user does."""
        return subprocess.run(
            [*prefix, *self.command("rehearse", *args)],
            cwd=self.folder,
            env=self.environ(),
            capture_output=True,
            text=True,
            timeout=600,
        )

    def command(self, name: str, *args: str) -> list[str]:
        """Return a command on the site file."""
        ctl = str(Path(sys.executable).with_name("cubicweb-ctl"))
        return [ctl, f"hasite-{name}", "site.toml", *args]

    def environ(self) -> dict[str, str]:
        """Return the environment of a command."""
        return {key: value for key, value in os.environ.items() if not key.startswith("PYTEST_")}

    @property
    def rehearsals(self) -> list[Path]:
        """The folders of the rehearsals, the latest last."""
        return sorted(self.folder.glob("rehearsal-*"))


if __name__ == "__main__" and sys.argv[1] == "layer":
    layer(Path(sys.argv[2]))
