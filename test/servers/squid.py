"""A Squid cache in front of an instance."""

from pathlib import Path

from servers.proxy import Proxy
from servers.support import ServerProcess, find_program, system_user

_CONFIGURATION = """\
http_port 127.0.0.1:{port} accel defaultsite=127.0.0.1:{port} vhost
cache_peer 127.0.0.1 parent {origin_port} 0 no-query no-digest originserver name=origin
http_access allow all
never_direct allow all

cache_mem 64 MB
maximum_object_size_in_memory 8 MB
memory_cache_shared off

# without these Squid looks up the name of every client
url_rewrite_extras "%>a %un %>rm"
store_id_extras "%>a %un %>rm"

visible_hostname squid.test
shutdown_lifetime 1 seconds
pinger_enable off
pid_filename none
coredump_dir none
netdb_filename none
cache_log {directory}/cache.log
access_log stdio:{directory}/access.log
buffered_logs off
"""

#: for the configuration of a Squid that takes purges
ALLOW_PURGE = """\
acl PURGE method PURGE
http_access allow PURGE localhost
http_access deny PURGE
"""


class Squid(Proxy):
    """A Squid that caches in memory what a server of this machine answers.

    Its responses say `HIT` or `MISS` in `X-Cache`.

    :param directory: a directory for its configuration and its logs. Run by root, Squid runs as
        user `proxy`, who must be able to reach it.
    :param origin_port: TCP port of the server on 127.0.0.1
    :param extra: lines to add to Squid's configuration
    :raises RuntimeError: Squid is not installed.
    """

    def __init__(self, directory: Path, origin_port: int, extra: str = "") -> None:
        super().__init__(directory, "squid.conf", "cache.log")
        self.origin_port = origin_port
        self._account = system_user("proxy")
        self._configuration = extra + _CONFIGURATION.format(
            port=self.port, origin_port=origin_port, directory=directory
        )
        # Names the shared memory too, which would be that of any other Squid of the host
        self._service = f"hasite{self.port}"
        self._process = ServerProcess(
            [
                *(find_program("squid", "squid"), "-N", "-n", self._service),
                *("-f", str(self._path)),
            ],
            directory / "squid.log",
            user=self._account,
        )

    @property
    def access_log(self) -> str:
        """One line per request."""
        return (self.directory / "access.log").read_text()

    def kill(self) -> None:
        """Kill Squid, and remove the shared memory that it then leaves."""
        super().kill()
        for path in Path("/dev/shm").glob(f"{self._service}-*"):
            path.unlink()
