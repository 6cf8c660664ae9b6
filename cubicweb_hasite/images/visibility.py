"""What the user of a connection may read, by CubicWeb's permissions, at low cost."""

from collections.abc import Generator, Iterable
from typing import Any

from cubicweb import UnknownEid
from cubicweb.entities.authobjs import user_session_cache_key
from cubicweb.entity import Entity
from cubicweb.pyramid import tools
from cubicweb.server.session import Connection
from cubicweb.server.sqlutils import SQL_PREFIX
from pyramid.request import Request

from cubicweb_hasite.images import data, replacement


def connections(request: Request) -> Generator[tuple[Connection, bool], None, None]:
    """Yield the connections by which a visitor may read, and if shared caches may store it.

    What an anonymous visitor may read is answered to everybody alike, from his connection and
    without a look at the session; only then comes the visitor's own.
    """
    repo = request.registry["cubicweb.repository"]
    anonymous_eid = request.registry.get("cubicweb.anonymous_eid")
    if anonymous_eid is not None:
        user, lang = tools.cached_build_user(repo, anonymous_eid)
        connection = Connection(repo, user)
        connection.lang = lang
        with connection as cnx:
            yield cnx, True
    if request.authenticated_userid:
        yield request.cw_cnx, False


def load_user(cnx: Connection, eid: int) -> None:
    """Load the groups and the properties of a user, which each permission check and page needs.

    One SQL query replaces two RQL queries (`CWUser` in cubicweb.entities.authobjs), which would
    be a fifth of the cost of a download.
    """
    rows = cnx.system_sql(
        f"SELECT 'group', {SQL_PREFIX}name, NULL FROM {SQL_PREFIX}CWGroup, in_group_relation "
        f"WHERE {SQL_PREFIX}eid=eid_to AND eid_from=%(user)s "
        f"UNION ALL SELECT 'property', {SQL_PREFIX}pkey, {SQL_PREFIX}value "
        f"FROM {SQL_PREFIX}CWProperty WHERE {SQL_PREFIX}for_user=%(user)s",
        {"user": eid},
    ).fetchall()
    of_kind = {kind: [row[1:] for row in rows if row[0] == kind] for kind in ("group", "property")}
    _remember(cnx, eid, [name for name, _value in of_kind["group"]], of_kind["property"])


def _remember(
    cnx: Connection, eid: int, groups: Iterable[str], properties: Iterable[tuple[str, str]]
) -> None:
    cnx.transaction_data[user_session_cache_key(eid, "groups")] = set(groups)
    cnx.transaction_data[user_session_cache_key(eid, "properties")] = dict(properties)


def _load(cnx: Connection, etype: str, eid: int) -> dict[str, Any] | None:
    """Return all attributes of an entity that are not bytes, None if it is gone.

    Load the user of the connection too, unless he is. In PostgreSQL one query does both.
    """
    names = data.attributes(cnx.vreg.schema[etype])
    user = cnx.user.eid
    if user_session_cache_key(user, "groups") in cnx.transaction_data:
        return data.row(cnx, etype, eid, names)
    if cnx.repo.system_source.dbdriver != "postgres":
        load_user(cnx, user)
        return data.row(cnx, etype, eid, names)
    columns = "".join(f", entity.{SQL_PREFIX}{name}" for name in names)
    groups, properties, found, *values = cnx.system_sql(
        f"SELECT ARRAY(SELECT {SQL_PREFIX}name::text FROM {SQL_PREFIX}CWGroup, in_group_relation "
        f"WHERE {SQL_PREFIX}eid=eid_to AND eid_from=%(user)s), "
        f"ARRAY(SELECT ARRAY[{SQL_PREFIX}pkey::text, {SQL_PREFIX}value::text] "
        f"FROM {SQL_PREFIX}CWProperty WHERE {SQL_PREFIX}for_user=%(user)s), "
        f"entity.{SQL_PREFIX}eid IS NOT NULL{columns} "
        f"FROM (SELECT 1) AS one LEFT JOIN {SQL_PREFIX}{etype} AS entity "
        f"ON entity.{SQL_PREFIX}eid=%(eid)s",
        {"user": user, "eid": eid},
    ).fetchone()
    _remember(cnx, user, groups, properties)
    return dict(zip(names, values, strict=True)) if found else None


def readable_entity(cnx: Connection, eid: int) -> Entity | None:
    """Return the entity if it exists and the user of the connection may read it and its data.

    Its attributes are loaded, except the data itself and those that the user may not read. One SQL
    query does that, in place of an RQL query for each attribute, and shows whether the entity
    exists.

    The permissions are checked on the entity, not by a query: results of queries on an eid are
    cached under a key that ignores the type and the user (cubicweb.server.sources.native).
    """
    if eid > replacement.MAX_EID:
        return None
    try:
        etype = cnx.entity_type(eid)  # from the cache of the process: the row shows if it is gone
    except UnknownEid:
        return None
    values = _load(cnx, etype, eid)
    if values is None:
        cnx.repo.clear_caches([eid])
        return None
    entity = cnx.entity_from_eid(eid, etype)
    if not entity.cw_has_perm("read"):
        return None
    eschema = entity.e_schema
    found: dict[frozenset[str], bool] = {}

    def allowed(name: str) -> bool:
        rdef = eschema.relation_definition(name)
        groups = rdef.get_groups("read")  # groups are enough: attributes have no expressions
        if groups not in found:
            found[groups] = rdef.has_perm(cnx, "read", eid=eid)
        return found[groups]

    for rschema, target in eschema.attribute_definitions():
        if target.type == "Bytes" and not allowed(rschema.type):
            return None
    entity.cw_attr_cache.update({name: value for name, value in values.items() if allowed(name)})
    return entity
