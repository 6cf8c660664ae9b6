"""Pointed at production by mistake, in whatever way, hasite-rehearse writes nothing."""

import contextlib
import os
import socket
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
from deploying import hasite_here
from servers.link import Link
from servers.pgbouncer import PgBouncer
from servers.postgresql import PostgreSQL

_SITE = """\
[hosts.all]
address = "127.0.0.1"
roles = ["balancer", "web"]
processors = 2

[sites.shop]
url = "http://www.example.org/"

[squid]

[postgresql]
addresses = ["127.0.0.1", "127.0.0.2"]
port = {port}

[preproduction]
database = "{database}"
"""


#: the address that the machine's own name has for the test that needs one
NAMED = "127.0.1.1"
# runs a command with another /etc/hosts
_WITH_HOSTS = 'mount --bind "$1" /etc/hosts; shift; exec "$@"'


@dataclass
class Servers:
    """A production with all that leads to it, and servers that have nothing to do with it."""

    primary: PostgreSQL
    standby: PostgreSQL
    clone: PostgreSQL
    other: PostgreSQL
    pgbouncer: PgBouncer
    other_pgbouncer: PgBouncer
    link: Link
    service_file: Path

    def state(self) -> list[str]:
        """Return what a mistake would change."""
        # a table that is written to, and the objects of all databases, by their numbers
        catalog = (
            "SELECT datname, oid FROM pg_database ORDER BY 1",
            "SELECT count(*), max(oid::bigint) FROM pg_class",
            "SELECT md5(string_agg(t::text, ',' ORDER BY n)) FROM orders t",
        )
        result = [self.primary.sql(query, "shop") for query in catalog]
        return [*result, self.clone.sql(catalog[0]), self.other.sql(catalog[0])]


def _addresses() -> list[str]:
    """Return addresses of this machine, of all kinds."""
    addresses = {"127.0.0.1", "127.0.0.3", NAMED}
    with contextlib.suppress(OSError), socket.socket(socket.AF_INET6) as sock:
        sock.bind(("::1", 0))
        addresses.add("::1")
    return sorted(addresses)


@pytest.fixture(scope="module")
def servers(server_directory: Callable[[str], Path]) -> Iterator[Servers]:
    """Start them all."""
    # not on all addresses: the standby has the same port, as nodes of a site have
    primary = PostgreSQL(server_directory("primary"), listen=",".join(_addresses()))
    with contextlib.ExitStack() as stack:
        stack.enter_context(primary)
        primary.trust("127.0.0.0/8")
        primary.trust("samehost")
        primary.sql("CREATE USER rehearsal IN ROLE pg_read_all_data")
        # who may do everything, for the worst
        primary.sql("CREATE USER preproduction SUPERUSER")
        primary.sql("CREATE DATABASE shop TEMPLATE template0", timeout=60)
        primary.sql("CREATE TABLE orders AS SELECT generate_series(1, 1000) n", "shop")
        standby, clone = (
            PostgreSQL(server_directory(name), port, host=host, primary=primary)
            for name, port, host in (
                ("standby", primary.port, "127.0.0.2"),
                ("clone", None, "127.0.0.1"),
            )
        )
        other = PostgreSQL(server_directory("other"))
        for server in (standby, clone, other):
            stack.enter_context(server)
        clone.promote()
        other.configure("wal_level", "logical")
        other.stop()
        other.start()
        other.sql("CREATE USER preproduction CREATEDB")
        links = [
            stack.enter_context(server)
            for server in (
                PgBouncer(server_directory("pgbouncer"), primary.port, "preproduction"),
                PgBouncer(server_directory("pgbouncer"), other.port, "preproduction"),
                Link(primary.port),
            )
        ]
        service_file = server_directory("services")
        service_file.write_text(
            f"[harmless]\nhost=127.0.0.1\nport={primary.port}\nuser=preproduction\n"
        )
        yield Servers(primary, standby, clone, other, *links, service_file)


