"""Read in SQL what the database has of an entity.

Its attributes in one query, at a tenth of the cost of RQL. Permissions are not asked: see
:mod:`cubicweb_hasite.images.visibility`.

Attributes and bytes (:mod:`cubicweb_hasite.images.contents`) are read by different queries, and
PostgreSQL lets each see what is committed by then (READ COMMITTED): between the two the entity may
be edited, replaced or deleted.
:class:`Changed` says so, and the caller looks again.
"""

from collections.abc import Iterable
from datetime import UTC, datetime
from typing import Any

from cubicweb.entity import Entity
from cubicweb.schema import CubicWebEntitySchema
from cubicweb.server.session import Connection
from cubicweb.server.sqlutils import SQL_PREFIX


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
