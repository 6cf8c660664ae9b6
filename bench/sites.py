"""The sites that are compared: side by side on one PostgreSQL, removed in the end."""

import shutil
import signal
import sys
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from functools import cached_property
from http.client import HTTPConnection
from pathlib import Path
from random import Random
from typing import Any, Self

from measure import cpu
from pictures import picture
from servers.instance import Instance, Process
from servers.postgresql import PostgreSQL
from servers.support import free_port, make_directory
from servers.visitor import Visitor

STOCK, ARTICLE, OURS = "stock", "article", "hasite"
#: requests that are not measured, after other ones: what those left to do, and the CPU's caches
WARM_UP = 3


class Bench:
    """A PostgreSQL, and on it stock CubicWeb, the article's code on it, and cubicweb-hasite.

    Each site is made when it is asked for first.
    """

    def __enter__(self) -> Self:
        # end by way of `finally` and `with`, as Ctrl-C does
        signal.signal(signal.SIGTERM, lambda *_: sys.exit(128 + signal.SIGTERM))
        with ExitStack() as stack:
            self.directory = make_directory()
            stack.callback(shutil.rmtree, self.directory, ignore_errors=True)
            self.server = stack.enter_context(PostgreSQL(self.directory / "postgresql"))
            self.stack = stack.pop_all()
        return self

    def __exit__(self, *exc_info: object) -> None:
        self.stack.close()

    def create(self, **cubes: str) -> list[Instance]:
        """Create instances side by side, with a database each, by names of our choice."""
        instances = [
            Instance(self.directory / name, [cube], self.server.create_database(name))
            for name, cube in cubes.items()
        ]
        with ThreadPoolExecutor() as executor:
            list(executor.map(Instance.create, instances))
        return instances

    @cached_property
    def instances(self) -> dict[str, Instance]:
        """The three instances."""
        created = self.create(stock="file", article="file", hasite="hasite,file")
        views = Path(__file__).with_name("article_views.py")
        shutil.copy(views, created[1].directory / created[1].name / "views.py")
        return dict(zip((STOCK, ARTICLE, OURS), created, strict=True))

    @cached_property
    def sites(self) -> dict[str, "Site"]:
        """A running process of each."""
        # the article's percentage of the pool divides by its size
        options: dict[str, Any] = {"connections_pool_max_size": 8}
        sites = {}
        for name, instance in self.instances.items():
            own = {"hasite_management_port": free_port()} if name == OURS else {}
            process = self.stack.enter_context(instance.process(**options, **own))
            sites[name] = Site(process, own.get("hasite_management_port"))
        return sites

    def backends(self, database: str) -> list[int]:
        """Return the ids of PostgreSQL's processes that serve an instance."""
        # not autovacuum's workers, which come and go
        sql = (
            f"SELECT pid FROM pg_stat_activity WHERE datname='{database}'"
            " AND backend_type='client backend'"
        )
        return [int(pid) for pid in self.server.sql(sql).split()]


class Site:
    """A process that serves, who manages it, and an anonymous visitor with cookies."""

    def __init__(self, process: Process, management_port: int | None = None) -> None:
        self.process = process
        self.management_port = management_port
        self.manager = Visitor(process.url)
        self.manager.login()
        visitor = Visitor(process.url)
        visitor.get()
        cookies = "; ".join(f"{name}={value}" for name, value in visitor.session.cookies.items())
        self.cookies = {"Cookie": cookies}
        self._connections: dict[int, HTTPConnection] = {}

    def get(
        self, path: str, headers: dict[str, str], *, port: int | None = None
    ) -> tuple[int, bytes]:
        """GET a path over a connection that is kept open."""
        port = port or self.process.port
        if port not in self._connections:
            self._connections[port] = HTTPConnection("127.0.0.1", port, timeout=60)
        connection = self._connections[port]
        connection.request("GET", path, headers=headers)
        response = connection.getresponse()
        return response.status, response.read()

    def cost(
        self,
        path: str,
        requests: int,
        check: Callable[[int, bytes], bool],
        *,
        headers: dict[str, str] | None = None,
        port: int | None = None,
    ) -> float:
        """Return the CPU time of the process per request, on all its threads, in milliseconds.

        :raises RuntimeError: an answer is not as it should be.
        """
        headers = self.cookies if headers is None else headers
        for number in range(WARM_UP + requests):
            if number == WARM_UP:
                start = cpu([self.process.pid])
            status, body = self.get(path, headers, port=port)
            if not check(status, body):
                raise RuntimeError(f"{path}: {status} {body[:300]!r}")
        return (cpu([self.process.pid]) - start) / requests


def image(size: int, colour: str = "teal") -> bytes:
    """Return a picture of so many bytes, which cannot be compressed, as those of large images."""
    found = picture(colour)
    return found + Random(size).randbytes(max(size - len(found), 0))


def create_file(visitor: Visitor, name: str, media_type: str, data: bytes) -> int:
    """Create a file in its form, and return its eid.

    :raises RuntimeError: the site refuses.
    """
    response = visitor.create("File", {"title": name}, {"data": (name, data, media_type)})
    if response.status_code != 303:
        raise RuntimeError(f"{name} was not created: {response.status_code}")
    location = response.headers["Location"]
    visitor.get(location)  # shows the message, which the session would keep
    return int(location.split("?")[0].rsplit("/", 1)[1])
