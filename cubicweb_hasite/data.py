"""Read the bytes of an entity in slices: the driver would hold large ones three times.

To be called for entities whose bytes the visitor may read: see :mod:`cubicweb_hasite.visibility`.
"""

from cubicweb import Binary
from cubicweb.entity import Entity
from cubicweb.server.sqlutils import SQL_PREFIX

#: how much is asked of PostgreSQL at once, in bytes
SLICE = 2**20
_WHOLE = 2**31 - 1
_CURSOR = "hasite_slices"


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
