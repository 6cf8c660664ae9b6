"""What a migration locks, and for how long others would wait in production."""

import threading
import time
from contextlib import closing
from dataclasses import dataclass

from cubicweb_hasite.upgrades import RehearsalError
from cubicweb_hasite.upgrades.server import Server, query

#: seconds between two looks at the locks: shorter ones may be missed
INTERVAL = 0.05

# PostgreSQL's documentation, section "Explicit Locking": what each conflicts with
_BLOCKS = {
    "AccessExclusiveLock": "reads and writes",
    "ExclusiveLock": "writes",
    "ShareRowExclusiveLock": "writes",
    "ShareLock": "writes",
}
# Tables of which others know: those made in an unfinished transaction are not seen. An index is
# locked with its table.
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
    """A lock that others wait for: of which table, and in seconds the longest time at once, all
    together, and when it was first seen since the beginning."""

    table: str
    mode: str
    longest: float = 0.0
    total: float = 0.0
    at: float = 0.0

    @property
    def blocks(self) -> str:
        """What has to wait meanwhile."""
        return _BLOCKS[self.mode]


class Sampler:
    """A context manager that looks again and again which locks are held in a database."""

    def __init__(self, server: Server, name: str) -> None:
        self._server = server
        self._name = name
        self._locks: dict[tuple[str, str], Lock] = {}
        # since when each process holds a lock, or waits for one
        self._since: dict[tuple[int, str, str, bool], float] = {}
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, daemon=True)
        #: seconds for which a process waited for a lock at most
        self.longest_wait = 0.0
        #: why the locks are not known, empty if they are
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
        except RehearsalError as error:
            self.failure = str(error)

    def _look(self, rows: list[tuple], last: float, now: float) -> None:
        # what is seen for the first time has begun since the last look, at the earliest
        self._since = {key: self._since.get(key, last) for key in rows}
        for (_pid, table, mode, granted), since in self._since.items():
            if not granted:
                self.longest_wait = max(self.longest_wait, now - since)
                continue
            lock = self._locks.setdefault((table, mode), Lock(table, mode, at=since))
            lock.longest = max(lock.longest, now - since)
            lock.total += now - max(since, last)
