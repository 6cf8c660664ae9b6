"""Hands out connections to the primary, and for visits of standbys connections to these.

One visit reads from one database, whoever takes a connection for it, but for what says that it is
of the primary: :func:`cubicweb_hasite.standbys.visits.on_primary`.
"""

import copy
import os
import socket
import threading
import time
from contextlib import suppress
from typing import Any

from cubicweb.server.repository import Repository
from cubicweb.server.session import Connection as CubicWebConnection
from cubicweb.server.sources.native import NativeSQLSource

from cubicweb_hasite.database import pool
from cubicweb_hasite.database.connection import Connection, Refusal, is_read_only
from cubicweb_hasite.standbys import positions, visits
from cubicweb_hasite.standbys.sampler import Sampler, Standby

#: how many types of entities are remembered that standbys have told
_MAX_TYPES = 100_000
#: arguments of libpq for standbys; those after them are `db-extra-arguments`
_ARGUMENTS = (
    "connect_timeout=2 tcp_user_timeout=2000 keepalives_idle=2 keepalives_interval=1 "
    "keepalives_count=2 application_name=hasite-reads"
)
#: `psycopg2.extensions.TRANSACTION_STATUS_INTRANS`
_IN_TRANSACTION = 2


class Router:
    """Takes the place of the pool of a repository, whose attributes are those of the primary's.

    :param primary: the pool of connections to the primary
    :param sampler: what knows the standbys, which it tells of those that it loses
    :param timeout: how long to wait for a connection of an exhausted pool, in seconds
    """

    def __init__(self, primary: pool.Unpooled, sampler: Sampler, timeout: float) -> None:
        self._primary = primary
        self._pools: dict[Standby, pool.Unpooled] = {}
        for standby, (host, port) in zip(sampler.standbys, sampler.addresses, strict=True):
            source = _ReadSource(primary._source, host, port)
            of_standby = pool.pool_like(primary, source, timeout)
            of_standby.connection_class = _StandbyConnection
            self._pools[standby] = of_standby
        # connections in use that are cut when their node is lost, None: the primary
        self._reading: dict[_CuttableConnection, Standby | None] = {}
        self._lock = threading.Lock()
        sampler.on_loss = self._cut

    def __getattr__(self, name: str) -> Any:
        return getattr(self._primary, name)

    def get(self) -> Connection | Refusal:
        """Return a connection to the database of the visit; without one, to the primary."""
        visit = visits.current()
        if visit is None:
            return self._primary.get()
        if visit.refused:
            return Refusal("this instance only reads, by order of hasite-read-only")
        if visit.standby is not None and visit.on_primary:
            if not visit.primary_up:
                return Refusal("the primary cannot be reached")
            return self._primary.get()
        if visit.standby is not None:
            visit.used = True
            cnxset = self._pools[visit.standby].get()
        else:
            cnxset = self._primary.get()
        if isinstance(cnxset, Refusal):
            visit.doubt("lost")
        elif isinstance(cnxset, _CuttableConnection) and visit.movable:
            with self._lock:
                self._reading[cnxset] = visit.standby
        return cnxset

    def release(self, cnxset: Connection | Refusal) -> None:
        """Take a connection back."""
        if isinstance(cnxset, Connection):
            with self._lock:
                self._reading.pop(cnxset, None)
            cnxset._owner.release(cnxset)

    def close(self) -> None:
        """Close all connections that are not in use."""
        for each in (self._primary, *self._pools.values()):
            each.close()

    def _cut(self, lost: Standby | None) -> None:
        """End what waits for a node that is lost: it would wait as long as that is silent.

        :param lost: None for the primary
        """
        if lost is not None:
            self._pools[lost].distrust()
        with self._lock:
            waiting = [cnxset for cnxset, node in self._reading.items() if node is lost]
        for cnxset in waiting:
            cnxset.cut()


class _ReadSource:
    """The source of an instance, but that it connects to a standby, to read."""

    def __init__(self, source: NativeSQLSource, host: str, port: int | str | None) -> None:
        self._stock = source
        self.dbhelper = copy.copy(source.dbhelper)
        self.dbhelper.dbhost, self.dbhelper.dbport = host, port
        extra = source.dbhelper.dbextraargs or ""
        # libpq takes the last value of a name
        self.dbhelper.dbextraargs = f"{_ARGUMENTS} {extra} target_session_attrs=any"

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stock, name)

    def get_connection(self) -> Any:
        """Return a new connection, by which nothing can be changed even after a promotion."""
        connection = self.dbhelper.get_connection()
        connection.rollback()  # with db-namespace it has executed a query
        connection.set_session(readonly=True)
        return connection


