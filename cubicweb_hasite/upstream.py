"""Workarounds for bugs of CubicWeb, each guarded by the last version known to have the bug.

The lines are those of cubicweb 5.0.1 and of cubicweb-web 1.6.2.
"""

import inspect
import logging
import queue
import select
import sys
import threading
import time
from functools import cache
from importlib.metadata import version
from types import SimpleNamespace
from typing import Any, NoReturn

from cubicweb import UnknownEid, ValidationError, _
from cubicweb.cwconfig import CubicWebConfiguration
from cubicweb.entities.authobjs import CWUser, user_session_cache_key
from cubicweb.pyramid.resources import negociate_mime_type
from cubicweb.rdf import RDF_MIMETYPE_TO_FORMAT
from cubicweb.server.repository import Repository, _BaseCnxSet, _CnxSetPool
from cubicweb.server.session import Connection
from cubicweb.server.sources.native import DefaultEidGenerator, NativeSQLSource
from cubicweb.server.sqlutils import ConnectionWrapper
from cubicweb_web import bwcompat
from cubicweb_web.request import CubicWebRequestBase
from logilab.common.changelog import Version
from logilab.common.decorators import cached
from pyramid.events import ApplicationCreated
from pyramid.interfaces import IRoutesMapper
from pyramid.request import Request
from pyramid.settings import aslist

from cubicweb_hasite.images.replacement import entity_type
from cubicweb_hasite.images.visibility import load_user

log = logging.getLogger(__name__)

_CUBICWEB = Version(version("cubicweb"))
_CUBICWEB_WEB = Version(version("cubicweb-web"))


def settle_failed_edit(req: CubicWebRequestBase, error: ValidationError) -> None:
    """Make `/edit` answer an error by the form, with nothing committed.

    For `validateform` CubicWeb does it itself (cubicweb_web.views.basecontrollers). For `/edit`,
    as of cubicweb-web 1.6.2:

    - CubicWebPyramidHandler.__call__ (cubicweb_web.bwcompat) does not roll back: the entities
      edited before the error are committed at the end of the request;
    - CubicWebPublisher.validation_error_handler (cubicweb_web.application) keeps in the session
      the error, whose arguments may hold an entity, and the form, which may hold uploaded files:
      they cannot be pickled, and the answer is 500.
    """
    if Version("1.6.2") < _CUBICWEB_WEB:
        return
    req.cnx.rollback()
    error.entity = getattr(error.entity, "eid", error.entity)
    error.args = (error.entity, error.errors)
    for name, value in list(req.form.items()):
        values = value if isinstance(value, list) else [value]
        # (file name, stream); a browser does not fill them in again anyway
        if any(isinstance(each, tuple) for each in values):
            del req.form[name]


def remember_source_lines() -> None:
    """Look up once where a controller is defined, not at each request.

    `CubicWebPyramidHandler.__call__` (cubicweb_web.bwcompat) does it to log which controller it
    has chosen. It is half of the CPU time of an ordinary page; and Python 3.11 fails at times to
    parse a file in two threads at once (https://github.com/python/cpython/issues/106905), which
    the visitor sees as an error 500.
    """
    if Version("1.6.2") >= _CUBICWEB_WEB:
        bwcompat.inspect = SimpleNamespace(
            getsourcefile=inspect.getsourcefile, getsourcelines=_source_lines
        )


_parsing = threading.Lock()


def _source_lines(controller: type) -> tuple[None, int]:
    with _parsing:
        return None, _first_line(controller)


@cache
def _first_line(controller: type) -> int:
    return inspect.getsourcelines(controller)[1]


def remember_options() -> None:
    """Ask the environment for an option of an instance once, not at each use.

    `CubicWebConfiguration.__getitem__` (cubicweb/cwconfig.py, lines 934 to 941) looks for a
    variable of the environment, goes through the list of all options and checks the value, 70
    times in a page: up to 7 % of its CPU time. A value that is set while the process runs is seen
    at once.
    """
    if Version("5.0.1") >= _CUBICWEB:
        CubicWebConfiguration.__getitem__ = _remembered_option


_stock_option = CubicWebConfiguration.__getitem__


