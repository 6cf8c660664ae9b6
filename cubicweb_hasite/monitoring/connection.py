"""The connection to the database that only the probes use.

One thread uses it (see :mod:`.polls`). Any other thread may cut it.
"""

import copy
import logging
import os
import socket
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from typing import Any

from cubicweb.cwconfig import CubicWebConfiguration
from cubicweb.server.sources.native import NativeSQLSource

log = logging.getLogger(__name__)

#: how old the connection may be, in seconds: a database that refuses new connections is noticed
MAX_AGE = 30
#: how long each server of `db-host` may keep a connection waiting, in seconds; libpq takes no
#: less than 2. Values in `db-extra-arguments` prevail.
CONNECT_TIMEOUT = 2
#: name of the connection in `pg_stat_activity`
APPLICATION_NAME = "hasite-probes"

_NEVER = float("inf")


class ProbeConnection:
    """A connection that is opened when it is used, and closed after an error."""

    def __init__(self, source: NativeSQLSource, config: CubicWebConfiguration):
        self._source = source
        self._config = config
        #: returns an SQL comment that precedes each query: `pg_stat_activity` shows it
        self.comment: Callable[[], str] = str
        self._postgres = source.dbdriver == "postgres"
        # SQLite's file, and the database of CubicWeb's test cases, may be replaced by another
        self._keep = self._postgres and config.mode != "test"
        self._connection: Any = None
        self._opened = 0.0
        # of what another thread needs to cut the connection
        self._lock = threading.Lock()
        self._socket: socket.socket | None = None
        self._asked = _NEVER

    def ask(self, sql: str, reconnect: bool, *, until: float) -> list[tuple[Any, ...]]:
        """Return the rows of a query that only reads.

        :param reconnect: whether to ask on a new connection
        :param until: when it is too late to ask again, of `time.monotonic`
        :raises Exception: the database, or the network, has failed.
        """
        try:
            return self._ask(sql, reconnect, until)
        finally:
            if not self._keep:
                self.close()

    def cut(self, deadline: float) -> None:
        """End a query that the database has not answered within the deadline, in seconds.

        It would wait as long as TCP waits for a host that was cut off the network.
        """
        with self._lock:
            if self._socket is not None and time.monotonic() - self._asked >= deadline:
                with suppress(OSError):
                    self._socket.shutdown(socket.SHUT_RDWR)

    def close(self) -> None:
        """Close the connection if it is open."""
        with self._lock:
            connection, self._connection = self._connection, None
            sock, self._socket = self._socket, None
            self._asked = _NEVER
        for each in (connection, sock):
            if each is not None:
                try:
                    each.close()
                except Exception as exc:  # it may be broken
                    log.debug("while closing the connection of the probes: %s", exc)

    def _ask(self, sql: str, reconnect: bool, until: float) -> list[tuple[Any, ...]]:
        if reconnect:
            self.close()
        if self._connection is not None and time.monotonic() - self._opened > MAX_AGE:
            self._open()  # if that is refused, the old one is kept for the next time
        reused = self._connection is not None
        try:
            if not reused:
                self._open()
            return self._execute(sql)
        except Exception as exc:
            self.close()
            if not reused or time.monotonic() >= until:
                raise
            log.debug("the connection of the probes had been cut: %s", exc)
            return self._ask(sql, reconnect, until)

    def _open(self) -> None:
        """Open a connection, and replace the one that is open."""
        if not self._postgres:
            self._connection = self._source.get_connection()
            return
        helper = copy.copy(self._source.dbhelper)
        helper.dbextraargs = (
            f"connect_timeout={CONNECT_TIMEOUT} tcp_user_timeout={CONNECT_TIMEOUT * 1000} "
            f"application_name={APPLICATION_NAME} {helper.dbextraargs or ''}"
        )
        connection = helper.get_connection(initcnx=False)
        connection.rollback()  # with db-namespace it has executed a query
        connection.autocommit = True
        self.close()
        # a descriptor of our own: libpq may close its own at any time
        sock = socket.socket(fileno=os.dup(connection.fileno()))
        with self._lock:
            self._connection, self._socket = connection, sock
        self._opened = time.monotonic()

    def _execute(self, sql: str) -> list[tuple[Any, ...]]:
        with self._lock:
            self._asked = time.monotonic()
        cursor = self._connection.cursor()
        if self._postgres:
            # in this transaction only: behind pgbouncer others use the same session
            milliseconds = max(int(self._config["hasite-probe-deadline"] * 1000), 1)
            sql = f"{self.comment()}SET LOCAL statement_timeout = {milliseconds}; {sql}"
        cursor.execute(sql)
        rows = cursor.fetchall()
        cursor.close()
        with self._lock:
            self._asked = _NEVER
        return rows
