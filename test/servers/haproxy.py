"""An HAProxy in front of the processes of a site."""

import csv
from pathlib import Path

import requests

from servers.proxy import Proxy
from servers.support import ServerProcess, find_program, free_port

_CONFIGURATION = """\
defaults
    mode http
    timeout connect 1s
    timeout client 30s
    timeout server 30s
    timeout check 10s
    # what fails is not hidden
    retries 0

frontend statistics
    bind 127.0.0.1:{statistics_port}
    stats enable
    stats uri /

frontend site
    bind 127.0.0.1:{port}
    default_backend web

backend web
    balance roundrobin
    option httpchk GET /readyz
    default-server check inter 300ms fall 3 rise 1
{servers}
"""


def statistics(page: str) -> list[dict[str, str]]:
    """Return the rows of HAProxy's page of statistics, by its own names of the columns."""
    text = requests.get(f"{page};csv", timeout=5).text
    return list(csv.DictReader(text.removeprefix("# ").splitlines()))


class HAProxy(Proxy):
    """An HAProxy that shares requests among the servers whose `/readyz` says 200.

    It makes no request twice.

    :param directory: a directory for its configuration and its log
    :param ports: TCP ports of the servers on 127.0.0.1
    :raises RuntimeError: HAProxy is not installed.
    """

    def __init__(self, directory: Path, ports: list[int]) -> None:
        super().__init__(directory, "haproxy.cfg")
        self._statistics_port = free_port()
        self._configuration = _CONFIGURATION.format(
            port=self.port,
            statistics_port=self._statistics_port,
            servers="\n".join(f"    server port{port} 127.0.0.1:{port}" for port in ports),
        )
        self._process = ServerProcess(
            [find_program("haproxy", "haproxy"), "-db", "-f", str(self._path)],
            directory / "haproxy.log",
        )

    def up(self) -> set[int]:
        """Return the ports of the servers that it sends requests to."""
        return {
            int(row["svname"].removeprefix("port"))
            for row in statistics(f"http://127.0.0.1:{self._statistics_port}/")
            if row["svname"].startswith("port") and row["status"] == "UP"
        }
