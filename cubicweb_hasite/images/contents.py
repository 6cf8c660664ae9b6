"""Read the bytes of an entity: by `COPY`, from their storage, or from another database.

Few bytes are in memory, many are written slice by slice to a temporary file, so that memory does
not grow with their size. Permissions are not asked: see
:mod:`cubicweb_hasite.images.visibility`.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, BinaryIO, Protocol, TypeVar

from cubicweb import Binary
from cubicweb.entity import Entity
from cubicweb.server.sources.storages import Storage
from cubicweb.server.sqlutils import SQL_PREFIX

from cubicweb_hasite.images import copying
from cubicweb_hasite.images.data import Changed, check
from cubicweb_hasite.storages import guard, spool
from cubicweb_hasite.storages.spool import Spool


class _Sink(Protocol):
    """What bytes are written to."""

    def write(self, block: bytes | memoryview, /) -> object: ...

    def tell(self) -> int: ...


_AnySink = TypeVar("_AnySink", bound=_Sink)


def load(entity: Entity, attribute: str) -> None:
    """Load an attribute of bytes of an entity, where CubicWeb then finds it loaded.

    Bytes that the database does not hold are read by their storage
    (cubicweb.server.sources.storages).

    :raises Changed: the entity is not any more what it was when its attributes were read.
    :raises StorageUnavailable: the storage of the bytes is out of order.
    :raises DataMissing: the file or the object that holds the bytes is gone.
    """
    storage = _storage(entity, attribute)
    if storage is None:
        entity.cw_attr_cache[attribute] = _in_database(entity, attribute)
    elif storage.is_source_callback:
        entity.cw_attr_cache[attribute] = _in_storage(entity, attribute, storage)


@dataclass(frozen=True)
class Content:
    """Bytes of which parts can be read."""

    #: how many there are
    length: int
    #: returns those from one place up to and not including another: few as such, many as a file
    #: that is open at the first of them; raises as :func:`load`
    part: Callable[[int, int], bytes | BinaryIO]


def of_bytes(body: bytes) -> Content:
    """Return bytes that are in memory."""
    return Content(len(body), lambda start, stop: spool.spooled(body[start:stop]))


def content(entity: Entity, attribute: str, *, whole: bool) -> Content | None:
    """Return the bytes of an attribute; None where there are none.

    :param whole: whether they are going to be read, and all of them: this is done at once. Else
        they are not read yet, unless their storage gives no parts of them.
    :raises Changed: as for :func:`load`, as are the other errors.
    """
    storage = _storage(entity, attribute)
    if storage is None:
        return _whole(entity, attribute) if whole else _parts(entity, attribute)
    if guard.gives_parts(storage):
        return _stored(entity, attribute, storage, whole=whole)
    load(entity, attribute)
    value = getattr(entity, attribute)
    # the request, and the entity with it, may outlive the response until garbage is collected
    entity.cw_attr_cache.pop(attribute, None)
    return None if value is None else of_bytes(value.getvalue())


def _storage(entity: Entity, attribute: str) -> Storage | None:
    source = entity._cw.repo.system_source
    return source._storages.get(entity.cw_etype, {}).get(attribute)


def _value(entity: Entity, attribute: str) -> Any:
    """Return what the database has in the place of bytes that a storage holds."""
    cnx, etype = entity._cw, entity.cw_etype
    found = cnx.system_sql(
        f"SELECT {SQL_PREFIX}modification_date, {SQL_PREFIX}{attribute} FROM {SQL_PREFIX}{etype} "
        f"WHERE {SQL_PREFIX}eid=%(eid)s",
        {"eid": entity.eid},
    ).fetchone()
    if found is None or found[0] != entity.modification_date:
        raise Changed(entity.eid)
    return found[1]


@contextmanager
def _unchanged(entity: Entity) -> Iterator[None]:
    """After an error, look if it came of an edit, which removes the former file or object."""
    try:
        yield
    except Exception:
        check(entity)
        raise


def _in_storage(entity: Entity, attribute: str, storage: Storage) -> Binary | None:
    value = _value(entity, attribute)
    if value is None:
        return None
    cnx = entity._cw
    with _unchanged(entity):
        return guard.read(storage, cnx.repo.system_source, cnx, value)


def _stored(entity: Entity, attribute: str, storage: Storage, *, whole: bool) -> Content | None:
    value, cnx = _value(entity, attribute), entity._cw
    if value is None:
        return None

    def part(start: int, stop: int) -> bytes | BinaryIO:
        with _unchanged(entity):
            return guard.part(storage, cnx, value, start, stop)

    with _unchanged(entity):
        if whole:
            length, body = guard.whole(storage, cnx, value)
            return Content(length, lambda _start, _stop: body)
        return Content(guard.size(storage, cnx, value), part)


class _Column:
    """The bytes of an attribute in the database, as long as the entity is what it is in memory."""

    def __init__(self, entity: Entity, attribute: str):
        self._entity = entity
        # others, such as SQLite, are for trying things out: they give all bytes at once
        self._copies = entity._cw.repo.system_source.dbdriver == "postgres"
        self._name = SQL_PREFIX + attribute
        self._where = f"FROM {SQL_PREFIX}{entity.cw_etype} WHERE {SQL_PREFIX}eid=%(eid)s"
        if self._copies:
            self._where += f" AND {SQL_PREFIX}modification_date=%(date)s"

    def beginning(self, size: int) -> tuple[int | None, memoryview]:
        """Return how many bytes there are, None where there are none, and the first of them."""
        rows: list[copying.Row] = []
        query = f"SELECT length({self._name}), substr({self._name}, 1, %(size)s) {self._where}"
        self._ask(query, rows.append, size=size)
        if not rows:
            raise Changed(self._entity.eid)
        [[length, first]] = rows
        return copying.number(length), first or memoryview(b"")

    def write(self, start: int, stop: int, sink: _Sink) -> None:
        """Write the bytes from `start` up to and not including `stop`, slice by slice.

        Of bytes that PostgreSQL could not compress, as those of images, `substr` reads only those
        that it needs. Others are made whole once, not for each slice again.
        """
        name = whole = self._name
        if stop - start > spool.SLICE:
            whole = (
                f"CASE WHEN pg_column_size({name}) < length({name}) "
                f"THEN {name} || ''::bytea ELSE {name} END"
            )
        query = (
            "SELECT substr(whole, start, least(%(size)s, 1 + %(stop)s - start)) "
            f"FROM (SELECT {whole} AS whole {self._where} OFFSET 0) AS row, "
            # which depends on the row, so that this is asked for first
            "generate_series(%(first)s, least(%(stop)s, length(whole)), %(size)s) AS start"
        )
        size = spool.SLICE
        if not self._copies:
            query, size = f"SELECT substr({name}, %(first)s, %(size)s) {self._where}", stop - start
        # `substr` counts from 1
        self._ask(
            query, lambda row: sink.write(row[0] or b""), first=start + 1, stop=stop, size=size
        )

    def read(self, new_sink: Callable[[int], _AnySink]) -> _AnySink | None:
        """Write all bytes; return what they were written to, None where there are none.

        :param new_sink: is told how many they are
        """
        length, first = self.beginning(spool.SLICE)
        if length is None:
            return None
        sink = new_sink(length)
        sink.write(first)
        if length > len(first):
            self.write(len(first), length, sink)
        if sink.tell() != length:
            raise Changed(self._entity.eid)
        return sink

    def _ask(self, query: str, take: Callable[[copying.Row], object], **more: int) -> None:
        cnx = self._entity._cw
        args = {"eid": self._entity.eid, "date": self._entity.modification_date, **more}
        if self._copies:
            copying.copy(cnx, query, args, take)
        else:
            check(self._entity)  # here, since SQLite has dates as text
            for row in cnx.system_sql(query, args).fetchall():
                take(row)


def _parts(entity: Entity, attribute: str) -> Content | None:
    column = _Column(entity, attribute)
    length, _nothing = column.beginning(0)

    def part(start: int, stop: int) -> bytes | BinaryIO:
        sink = Spool(stop - start)
        column.write(start, stop, sink)
        if sink.tell() != stop - start:
            raise Changed(entity.eid)
        return sink.end()

    return None if length is None else Content(length, part)


def _whole(entity: Entity, attribute: str) -> Content | None:
    sink = _Column(entity, attribute).read(Spool)
    if sink is None:
        return None
    length, body = sink.tell(), sink.end()
    return Content(length, lambda _start, _stop: body)


def _in_database(entity: Entity, attribute: str) -> Binary | None:
    data = _Column(entity, attribute).read(lambda _length: Binary())
    if data is not None:
        data.seek(0)
    return data
