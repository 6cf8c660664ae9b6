"""An nginx with `proxy_cache` in front of an instance."""

from pathlib import Path

from servers.proxy import Proxy
from servers.support import ServerProcess, find_program, system_user

# `proxy_cache_valid` is for responses whose headers say nothing, as nginx's documentation has it.
_CONFIGURATION = """\
{user}
daemon off;
worker_processes 1;
pid {directory}/nginx.pid;
error_log stderr;

events {{
}}

http {{
    access_log {directory}/access.log;
    client_body_temp_path {directory}/body;
    proxy_temp_path {directory}/proxy;
    fastcgi_temp_path {directory}/fastcgi;
    uwsgi_temp_path {directory}/uwsgi;
    scgi_temp_path {directory}/scgi;
    proxy_cache_path {directory}/cache keys_zone=images:10m;
    client_max_body_size 10m;

    server {{
        listen 127.0.0.1:{port};

        location / {{
            proxy_pass http://127.0.0.1:{origin_port};
            proxy_set_header Host $http_host;
            proxy_cache images;
            proxy_cache_valid 200 10m;
            add_header X-Cache $upstream_cache_status always;
        }}
    }}
}}
"""


class Nginx(Proxy):
    """An nginx that caches on disk what a server of this machine answers.

    Its responses say `HIT`, `MISS` or another of nginx's cache statuses in `X-Cache`; those to
    requests that it never looks up in its cache have no `X-Cache`.

    :param directory: a directory for its configuration, its cache and its logs. Run by root,
        nginx runs as user `www-data`, who must be able to reach it.
    :param origin_port: TCP port of the server on 127.0.0.1
    :raises RuntimeError: nginx is not installed.
    """

    def __init__(self, directory: Path, origin_port: int) -> None:
        super().__init__(directory, "nginx.conf")
        account = system_user("www-data")
        self._configuration = _CONFIGURATION.format(
            user=f"user {account};" if account else "",
            port=self.port,
            origin_port=origin_port,
            directory=directory,
        )
        self._process = ServerProcess(
            [find_program("nginx", "nginx"), "-c", str(self._path)],
            directory / "nginx.log",
        )
