"""Fixtures: a database, and real servers on it.

The environment variable `DB` chooses the database of all the tests: `postgres`, the default, or
`sqlite`.
"""

import itertools
import os
import re
import shutil
import socket
from collections.abc import Callable, Generator, Iterator
from contextlib import ExitStack
from pathlib import Path
from types import SimpleNamespace

import backend
import pytest
from rehearsing import Production
from servers.instance import Instance, Process
from servers.postgresql import Database, PostgreSQL
from servers.squid import ALLOW_PURGE, Squid
from servers.support import free_port, make_directory
from servers.varnish import Varnish

_numbers = itertools.count()

if os.environ.get("DB") == "sqlite":
    # they choose their databases themselves, or need none: once, with PostgreSQL, is enough
    collect_ignore_glob = [
        f"test_{name}.py"
        for name in (
            "alerts",
            "browser",
            "check_host",
            "demo",
            "deploy_*",
            "documentation",
            "eids",
            "firewall",
            "floors",
            "gunicorn",
            "healing",
            "host_mistakes",
            "monitor_states",
            "monitoring_files",
            "names",
            "operators_page",
            "options_without_site",
            "package",
            "read_only*",
            "rehearsal*",
            "restore",
            "runbook",
            "servers",
            "setup",
            "shared_pages",
            "silences",
            "standby*",
            "units",
            "upgrade",
            "versions",
        )
    ]
if not os.environ.get("FUZZ"):  # they take minutes: `make fuzz`
    collect_ignore = ["test_random_graphs.py", "test_stress.py", "test_wire.py"]


#: files whose tests take minutes: begun first, so that no process is alone with one at the end
_LONG = [
    f"test_{name}.py"
    for name in (
        "read_only_upgrade",
        "upgrade",
        "documentation",
        "gunicorn",
        "monitor_states",
        "restore",
        "random_graphs",
        "rehearsal",
        "stress",
        "standby_sequences",
        "standby_failures",
        "read_only",
        "demo",
        "deploy_requests",
        "healing",
        "deploy_live",
        "rehearsal_settings",
    )
]


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    items.sort(key=lambda item: _LONG.index(item.path.name) if item.path.name in _LONG else 99)


def pytest_configure(config: pytest.Config) -> None:
    # Made by the process that starts the workers of pytest-xdist, for all of them.
    if not hasattr(config, "workerinput"):
        try:
            config.add_cleanup(backend.start())
        except (RuntimeError, ValueError) as error:
            raise pytest.UsageError(str(error)) from error
    backend.configure_cubicweb()


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item: pytest.Item) -> Generator[None, pytest.TestReport]:
    """Let a skipped test be a failure, but for what SQLite has not, or an ordinary user may not.

    CubicWeb's test cases skip the tests of a class when its database could not be prepared.
    """
    report = yield
    if report.skipped and not re.search("SQLite|only root", str(report.longrepr)):
        report.outcome = "failed"
    return report


@pytest.fixture(scope="session")
def server_directory() -> Iterator[Callable[[str], Path]]:
    """A function that returns the path of a new directory, not yet made, for a server."""
    directory = make_directory()
    yield lambda name: directory / f"{name}{next(_numbers)}"
    shutil.rmtree(directory, ignore_errors=True)


@pytest.fixture(scope="session")
def new_database(server_directory: Callable[[str], Path]) -> Callable[[], Database]:
    """A function that returns a new, empty database."""

    def new() -> Database:
        worker = os.environ.get("PYTEST_XDIST_WORKER", "main")
        name = f"test_{worker}_{next(_numbers)}"
        return backend.create_database(name, server_directory("").parent)

    return new


@pytest.fixture
def database(new_database: Callable[[], Database]) -> Database:
    """A new, empty database."""
    return new_database()


@pytest.fixture
def postgresql(server_directory: Callable[[str], Path]) -> Iterator[PostgreSQL]:
    """A running PostgreSQL server of the test's own, to be mistreated."""
    with PostgreSQL(server_directory("postgresql")) as server:
        yield server


@pytest.fixture(scope="module")
def production(server_directory: Callable[[str], Path]) -> Iterator[Production]:
    """A production whose upgrade is rehearsed, as its former version left it."""
    with Production(server_directory("production")).running() as production:
        yield production


def _instance(
    server_directory: Callable[[str], Path], database: Database, *, anonymous: bool
) -> Instance:
    instance = Instance(
        server_directory("instance"), ["hasite_testapp"], database, anonymous=anonymous
    )
    instance.create()
    return instance


@pytest.fixture(scope="session")
def instance(
    server_directory: Callable[[str], Path], new_database: Callable[[], Database]
) -> Instance:
    """An instance of the test application that one may visit without logging in."""
    return _instance(server_directory, new_database(), anonymous=True)


@pytest.fixture(scope="session")
def closed_instance(
    server_directory: Callable[[str], Path], new_database: Callable[[], Database]
) -> Instance:
    """An instance of the test application that one may visit only logged in."""
    return _instance(server_directory, new_database(), anonymous=False)


@pytest.fixture(scope="session")
def process(instance: Instance) -> Iterator[Process]:
    """A running process of the instance."""
    with instance.process() as process:
        yield process


@pytest.fixture(scope="session")
def squid(server_directory: Callable[[str], Path], instance: Instance) -> Iterator[Squid]:
    """Squid in front of another process of the instance, which takes Squid's URL for its own."""
    port = free_port()
    server = Squid(server_directory("squid"), port)
    with instance.process(port, base_url=server.url), server:
        yield server


@pytest.fixture(scope="module")
def caches(server_directory: Callable[[str], Path]) -> Iterator[SimpleNamespace]:
    """Two caches in front of one port, on which each test serves its application."""
    with ExitStack() as servers:
        # Squid answers 502 for a while if it starts when nothing listens at its origin
        with socket.create_server(("127.0.0.1", 0)) as origin:
            port = origin.getsockname()[1]
            squid = servers.enter_context(Squid(server_directory("squid"), port, ALLOW_PURGE))
            varnish = servers.enter_context(Varnish(server_directory("varnish"), port))
        yield SimpleNamespace(origin_port=port, squid=squid, varnish=varnish)
