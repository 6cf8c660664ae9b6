"""Give an entity a new eid, with everything attached to it, in the running transaction.

The entity is renamed in the database. Its row, its relations in both directions, the full-text
index and the undo records get the new eid. Nothing is copied or deleted, and no hook is called.
The former eid is kept as a :class:`FormerEid <cubicweb_hasite.schema.FormerEid>`, which leads to
the current one in one step, however often the entity is replaced.

This module uses the repository, not the web.
"""

import pickle
from collections.abc import Iterable, Iterator
from datetime import UTC, datetime
from typing import Any

from cubicweb import UnknownEid
from cubicweb.schema import VIRTUAL_RTYPES, CubicWebEntitySchema
from cubicweb.server.hook import CleanupDeletedEidsCacheOp, CleanupNewEidsCacheOp
from cubicweb.server.session import Connection
from cubicweb.server.sqlutils import SQL_PREFIX

from cubicweb_hasite.images import data

_TRACKED = "hasite_replaced"
#: eids are of SQL's type integer
MAX_EID = 2**31 - 1


def track(cnx: Connection) -> dict[int, int | None]:
    """Make the edits of the running transaction replace entities whose immutable data changes.

    :return: the new eids of the entities to replace, by their former eids; None until the commit
    """
    return cnx.transaction_data.setdefault(_TRACKED, {})


def tracked(cnx: Connection) -> dict[int, int | None] | None:
    """Return the mapping of :func:`track`, or None if edits keep the eid in this transaction.

    To undo a transaction is to edit: restored data gets a new eid too. With the option
    `hasite-replace-always` all edits replace, from any source.
    """
    if "undoing_uuid" in cnx.transaction_data or cnx.vreg.config["hasite-replace-always"]:
        return track(cnx)
    return cnx.transaction_data.get(_TRACKED)


def current_eid(cnx: Connection, former: int, *, reconnect: bool = True) -> int | None:
    """Return the current eid of the entity that had the eid `former`.

    None if `former` is not the former eid of an entity that exists.

    :param reconnect: whether a lost connection may be replaced; not in the middle of a transaction
    """
    if former > MAX_EID:
        return None
    cursor = cnx.system_sql(
        f"SELECT {SQL_PREFIX}current FROM {SQL_PREFIX}FormerEid WHERE {SQL_PREFIX}former=%(eid)s",
        {"eid": former},
        rollback_on_failure=reconnect,
    )
    row = cursor.fetchone()
    return row[0] if row else None


def where(cnx: Connection, eid: int) -> int | None:
    """Return the eid under which an entity is found now that has the eid `eid`, or had it.

    None if there is no such entity. By one query, hence of one moment: during a replacement the
    entity is under its former eid or under its new one, never nowhere.
    """
    if eid > MAX_EID:
        return None
    row = cnx.system_sql(
        "SELECT eid FROM entities WHERE eid=%(eid)s UNION ALL "
        f"SELECT {SQL_PREFIX}current FROM {SQL_PREFIX}FormerEid WHERE {SQL_PREFIX}former=%(eid)s",
        {"eid": eid},
    ).fetchone()
    return row[0] if row else None


def former_among(cnx: Connection, eids: Iterable[int]) -> list[int]:
    """Return those of the eids that are former ones, by one query."""
    known = ",".join(str(eid) for eid in set(eids) if eid <= MAX_EID) or "0"
    cursor = cnx.system_sql(
        f"SELECT {SQL_PREFIX}former FROM {SQL_PREFIX}FormerEid "
        f"WHERE {SQL_PREFIX}former IN ({known}) ORDER BY 1"
    )
    return [row[0] for row in cursor.fetchall()]


def last(cnx: Connection) -> datetime | None:
    """Return when an entity was replaced last, None if none ever was."""
    row = cnx.system_sql(
        f"SELECT {SQL_PREFIX}creation_date FROM {SQL_PREFIX}FormerEid "
        f"ORDER BY {SQL_PREFIX}eid DESC LIMIT 1"
    ).fetchone()
    return data.aware(row[0]) if row else None


