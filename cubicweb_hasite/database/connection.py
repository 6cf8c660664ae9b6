"""One connection to PostgreSQL that heals. The rules are those of :mod:`.pool`.

The lines are those of cubicweb 5.0.1.
"""

import logging
import select
from typing import Any, NoReturn, Protocol

from cubicweb.server.sources.native import NativeSQLSource
from cubicweb.server.sqlutils import ConnectionWrapper

log = logging.getLogger(__name__)

#: `psycopg2.extensions.TRANSACTION_STATUS_INERROR`
_IN_ERROR = 3
_stock_commit = ConnectionWrapper.commit


class NoConnection(Exception):
    """There is no connection to the database; the message gives the reason, for the log."""


class Owner(Protocol):
    """The pool that a connection belongs to."""

    #: connections that were opened under another number are not used any more
    generation: int

    def distrust(self) -> None:
        """Use none of the present connections again."""

    def release(self, cnxset: Any) -> None:
        """Take a connection back."""


class Refusal:
    """Takes the place of a connection that cannot be had: its users get the reason.

    :param reason: why there is no connection
    """

    def __init__(self, reason: str):
        self._reason = reason
        #: whether the database was needed
        self.failed = False

    @property
    def cnx(self) -> NoReturn:
        self.failed = True
        raise NoConnection(self._reason)

    cu = cnx

    def commit(self) -> None:
        """Nothing was done."""

    def rollback(self) -> None:
        """Nothing was done."""

    def cnxset_freed(self) -> None:
        """Nothing is kept."""

    def close(self, i_know_what_i_do: bool = False) -> None:
        """Nothing is open."""


class Connection(ConnectionWrapper):
    """A connection that is opened when it is used, and never continues a lost transaction.

    It is in one of three states:

    - closed: `cnx` is None; the next statement opens it;
    - open: statements are executed;
    - lost: `lost_by` is the error that has ended the transaction. The code that runs the
      transaction may not know, so statements and the commit are refused until it rolls back.
    """

    def __init__(self, source: NativeSQLSource, owner: Owner):
        self._source = source
        self._owner = owner
        self._generation = -1
        #: the error that has ended the transaction, None while there is no such error
        self.lost_by: Exception | None = None
        #: whether a transaction was lost since the connection was handed out
        self.failed = False
        self.cnx: Any = None
        self._cu: Any = None

    def open(self) -> None:
        """Prepare the connection to be handed out: open it again if it may not be used any more.

        :raises source.DbapiError: the database refuses or does not answer.
        """
        self.failed, self.lost_by = False, None
        if not self._is_usable():
            self._open()

    def close(self, i_know_what_i_do: bool = False) -> None:
        """Close the connection if it is open. (The stock method uses the cursor, and opens it.)"""
        cnx, self.cnx, self._cu = self.cnx, None, None
        if cnx is not None:
            try:
                cnx.close()
            except self._source.DbapiError as error:
                log.info("while a connection was closed: %s", error)

    def _open(self) -> None:
        self.close(True)
        self._generation = self._owner.generation
        cnx = self._source.get_connection()
        self.cnx, self.cu = cnx, cnx.cursor()
        _prefer_host(self._source, cnx.info.host)

    def _is_usable(self) -> bool:
        if self.cnx is None or self.cnx.closed or self._generation != self._owner.generation:
            return False
        # An idle connection has nothing to read, except that the server has ended it.
        poll = select.poll()
        poll.register(self.cnx.fileno(), select.POLLIN)
        return not poll.poll(0)

    @property
    def cu(self) -> Any:
        """The cursor.

        :raises NoConnection: the transaction is lost and was not rolled back since.
        """
        self._check_transaction()
        if self.cnx is None or self.cnx.closed:
            try:
                self._open()
            except self._source.DbapiError as error:
                self.lost_by = error
                raise
        return self._cu

    @cu.setter
    def cu(self, cursor: Any) -> None:
        self._cu = cursor

    def statement_failed(self, error: Exception, *, rolled_back: bool) -> None:
        """Note that a statement has failed.

        :param rolled_back: whether CubicWeb has already rolled back, which the code that runs
            the transaction does not know
        """
        if is_read_only(error):
            self._owner.distrust()
        if isinstance(error, self._source.OperationalError | self._source.InterfaceError):
            self.failed = True
            if rolled_back:
                self.lost_by = error

    def commit(self) -> None:
        """Commit.

        :raises NoConnection: the transaction is lost.
        """
        self._check_transaction()
        if self.cnx is None:  # closed by a rollback, and nothing was done since
            return
        try:
            commit_whole(self)
        except self._source.DbapiError as error:
            self.statement_failed(error, rolled_back=False)
            raise

    def rollback(self) -> None:
        """Roll back, or close the connection if it is too broken for that.

        The stock method (cubicweb/server/sqlutils.py, lines 219 to 228) connects again, and
        raises if it cannot: `Connection.__exit__` (cubicweb/server/session.py, lines 352 to 358)
        then never releases its slot of the pool.
        """
        self.lost_by = None
        if self.cnx is None:
            return
        try:
            self.cnx.rollback()
        except self._source.DbapiError as error:
            self.failed = True
            log.info("connection thrown away: %s", error)
            self.close()

    def reconnect(self) -> NoReturn:
        """Raise the error that has ended the transaction, instead of continuing it.

        `Connection.system_sql` (cubicweb/server/session.py, lines 816 to 821) would execute its
        statement again on a new connection, also after a deadlock. What the transaction had
        written before would be lost, and what it writes afterwards would be committed.
        """
        raise self.lost_by or NoConnection("the transaction was lost")

    def _check_transaction(self) -> None:
        if self.lost_by is not None:
            raise NoConnection("the transaction was lost") from self.lost_by


def commit_whole(cnxset: ConnectionWrapper) -> None:
    """Commit, unless PostgreSQL would roll back instead.

    When a failed transaction is committed, PostgreSQL rolls it back and reports success. This
    happens when an error was ignored, as in `fti_index_entities`
    (cubicweb/server/sources/native.py, lines 1478 to 1492), which ignores a full disk and a text
    that is too long for the index.

    :raises source.DbapiError: the transaction has failed.
    """
    if cnxset.cnx.info.transaction_status == _IN_ERROR:
        raise cnxset._source.DbapiError("nothing was saved: the log says what has failed before")
    _stock_commit(cnxset)


def is_read_only(error: BaseException | None) -> bool:
    """Return whether PostgreSQL has refused to write on a standby: read_only_sql_transaction.

    CubicWeb does not connect again after this error, which is an `InternalError`.
    """
    return getattr(error, "pgcode", None) == "25006"


def _prefer_host(source: NativeSQLSource, host: str) -> None:
    """Try first the host of the option `db-host` that was reached last.

    libpq tries them in order: while the first one is down, each new connection would wait for it.
    """
    hosts = (source.dbhelper.dbhost or "").split(",")
    if host in hosts[1:]:
        hosts.remove(host)
        source.dbhelper.dbhost = ",".join([host, *hosts])
