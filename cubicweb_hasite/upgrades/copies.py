"""Copy production's database, which is only read, to databases of our own.

A copy has a name that no other server has: a command meant for it fails on any other server. A
database is dropped only if its comment says that it was made here. Nobody may connect to a copy
but its owner and superusers.
"""

import re
from collections.abc import Callable, Iterator, Mapping
from contextlib import closing, contextmanager
from dataclasses import dataclass
from pathlib import Path

from psycopg2 import errorcodes, sql
from psycopg2.extensions import connection as Connection

from cubicweb_hasite.upgrades import LOST, Refused, UpgradeError
from cubicweb_hasite.upgrades.programs import Failed, Programs
from cubicweb_hasite.upgrades.server import Server, query

_MARK = "Made by hasite-rehearse in "
_FINISHED = re.compile(r"finished item \d+ TABLE DATA (\S+)")
# libpq writes the severity of an error, in any language, before two spaces.
_SERVER_ERROR = re.compile(r"(?P<before>.*?\w: {2})(?P<message>.*)")

#: called with the bytes done, and the bytes in all
Progress = Callable[[int, int], None]


def table_sizes(source: Server) -> dict[str, int]:
    """Return the size of each table in bytes, by its name.

    :raises UpgradeError: the server is lost.
    """
    with closing(source.connect()) as connection:
        rows = query(
            connection,
            "SELECT relname, pg_table_size(oid) FROM pg_class WHERE relkind = 'r' "
            "AND relnamespace NOT IN ('pg_catalog'::regnamespace, "
            "'information_schema'::regnamespace)",
        )
    return dict(rows)


def database_size(server: Server, name: str | None = None) -> int:
    """Return the size of a database in bytes.

    :raises UpgradeError: the server is lost.
    """
    with closing(server.connect(name)) as connection:
        [[size]] = query(connection, "SELECT pg_database_size(current_database())")
    return int(size)


@dataclass(frozen=True)
class Copier:
    """Dumps and restores databases.

    :param jobs: tables that are copied at a time
    :param tables: size of each table in bytes, for the progress
    """

    programs: Programs
    jobs: int
    tables: Mapping[str, int]
    progress: Progress

    def dump(
        self, source: Server, folder: Path, name: str | None = None, *, personal: bool = False
    ) -> int:
        """Write a database to a new folder, and return its size there in bytes.

        :param name: name of the database, by default that of the server's parameters
        :param personal: whether it holds personal data, which must not get into the log
        :raises UpgradeError: it failed.
        """
        command = [
            "pg_dump",
            "--format=directory",
            f"--jobs={self.jobs}",
            "--verbose",
            "--no-owner",
            "--no-privileges",
            "--no-publications",
            "--no-subscriptions",
            "--lock-wait-timeout=60s",
            f"--file={folder}",
        ]
        name = name or source.parameters["dbname"]
        self._run(command, source, name, personal)
        return sum(file.stat().st_size for file in folder.iterdir())

    def restore(self, server: Server, name: str, folder: Path, *, personal: bool = False) -> None:
        """Restore a dump into a database that :func:`create` made.

        :param personal: whether it holds personal data, which must not get into the log
        :raises UpgradeError: it failed.
        """
        command = [
            "pg_restore",
            f"--jobs={self.jobs}",
            "--verbose",
            "--no-owner",
            "--no-privileges",
            "--exit-on-error",
            f"--dbname={name}",
            str(folder),
        ]
        self._run(command, server, name, personal)

    def _run(self, command: list[str], server: Server, name: str, personal: bool) -> None:
        environ = server.environ(name)
        if personal:
            environ["LC_ALL"] = "C"  # the redaction knows the English messages of the programs
        with closing(server.connect(name)) as connection:
            self.programs.run(
                command,
                environ=environ,
                watch=self._watch(connection),
                redact=without_values if personal else None,
            )

    def _watch(self, connection: Connection) -> Callable[[], None]:
        """Return a function that shows the progress: tables finished, and those being copied."""
        start = self.programs.position()
        total = sum(self.tables.values())

        def watch() -> None:
            finished = set(_FINISHED.findall(self.programs.since(start)))
            done = sum(self.tables.get(table, 0) for table in finished)
            copying = "SELECT relid::regclass::text, bytes_processed FROM pg_stat_progress_copy"
            for table, copied in query(connection, copying):
                done += min(copied, self.tables.get(table, 0))
            self.progress(min(done, total), total)

        return watch


def without_values(line: str) -> str | None:
    """Return a line of PostgreSQL's programs without values of rows, None if nothing is left.

    Their own messages name tables only. A message of the server may quote a value, and lines such
    as `DETAIL: Key (login)=(jane) already exists.` follow. Only its severity is kept, or its
    SQLSTATE where the server's message is nothing else.
    """
    if not re.match(r"(pg_dump|pg_restore|psql)\b", line):
        return None
    match = _SERVER_ERROR.fullmatch(line)
    if not match or re.fullmatch("[0-9A-Z]{5}", match["message"]):
        return line
    lost = LOST.search(match["message"])
    return match["before"] + (lost[0] if lost else "(not shown, since it may hold personal data)")