class _CuttableConnection(Connection):
    """A connection that another thread may cut."""

    # of what another thread needs
    _lock = threading.Lock()
    _socket: socket.socket | None = None

    def _open(self) -> None:
        super()._open()
        # a descriptor of our own: libpq may close its own at any time
        sock = socket.socket(fileno=os.dup(self.cnx.fileno()))
        with self._lock:
            self._socket = sock

    def close(self, i_know_what_i_do: bool = False) -> None:
        with self._lock:
            sock, self._socket = self._socket, None
        if sock is not None:
            sock.close()
        super().close(i_know_what_i_do)

    def cut(self) -> None:
        """Cut the connection; whoever uses it gets an error."""
        with self._lock:
            if self._socket is not None:
                with suppress(OSError):
                    self._socket.shutdown(socket.SHUT_RDWR)


class _StandbyConnection(_CuttableConnection):
    """A connection to a standby. Its errors let the visit be made again on the primary."""

    def statement_failed(self, error: Exception, *, rolled_back: bool) -> None:
        source = self._source
        if is_read_only(error):
            visits.doubt("writes")  # that it is read-only is no news
        elif getattr(error, "pgcode", None) == "40001":
            visits.doubt("conflict")
        elif isinstance(error, source.OperationalError | source.InterfaceError):
            visits.doubt("lost")
        if isinstance(error, source.OperationalError | source.InterfaceError):
            self.failed = True
            if rolled_back:
                self.lost_by = error


class _PrimaryConnection(_CuttableConnection):
    """A connection to the primary. It notes the position after each commit of a visit."""

    def statement_failed(self, error: Exception, *, rolled_back: bool) -> None:
        super().statement_failed(error, rolled_back=rolled_back)
        visit = visits.current()
        if visit is not None and visit.standby is None and self.failed:
            visit.doubt("lost")

    def commit(self) -> None:
        visit = visits.current()
        notes = (
            visit is not None
            and self.cnx is not None
            and self.lost_by is None
            and self.cnx.info.transaction_status == _IN_TRANSACTION
            # a page that is read from the primary is not to be followed by an older one
            and (visit.safe or self._has_written())
        )
        super().commit()
        if notes and visit is not None:
            visit.committed = self._position()

    def _has_written(self) -> bool:
        cursor = self.cnx.cursor()
        cursor.execute("SELECT pg_current_xact_id_if_assigned() IS NOT NULL")
        [written] = cursor.fetchone()
        cursor.close()
        return bool(written)

    def _position(self) -> positions.Position:
        """Return the position now. It is committed: an error is not to look like a failure."""
        try:
            asked = time.time()
            cursor = self.cnx.cursor()
            cursor.execute(positions.POSITION)
            position = positions.committed(cursor.fetchone(), asked)
            cursor.close()
            self.cnx.rollback()
        except Exception:  # the connection is lost, or the role may not ask
            return positions.UNREACHABLE
        return position


class _Types:
    """The types of entities that standbys have told, for visits of standbys alone.

    What the repository remembers is filled from the primary only.
    """

    def __init__(self, repo: Repository) -> None:
        self._repo = repo
        self._known: dict[int, str] = {}
        self._type_from_eid, self._clear_caches = repo.type_from_eid, repo.clear_caches
        repo.type_from_eid, repo.clear_caches = self.type_from_eid, self.clear_caches

    def type_from_eid(self, eid: int | str, cnx: CubicWebConnection) -> str:
        """Take the place of `Repository.type_from_eid`."""
        if not isinstance(cnx.cnxset, _StandbyConnection):
            return self._type_from_eid(eid, cnx)
        try:
            number = int(eid)
        except ValueError:
            return self._type_from_eid(eid, cnx)  # which raises
        etype = self._repo._type_cache.get(number) or self._known.get(number)
        if etype is None:
            etype = self._repo.system_source.eid_type(cnx, number)
            if len(self._known) >= _MAX_TYPES:
                self._known.clear()
            self._known[number] = etype
        return etype

    def clear_caches(self, eids: Any = None) -> None:
        """Take the place of `Repository.clear_caches`."""
        self._clear_caches(eids)
        if eids is None:
            self._known.clear()
        else:
            for eid in eids:
                self._known.pop(int(eid), None)


def route(repo: Repository, sampler: Sampler, timeout: float) -> None:
    """Let visits be read from the standbys of a sampler.

    Connections must heal already, and none may be in use.

    :param timeout: how long to wait for a connection of an exhausted pool, in seconds
    """
    primary = repo.cnxsets
    primary.connection_class = _PrimaryConnection
    repo.cnxsets = Router(primary, sampler, timeout)
    _Types(repo)
