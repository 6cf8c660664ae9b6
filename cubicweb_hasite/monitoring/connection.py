"""Ask the database, with a deadline, on a connection that only the probes use."""

import copy
import logging
import os
import queue
import re
import socket
import threading
import time
from concurrent.futures import Future
from concurrent.futures import TimeoutError as DeadlineExceeded
from contextlib import suppress

from cubicweb.server.repository import Repository

log = logging.getLogger(__name__)

#: the connection is closed when nothing was asked for so long, in seconds
IDLE_TIMEOUT = 30
#: and when it is so old, in seconds: a database that refuses new connections is noticed
MAX_AGE = 30
#: for how long each server of `db-host` may keep a connection waiting, in seconds; libpq takes
#: no less than 2. What `db-extra-arguments` says prevails.
CONNECT_TIMEOUT = 2
#: name of the connection in `pg_stat_activity`
APPLICATION_NAME = "hasite-probes"

# of the repository, so that the connection lives as long
_ATTRIBUTE = "_hasite_probe_connection"

_NEVER = float("inf")

# Words by which PostgreSQL and libpq refuse a connection, and what monitors say of it: psycopg2
# gives no SQLSTATE for it. PostgreSQL writes in the language of its `lc_messages`.
_WELL = "the database answers"
_SILENT = r"timeout expired|timed out"
_REFUSALS = (
    (
        r"too many (clients|connections)|connection slots|trop de (clients|connexions)"
        r"|emplacements? de connexions?|demasiad[oa]s (clientes|conexiones)|slots? de conexi",
        "the database refuses: too many connections",
    ),
    (
        r"password|authentication|pg_hba|role|mot de passe|authentification|rôle"
        r"|contraseña|autentificación|rol\b",
        "the database refuses the user or the password",
    ),
    (r"read-only|hot standby", "the database is read-only"),
    (
        r"starting up|shutting down|not yet accepting|recovery",
        "the database is starting or stopping",
    ),
    (r"database .* does not exist|base de données|base de datos", "there is no such database"),
    (r"could not translate host name", "the name of the database's host is unknown"),
    (r"refused|No such file", "the database is stopped: connection refused"),
    (r"closed the connection|reset by peer", "the database closes the connection"),
    (r"unreachable|No route", "the database's host is not reachable"),
    (r"canceling statement|lock timeout", "the database is too busy: a query was cancelled"),
)


class DatabaseUnavailable(Exception):
    """The database did not answer; the message says how, and holds no secret."""


def query(repo: Repository, sql: str, *, reconnect: bool = False) -> list[tuple]:
    """Return the rows of a query that only reads.

    One query is in flight at a time; who asks the same again meanwhile shares its result, or
    its lateness.

    :param reconnect: whether to ask on a new connection
    :raises DatabaseUnavailable: no answer before the deadline (option `hasite-probe-deadline`)
    """
    attributes = vars(repo)
    if _ATTRIBUTE not in attributes:
        attributes.setdefault(_ATTRIBUTE, _ProbeConnection(repo))
    return attributes[_ATTRIBUTE].query(sql, reconnect)


class _Attempt(Future):
    """A query that was asked, or is to be."""

    def __init__(self, sql: str, reconnect: bool):
        super().__init__()
        self.sql = sql
        self.reconnect = reconnect
        self.asked = time.monotonic()


