"""A pgBouncer, the pooler of connections to PostgreSQL."""

from pathlib import Path

from servers.proxy import Proxy
from servers.support import ServerProcess, find_program, system_user

_CONFIGURATION = """\
[databases]
* = host=127.0.0.1 port={target}

[pgbouncer]
listen_addr = 127.0.0.1
listen_port = {port}
unix_socket_dir =
auth_type = any
ignore_startup_parameters = extra_float_digits, options
pool_mode = {mode}
"""


class PgBouncer(Proxy):
    """A pgBouncer which lets everybody in.

    :param directory: a directory for its configuration and its log
    :param target: port of PostgreSQL on 127.0.0.1
    :param user: as whom it connects, whoever asks
    :raises RuntimeError: pgBouncer is not installed.
    """

    def __init__(
        self, directory: Path, target: int, user: str, *, mode: str = "transaction"
    ) -> None:
        super().__init__(directory, "pgbouncer.ini")
        self._account = system_user("postgres")
        text = _CONFIGURATION.format(target=target, port=self.port, mode=mode)
        self._configuration = text.replace(f"port={target}", f"port={target} user={user}")
        self._process = ServerProcess(
            [find_program("pgbouncer", "pgbouncer"), str(self._path)],
            directory / "pgbouncer.log",
            user=self._account,
        )
