"""Ask the database, with a deadline, on a connection that only the probes use."""

import logging
import queue
import threading
from concurrent.futures import Future
from concurrent.futures import TimeoutError as DeadlineExceeded

from cubicweb.server.repository import Repository

log = logging.getLogger(__name__)

#: the connection is closed when nothing was asked for so long, in seconds
IDLE_TIMEOUT = 60

# of the repository, so that the connection lives as long
_ATTRIBUTE = "_hasite_probe_connection"


class DatabaseUnavailable(Exception):
    """The database did not answer; the message says how, and holds no secret."""


def query(repo: Repository, sql: str) -> list[tuple]:
    """Return the rows of a query that only reads.

    One query is in flight at a time; who asks the same again meanwhile shares its result, or
    its lateness.

    :raises DatabaseUnavailable: no answer before the deadline (option `hasite-probe-deadline`)
    """
    attributes = vars(repo)
    if _ATTRIBUTE not in attributes:
        attributes.setdefault(_ATTRIBUTE, _ProbeConnection(repo))
    return attributes[_ATTRIBUTE].query(sql)


class _ProbeConnection:
    """A connection and the daemon thread that uses it, both made when needed."""

    def __init__(self, repo: Repository):
        self._source = repo.system_source
        self._config = repo.config
        self._lock = threading.Lock()
        self._questions: queue.SimpleQueue[str] = queue.SimpleQueue()
        self._in_flight: dict[str, Future] = {}
        self._thread: threading.Thread | None = None
        self._available = True
        # A file of SQLite, and the database of CubicWeb's test cases, may be replaced by another.
        self._keep = self._source.dbdriver == "postgres" and self._config.mode != "test"

    def query(self, sql: str) -> list[tuple]:
        deadline = self._config["hasite-probe-deadline"]
        with self._lock:
            future = self._in_flight.get(sql)
            if future is None:
                future = self._in_flight[sql] = Future()
                self._questions.put(sql)
                if self._thread is None:
                    self._thread = threading.Thread(
                        target=self._serve, name="hasite-probes", daemon=True
                    )
                    self._thread.start()
        try:
            rows = future.result(deadline)
        except DeadlineExceeded:
            self._log_change(False, f"no answer in {deadline:g} s")
            raise DatabaseUnavailable(
                f"no answer from the database in {deadline:g} seconds"
            ) from None
        except Exception as exc:
            self._log_change(False, str(exc).strip())
            raise DatabaseUnavailable(
                f"the database does not answer ({type(exc).__name__})"
            ) from None
        self._log_change(True, "it answers")
        return rows

    def _log_change(self, available: bool, what: str) -> None:
        """Log what happened to the database once per change, not once per poll."""
        if available != self._available:
            self._available = available
            log.warning("database: %s", what)

    def _serve(self) -> None:
        connection = None
        while True:
            try:
                sql = self._questions.get(timeout=IDLE_TIMEOUT)
            except queue.Empty:
                with self._lock:
                    if self._questions.empty():
                        self._thread = None
                        break
                continue
            rows, error = None, None
            # A connection that was open may have been cut since: try once on a new one.
            for retry in (True, False) if connection else (False,):
                try:
                    connection = connection or self._source.get_connection()
                    cursor = connection.cursor()
                    cursor.execute(sql)
                    rows, error = cursor.fetchall(), None
                    connection.rollback()
                    break
                except Exception as exc:
                    error = exc
                    connection = _closed(connection)
                    if not retry:
                        break
            if not self._keep:
                connection = _closed(connection)
            with self._lock:
                future = self._in_flight.pop(sql)
            if error is None:
                future.set_result(rows)
            else:
                future.set_exception(error)
        _closed(connection)


def _closed(connection) -> None:
    """Close a connection, which may be broken; None, for there is no connection any more."""
    if connection is not None:
        try:
            connection.close()
        except Exception as exc:
            log.debug("while closing the connection of the probes: %s", exc)
