"""A throwaway PostgreSQL server."""

import getpass
import os
import shutil
import signal
import subprocess
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from servers.support import (
    Server,
    ServerProcess,
    find_program,
    free_port,
    give,
    system_user,
    wait_until,
)


@dataclass(frozen=True)
class Database:
    """How to reach a database: the values of CubicWeb's options of the same names."""

    driver: str
    name: str
    host: str = ""
    port: int | None = None
    user: str = ""

    @property
    def options(self) -> dict[str, str]:
        """The options of an instance (`db-driver` and so on) that works on this database."""
        options = {"db-driver": self.driver, "db-name": self.name}
        if self.driver == "postgres":
            options |= {"db-host": self.host, "db-port": str(self.port), "db-user": self.user}
        return options


class PostgreSQL(Server):
    """A PostgreSQL server with a cluster of its own, fast because it does not care for crashes
    of the machine.

    It listens on an address of this machine and on a Unix socket, and trusts everybody there.

    :param directory: a new directory for the cluster, with a short path (it holds the socket).
        Run by root, the server runs as user `postgres`, who must be able to reach it.
    :param port: TCP port, by default a free one
    :param listen: where it listens besides, as PostgreSQL's `listen_addresses`: `*`
    :param max_connections: how many clients it takes at a time
    :param primary: a running server of which it is to be a standby, until it is promoted
    :param settings: other parameters
    :param env: its environment, ours if None
    :raises RuntimeError: PostgreSQL is not installed.
    """

    def __init__(
        self,
        directory: Path,
        port: int | None = None,
        *,
        host: str = "127.0.0.1",
        listen: str = "",
        max_connections: int = 200,
        primary: "PostgreSQL | None" = None,
        settings: Mapping[str, str] | None = None,
        env: dict[str, str] | None = None,
    ) -> None:
        versions = sorted(
            Path("/usr/lib/postgresql").glob("*/bin"),
            key=lambda path: float(path.parent.name),
            reverse=True,
        )
        self._initdb = find_program("initdb", "postgresql", *versions)
        self._basebackup = find_program("pg_basebackup", "postgresql", *versions)
        self._psql = find_program("psql", "postgresql", *versions)
        self.directory = directory
        self.host = host
        self.port = port or free_port()
        self._primary = primary
        self._account = system_user("postgres")
        #: the superuser of the cluster
        self.user = self._account or getpass.getuser()
        self._process = ServerProcess(
            [
                find_program("postgres", "postgresql", *versions),
                *("-D", str(directory / "cluster")),
                *("-k", str(directory)),
                *("-p", str(self.port)),
                *("-c", f"listen_addresses={listen or host}"),
                *("-c", "fsync=off"),
                *("-c", "full_page_writes=off"),
                *("-c", f"max_connections={max_connections}"),
                # what a killed server leaves in /dev/shm stays there
                *("-c", "dynamic_shared_memory_type=mmap"),
                *(f"--{name}={value}" for name, value in (settings or {}).items()),
            ],
            directory / "postgresql.log",
            env=env,
            user=self._account,
            stop_signal=signal.SIGINT,  # "fast shutdown": does not wait for the clients
        )

    @property
    def running(self) -> bool:
        """Whether the server runs, or hangs."""
        return self._process.running

    @property
    def log(self) -> str:
        """What the server has written."""
        return self._process.log

    def start(self) -> None:
        """Start the server, after making its cluster the first time.

        :raises RuntimeError: it ended.
        :raises TimeoutError: it does not answer in time.
        """
        if not (self.directory / "cluster").exists():
            give(self.directory, self._account)
            command = [*self._make_cluster(), "-D", str(self.directory / "cluster")]
            subprocess.run(
                command,
                check=True,
                capture_output=True,
                cwd=self.directory,
                user=self._account,
                group=self._account,
                extra_groups=[] if self._account else None,
            )
            if self._primary is None and not self.host.startswith("127."):
                for database in ("all", "replication"):
                    self._write_hba(f"host {database} all samehost trust")
        self._process.spawn(self.is_ready)

    def _make_cluster(self) -> list[str]:
        if self._primary is None:
            return [
                *(self._initdb, "-U", self.user),
                *("--auth=trust", "--encoding=UTF8", "--locale=C", "--no-sync"),
            ]
        return [
            *(self._basebackup, "-h", self._primary.host, "-p", str(self._primary.port)),
            *("-U", self.user, "--write-recovery-conf", "--checkpoint=fast", "--no-sync"),
        ]

    def promote(self) -> None:
        """Make a standby the primary; return when it accepts writes."""
        self.sql("SELECT pg_promote()", timeout=60)

    def stop(self) -> None:
        """Stop the server as `systemctl stop postgresql` does."""
        self._process.stop()

    def kill(self) -> None:
        """Kill all the server's processes. It can be started again, and recovers."""
        self._process.kill()

    def pause(self) -> None:
        """Make the server hang: it takes connections and answers nothing."""
        self._process.pause()

    def resume(self) -> None:
        """End :meth:`pause`."""
        self._process.resume()

    def configure(self, setting: str, value: str | None) -> None:
        """Change a setting of the running server; None: back to what it was.

        :raises RuntimeError: for one, there is no such setting.
        """
        change = f"SET {setting} = '{value}'" if value is not None else f"RESET {setting}"
        self.sql(f"ALTER SYSTEM {change}")
        self.sql("SELECT pg_reload_conf()")

    def require_password(self, required: bool) -> None:
        """Let who connects by TCP need a password, which nobody has; or trust everybody again."""
        method = "scram-sha-256" if required else "trust"
        hba = self.directory / "cluster" / "pg_hba.conf"
        hba.write_text(f"local all all trust\nhost all all 127.0.0.1/32 {method}\n")
        os.kill(self._process.pid, signal.SIGHUP)

    def create_user(self, name: str, password: str) -> None:
        """Create a user who needs a password when connecting by TCP."""
        self.sql(f"CREATE ROLE \"{name}\" LOGIN PASSWORD '{password}'")
        hba = self.directory / "cluster" / "pg_hba.conf"
        hba.write_text(f"host all {name} all scram-sha-256\n{hba.read_text()}")
        os.kill(self._process.pid, signal.SIGHUP)

    def trust(self, networks: str) -> None:
        """Let who connects from these networks, such as `samehost`, need no password."""
        self._write_hba(f"host all all {networks} trust")
        os.kill(self._process.pid, signal.SIGHUP)

    def _write_hba(self, line: str) -> None:
        with (self.directory / "cluster" / "pg_hba.conf").open("a") as hba:
            hba.write(f"{line}\n")

    def demote(self) -> None:
        """Restart the server as a standby, which can only be read."""
        self.stop()
        signal_file = self.directory / "cluster" / "standby.signal"
        signal_file.touch()
        if self._account:
            shutil.chown(signal_file, self._account)
        self.start()

    def is_ready(self) -> bool:
        """Return whether the server answers a query within 2 seconds."""
        try:
            self.sql("SELECT 1")
        except (RuntimeError, subprocess.TimeoutExpired):
            return False
        return True

    def wait_until_ready(self, timeout: float = 30) -> None:
        """Wait until the server answers queries.

        :raises TimeoutError: it does not in time.
        """
        wait_until(self.is_ready, "answer of PostgreSQL", timeout=timeout)

    def sql(self, query: str, database: str = "postgres", *, timeout: float = 2) -> str:
        """Run SQL as the superuser and return what `psql -At` prints.

        :raises RuntimeError: the server refuses the query or is not there.
        :raises subprocess.TimeoutExpired: it did not answer in time.
        """
        result = subprocess.run(
            [
                *(self._psql, "-XAtq", "-v", "ON_ERROR_STOP=1", "-c", query),
                *("-h", self.host, "-p", str(self.port), "-U", self.user, database),
            ],
            capture_output=True,
            text=True,
            timeout=timeout,
            env={**os.environ, "PGCONNECT_TIMEOUT": "2"},
        )
        if result.returncode:
            raise RuntimeError(f"{query}: {result.stderr}")
        return result.stdout.strip()

    def create_database(self, name: str) -> Database:
        """Create an empty database.

        :raises RuntimeError: for one, it exists.
        """
        # nobody can be connected to template0, while a connection to template1, which CubicWeb's
        # test cases keep open, forbids to copy it
        self.sql(f'CREATE DATABASE "{name}" TEMPLATE template0', timeout=60)
        return self.database(name)

    def restore(self, dump: str, database: Database) -> None:
        """Run what `pg_dump` wrote, as SQL, in an empty database.

        :raises subprocess.CalledProcessError: a statement failed.
        """
        subprocess.run(
            [
                *(self._psql, "-Xq", "-v", "ON_ERROR_STOP=1"),
                *("-h", self.host, "-p", str(self.port), "-U", self.user, database.name),
            ],
            input=dump,
            stdout=subprocess.DEVNULL,
            text=True,
            check=True,
        )

    def database(self, name: str) -> Database:
        """Return how to reach the database `name`, which need not exist."""
        return Database("postgres", name, self.host, self.port, self.user)
