"""An Apache with `mod_cache` in front of an instance."""

from pathlib import Path

from servers.support import (
    Server,
    ServerProcess,
    find_program,
    free_port,
    give,
    listens,
    system_user,
)

_MODULES = ("mpm_event", "authz_core", "proxy", "proxy_http", "cache", "cache_disk")

_CONFIGURATION = """\
{modules}
{user}
Listen 127.0.0.1:{port}
ServerName 127.0.0.1:{port}
ServerRoot {directory}
DefaultRuntimeDir {directory}
PidFile {directory}/apache.pid
ErrorLog {directory}/error.log
LogFormat "%h %t \\"%r\\" %>s %O"
TransferLog {directory}/access.log

ProxyPreserveHost On
ProxyPass "/" "http://127.0.0.1:{origin_port}/"

CacheRoot {cache}
CacheEnable disk /
CacheHeader On
"""


class Apache(Server):
    """An Apache that caches on disk what a server of this machine answers.

    Its responses say `HIT from …`, `MISS from …` or `REVALIDATE from …` in `X-Cache`; those to
    requests that it never looks up in its cache have no `X-Cache`.

    :param directory: a directory for its configuration, its cache and its logs. Run by root,
        Apache runs as user `www-data`, who must be able to reach it.
    :param origin_port: TCP port of the server on 127.0.0.1
    :raises RuntimeError: Apache is not installed.
    """

    def __init__(self, directory: Path, origin_port: int) -> None:
        self.directory = directory
        self.port = free_port()
        self.url = f"http://127.0.0.1:{self.port}/"
        self._account = system_user("www-data")
        self._cache = directory / "cache"
        # the package of the program alone, which starts no service
        program = find_program("apache2", "apache2-bin")
        self._configuration = _CONFIGURATION.format(
            modules="\n".join(
                f"LoadModule {name}_module /usr/lib/apache2/modules/mod_{name}.so"
                for name in _MODULES
            ),
            user=f"User {self._account}\nGroup {self._account}" if self._account else "",
            port=self.port,
            origin_port=origin_port,
            directory=directory,
            cache=self._cache,
        )
        self._process = ServerProcess(
            [program, "-D", "FOREGROUND", "-f", str(directory / "apache.conf")],
            directory / "apache.log",
        )

    @property
    def _error_log(self) -> str:
        path = self.directory / "error.log"
        return path.read_text(errors="replace") if path.exists() else ""

    def start(self) -> None:
        """Start Apache, with the cache of its last run.

        :raises RuntimeError: it ended.
        :raises TimeoutError: it does not answer in time.
        """
        give(self.directory, None)  # it changes users by itself
        give(self._cache, self._account)
        (self.directory / "apache.conf").write_text(self._configuration)
        try:
            self._process.spawn(lambda: listens(self.port))
        except RuntimeError as error:
            raise RuntimeError(f"{error}{self._error_log}") from error

    def stop(self) -> None:
        """Stop Apache."""
        self._process.stop()

    def kill(self) -> None:
        """Kill Apache."""
        self._process.kill()
