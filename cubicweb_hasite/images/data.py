"""Read in SQL what the database has of an entity.

Its attributes in one query, at a tenth of the cost of RQL; its bytes in slices, since the driver
would hold large ones three times. Permissions are not asked: see
:mod:`cubicweb_hasite.images.visibility`.
"""

from collections.abc import Iterable
from datetime import UTC, datetime

from cubicweb import Binary
from cubicweb.entity import Entity
from cubicweb.schema import CubicWebEntitySchema
from cubicweb.server.session import Connection
from cubicweb.server.sqlutils import SQL_PREFIX

#: how much is asked of PostgreSQL at once, in bytes
SLICE = 2**20
_WHOLE = 2**31 - 1
_CURSOR = "hasite_slices"


def attributes(eschema: CubicWebEntitySchema) -> list[str]:
    """Return the names of the attributes that :func:`row` can read, which are not bytes."""
    return [
        rschema.type
        for rschema, target in eschema.attribute_definitions()
        if target.type not in ("Bytes", "Password") and rschema.type != "eid" and not rschema.rule
    ]


def row(cnx: Connection, etype: str, eid: int, names: Iterable[str]) -> dict[str, object] | None:
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


def load(entity: Entity, attribute: str) -> None:
    """Load an attribute of bytes of an entity, where CubicWeb then finds it loaded.

    Bytes that the database does not hold are left to CubicWeb (cubicweb.server.sources.storages).
    """
    cnx, etype = entity._cw, entity.cw_etype
    source = cnx.repo.system_source
    if attribute in source._storages.get(etype, ()):
        return
    size = SLICE if source.dbdriver == "postgres" else _WHOLE
    column = SQL_PREFIX + attribute
    where = f"{SQL_PREFIX}eid=%(eid)s"
    args = {"eid": entity.eid, "size": size}
    row = cnx.system_sql(
        f"SELECT length({column}), substr({column}, 1, %(size)s) FROM {SQL_PREFIX}{etype} "
        f"WHERE {where}",
        args,
    ).fetchone()
    if row is None:
        return  # gone meanwhile
    length, first = row
    if length is None:
        entity.cw_attr_cache[attribute] = None
        return
    if length <= size:
        data = Binary(first or b"")  # SQLite's substr makes NULL of no bytes
    else:
        data = Binary()
        del row, first
        # of one query, so that all slices are of the same bytes
        cnx.system_sql(
            f"DECLARE {_CURSOR} CURSOR FOR SELECT substr({column}, start, %(size)s) "
            f"FROM {SQL_PREFIX}{etype}, generate_series(1, length({column}), %(size)s) AS start "
            f"WHERE {where}",
            args,
        )
        while row := cnx.system_sql(f"FETCH {_CURSOR}").fetchone():
            data.write(row[0])
        cnx.system_sql(f"CLOSE {_CURSOR}")
    data.seek(0)
    entity.cw_attr_cache[attribute] = data
