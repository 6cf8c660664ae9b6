"""Read in SQL what the database has of an entity.

Its attributes in one query, at a tenth of the cost of RQL; its bytes in slices, since the driver
would hold large ones three times. Permissions are not asked: see
:mod:`cubicweb_hasite.images.visibility`.

Attributes and bytes are read by different queries, and PostgreSQL lets each see what is committed
by then (READ COMMITTED): between the two the entity may be edited, replaced or deleted.
:class:`Changed` says so, and the caller looks again.
"""

from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

from cubicweb import Binary
from cubicweb.entity import Entity
from cubicweb.schema import CubicWebEntitySchema
from cubicweb.server.session import Connection
from cubicweb.server.sources.storages import Storage
from cubicweb.server.sqlutils import SQL_PREFIX

from cubicweb_hasite.storages import guard

#: how much is asked of PostgreSQL at once, in bytes
SLICE = 2**20
_WHOLE = 2**31 - 1
_CURSOR = "hasite_slices"


class Changed(Exception):
    """An entity was edited, replaced or deleted while it was being read: look again."""


def attributes(eschema: CubicWebEntitySchema) -> list[str]:
    """Return the names of the attributes that :func:`row` can read, which are not bytes."""
    return [
        rschema.type
        for rschema, target in eschema.attribute_definitions()
        if target.type not in ("Bytes", "Password") and rschema.type != "eid" and not rschema.rule
    ]


def row(cnx: Connection, etype: str, eid: int, names: Iterable[str]) -> dict[str, Any] | None:
    """Return attributes of an entity, by their names; None if it is gone."""
    names = list(names)
    columns = ", ".join(SQL_PREFIX + name for name in names) or "1"
    values = cnx.system_sql(
        f"SELECT {columns} FROM {SQL_PREFIX}{etype} WHERE {SQL_PREFIX}eid=%(eid)s", {"eid": eid}
    ).fetchone()
    return None if values is None else dict(zip(names, values, strict=False))


def aware(date: datetime) -> datetime:
    """Return a date of the database with its time zone, which is UTC where it has none."""
    return date if date.tzinfo else date.replace(tzinfo=UTC)


def version(cnx: Connection, etype: str, eid: int) -> datetime | None:
    """Return when an entity was changed last, None if it is gone."""
    values = row(cnx, etype, eid, ["modification_date"])
    if values is None:
        return None
    date: datetime = values["modification_date"]
    return date


def check(entity: Entity) -> None:
    """Check that an entity is still what it was when its attributes were read.

    :raises Changed: it is not.
    """
    if version(entity._cw, entity.cw_etype, entity.eid) != entity.modification_date:
        raise Changed(entity.eid)


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
    #: returns those from one place up to and not including another; raises as :func:`load`
    read: Callable[[int, int], bytes]


def content(entity: Entity, attribute: str) -> Content | None:
    """Return the bytes of an attribute without reading them; None where there are none.

    :raises NotImplementedError: their storage gives no parts of them.
    :raises Changed: as for :func:`load`, as are the other errors.
    """
    storage = _storage(entity, attribute)
    if storage is None:
        return _parts_in_database(entity, attribute)
    if not guard.gives_parts(storage):
        raise NotImplementedError
    value = _value(entity, attribute)
    if value is None:
        return None

    def read(start: int, stop: int) -> bytes:
        with _unchanged(entity):
            return guard.part(storage, entity._cw, value, start, stop)

    with _unchanged(entity):
        return Content(guard.size(storage, entity._cw, value), read)


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


def _parts_in_database(entity: Entity, attribute: str) -> Content | None:
    cnx, etype = entity._cw, entity.cw_etype
    column, date = SQL_PREFIX + attribute, f"{SQL_PREFIX}modification_date"
    where = f"FROM {SQL_PREFIX}{etype} WHERE {SQL_PREFIX}eid=%(eid)s"

    def one(sql: str, **args: int) -> Any:
        # dates are compared here, since SQLite has them as text
        sql = f"SELECT {date}, {sql} {where}"
        found = cnx.system_sql(sql, {"eid": entity.eid, **args}).fetchone()
        if found is None or found[0] != entity.modification_date:
            raise Changed(entity.eid)
        return found[1]

    length = one(f"length({column})")
    if length is None:
        return None

    def read(start: int, stop: int) -> bytes:
        slices = range(start, stop, SLICE)
        substr = f"substr({column}, %(start)s, %(size)s)"  # whose first byte is 1
        return b"".join(
            bytes(one(substr, start=each + 1, size=min(SLICE, stop - each))) for each in slices
        )

    return Content(length, read)


def _in_database(entity: Entity, attribute: str) -> Binary | None:
    cnx, etype = entity._cw, entity.cw_etype
    size = SLICE if cnx.repo.system_source.dbdriver == "postgres" else _WHOLE
    column, date = SQL_PREFIX + attribute, f"{SQL_PREFIX}modification_date"
    where = f"{SQL_PREFIX}eid=%(eid)s"
    args = {"eid": entity.eid, "size": size}
    found = cnx.system_sql(
        f"SELECT {date}, length({column}), substr({column}, 1, %(size)s) "
        f"FROM {SQL_PREFIX}{etype} WHERE {where}",
        args,
    ).fetchone()
    if found is None or found[0] != entity.modification_date:
        raise Changed(entity.eid)
    _date, length, first = found
    if length is None:
        return None
    if length <= size:
        data = Binary(first or b"")  # SQLite's substr makes NULL of no bytes
    else:
        data = Binary()
        del found, first
        # of one query, so that all slices are of the same bytes
        cnx.system_sql(
            f"DECLARE {_CURSOR} CURSOR FOR SELECT substr({column}, start, %(size)s) "
            f"FROM {SQL_PREFIX}{etype}, generate_series(1, length({column}), %(size)s) AS start "
            f"WHERE {where} AND {date}=%(date)s",
            {**args, "date": entity.modification_date},
        )
        while row := cnx.system_sql(f"FETCH {_CURSOR}").fetchone():
            data.write(row[0])
        cnx.system_sql(f"CLOSE {_CURSOR}")
        if data.tell() != length:
            raise Changed(entity.eid)
    data.seek(0)
    return data
