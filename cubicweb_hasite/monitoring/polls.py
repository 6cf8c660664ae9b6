"""Ask the database on behalf of the monitors, with a deadline.

Many clients poll at the same time. One thread asks the database, on the connection of
:mod:`.connection`, and all who ask the same question share the answer.
"""

import logging
import queue
import threading
import time
from collections.abc import Callable
from concurrent.futures import Future
from concurrent.futures import TimeoutError as DeadlineExceeded
from typing import Any

from cubicweb.server.repository import Repository

from cubicweb_hasite.monitoring import refusals
from cubicweb_hasite.monitoring.connection import ProbeConnection

log = logging.getLogger(__name__)

#: the connection is closed when nothing was asked for so long, in seconds
IDLE_TIMEOUT = 30

# of the repository, so that it lives as long
_ATTRIBUTE = "_hasite_polls"
_HEALTHY = "the database answers"


class DatabaseUnavailable(Exception):
    """The database did not answer; the message gives the reason, and holds no secret."""


def query(repo: Repository, sql: str, *, reconnect: bool = False) -> list[tuple[Any, ...]]:
    """Return the rows of a query that only reads.

    One query is in flight at a time. A thread that asks the same query meanwhile shares its
    result, or its lateness.

    :param reconnect: whether to ask on a new connection
    :raises DatabaseUnavailable: no answer before the deadline (option `hasite-probe-deadline`)
    """
    return _polls(repo).query(sql, reconnect)


def precede(repo: Repository, comment: Callable[[], str]) -> None:
    """Let an SQL comment precede each query.

    :param comment: returns it, and never raises
    """
    _polls(repo).connection.comment = comment


def _polls(repo: Repository) -> "_Polls":
    attributes = vars(repo)
    if _ATTRIBUTE not in attributes:
        attributes.setdefault(_ATTRIBUTE, _Polls(repo))
    return attributes[_ATTRIBUTE]


class _Attempt(Future[list[tuple[Any, ...]]]):
    """A query that is in flight, or waits to be asked."""

    def __init__(self, sql: str, reconnect: bool):
        super().__init__()
        self.question = sql, reconnect
        self.asked = time.monotonic()


class _Polls:
    """The queries of the monitors, and the daemon thread that executes them."""

    def __init__(self, repo: Repository):
        self._config = repo.config
        self.connection = ProbeConnection(repo.system_source, repo.config)
        self._lock = threading.Lock()
        self._questions: queue.SimpleQueue[_Attempt] = queue.SimpleQueue()
        self._in_flight: dict[tuple[str, bool], _Attempt] = {}
        self._thread: threading.Thread | None = None
        self._waiting = 0
        # whether the last query had no answer
        self._silent = False
        self._state = _HEALTHY

    def query(self, sql: str, reconnect: bool) -> list[tuple[Any, ...]]:
        deadline = self._deadline
        came = time.monotonic()
        with self._lock:
            # While the database is silent one poll waits until the deadline. The others wait
            # only as long as a database that wakes up needs, or they would occupy all threads.
            patience = deadline / 8 if self._silent and self._waiting else deadline
            self._waiting += 1
        try:
            rows = self._result(sql, reconnect, came, came + patience)
        except DeadlineExceeded:
            self.connection.cut(deadline)
            state = self._note_silence()
            raise DatabaseUnavailable(state) from None
        except Exception as exc:
            if refusals.is_silence(exc):
                state = self._note_silence(str(exc))
            else:
                state = refusals.cause(exc)
                self._note(state, str(exc))
            raise DatabaseUnavailable(state) from None
        finally:
            with self._lock:
                self._waiting -= 1
        self._note(_HEALTHY)
        return rows

    @property
    def _deadline(self) -> float:
        return self._config["hasite-probe-deadline"]

    def _result(
        self, sql: str, reconnect: bool, came: float, until: float
    ) -> list[tuple[Any, ...]]:
        while True:
            attempt = self._attempt(sql, reconnect)
            try:
                return attempt.result(max(until - time.monotonic(), 0))
            except Exception:
                # if it was asked before this poll came, the database may have come back since
                if not attempt.done() or attempt.asked >= came:
                    raise

    def _attempt(self, sql: str, reconnect: bool) -> _Attempt:
        """Return the attempt in flight, or a new one."""
        with self._lock:
            attempt = self._in_flight.get((sql, reconnect))
            if attempt is None:
                attempt = self._in_flight[sql, reconnect] = _Attempt(sql, reconnect)
                self._questions.put(attempt)
                # started here, in the process that needs it: a process may have forked before
                if self._thread is None or not self._thread.is_alive():
                    self._thread = threading.Thread(
                        target=self._serve, name="hasite-probes", daemon=True
                    )
                    self._thread.start()
        return attempt

    def _note_silence(self, cause: str = "") -> str:
        state = f"no answer from the database in {self._deadline:g} seconds"
        self._note(state, cause, silent=True)
        return state

    def _note(self, state: str, cause: str = "", *, silent: bool = False) -> None:
        """Log the state of the database once per change, not once per poll."""
        with self._lock:
            self._silent = silent
            changed, self._state = state != self._state, state
        if changed:
            details = f" ({' '.join(cause.split())})" if cause else ""
            # by default `cubicweb-ctl start` logs only errors
            level = logging.WARNING if state == _HEALTHY else logging.ERROR
            log.log(level, "%s%s", state, details)

    # The thread runs what follows.

    def _serve(self) -> None:
        while True:
            try:
                attempt = self._questions.get(timeout=IDLE_TIMEOUT)
            except queue.Empty:
                self.connection.close()
                with self._lock:
                    if self._questions.empty():
                        self._thread = None
                        return
                continue
            until = attempt.asked + self._deadline
            try:
                rows, error = self.connection.ask(*attempt.question, until=until), None
            except Exception as exc:
                # it may come from the deadline, here or at the database, or from a silent host
                rows, error = [], DeadlineExceeded() if time.monotonic() >= until else exc
            with self._lock:
                del self._in_flight[attempt.question]
            if error is None:
                attempt.set_result(rows)
            else:
                attempt.set_exception(error)