class _ProbeConnection:
    """A connection and the daemon thread that uses it, both made when needed."""

    def __init__(self, repo: Repository):
        self._source = repo.system_source
        self._config = repo.config
        self._postgres = self._source.dbdriver == "postgres"
        # A file of SQLite, and the database of CubicWeb's test cases, may be replaced by another.
        self._keep = self._postgres and self._config.mode != "test"
        self._lock = threading.Lock()
        self._questions: queue.SimpleQueue[_Attempt] = queue.SimpleQueue()
        self._in_flight: dict[tuple[str, bool], _Attempt] = {}
        self._thread: threading.Thread | None = None
        self._waiting = 0
        # whether the database kept silent when it was asked last
        self._silent = False
        self._state = _WELL
        # of the thread, but for the socket, which is shut down while the thread waits
        self._connection = None
        self._opened = 0.0
        self._socket: socket.socket | None = None
        self._asked = _NEVER

    def query(self, sql: str, reconnect: bool) -> list[tuple]:
        deadline = self._config["hasite-probe-deadline"]
        came = time.monotonic()
        with self._lock:
            # While the database keeps silent one poll waits as long as it may; the others only
            # for what a database that wakes up needs, lest they occupy all the threads that serve.
            patience = deadline / 8 if self._silent and self._waiting else deadline
            self._waiting += 1
        try:
            rows = self._result(sql, reconnect, came, came + patience)
        except DeadlineExceeded:
            self._cut(deadline)
            state = f"no answer from the database in {deadline:g} seconds"
            self._tell(state, silent=True)
            raise DatabaseUnavailable(state) from None
        except Exception as exc:
            silent = re.search(_SILENT, str(exc)) is not None
            state = (
                f"no answer from the database in {deadline:g} seconds" if silent else _cause(exc)
            )
            self._tell(state, str(exc), silent=silent)
            raise DatabaseUnavailable(state) from None
        finally:
            with self._lock:
                self._waiting -= 1
        self._tell(_WELL)
        return rows

    def _result(self, sql: str, reconnect: bool, came: float, until: float) -> list[tuple]:
        while True:
            attempt = self._attempt(sql, reconnect)
            try:
                return attempt.result(max(until - time.monotonic(), 0))
            except Exception:
                # what failed may have been asked before the database came back
                if not attempt.done() or attempt.asked >= came:
                    raise

    def _attempt(self, sql: str, reconnect: bool) -> _Attempt:
        """Return the attempt in flight, or a new one."""
        with self._lock:
            attempt = self._in_flight.get((sql, reconnect))
            if attempt is None:
                attempt = self._in_flight[sql, reconnect] = _Attempt(sql, reconnect)
                self._questions.put(attempt)
                # Started here, in the process that needs it: a process may have forked before.
                if self._thread is None or not self._thread.is_alive():
                    self._thread = threading.Thread(
                        target=self._serve, name="hasite-probes", daemon=True
                    )
                    self._thread.start()
        return attempt

    def _tell(self, state: str, cause: str = "", *, silent: bool = False) -> None:
        """Log what happens to the database once per change, not once per poll."""
        with self._lock:
            self._silent = silent
            changed, self._state = state != self._state, state
        if changed:
            details = f" ({' '.join(cause.split())})" if cause else ""
            # `cubicweb-ctl start` logs errors alone, unless it is told otherwise
            log.log(logging.WARNING if state == _WELL else logging.ERROR, "%s%s", state, details)

    def _cut(self, deadline: float) -> None:
        """End a query that the database has not answered in time.

        Else it would wait for as long as TCP waits for a host that was cut off the network.
        """
        with self._lock:
            if self._socket is not None and time.monotonic() - self._asked >= deadline:
                with suppress(OSError):
                    self._socket.shutdown(socket.SHUT_RDWR)

    # What follows is run by the thread.

    def _serve(self) -> None:
        while True:
            try:
                attempt = self._questions.get(timeout=IDLE_TIMEOUT)
            except queue.Empty:
                self._close()
                with self._lock:
                    if self._questions.empty():
                        self._thread = None
                        return
                continue
            try:
                rows, error = self._ask(attempt), None
            except Exception as exc:
                # whatever ended it: the deadline, here or at the database, or the host's silence
                rows, error = [], DeadlineExceeded() if self._late(attempt) else exc
            if not self._keep:
                self._close()
            with self._lock:
                del self._in_flight[attempt.sql, attempt.reconnect]
            if error is None:
                attempt.set_result(rows)
            else:
                attempt.set_exception(error)

    def _ask(self, attempt: _Attempt) -> list[tuple]:
        if attempt.reconnect:
            self._close()
        if self._connection is not None and time.monotonic() - self._opened > MAX_AGE:
            self._open()  # if that is refused, the old one keeps its place for the next time
        reused = self._connection is not None
        try:
            if not reused:
                self._open()
            return self._execute(attempt.sql)
        except Exception as exc:
            self._close()
            if not reused or self._late(attempt):
                raise
            log.debug("the connection of the probes had been cut: %s", exc)
            return self._ask(attempt)

    def _late(self, attempt: _Attempt) -> bool:
        return time.monotonic() - attempt.asked >= self._config["hasite-probe-deadline"]

    def _open(self) -> None:
        """Open a connection, in the place of the one that is open."""
        if not self._postgres:
            self._connection = self._source.get_connection()
            return
        helper = copy.copy(self._source.dbhelper)
        helper.dbextraargs = (
            f"connect_timeout={CONNECT_TIMEOUT} tcp_user_timeout={CONNECT_TIMEOUT * 1000} "
            f"application_name={APPLICATION_NAME} {helper.dbextraargs or ''}"
        )
        connection = helper.get_connection(initcnx=False)
        connection.rollback()  # db-namespace makes it look the schema up
        connection.autocommit = True
        self._close()
        # a descriptor of our own: libpq may close its own at any time
        sock = socket.socket(fileno=os.dup(connection.fileno()))
        with self._lock:
            self._connection, self._socket = connection, sock
        self._opened = time.monotonic()

    def _execute(self, sql: str) -> list[tuple]:
        with self._lock:
            self._asked = time.monotonic()
        cursor = self._connection.cursor()
        if self._postgres:
            # In this transaction only: behind pgbouncer the session is everybody's.
            milliseconds = max(int(self._config["hasite-probe-deadline"] * 1000), 1)
            sql = f"SET LOCAL statement_timeout = {milliseconds}; {sql}"
        cursor.execute(sql)
        rows = cursor.fetchall()
        cursor.close()
        with self._lock:
            self._asked = _NEVER
        return rows

    def _close(self) -> None:
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


def _cause(exc: Exception) -> str:
    """Return why the database does not answer, in words that hold no name and no address."""
    words = re.sub(r'"[^"]*"|«[^»]*»', "", str(exc))
    for pattern, cause in _REFUSALS:
        if re.search(pattern, words):
            return cause
    return f"the database does not answer ({type(exc).__name__})"
