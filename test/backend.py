"""The database of all the tests, which the environment variable `DB` chooses.

The processes of one run of the tests share a home and, on PostgreSQL, a cluster: CubicWeb's test
cases share the template databases that they find there. Both are thrown away at the end, since
CubicWeb does not notice that a template is older than the schema.
"""

import os
import shutil
from collections.abc import Callable
from pathlib import Path

from cubicweb.devtools import DEFAULT_PSQL_SOURCES
from servers.postgresql import Database, PostgreSQL
from servers.support import free_port, make_directory

_DB = os.environ.get("DB") or "postgres"
#: whether the tests work on PostgreSQL, else it is on SQLite
POSTGRES = _DB == "postgres"


def start() -> Callable[[], None]:
    """Make the home and start the cluster; return what ends them.

    :raises ValueError: `DB` is neither `postgres` nor `sqlite`.
    :raises RuntimeError: PostgreSQL is not installed, or does not start.
    """
    if _DB not in ("postgres", "sqlite"):
        raise ValueError(f"DB is postgres or sqlite, not {_DB}")
    directory = make_directory()
    os.environ["HASITE_TEST_DIRECTORY"] = str(directory)
    home().mkdir(parents=True)
    (home() / "bootstrap_cubes").write_text("hasite_testapp\n")
    if not POSTGRES:
        return lambda: shutil.rmtree(directory)
    os.environ["HASITE_TEST_PG_PORT"] = str(free_port())
    server = postgresql()
    server.start()

    def end() -> None:
        server.stop()
        shutil.rmtree(directory)

    return end


def home() -> Path:
    """Return the home of CubicWeb's test cases."""
    return Path(os.environ["HASITE_TEST_DIRECTORY"]) / "home" / "data"


def postgresql() -> PostgreSQL:
    """Return the server of all the tests, which :func:`start` has started."""
    directory = Path(os.environ["HASITE_TEST_DIRECTORY"]) / "postgresql"
    return PostgreSQL(directory, int(os.environ["HASITE_TEST_PG_PORT"]))


def create_database(name: str, directory: Path) -> Database:
    """Return a new, empty database.

    :param directory: where to make it if it is a file
    """
    if POSTGRES:
        return postgresql().create_database(name)
    return Database("sqlite", str(directory / name))


def configure_cubicweb() -> None:
    """Tell CubicWeb's test cases where the cluster is."""
    if POSTGRES:
        options = postgresql().database("tmpdb").options
        DEFAULT_PSQL_SOURCES["system"] |= options | {"db-password": ""}