def entity_type(cnx: Connection, eid: int) -> str | None:
    """Return the type of the entity `eid` as the database has it now, None if it is gone.

    Unlike :meth:`Connection.entity_type` it is not answered from the cache of the process, which
    is not told of what other processes delete or replace; it is corrected on the way.
    """
    etype = stored_type(cnx, eid)
    if etype is None and eid <= MAX_EID:
        cnx.repo.clear_caches([eid])
    return etype


def stored_type(cnx: Connection, eid: int) -> str | None:
    """Return the type of the entity `eid` as the database has it now, None if it is gone.

    It changes no cache, because CubicWeb asks while it holds the lock of one (`RQLCache.get` in
    cubicweb/server/querier.py), which is not reentrant.
    """
    if eid > MAX_EID:
        return None
    row = cnx.system_sql("SELECT type FROM entities WHERE eid=%(eid)s", {"eid": eid}).fetchone()
    return row[0] if row else None


def replaceable(eschema: CubicWebEntitySchema) -> bool:
    """Return whether entities of a type can be replaced: whether they have bytes."""
    return any(target.type == "Bytes" for _rtype, target in eschema.attribute_definitions())


def lock(cnx: Connection, eid: int, *, exclusive: bool) -> None:
    """Lock the entity `eid` until the end of the transaction.

    PostgreSQL takes a shared lock on the row of `entities` for each foreign key to it. A
    transaction that replaces the entity locks it exclusively: it waits for transactions that are
    adding links to the entity. Later ones wait for it, and find that the eid is gone. A
    transaction that only updates the entity waits for other updates, but not for links. SQLite
    has one writer at a time and no row locks, so there only the existence is checked.

    :param exclusive: whether the entity is about to be replaced or deleted, not only updated
    :raises UnknownEid: the entity is gone, deleted or replaced by another transaction.
    """
    sql = "SELECT eid FROM entities WHERE eid=%(eid)s"
    if cnx.repo.system_source.dbdriver == "postgres":
        sql += " FOR UPDATE" if exclusive else " FOR NO KEY UPDATE"
    if _execute(cnx, sql, {"eid": eid}).fetchone() is None:
        raise UnknownEid(eid)


def replace(cnx: Connection, former: int) -> int:
    """Give the entity `former` a new eid, and return it.

    Call it at the very end of the transaction, after all operations that may remember the former
    eid. Entities held in Python are stale afterwards.

    :raises UnknownEid: the entity is gone.
    """
    lock(cnx, former, exclusive=True)
    source = cnx.repo.system_source
    eschema = cnx.vreg.schema.entity_schema_for(cnx.entity_type(former))
    current = source.create_eid(cnx)
    eids = {"former": former, "current": current}

    CleanupNewEidsCacheOp.get_instance(cnx).add_data(current)
    # All foreign keys point at `entities`, and none is deferrable: so add, move, delete.
    _execute(
        cnx,
        "INSERT INTO entities (eid, type) VALUES (%(current)s, %(type)s)",
        {**eids, "type": eschema.type},
    )
    _move_row(cnx, eschema, eids)
    for table, column in _references(eschema):
        _move(cnx, table, column, eids)
    if source.do_fti:
        _move(cnx, source.dbhelper.fti_table, source.dbhelper.fti_uid_attr, eids)
    _move_undo_records(cnx, eids)
    _move(cnx, f"{SQL_PREFIX}FormerEid", f"{SQL_PREFIX}current", eids)
    _execute(cnx, "DELETE FROM entities WHERE eid=%(former)s", eids)
    _record_former_eid(cnx, eids)

    CleanupDeletedEidsCacheOp.get_instance(cnx).add_data(former)
    cnx.drop_entity_cache()
    return current