def _remembered_option(config: CubicWebConfiguration, name: str) -> Any:
    # with the attribute that holds it, to find which is to go through the list
    known = vars(config).setdefault("_hasite_options", {})
    if name in known:
        attribute, stored, value = known[name]
        if getattr(config.config, attribute) is stored:
            return value
    value = _stock_option(config, name)
    attribute = config.option_attrname(name)
    known[name] = attribute, getattr(config.config, attribute), value
    return value


def load_users_at_once() -> None:
    """Ask the database once in a transaction for what it has of a user, not twice; and in SQL.

    `CWUser.groups`, `CWUser.properties` and `CWUser.owns` (cubicweb/entities/authobjs.py, lines
    56 to 88 and 156 to 165), which each page asks for, take an RQL query each: 2 to 6 % of the CPU
    time of a page for the first two, 5 % for the last.
    """
    if Version("5.0.1") >= _CUBICWEB:
        CWUser.groups, CWUser.properties = _user_data("groups"), _user_data("properties")
        CWUser.owns = cached(_owns, keyarg=1)


def _user_data(name: str) -> property:
    def get(user: CWUser) -> Any:
        cnx = getattr(user._cw, "cnx", user._cw)  # of a web request
        key = user_session_cache_key(user.eid, name)
        if key not in cnx.transaction_data:
            load_user(cnx, user.eid)
        return cnx.transaction_data[key]

    return property(get)


_stock_owns = CWUser.owns


def _owns(user: CWUser, eid: int | str) -> bool:
    if isinstance(eid, str):  # of a form whose entity does not exist yet
        return bool(_stock_owns(user, eid))
    cnx = getattr(user._cw, "cnx", user._cw)
    owner = cnx.system_sql(
        "SELECT 1 FROM owned_by_relation WHERE eid_from=%(x)s AND eid_to=%(u)s",
        {"x": eid, "u": user.eid},
    ).fetchone()
    # who owns what he may not read does not own it for CubicWeb
    return owner is not None and bool(_stock_owns(user, eid))


# of the REST API (cubicweb/pyramid/rest_api.py)
_RDF_ROUTES = ("one_entity", "one_entity_eid")


def look_up_rdf_on_demand(event: ApplicationCreated) -> None:
    """Fetch an entity for its RDF only where RDF is asked for.

    The routes by which CubicWeb's REST API serves RDF, which `cubicweb-ctl create` switches on,
    take the page of each entity for theirs: they fetch the entity twice before they leave it to
    cubicweb_web (cubicweb/pyramid/predicates.py, lines 52 to 98, and resources.py, lines 75 to
    89). It is 8 % of the CPU time of the page of an entity.

    Where the REST API serves pages too nothing changes.
    """
    registry = event.app.registry
    includes = aslist(registry.settings.get("cubicweb.includes", ""))
    if Version("5.0.1") < _CUBICWEB or "cubicweb.pyramid.rest_api.include_html" in includes:
        return
    for route in registry.getUtility(IRoutesMapper).get_routes():
        if route.name in _RDF_ROUTES:
            route.predicates = [_asks_for_rdf, *route.predicates]


def _asks_for_rdf(_match: dict[str, Any], request: Request) -> bool:
    return negociate_mime_type(request, RDF_MIMETYPE_TO_FORMAT) is not None


#: what visitors are told then
UNAVAILABLE = _("The database cannot answer at the moment. Please try again.")


class NoConnection(Exception):
    """No connection to the database is to be had; the message, which says why, is for the log."""


def unavailability(source: NativeSQLSource) -> list[type[Exception]]:
    """Return the errors by which a request fails that may succeed when it is made again."""
    if source.dbdriver != "postgres":
        return []
    from psycopg2.errors import ReadOnlySqlTransaction

    return [NoConnection, source.OperationalError, source.InterfaceError, ReadOnlySqlTransaction]


def heal_connections(repo: Repository, timeout: float) -> None:
    """Replace what hands connections to PostgreSQL out by what heals after any trouble.

    No connection may be in use.

    :param timeout: for how long to wait for a connection of an exhausted pool, in seconds
    """
    source, stock = repo.system_source, repo.cnxsets
    if Version("5.0.1") < _CUBICWEB or source.dbdriver != "postgres":
        return
    stock.close()
    repo.cnxsets = _Pool(stock, timeout) if isinstance(stock, _CnxSetPool) else _Unpooled(source)
    source.eid_generator.close()
    source.eid_generator = _EidGenerator(source, repo.cnxsets)
    source.create_eid = source.eid_generator.create_eid
    source.eid_type = _eid_type


