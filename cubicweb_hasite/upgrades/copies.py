"""Copy production's database, which is only read, to databases that are ours alone.

A copy has a name that no other server has a database of: what is meant for it fails anywhere else.
A database is dropped only if its comment says that it was made here.
"""

import re
from collections.abc import Callable, Mapping
from contextlib import closing
from pathlib import Path

from psycopg2 import sql

from cubicweb_hasite.upgrades import Refused
from cubicweb_hasite.upgrades.programs import Programs
from cubicweb_hasite.upgrades.server import Connection, Server, query

_MARK = "Made by hasite-rehearse in "
_FINISHED = re.compile(r"finished item \d+ TABLE DATA (\S+)")

#: called with what is done and with all that there is to do, in bytes
Progress = Callable[[int, int], None]


def table_sizes(source: Server) -> dict[str, int]:
    """Return how many bytes each table holds, by its name."""
    with closing(source.connect()) as connection:
        return dict(
            query(
                connection,
                "SELECT relname, pg_table_size(oid) FROM pg_class WHERE relkind = 'r' "
                "AND relnamespace NOT IN ('pg_catalog'::regnamespace, "
                "'information_schema'::regnamespace)",
            )
        )


def database_size(server: Server, name: str | None = None) -> int:
    """Return how many bytes a database takes."""
    with closing(server.connect(name)) as connection:
        [[size]] = query(connection, "SELECT pg_database_size(current_database())")
    return size


def dump(
    programs: Programs,
    source: Server,
    folder: Path,
    jobs: int,
    sizes: Mapping[str, int],
    progress: Progress,
) -> int:
    """Write a database of production to a new folder, `jobs` tables at a time.

    :return: how many bytes it takes there
    :raises RehearsalError: it failed.
    """
    command = [
        *("pg_dump", "--format=directory", f"--jobs={jobs}", "--verbose", "--no-owner"),
        *("--no-privileges", "--no-publications", "--no-subscriptions"),
        *("--lock-wait-timeout=60s", f"--file={folder}"),
    ]
    with closing(source.connect()) as connection:
        programs.run(
            command,
            environ=source.environ(source.parameters["dbname"]),
            watch=_watch(programs, connection, sizes, progress),
        )
    return sum(file.stat().st_size for file in folder.iterdir())


def restore(
    programs: Programs,
    server: Server,
    name: str,
    folder: Path,
    jobs: int,
    sizes: Mapping[str, int],
    progress: Progress,
) -> None:
    """Restore a dump into a database that :func:`create` made.

    :raises RehearsalError: it failed.
    """
    command = [
        *("pg_restore", f"--jobs={jobs}", "--verbose", "--no-owner", "--no-privileges"),
        *("--exit-on-error", f"--dbname={name}", str(folder)),
    ]
    with closing(server.connect(name)) as connection:
        programs.run(
            command,
            environ=server.environ(name),
            watch=_watch(programs, connection, sizes, progress),
        )
        foreign = [row[0] for row in query(connection, "SELECT srvname FROM pg_foreign_server")]
    if foreign:
        raise Refused(
            f"the copy has foreign servers, through which a migration could write elsewhere: "
            f"{', '.join(foreign)}; drop them in the SQL file of preproduction.anonymise"
        )


def _watch(
    programs: Programs, connection: Connection, sizes: Mapping[str, int], progress: Progress
) -> Callable[[], None]:
    """Return a function that tells how far a copy is: by what was written and is being copied."""
    start = programs.position()
    total = sum(sizes.values())

    def watch() -> None:
        finished = set(_FINISHED.findall(programs.since(start)))
        done = sum(sizes.get(table, 0) for table in finished)
        copying = "SELECT relid::regclass::text, bytes_processed FROM pg_stat_progress_copy"
        for table, copied in query(connection, copying):
            done += min(copied, sizes.get(table, 0))
        progress(min(done, total), total)

    return watch


def run_sql(programs: Programs, server: Server, name: str, file: Path) -> None:
    """Run a file of SQL on a copy, in one transaction.

    :raises RehearsalError: it failed.
    """
    command = ["psql", "--no-psqlrc", "--single-transaction", "--set=ON_ERROR_STOP=1"]
    programs.run([*command, f"--file={file}"], environ=server.environ(name))


def create(server: Server, name: str, mark: str, *, template: str = "template0") -> None:
    """Make a database, instead of one that was made here before.

    :param mark: by which it is known again that it was made here
    :raises Refused: there is one of that name which was not made here.
    """
    drop(server, name, mark)
    with closing(server.connect()) as connection:
        # no need to write each page of a copy to the WAL
        strategy = " STRATEGY file_copy" if server.version >= 150000 else ""
        command = "CREATE DATABASE {} TEMPLATE {} ENCODING 'UTF8'" + strategy
        query(connection, sql.SQL(command).format(*map(sql.Identifier, (name, template))))
        comment = sql.SQL("COMMENT ON DATABASE {} IS {}")
        query(connection, comment.format(sql.Identifier(name), sql.Literal(_MARK + mark)))


def drop(server: Server, name: str, mark: str) -> None:
    """Drop a database that was made here, if it is there, whoever is connected.

    :raises Refused: it was not made here.
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
    """Make sure, before each step that writes, that a database is one that was made here.

    :raises RehearsalError: it is not there.
    :raises Refused: it is another one.
    """
    with closing(server.connect(name)) as connection:
        [[comment, system]] = query(
            connection,
            "SELECT shobj_description(d.oid, 'pg_database'), s.system_identifier::text "
            "FROM pg_database d, pg_control_system() s WHERE datname = current_database()",
        )
    if comment != _MARK + mark or system != server.system:
        raise Refused(f"{server.name} does not hold the copy {name} any more")