def anonymise(programs: Programs, server: Server, name: str, file: Path) -> None:
    """Run a file of SQL on a copy, in one transaction.

    Nothing that the SQL prints is logged, and of an error only its line and its SQLSTATE.

    :raises UpgradeError: it failed.
    """
    command = [
        "psql",
        "--no-psqlrc",
        "--quiet",
        "--output=/dev/null",
        "--single-transaction",
        "--set=ON_ERROR_STOP=1",
        "--set=VERBOSITY=sqlstate",
        f"--file={file}",
    ]
    environ = server.environ(name) | {"LC_ALL": "C"}
    try:
        programs.run(command, environ=environ, redact=without_values)
    except Failed as error:
        match = re.search(r":(\d+): \w+: {2}([0-9A-Z]{5})$", str(error))
        if not match:
            raise
        raise UpgradeError(
            f"preproduction.anonymise: line {match[1]} of {file.name} fails: {_meaning(match[2])}"
            "; PostgreSQL's message is not shown, since it may hold personal data"
        ) from None


def _meaning(sqlstate: str) -> str:
    try:
        return f"{errorcodes.lookup(sqlstate).lower().replace('_', ' ')} (SQLSTATE {sqlstate})"
    except KeyError:  # one that the SQL has raised itself
        return f"SQLSTATE {sqlstate}"


def refuse_foreign_servers(server: Server, name: str) -> None:
    """Make sure that nothing written to a copy can reach another server.

    :raises Refused: the copy has foreign servers.
    """
    with closing(server.connect(name)) as connection:
        foreign = [row[0] for row in query(connection, "SELECT srvname FROM pg_foreign_server")]
    if foreign:
        raise Refused(
            f"the copy has foreign servers, through which a migration could write elsewhere: "
            f"{', '.join(foreign)}; drop them in the SQL file of preproduction.anonymise"
        )


def create(server: Server, name: str, mark: str, *, template: str = "template0") -> None:
    """Make a database; one that was made here before is dropped first.

    :param mark: text of its comment, by which it is recognised
    :raises Refused: a database of that name was not made here.
    :raises UpgradeError: the server refuses it, or is lost.
    """
    drop(server, name, mark)
    with closing(server.connect()) as connection:
        # no need to write each page of a copy to the WAL
        strategy = " STRATEGY file_copy" if server.version >= 150000 else ""
        identifier = sql.Identifier(name)
        command = "CREATE DATABASE {} TEMPLATE {} ENCODING 'UTF8' ALLOW_CONNECTIONS false"
        from_template = sql.SQL(command + strategy).format(identifier, sql.Identifier(template))
        query(connection, from_template)
        comment = sql.SQL("COMMENT ON DATABASE {} IS {}")
        query(connection, comment.format(identifier, sql.Literal(_MARK + mark)))
        query(connection, sql.SQL("REVOKE ALL ON DATABASE {} FROM PUBLIC").format(identifier))
        query(connection, sql.SQL("ALTER DATABASE {} ALLOW_CONNECTIONS true").format(identifier))


@contextmanager
def written_to_by_nobody(server: Server, name: str) -> Iterator[None]:
    """Let new connections to a copy only read, as on a standby, while the block runs.

    :raises UpgradeError: the server is lost.
    """
    identifier = sql.Identifier(name)
    setting = sql.SQL("ALTER DATABASE {} SET default_transaction_read_only = on")
    with closing(server.connect()) as connection:
        query(connection, setting.format(identifier))
    try:
        yield
    finally:
        reset = sql.SQL("ALTER DATABASE {} RESET default_transaction_read_only")
        with closing(server.connect()) as connection:
            query(connection, reset.format(identifier))


def drop(server: Server, name: str, mark: str) -> None:
    """Drop a database that was made here, if it exists; its connections are closed.

    :raises Refused: it was not made here.
    :raises UpgradeError: the server is lost.
    """
    with closing(server.connect()) as connection:
        rows = query(
            connection,
            "SELECT shobj_description(oid, 'pg_database') FROM pg_database WHERE datname = %s",
            name,
        )
        if not rows:
            return
        if rows[0][0] != _MARK + mark:
            raise Refused(f"the database {name} was not made by this rehearsal; drop it yourself")
        # PostgreSQL 13
        query(connection, sql.SQL("DROP DATABASE {} WITH (FORCE)").format(sql.Identifier(name)))


def assert_ours(server: Server, name: str, mark: str) -> None:
    """Make sure, before each step that writes, that a database was made here.

    :raises UpgradeError: it does not exist.
    :raises Refused: it was made by something else.
    """
    with closing(server.connect(name)) as connection:
        [[comment, system]] = query(
            connection,
            "SELECT shobj_description(d.oid, 'pg_database'), s.system_identifier::text "
            "FROM pg_database d, pg_control_system() s WHERE datname = current_database()",
        )
    if comment != _MARK + mark or system != server.system:
        raise Refused(f"{server.name} does not hold the copy {name} any more")