def with_name_of_the_machine(folder: Path) -> subprocess.CompletedProcess[str]:
    """Run hasite-rehearse where the name of this machine resolves, which it often does not."""
    hosts = folder / "hosts"
    hosts.write_text(f"{NAMED} {socket.gethostname()}\n")
    user = [] if os.geteuid() == 0 else ["--user", "--map-root-user"]
    ctl = Path(sys.executable).with_name("cubicweb-ctl")
    prefix = ["unshare", *user, "--mount", "sh", "-euc", _WITH_HOSTS, "sh", hosts]
    return subprocess.run(
        [*prefix, ctl, "hasite-rehearse", "site.toml"], cwd=folder, capture_output=True, text=True
    )


def rehearse(
    servers: Servers,
    folder: Path,
    database: str,
    run: Callable[[Path], subprocess.CompletedProcess[str]] | None = None,
) -> str:
    """Run hasite-rehearse with a target; return its message, after making sure that it refused
    before it wrote anything.

    :param run: runs it in a folder, by default in this process
    """
    text = _SITE.format(port=servers.primary.port, database=database)
    (folder / "site.toml").write_text(text)
    before = servers.state()
    result = run(folder) if run else hasite_here("rehearse", "site.toml", cwd=folder)
    assert result.returncode == 1
    assert servers.state() == before
    assert not list(folder.glob("rehearsal-*"))
    assert len(result.stderr.splitlines()) == 1
    return result.stderr


_PRODUCTION = "is production: its system identifier"
_USER = "user=preproduction"

#: what is given by mistake, and the beginning of why it is refused
WAYS = {
    "same": (f"host=127.0.0.1 port={{primary.port}} dbname=shop {_USER}", _PRODUCTION),
    "as a URL": ("postgresql://preproduction@127.0.0.1:{primary.port}/shop", _PRODUCTION),
    "another name": (f"host=localhost port={{primary.port}} {_USER}", _PRODUCTION),
    "name of the machine": (f"host={{hostname}} port={{primary.port}} {_USER}", _PRODUCTION),
    "another address": (f"host=127.0.0.3 port={{primary.port}} {_USER}", _PRODUCTION),
    "IPv6, or its absence": (f"host={{last}} port={{primary.port}} {_USER}", _PRODUCTION),
    "socket": (f"host={{primary.directory}} port={{primary.port}} {_USER}", _PRODUCTION),
    "pooler": (f"host=127.0.0.1 port={{pgbouncer.port}} dbname=shop {_USER}", _PRODUCTION),
    "proxy": (f"host=127.0.0.1 port={{link.port}} {_USER}", _PRODUCTION),
    "standby": (f"host=127.0.0.2 port={{primary.port}} {_USER}", _PRODUCTION),
    "another database": (
        f"host=127.0.0.1 port={{primary.port}} dbname=postgres {_USER}",
        _PRODUCTION,
    ),
    "promoted clone": (f"host=127.0.0.1 port={{clone.port}} {_USER}", _PRODUCTION),
    "service": ("service=harmless", _PRODUCTION),
    "environment": ("", _PRODUCTION),
    "a name that hides an address": (
        f"host=harmless.example.org hostaddr=127.0.0.1 port={{primary.port}} {_USER}",
        _PRODUCTION,
    ),
    "several servers": (
        f"host=127.0.0.1,127.0.0.1 port={{other.port}},{{primary.port}} {_USER}",
        "preproduction.database leads to several servers",
    ),
    # not production now, but who knows what will be behind it later
    "pooler of another": (
        f"host=127.0.0.1 port={{other_pgbouncer.port}} dbname=postgres {_USER}",
        "there is a pooler at",
    ),
}