def _execute(cnx: Connection, sql: str, args: dict[str, Any]) -> Any:
    """Run SQL in the middle of a transaction.

    Without `rollback_on_failure=False` CubicWeb would roll back after a deadlock or a lost
    connection, execute this statement again on a new connection, and continue without what the
    transaction had done before (cubicweb.server.session).
    """
    return cnx.system_sql(sql, args, rollback_on_failure=False)


def _record_former_eid(cnx: Connection, eids: dict[str, int]) -> None:
    now = datetime.now(UTC)
    # no hook is needed: the dates and the URI, which is that of the eid, are given here
    with cnx.deny_all_hooks_but():
        cnx.create_entity(
            "FormerEid",
            creation_date=now,
            modification_date=now,
            cwuri=f"{cnx.base_url()}{eids['former']}",
            **eids,
        )


def _move(cnx: Connection, table: str, column: str, eids: dict[str, int]) -> None:
    _execute(
        cnx,
        f"UPDATE {table} SET {column}=%(current)s WHERE {column}=%(former)s",
        eids,
    )


def _move_row(cnx: Connection, eschema: CubicWebEntitySchema, eids: dict[str, int]) -> None:
    """Move the entity's own row, and its URI if it is the one that CubicWeb gave it."""
    base_url = cnx.base_url()
    _execute(
        cnx,
        f"UPDATE {SQL_PREFIX}{eschema.type} SET {SQL_PREFIX}eid=%(current)s, "
        f"{SQL_PREFIX}cwuri=CASE WHEN {SQL_PREFIX}cwuri=%(former_uri)s "
        f"THEN %(current_uri)s ELSE {SQL_PREFIX}cwuri END "
        f"WHERE {SQL_PREFIX}eid=%(former)s",
        {
            **eids,
            "former_uri": f"{base_url}{eids['former']}",
            "current_uri": f"{base_url}{eids['current']}",
        },
    )


def _move_undo_records(cnx: Connection, eids: dict[str, int]) -> None:
    """Keep the recorded transactions undoable: see cubicweb.server.sources.native."""
    source = cnx.repo.system_source
    actions = _execute(
        cnx,
        "SELECT tx_uuid, txa_order, changes FROM tx_entity_actions "
        "WHERE eid=%(former)s AND changes IS NOT NULL",
        eids,
    ).fetchall()
    for transaction, order, pickled in actions:
        changes = pickle.loads(source.binary_to_str(pickled))
        changes[f"{SQL_PREFIX}eid"] = eids["current"]
        _execute(
            cnx,
            "UPDATE tx_entity_actions SET changes=%(changes)s "
            "WHERE tx_uuid=%(transaction)s AND txa_order=%(order)s",
            {
                "changes": source._binary(pickle.dumps(changes)),
                "transaction": transaction,
                "order": order,
            },
        )
    _move(cnx, "tx_entity_actions", "eid", eids)
    _move(cnx, "tx_relation_actions", "eid_from", eids)
    _move(cnx, "tx_relation_actions", "eid_to", eids)


def _references(eschema: CubicWebEntitySchema) -> Iterator[tuple[str, str]]:
    """Yield the (table, column) pairs that hold eids of entities of a type, except its own row."""
    seen: set[tuple[str, str]] = set()
    for rschema, targets, role in eschema.relation_definitions():
        if rschema.type in VIRTUAL_RTYPES or rschema.rule:
            continue
        if not rschema.inlined:
            table = f"{rschema.type}_relation"
            columns = {(table, "eid_from" if role == "subject" else "eid_to")}
            if rschema.symmetric:
                columns = {(table, "eid_from"), (table, "eid_to")}
        elif role == "object":
            column = SQL_PREFIX + rschema.type
            columns = {(f"{SQL_PREFIX}{target.type}", column) for target in targets}
        else:
            columns = set()  # a column of the entity's own row
        yield from sorted(columns - seen)
        seen |= columns