def keep_transactions_whole(repo: Repository) -> None:
    """Let the transaction of a migration be committed whole or not at all, as that of a request.

    CubicWeb would go on with the rest of it on another connection: see
    :meth:`_Connection.reconnect`. A connection that is lost ends the migration.
    """
    if Version("5.0.1") >= _CUBICWEB and repo.system_source.dbdriver == "postgres":
        ConnectionWrapper.commit, ConnectionWrapper.reconnect = _commit, _Connection.reconnect


class _Unpooled(_BaseCnxSet):
    """Open a connection for each use, and never raise: hand a :class:`_Refusal` out instead.

    `Connection.__enter__` (cubicweb/server/session.py, lines 345 and 346) opens itself before it
    has a connection, and `_cw_cnx` (cubicweb/pyramid/core.py, lines 132 and 133) registers the
    cleanup before it enters. So when `get` raises, the cleanup raises too, the other callbacks
    are not run, and the next use of `request.cw_cnx` waits again and registers one more.
    """

    #: connections older than the last change of this number are not used any more
    generation = 0

    def get(self) -> "_Connection | _Refusal":
        try:
            cnxset = self._take()
        except queue.Empty:
            return _Refusal("all connections of the pool are in use")
        try:
            cnxset.open()
        except Exception as error:  # of libpq, or of a hook of logilab.database
            self.release(cnxset)
            return _Refusal(str(error).strip())
        return cnxset

    def distrust(self) -> None:
        """Use none of the present connections again: their server is not the primary any more."""
        self.generation += 1

    def _take(self) -> "_Connection":
        return _Connection(self._source, self)


class _Pool(_Unpooled, _CnxSetPool):
    """A pool that loses no slot to a failing database, and hands no dead connection out.

    `_CnxSetPool.get` (cubicweb/server/repository.py, lines 302 to 329) waits 5 seconds, raises
    a bare `Exception`, hands out connections that the server has closed long since, and opens
    more than the maximum when several threads ask at once.
    """

    def __init__(self, stock: _CnxSetPool, timeout: float):
        super().__init__(stock._source, 0, stock.max_size, stock.idle_timeout)
        self.min_size = stock.min_size
        self.timeout = timeout

    def release(self, cnxset: "_Connection | _Refusal") -> None:
        if isinstance(cnxset, _Connection):
            super().release(cnxset)

    def _take(self) -> "_Connection":
        with self.lock:
            try:
                return self._queue.get_nowait()
            except queue.Empty:
                self.idle = time.time()
                if not self.max_size or len(self._cnxsets) < self.max_size:
                    self._cnxsets.append(_Connection(self._source, self))
                    return self._cnxsets[-1]
        return self._queue.get(timeout=self.timeout)


class _Refusal:
    """Stands for a connection that is not to be had: who asks the database is told why."""

    def __init__(self, cause: str):
        self._cause = cause
        self.failed = False  # until somebody asks

    @property
    def cnx(self) -> NoReturn:
        self.failed = True
        raise NoConnection(self._cause)

    cu = cnx

    def commit(self) -> None:
        """Nothing was done."""

    def rollback(self) -> None:
        """Nothing was done."""

    def cnxset_freed(self) -> None:
        """Nothing is kept."""

    def close(self, i_know_what_i_do: bool = False) -> None:
        """Nothing is open."""


#: `psycopg2.extensions.TRANSACTION_STATUS_INERROR`
_IN_ERROR = 3
_stock_commit = ConnectionWrapper.commit


def _commit(cnxset: ConnectionWrapper) -> None:
    """Commit, unless nothing would be.

    PostgreSQL rolls a failed transaction back when it is to be committed, and calls that a
    success; and `fti_index_entities` (cubicweb/server/sources/native.py, lines 1478 to 1492)
    ignores what made it fail, as a full disk or a text that is too long for the index.
    """
    if cnxset.cnx.info.transaction_status == _IN_ERROR:
        raise cnxset._source.DbapiError("nothing was saved: the log says what has failed before")
    _stock_commit(cnxset)