@pytest.mark.parametrize("way", WAYS)
def test_production_is_refused(
    servers: Servers, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, way: str
) -> None:
    if way == "service":
        monkeypatch.setenv("PGSERVICEFILE", str(servers.service_file))
    if way == "environment":
        monkeypatch.setenv("PGHOST", "127.0.0.1")
        monkeypatch.setenv("PGPORT", str(servers.primary.port))
        monkeypatch.setenv("PGUSER", "preproduction")
    database, why = WAYS[way]
    database = database.format(
        **vars(servers), hostname=socket.gethostname(), last=_addresses()[-1]
    )
    run = with_name_of_the_machine if way == "name of the machine" else None
    message = rehearse(servers, tmp_path, database, run)
    assert message.startswith("refused: ")
    assert why in message
    journal = (tmp_path / "journal.md").read_text()
    assert "hasite-rehearse site.toml | refused: " in journal


def _other(servers: Servers) -> str:
    return f"host=127.0.0.1 port={servers.other.port} user=preproduction"


@contextlib.contextmanager
def _changed(
    server: PostgreSQL, change: str, undo: str, database: str = "postgres"
) -> Iterator[None]:
    server.sql(change, database)
    try:
        yield
    finally:
        for command in undo.split(";"):
            server.sql(command, database)


@pytest.mark.parametrize(
    ("change", "undo", "why"),
    [
        (
            # as a copy of production that is kept up to date in another way
            "CREATE SUBSCRIPTION copied CONNECTION 'host=127.0.0.1' PUBLICATION p "
            "WITH (connect = false)",
            "ALTER SUBSCRIPTION copied SET (slot_name = NONE);DROP SUBSCRIPTION copied",
            "replicates from another server (subscription copied)",
        ),
        (
            "SELECT pg_create_logical_replication_slot('followed', 'pgoutput')",
            "SELECT pg_drop_replication_slot('followed')",
            "another server replicates from",
        ),
        (
            "REVOKE EXECUTE ON FUNCTION pg_control_system() FROM PUBLIC",
            "GRANT EXECUTE ON FUNCTION pg_control_system() TO PUBLIC",
            "cannot be identified: permission denied",
        ),
    ],
)
def test_doubt_is_refused(
    servers: Servers, tmp_path: Path, change: str, undo: str, why: str
) -> None:
    with _changed(servers.other, change, undo):
        message = rehearse(servers, tmp_path, _other(servers))
    assert message.startswith("refused: ")
    assert why in message


def test_standby_of_another(servers: Servers, tmp_path: Path, server_directory) -> None:
    standby = PostgreSQL(server_directory("standby"), primary=servers.other)
    with standby:
        message = rehearse(
            servers, tmp_path, f"host=127.0.0.1 port={standby.port} user=preproduction"
        )
    assert "is a standby; give a server of its own" in message


def test_production_that_does_not_say_who_it_is(servers: Servers, tmp_path: Path) -> None:
    revoke = "REVOKE EXECUTE ON FUNCTION pg_control_system() FROM PUBLIC"
    grant = "GRANT EXECUTE ON FUNCTION pg_control_system() TO PUBLIC"
    with _changed(servers.primary, revoke, grant, "shop"):
        message = rehearse(servers, tmp_path, _other(servers))
    assert message.startswith("refused: production's node 127.0.0.1 cannot be identified")


def test_nobody_who_may_not(servers: Servers, tmp_path: Path) -> None:
    with _changed(
        servers.other, "ALTER USER preproduction NOCREATEDB", "ALTER USER preproduction CREATEDB"
    ):
        message = rehearse(servers, tmp_path, _other(servers))
    assert message.startswith("preproduction may not create databases at 127.0.0.1")


def test_production_is_down(servers: Servers, tmp_path: Path) -> None:
    """Without production there is nothing to compare with."""
    text = _SITE.format(port=1, database=_other(servers))
    (tmp_path / "site.toml").write_text(text)
    result = hasite_here("rehearse", "site.toml", cwd=tmp_path)
    assert result.returncode == 1
    assert result.stderr.startswith("no node of production answers: ")
    assert not list(tmp_path.glob("rehearsal-*"))


def test_password_in_the_site_file(servers: Servers, tmp_path: Path) -> None:
    message = rehearse(servers, tmp_path, f"{_other(servers)} password=secret")
    assert "site.toml:16: preproduction.database: it holds a password" in message
