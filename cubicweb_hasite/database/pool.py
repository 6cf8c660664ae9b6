"""Connections to PostgreSQL that heal, in the place of CubicWeb's.

The rules:

1. No connection is handed out that the server has closed, or that leads to a demoted primary.
2. The pool never raises: without a connection it hands out a :class:`Refusal`, which gives the
   reason when the database is needed.
3. A request waits for a connection of the pool as long as `hasite-pool-timeout` says, no longer.
4. Every connection returns to the pool, in whatever state it is: no slot is lost.
5. A transaction is committed whole or not at all. It never continues on another connection.
6. After a loss nothing is executed until the code that runs the transaction has rolled back.
7. PostgreSQL's refusal to write on a standby replaces all connections (see `distrust`).
8. New eids come from a connection that is not kept after an error.

The lines are those of cubicweb 5.0.1.
"""

import queue
import time
from collections.abc import Callable
from importlib.metadata import version
from typing import Any, NoReturn

from cubicweb.server.repository import Repository, _BaseCnxSet, _CnxSetPool
from cubicweb.server.session import Connection as CubicWebConnection
from cubicweb.server.sources.native import DefaultEidGenerator, NativeSQLSource
from cubicweb.server.sqlutils import ConnectionWrapper
from logilab.common.changelog import Version

from cubicweb_hasite.database.connection import Connection, Refusal, commit_whole, is_read_only

_CUBICWEB = Version(version("cubicweb"))


def heals(repo: Repository) -> bool:
    """Return whether :func:`heal_connections` does something for this database and CubicWeb."""
    return Version("5.0.1") >= _CUBICWEB and repo.system_source.dbdriver == "postgres"


def heal_connections(repo: Repository, timeout: float) -> None:
    """Replace the parts of CubicWeb that hand out connections to PostgreSQL.

    No connection may be in use.

    :param timeout: how long to wait for a connection of an exhausted pool, in seconds
    """
    if not heals(repo):
        return
    source, stock = repo.system_source, repo.cnxsets
    stock.close()
    repo.cnxsets = pool_like(stock, source, timeout)
    source.eid_generator.close()
    source.eid_generator = _EidGenerator(source, repo.cnxsets)
    source.create_eid = source.eid_generator.create_eid
    for name in ("doexec", "_handle_insert_entity_sql", "doexecmany"):
        setattr(source, name, _watched(source, getattr(source, name)))


def pool_like(stock: _BaseCnxSet, source: NativeSQLSource, timeout: float) -> "Unpooled":
    """Return a pool of the size of another one, or none if the other is none.

    :param source: what opens the connections
    :param timeout: how long to wait for a connection of an exhausted pool, in seconds
    """
    if isinstance(stock, _CnxSetPool):
        return _Pool(stock, source, timeout)
    return Unpooled(source)


def keep_transactions_whole(repo: Repository) -> None:
    """Let the transaction of a migration be committed whole or not at all (rule 5).

    CubicWeb would continue it on another connection: see :meth:`Connection.reconnect`. A
    connection that is lost ends the migration.
    """
    if Version("5.0.1") >= _CUBICWEB and repo.system_source.dbdriver == "postgres":
        ConnectionWrapper.commit, ConnectionWrapper.reconnect = commit_whole, _no_reconnect


def _no_reconnect(_cnxset: ConnectionWrapper) -> NoReturn:
    """Raise again the error that CubicWeb is handling, and would handle by a new connection."""
    raise


def _watched(source: NativeSQLSource, stock: Callable[..., Any]) -> Callable[..., Any]:
    """Return a method of the source that executes SQL, and now tells the connection of errors.

    `doexec` and `doexecmany` (cubicweb/server/sources/native.py, lines 785 to 912) roll back
    after an error, unless `rollback` is False. The code that runs the transaction may know
    nothing of it: `index_entity` (line 1492) ignores all errors, and a commit follows.
    """

    def execute(cnx: CubicWebConnection, *args: Any, **options: Any) -> Any:
        try:
            return stock(cnx, *args, **options)
        except source.DbapiError as error:
            cnx.cnxset.statement_failed(error, rolled_back=options.get("rollback", True))
            raise

    return execute


class Unpooled(_BaseCnxSet):
    """Opens a connection for each use, and never raises: it hands out a :class:`Refusal` instead.

    `Connection.__enter__` (cubicweb/server/session.py, lines 345 and 346) marks itself as open
    before it has a connection, and `_cw_cnx` (cubicweb/pyramid/core.py, lines 132 and 133)
    registers the cleanup before it enters. So when `get` raises, the cleanup raises too, the
    other callbacks are not run, and the next use of `request.cw_cnx` waits again and registers
    one more.
    """

    generation = 0
    #: the class of its connections
    connection_class: type[Connection] = Connection

    def get(self) -> Connection | Refusal:
        try:
            cnxset = self._take()
        except queue.Empty:
            return Refusal("all connections of the pool are in use")
        try:
            cnxset.open()
        except Exception as error:  # of libpq, or of a hook of logilab.database
            self.release(cnxset)
            return Refusal(str(error).strip())
        return cnxset

    def distrust(self) -> None:
        """Use none of the present connections again: their server is not the primary any more."""
        self.generation += 1

    def _take(self) -> Connection:
        return self.connection_class(self._source, self)


class _Pool(Unpooled, _CnxSetPool):
    """A pool that loses no slot to a failing database, and hands out no dead connection.

    `_CnxSetPool.get` (cubicweb/server/repository.py, lines 302 to 329) waits 5 seconds, raises
    a bare `Exception`, hands out connections that the server has closed long since, and opens
    more than the maximum when several threads ask at once.
    """

    def __init__(self, stock: _CnxSetPool, source: NativeSQLSource, timeout: float):
        super().__init__(source, 0, stock.max_size, stock.idle_timeout)
        self.min_size = stock.min_size
        self.timeout = timeout

    def release(self, cnxset: Connection | Refusal) -> None:
        if isinstance(cnxset, Connection):
            super().release(cnxset)

    def _take(self) -> Connection:
        with self.lock:
            try:
                return self._queue.get_nowait()
            except queue.Empty:
                self.idle = time.time()
                if not self.max_size or len(self._cnxsets) < self.max_size:
                    self._cnxsets.append(self.connection_class(self._source, self))
                    return self._cnxsets[-1]
        return self._queue.get(timeout=self.timeout)


class _EidGenerator(DefaultEidGenerator):
    """New eids, from a connection that is not kept after an error.

    The stock one (cubicweb/server/sources/native.py, lines 232 to 239) keeps it, in a failed
    transaction: nothing can be created any more until the process ends.
    """

    def __init__(self, source: NativeSQLSource, owner: Unpooled):
        super().__init__(source)
        self._owner = owner
        self._generation = owner.generation

    def _create_eid(self, count: int) -> int:
        if self._generation != self._owner.generation:
            self.close()
            self._generation = self._owner.generation
        try:
            return super()._create_eid(count)
        except Exception as error:
            self.close()
            if is_read_only(error):
                self._owner.distrust()
            raise
