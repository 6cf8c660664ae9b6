"""Which locks a migration takes, and how long others would wait for them in production."""

import threading
import time
from contextlib import closing
from dataclasses import dataclass
from typing import Any

from cubicweb_hasite.upgrades import UpgradeError
from cubicweb_hasite.upgrades.server import Server, query

#: seconds between two looks at the locks: shorter locks may be missed
INTERVAL = 0.05

# PostgreSQL's documentation, section "Explicit Locking": what each mode blocks.
_BLOCKS = {
    "AccessExclusiveLock": "reads and writes",
    "ExclusiveLock": "writes",
    "ShareRowExclusiveLock": "writes",
    "ShareLock": "writes",
}
# Only tables that other transactions can see: pg_class hides those made in an unfinished one. An
# index is locked with its table.
_QUERY = """
    SELECT l.pid, c.relname, l.mode, l.granted
    FROM pg_locks l JOIN pg_class c ON c.oid = l.relation
    WHERE l.locktype = 'relation' AND l.pid <> pg_backend_pid() AND c.relkind IN ('r', 'p', 'm')
        AND l.database = (SELECT oid FROM pg_database WHERE datname = current_database())
        AND c.relnamespace <> 'pg_catalog'::regnamespace
        AND (l.mode = ANY(%s) OR NOT l.granted)
"""


@dataclass
class Lock:
    """A lock for which others wait.

    :param longest: the longest time that it was held without a break, in seconds
    :param total: the time that it was held in all, in seconds
    :param at: seconds from the start of the migration until it was first seen
    """

    table: str
    mode: str
    longest: float = 0.0
    total: float = 0.0
    at: float = 0.0

    @property
    def blocks(self) -> str:
        """What has to wait for it."""
        return _BLOCKS[self.mode]


class Sampler:
    """A context manager that records the locks of a database while its block runs.

    :param name: name of the database
    """

    def __init__(self, server: Server, name: str) -> None:
        self._server = server
        self._name = name
        self._locks: dict[tuple[str, str], Lock] = {}
        # since when each process holds a lock or waits for one: (pid, table, mode, granted)
        self._since: dict[tuple[Any, ...], float] = {}
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, daemon=True)
        #: the longest time that a process waited for a lock, in seconds
        self.longest_wait = 0.0
        #: why the locks could not be read, empty if they could
        self.failure = ""

    @property
    def locks(self) -> list[Lock]:
        """The locks seen, the longest first."""
        return sorted(self._locks.values(), key=lambda lock: (-lock.longest, lock.table))

    def __enter__(self) -> "Sampler":
        self._thread.start()
        return self

    def __exit__(self, *exc_info: object) -> None:
        self._stop.set()
        self._thread.join()

    def _run(self) -> None:
        try:
            with closing(self._server.connect(self._name)) as connection:
                start = last = time.monotonic()
                while not self._stop.wait(INTERVAL):
                    rows = query(connection, _QUERY, list(_BLOCKS))
                    now = time.monotonic()
                    self._look(rows, last - start, now - start)
                    last = now
        except UpgradeError as error:
            self.failure = str(error)

    def _look(self, rows: list[tuple[Any, ...]], last: float, now: float) -> None:
        # a lock that is seen for the first time was taken after the last look
        self._since = {key: self._since.get(key, last) for key in rows}
        for (_pid, table, mode, granted), since in self._since.items():
            if not granted:
                self.longest_wait = max(self.longest_wait, now - since)
                continue
            lock = self._locks.setdefault((table, mode), Lock(table, mode, at=since))
            lock.longest = max(lock.longest, now - since)
            lock.total += now - max(since, last)
