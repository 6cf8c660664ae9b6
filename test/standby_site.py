"""A site whose pages are read from two hot standbys, for tests that mistreat its database."""

import re
import shutil
import subprocess
from contextlib import ExitStack
from pathlib import Path
from typing import Self

import requests
from servers.instance import Instance, Process
from servers.postgresql import Database, PostgreSQL
from servers.support import free_port, wait_until
from servers.visitor import Visitor

#: the database and the role of the instance, which has no privileges in the cluster
NAME = "site"
#: how long a process may take to see a change of its database nodes, in seconds
SOON = 10.0


class Template:
    """An instance whose database is created once, and copied for each test.

    :param directory: returns a new directory for a server
    """

    def __init__(self, directory: Path) -> None:
        self.server = PostgreSQL(directory / "postgresql")
        directory.mkdir()
        directory.chmod(0o755)
        with self.server as server:
            server.sql(f"CREATE ROLE {NAME} LOGIN")
            server.sql(f"CREATE DATABASE {NAME} OWNER {NAME} TEMPLATE template0", timeout=60)
            database = Database("postgres", NAME, server.host, server.port, NAME)
            self.instance = Instance(
                directory / "instance", ["hasite_testapp", "hasite"], database
            )
            self.instance.create()

    def copy(self, directory: Path) -> PostgreSQL:
        """Return a server with a copy of the database, not yet started."""
        directory.mkdir()
        source = self.server.directory
        shutil.copystat(source, directory)
        subprocess.run(["cp", "-a", str(source / "cluster"), str(directory)], check=True)
        status = source.stat()
        shutil.chown(directory, status.st_uid, status.st_gid)
        return PostgreSQL(directory)


class Site:
    """A primary, its standbys, and processes of an instance.

    :param directory: a new directory
    :param standbys: how many standbys there are
    :param listed: whether the primary is sought among all nodes (`db-host`), which are then on
        one port and addresses of their own; else it is never another one
    """

    def __init__(
        self, template: Template, directory: Path, *, standbys: int = 2, **options: object
    ) -> None:
        directory.mkdir()
        directory.chmod(0o755)
        self._stack = ExitStack()
        self._process_stack = ExitStack()
        self.instance = template.instance
        self.primary = template.copy(directory / "primary")
        # one port, as CubicWeb wants it, on addresses of their own
        port = free_port()
        self.primary.port, self.primary.host = port, "127.0.0.1"
        self.primary = self._on(self.primary.directory, "127.0.0.1", port)
        self.standbys = [
            self._on(directory / f"standby{number}", f"127.0.0.{number + 1}", port, self.primary)
            for number in range(1, standbys + 1)
        ]
        self.options = {
            "db_port": port,
            "db_host": ",".join(node.host for node in self.nodes),
            "db_extra_arguments": "target_session_attrs=read-write connect_timeout=2",
            "hasite_standby_hosts": ",".join(node.host for node in self.standbys),
            "hasite_standby_max_lag": 5,
            **options,
        }
        self.processes: list[Process] = []

    @staticmethod
    def _on(
        directory: Path, host: str, port: int, primary: PostgreSQL | None = None
    ) -> PostgreSQL:
        return PostgreSQL(directory, port, host=host, primary=primary)

    @property
    def nodes(self) -> list[PostgreSQL]:
        """All database nodes."""
        return [self.primary, *self.standbys]

    def __enter__(self) -> Self:
        try:
            for node in self.nodes:
                self._stack.enter_context(node)
        except BaseException:
            self._stack.close()
            raise
        return self

    def __exit__(self, *exc_info: object) -> None:
        with self._stack:
            self._process_stack.close()

    def repair(self) -> None:
        """End the processes, and undo what was done to the nodes, but to promote one."""
        self._process_stack.close()
        self.processes.clear()
        for node in self.nodes:
            if node.running:
                node.resume()
            else:
                node.start()
        self.go_on()
        streaming = "SELECT count(*) FROM pg_stat_replication WHERE state = 'streaming'"
        wait_until(lambda: int(self.primary.sql(streaming)) == len(self.standbys), "both standbys")

    def process(self, *, ready: bool = True, **options: object) -> Process:
        """Start a process of the instance; return when it reads from a standby."""
        management = free_port()
        process = self.instance.process(
            threads=8, **{**self.options, "hasite_management_port": management, **options}
        )
        self._process_stack.enter_context(process)
        self.processes.append(process)
        process.management = f"http://127.0.0.1:{management}/"
        if ready:
            wait_until(lambda: readable(process) > 0, "a readable standby", timeout=30)
        return process

    def pause(self, *numbers: int) -> None:
        """Let standbys stop to replay, by default all."""
        for number in numbers or range(len(self.standbys)):
            self.standbys[number].sql("SELECT pg_wal_replay_pause()")

    def go_on(self) -> None:
        """End :meth:`pause`."""
        for standby in self.standbys:
            standby.sql("SELECT pg_wal_replay_resume()")

    def statements(self, node: PostgreSQL) -> int:
        """Return how many transactions visitors have made on a node, when they are counted."""
        sql = f"SELECT xact_commit + xact_rollback FROM pg_stat_database WHERE datname = '{NAME}'"
        return int(node.sql(sql))


def metrics(process: Process) -> dict[str, float]:
    """Return the metrics of a process, by their names and labels as Prometheus writes them."""
    text = requests.get(f"{process.management}metrics", timeout=30).text
    lines = [line for line in text.splitlines() if line and not line.startswith("#")]
    return {name: float(value) for name, _space, value in (line.rpartition(" ") for line in lines)}


def readable(process: Process) -> int:
    """Return how many standbys may be read by anybody."""
    found = metrics(process)
    return int(sum(v for name, v in found.items() if name.startswith("hasite_standby_readable{")))


def reads(process: Process, database: str) -> int:
    """Return how many requests were read from the primary, or from a standby."""
    return int(metrics(process).get(f'hasite_reads_total{{database="{database}"}}', 0))


def made_again(process: Process, reason: str) -> int:
    """Return how many requests were made again for a reason."""
    return int(metrics(process).get(f'hasite_reads_made_again_total{{reason="{reason}"}}', 0))


def created(visitor: Visitor, etype: str, **changes: str) -> int:
    """Create an entity by its form; return its eid."""
    response = visitor.create(etype, changes)
    assert response.status_code == 303, response.text
    match = re.search(r"/(\d+)(\?|$)", response.headers["Location"])
    assert match, response.headers["Location"]
    return int(match[1])