class _Connection(ConnectionWrapper):
    """A connection, opened when it is to be used, whose trouble ends with the transaction."""

    def __init__(self, source: NativeSQLSource, owner: _Unpooled):
        self._source = source
        self._owner = owner
        self._generation = -1
        #: whether a transaction was lost since the connection was handed out
        self.failed = False
        self._loss: Exception | None = None
        self.cnx = self._cu = None

    def open(self) -> None:
        """Open the connection, anew if it may not be used any more.

        :raises source.DbapiError: the database refuses or does not answer.
        """
        self.failed, self._loss = False, None
        if not self._is_usable():
            self._open()

    def close(self, i_know_what_i_do: bool = False) -> None:
        """Close the connection if it is open; the stock one asks for the cursor, and opens it."""
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
        # Nothing is to be read from an idle connection, but that the server has ended it.
        poll = select.poll()
        poll.register(self.cnx.fileno(), select.POLLIN)
        return not poll.poll(0)

    @property
    def cu(self):
        """The cursor, unless the transaction was lost and has not been rolled back since."""
        self._check_transaction()
        if self.cnx is None or self.cnx.closed:
            try:
                self._open()
            except self._source.DbapiError as error:
                self._loss = error
                raise
        return self._cu

    @cu.setter
    def cu(self, cursor) -> None:
        self._cu = cursor

    def commit(self) -> None:
        """Commit, unless the transaction was lost."""
        self._check_transaction()
        if self.cnx is not None:  # else closed by a rollback, after which nothing was done
            _commit(self)

    def rollback(self) -> None:
        """Roll back, or close what is too broken for it.

        The stock one (cubicweb/server/sqlutils.py, lines 219 to 228) connects again, and raises
        if it cannot: `Connection.__exit__` (cubicweb/server/session.py, lines 352 to 358) then
        never releases its slot of the pool.

        When doexec (cubicweb/server/sources/native.py, line 818) rolls back after an error, who
        called it may know nothing of it: see :meth:`reconnect`; and `index_entity` (line 1492)
        ignores all errors, so that a commit follows. Until the next rollback nothing is executed.
        """
        error = sys.exception()
        if _is_read_only(error):
            self._owner.distrust()
        lost = isinstance(error, self._source.OperationalError | self._source.InterfaceError)
        self._loss = error if lost and self._loss is None else None
        self.failed = self.failed or lost
        if self.cnx is None:  # it could not be opened again
            return
        try:
            self.cnx.rollback()
        except self._source.DbapiError as error:
            self.failed = True
            log.info("connection thrown away: %s", error)
            self.close()

    def reconnect(self) -> NoReturn:
        """Let the error through: the transaction is lost, and is not to be gone on with.

        Connection.system_sql (cubicweb/server/session.py, lines 816 to 821) would execute its
        statement again on a new connection, after a deadlock too: what the transaction had
        written before is lost then, and what it writes afterwards is committed.
        """
        raise sys.exception()

    def _check_transaction(self) -> None:
        if self._loss is not None:
            raise NoConnection("the transaction was lost") from self._loss


def _prefer_host(source: NativeSQLSource, host: str) -> None:
    """Try first the host of the option `db-host` that was reached last.

    libpq tries them in order: while the first one is down, each new connection would wait for it.
    """
    hosts = (source.dbhelper.dbhost or "").split(",")
    if host in hosts[1:]:
        hosts.remove(host)
        source.dbhelper.dbhost = ",".join([host, *hosts])


def _eid_type(cnx: Connection, eid: int) -> str:
    """Return the type of the entity `eid`.

    The stock one (cubicweb/server/sources/native.py, lines 975 to 984) takes a database that is
    not there for one without the entity; so users seem to be gone, which is an error 500.

    :raises UnknownEid: nothing has the eid.
    """
    etype = entity_type(cnx, eid)
    if etype is None:
        raise UnknownEid(eid)
    return etype


class _EidGenerator(DefaultEidGenerator):
    """Eids from a connection that is not kept after an error.

    The stock one (cubicweb/server/sources/native.py, lines 232 to 239) keeps it, in a failed
    transaction: nothing can be created any more until the process ends.
    """

    def __init__(self, source: NativeSQLSource, owner: _Unpooled):
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
            if _is_read_only(error):
                self._owner.distrust()
            raise


def _is_read_only(error: BaseException | None) -> bool:
    """Return whether it is PostgreSQL's refusal to write on a standby: read_only_sql_transaction.

    CubicWeb takes it, an `InternalError`, for no reason to connect again.
    """
    return getattr(error, "pgcode", None) == "25006"
