"""A database node as the sampler sees it, by a connection that never blocks."""

import logging
import time
from typing import Any, NamedTuple

from cubicweb.server.sources.native import NativeSQLSource

from cubicweb_hasite.standbys import positions

log = logging.getLogger(__name__)

#: how long a node may keep a question waiting, and a new connection, in seconds
DEADLINE = 0.75
#: how long to wait before another connection, in seconds
_WAIT = 0.5

# A role without privileges may ask all of it in PostgreSQL 15; what it may not is an error, and
# the node is not used. `hasite_origin` is of `cubicweb_hasite.database.eids`: the row that a
# standby has replayed tells of which cluster and timeline it is, which functions that such a role
# may call tell only after the next checkpoint.
_QUESTION = f"""
    SELECT
        recovering,
        CASE
            WHEN recovering THEN pg_wal_lsn_diff(pg_last_wal_replay_lsn(), '0/0')::bigint
            ELSE ({positions.WRITTEN})
        END,
        CASE WHEN NOT recovering THEN ({positions.ORIGIN}) END,
        (SELECT origin FROM hasite_origin)
    FROM (SELECT pg_is_in_recovery() AS recovering) AS node
"""
# A primary on a new timeline writes its origin, for standbys to prove that they follow it. It is
# done by the trigger on this table, which would do it at the next new eid.
_NEW_TIMELINE = "UPDATE entities_id_seq SET last = last;"


class Sample(NamedTuple):
    """What a node has answered."""

    #: when it was asked, of `time.monotonic`
    asked: float
    #: when it has answered, of `time.monotonic`
    answered: float
    #: whether it is a standby
    recovering: bool
    #: up to where it has replayed the log or, of a primary, has written it
    lsn: int
    #: of which cluster and timeline its data is
    origin: str | None


class Node:
    """A node, and the connection by which it is asked.

    :param name: `host:port`, for the log
    :param dsn: how to connect, as libpq takes it
    """

    def __init__(self, name: str, dsn: str) -> None:
        self.name = name
        self._dsn = dsn
        self._connection: Any = None
        self._cursor: Any = None
        self._asked = 0.0
        self._retry = 0.0
        self._writes = False
        self._new_timeline = False
        self._failure = ""
        #: the last answer; None since the node was lost
        self.sample: Sample | None = None
        #: counts the times that the node was lost
        self.losses = 0

    @property
    def failure(self) -> str:
        """Why the node does not answer; empty if it does."""
        return self._failure

    def fileno(self) -> int | None:
        """Return the descriptor to wait for, None while there is no connection."""
        if self._connection is None or self._connection.closed:
            return None
        return self._connection.fileno()

    @property
    def writes(self) -> bool:
        """Whether the descriptor is to be written to next, and not read."""
        return self._writes

    def ask(self, connect: Any, now: float) -> None:
        """Begin to ask, or to connect, unless that is going on.

        :param connect: `psycopg2.connect`
        """
        try:
            if self._connection is None:
                if now < self._retry:
                    return
                self._asked, self._cursor = now, None
                self._connection = connect(self._dsn, async_=True)
                self.advance(now)
            elif self._cursor is None and self._asked == 0.0:
                question = _NEW_TIMELINE + _QUESTION if self._new_timeline else _QUESTION
                self._asked = now
                self._cursor = self._connection.cursor()
                self._cursor.execute(question)
                self.advance(now)
        except Exception as error:  # of psycopg2, of many types
            self.lose(str(error))

    def advance(self, now: float) -> bool:
        """Go on after the descriptor is ready; return whether there is a new sample."""
        from psycopg2 import extensions

        try:
            state = self._connection.poll()
            self._writes = state == extensions.POLL_WRITE
            if state != extensions.POLL_OK:
                return False
            if self._cursor is None:  # connected, or a notice while nothing was asked
                self._asked = 0.0
                return False
            [recovering, lsn, present, origin] = self._cursor.fetchone()
            self._cursor.close()
        except Exception as error:  # of psycopg2, or of an answer that is none
            self.lose(str(error))
            return False
        asked, self._asked, self._cursor = self._asked, 0.0, None
        self._new_timeline = not recovering and present != origin
        # one without a position has replayed nothing
        self.sample = Sample(asked, now, recovering, lsn or 0, origin if recovering else present)
        if self._failure:
            log.warning("database node %s answers", self.name)
        self._failure = ""
        return True

    def expire(self, now: float) -> None:
        """Lose the node if it has not answered within the deadline."""
        if self._connection is not None and self._asked and now - self._asked > DEADLINE:
            self.lose(f"no answer in {DEADLINE:g} seconds")

    def lose(self, reason: str) -> None:
        """Close the connection. Another one is opened later."""
        connection, self._connection, self._cursor = self._connection, None, None
        self._asked, self._writes = 0.0, False
        self._retry = time.monotonic() + _WAIT
        if self.sample is not None:
            self.losses += 1
        self.sample = None
        if connection is not None:
            try:
                connection.close()
            except Exception as error:  # it may be broken
                log.debug("while %s was closed: %s", self.name, error)
        reason = " ".join(reason.split())
        if not self._failure:
            log.warning("database node %s is not read: %s", self.name, reason)
        self._failure = reason or "unknown"


def dsn(source: NativeSQLSource, host: str, port: int | str | None) -> str:
    """Return how to connect to one node, whatever it is, as the instance connects.

    :param source: that of the instance
    :param host: its name or address; empty for the socket of this host
    """
    helper = source.dbhelper
    values = {
        "host": host,
        "port": port,
        "dbname": helper.dbname,
        "user": helper.dbuser,
        "password": helper.dbpasswd,
    }
    given = " ".join(f"{name}={value}" for name, value in values.items() if value)
    # libpq takes the last value of a name
    return f"{given} {helper.dbextraargs or ''} target_session_attrs=any"
