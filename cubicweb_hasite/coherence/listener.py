"""A thread that gets the notices of the other processes.

It has a connection of its own to the database. It listens first and then reads everything again,
after each connection and every :data:`ROUND` seconds: so nothing is missed for longer than that,
not even where notices do not arrive, as behind a pgbouncer that pools transactions.
"""

import copy
import logging
import select
import threading
import time
from collections.abc import Callable, Collection
from typing import Any

from cubicweb.server.repository import Repository

from cubicweb_hasite.coherence import memory, notices
from cubicweb_hasite.monitoring import metrics

log = logging.getLogger(__name__)

#: how often everything is read again, in seconds
ROUND = 60
#: how often the connection is checked, in seconds
_CHECK = 5
#: how long to wait before another connection, in seconds
_WAIT = 0.5
#: see :mod:`cubicweb_hasite.monitoring.connection`; a host that is cut off is noticed in time
_ARGUMENTS = (
    "connect_timeout=2 tcp_user_timeout=5000 keepalives_idle=5 keepalives_interval=2 "
    "keepalives_count=2 application_name=hasite-notices"
)


#: what is done with the types of which somebody may read fewer than before
Lost = Callable[[Repository, Collection[str]], None]


def start(repo: Repository, lost: Lost) -> None:
    """Listen as long as the process runs, if its database is PostgreSQL."""
    if repo.system_source.dbdriver == "postgres":
        _Listener(repo, lost).start()


class _Listener(threading.Thread):
    def __init__(self, repo: Repository, lost: Lost) -> None:
        super().__init__(name="hasite-notices", daemon=True)
        self._repo = repo
        self._lost = lost
        self._failing = False

    def run(self) -> None:
        while not self._repo.shutting_down:
            try:
                self._listen()
            except Exception as error:  # the database fails, in whatever way
                if not self._failing:
                    log.warning("no notices of other processes, tried again: %s", error)
                self._failing = True
                time.sleep(_WAIT)

    def _listen(self) -> None:
        connection = self._connect()
        try:
            connection.cursor().execute(f"LISTEN {notices.CHANNEL}")
            due = 0.0
            while not self._repo.shutting_down:
                if time.monotonic() >= due:
                    parts = notices.ALL
                    due = time.monotonic() + ROUND
                else:
                    parts = self._wait(connection)
                if parts:
                    self._lost(self._repo, memory.refresh(self._repo, parts))
                if parts == notices.ALL:
                    metrics.note_refresh()
                    if self._failing:
                        log.info("notices of other processes arrive again")
                    self._failing = False
        finally:
            connection.close()

    def _connect(self) -> Any:
        helper = copy.copy(self._repo.system_source.dbhelper)
        helper.dbextraargs = f"{_ARGUMENTS} {helper.dbextraargs or ''}"
        connection = helper.get_connection(initcnx=False)
        connection.rollback()  # with db-namespace it has executed a query
        connection.autocommit = True
        return connection

    def _wait(self, connection: Any) -> frozenset[str]:
        """Return the parts that the notices name which have arrived, none after a while."""
        if not select.select([connection], [], [], _CHECK)[0]:
            connection.cursor().execute("SELECT 1")  # is it still there?
        connection.poll()
        parts: frozenset[str] = frozenset()
        while connection.notifies:
            parts |= notices.read(connection.notifies.pop(0).payload)
            metrics.count_notice()
        return parts
