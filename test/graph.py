"""The whole content of a database, to be compared before and after an edit."""

from typing import Any

Row = tuple[tuple[str, Any], ...]

# They say when and with what the entity was edited.
_EDITED = {
    "cw_modification_date",
    "cw_data",
    "cw_data_hash",
}
# eids given so far, and when somebody logged in
_NOT_CONTENT = {"entities_id_seq", "cw_last_login_time"}


def graph(cnx, renamed: dict[int, int] | None = None) -> dict[str, list[Row]]:
    """Return the rows of all the tables, but for former eids and what an edit changes.

    :param renamed: eids to be written as others
    """
    content = {}
    former = {row[0] for row in cnx.system_sql("SELECT cw_eid FROM cw_FormerEid")}
    for table in _tables(cnx):
        if table.lower() in _NOT_CONTENT | {"cw_formereid"}:
            continue
        cursor = cnx.system_sql(f"SELECT * FROM {table}")
        columns = [description[0] for description in cursor.description]
        rows = []
        for values in cursor.fetchall():
            row = dict(zip(columns, values, strict=True))
            if former.intersection(row.get(name) for name in ("eid", "eid_from", "cw_eid")):
                continue
            rows.append(_comparable(row, renamed or {}))
        content[table] = sorted(rows, key=repr)
    return content


def _tables(cnx) -> list[str]:
    if cnx.repo.system_source.dbdriver == "postgres":
        sql = "SELECT tablename FROM pg_tables WHERE schemaname='public'"
    else:
        sql = "SELECT name FROM sqlite_master WHERE type='table' AND name NOT LIKE 'sqlite_%'"
    return sorted(name for (name,) in cnx.system_sql(sql).fetchall())


def _comparable(row: dict[str, Any], renamed: dict[int, int]) -> Row:
    kept = {}
    for column, value in row.items():
        if column in _EDITED | _NOT_CONTENT:
            continue
        if isinstance(value, memoryview):
            value = bytes(value)
        if isinstance(value, int) and not isinstance(value, bool):
            value = renamed.get(value, value)
        elif column == "cw_cwuri" and value:
            base, _, eid = value.rpartition("/")
            if eid.isdigit():
                value = f"{base}/{renamed.get(int(eid), int(eid))}"
        kept[column] = value
    return tuple(sorted(kept.items()))
