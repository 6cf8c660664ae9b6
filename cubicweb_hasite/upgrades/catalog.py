"""What a migration changes in the schema, and which changes the running version cannot handle."""

from collections.abc import Iterator
from contextlib import closing
from dataclasses import dataclass

from cubicweb_hasite.upgrades.server import Server, query

_QUERIES = {
    "table": "SELECT c.relname, '' FROM pg_class c WHERE c.relkind IN ('r', 'p', 'v', 'm') AND {}",
    "column": """
        SELECT c.relname || '.' || a.attname, format_type(a.atttypid, a.atttypmod)
            || CASE WHEN a.attnotnull THEN ' NOT NULL' ELSE '' END
            || CASE WHEN a.atthasdef OR a.attidentity <> '' THEN ' with a default' ELSE '' END
        FROM pg_class c JOIN pg_attribute a ON a.attrelid = c.oid
        WHERE c.relkind IN ('r', 'p') AND a.attnum > 0 AND NOT a.attisdropped AND {}""",
    "constraint": """
        SELECT c.relname || ': ' || n.conname, pg_get_constraintdef(n.oid)
        FROM pg_constraint n JOIN pg_class c ON c.oid = n.conrelid WHERE {}""",
    "index": """
        SELECT c.relname || ': ' || i.relname, regexp_replace(pg_get_indexdef(i.oid),
            'INDEX .* USING', 'INDEX USING')
        FROM pg_index x JOIN pg_class c ON c.oid = x.indrelid JOIN pg_class i
            ON i.oid = x.indexrelid WHERE {}""",
    "sequence": "SELECT c.relname, '' FROM pg_class c WHERE c.relkind = 'S' AND {}",
}
_OURS = "c.relnamespace = 'public'::regnamespace"

#: (kind, name) of each object -> its definition
Catalog = dict[tuple[str, str], str]


@dataclass(frozen=True)
class Change:
    """A difference between two catalogs.

    :param breaks: why the running version cannot work with it, empty if it can
    """

    what: str
    breaks: str = ""


def read(server: Server, name: str) -> Catalog:
    """Return the catalog of a database: its tables, columns, constraints, indexes, sequences.

    :raises UpgradeError: the server is lost.
    """
    with closing(server.connect(name)) as connection:
        return {
            (kind, object_name): definition
            for kind, text in _QUERIES.items()
            for object_name, definition in query(connection, text.format(_OURS))
        }


def compare(before: Catalog, after: Catalog) -> list[Change]:
    """Return the changes, except for the parts of tables that were added or dropped."""
    tables = {name for kind, name in before.keys() ^ after.keys() if kind == "table"}
    return sorted(_changes(before, after, tables), key=lambda change: change.what)


def _changes(before: Catalog, after: Catalog, tables: set[str]) -> Iterator[Change]:
    for kind, name in before.keys() | after.keys():
        old, new = before.get((kind, name)), after.get((kind, name))
        table = name.partition(": ")[0].partition(".")[0]
        if old == new or (kind != "table" and table in tables):
            continue
        if old is None:
            what = f"{kind} {name} added: {new}".removesuffix(": ")
            yield Change(what, _breaks(kind, new or ""))
        elif new is None:
            lost = "the running version uses it" if kind in ("table", "column", "sequence") else ""
            yield Change(f"{kind} {name} dropped", lost)
        else:
            yield Change(f"{kind} {name} changed: {old} → {new}", _altered(kind, old, new))


def _breaks(kind: str, definition: str) -> str:
    if kind == "column" and "NOT NULL" in definition and "default" not in definition:
        return "the running version inserts rows without it"
    if kind == "constraint" and not definition.startswith("PRIMARY KEY"):
        return "the running version does not know it and may violate it"
    if kind == "index" and "UNIQUE" in definition:
        return "the running version does not know it and may violate it"
    return ""


def _altered(kind: str, old: str, new: str) -> str:
    if kind == "column" and old.replace(" NOT NULL", "") == new:
        return ""  # it accepts more
    return "the running version relies on the former definition" if kind == "column" else ""
