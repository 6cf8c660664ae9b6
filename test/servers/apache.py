"""An Apache with `mod_cache` in front of an instance."""

from pathlib import Path

from servers.proxy import Proxy
from servers.support import ServerProcess, find_program, give, system_user

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


class Apache(Proxy):
    """An Apache that caches on disk what a server of this machine answers.

    Its responses say `HIT from …`, `MISS from …` or `REVALIDATE from …` in `X-Cache`; those to
    requests that it never looks up in its cache have no `X-Cache`.

    :param directory: a directory for its configuration, its cache and its logs. Run by root,
        Apache runs as user `www-data`, who must be able to reach it.
    :param origin_port: TCP port of the server on 127.0.0.1
    :raises RuntimeError: Apache is not installed.
    """

    def __init__(self, directory: Path, origin_port: int) -> None:
        super().__init__(directory, "apache.conf", "error.log")
        self._owner = system_user("www-data")  # Apache changes users by itself
        self._cache = directory / "cache"
        # the package of the program alone, which starts no service
        program = find_program("apache2", "apache2")
        self._configuration = _CONFIGURATION.format(
            modules="\n".join(
                f"LoadModule {name}_module /usr/lib/apache2/modules/mod_{name}.so"
                for name in _MODULES
            ),
            user=f"User {self._owner}\nGroup {self._owner}" if self._owner else "",
            port=self.port,
            origin_port=origin_port,
            directory=directory,
            cache=self._cache,
        )
        self._process = ServerProcess(
            [program, "-D", "FOREGROUND", "-f", str(self._path)],
            directory / "apache.log",
        )

    def start(self) -> None:
        """Start Apache, with the cache of its last run."""
        give(self._cache, self._owner)
        super().start()
