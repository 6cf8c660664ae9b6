"""No eid is given out twice, whatever happens to the database.

Caches and browsers keep an image under its eid for up to a year. A database that has lost
transactions, because a backup was restored or because a standby was promoted that lagged behind,
counts from a former eid on, and would give the eids that it has forgotten to other entities.

PostgreSQL says by itself when that may be so: a promotion begins a new timeline, and a dump that
is restored into another cluster finds another system identifier there. A trigger on the table
from which CubicWeb takes new eids compares them at each new eid. So it also works for scripts, for
`cubicweb-ctl shell` and behind a pooler. A copy of the files of a cluster has neither: whoever
restores one runs `hasite-advance-eids`.
"""

from cubicweb.server.session import Connection

from cubicweb_hasite.standbys.positions import ORIGIN

#: how far the next eid is set above the last one known
STEP = 1_000_000
#: `entities.eid` is an INTEGER (cubicweb/server/sources/native.py, `sql_schema`)
LARGEST = 2**31 - 1

# the row of `entities_id_seq` is locked: other processes wait, and find it done
_STATEMENTS = [
    "CREATE TABLE IF NOT EXISTS hasite_origin (origin TEXT NOT NULL)",
    f"""
    INSERT INTO hasite_origin
    SELECT origin FROM ({ORIGIN}) AS present (origin)
    WHERE NOT EXISTS (SELECT FROM hasite_origin)
    """,
    f"""
    CREATE OR REPLACE FUNCTION hasite_advance_eids() RETURNS trigger LANGUAGE plpgsql AS $$
    DECLARE
        present text := ({ORIGIN});
    BEGIN
        UPDATE hasite_origin SET origin = present WHERE origin <> present;
        IF FOUND AND NEW.last < {LARGEST - 100 * STEP} THEN
            NEW.last := NEW.last + {STEP};
            RAISE WARNING 'new eids go on at %, since transactions may be lost', NEW.last;
        END IF;
        RETURN NEW;
    END
    $$
    """,
    "DROP TRIGGER IF EXISTS hasite_advance_eids ON entities_id_seq",
    """
    CREATE TRIGGER hasite_advance_eids BEFORE UPDATE ON entities_id_seq
    FOR EACH ROW EXECUTE FUNCTION hasite_advance_eids()
    """,
]


def watch(cnx: Connection) -> None:
    """Let PostgreSQL advance the eids by itself after a promotion. Nothing on SQLite."""
    if cnx.repo.system_source.dbdriver == "postgres":
        for statement in _STATEMENTS:
            cnx.system_sql(statement)


def unwatch(cnx: Connection) -> None:
    """Undo :func:`watch`."""
    if cnx.repo.system_source.dbdriver == "postgres":
        cnx.system_sql("DROP TRIGGER IF EXISTS hasite_advance_eids ON entities_id_seq")
        cnx.system_sql("DROP FUNCTION IF EXISTS hasite_advance_eids()")
        cnx.system_sql("DROP TABLE IF EXISTS hasite_origin")


def advance(cnx: Connection, by: int = STEP) -> tuple[int, int]:
    """Leave out eids: the next one is far above all that were ever given out.

    :param by: how many to leave out, 1 or more
    :return: the last eid before, and after
    :raises ValueError: so many are not left.
    """
    cnx.system_sql("UPDATE entities_id_seq SET last = last")  # locks it
    [[before]] = cnx.system_sql("SELECT last FROM entities_id_seq").fetchall()
    [[highest]] = cnx.system_sql("SELECT MAX(eid) FROM entities").fetchall()
    after = max(before, highest or 0) + by
    if after >= LARGEST:
        raise ValueError(f"{by} is too many: the last eid is {before}, the largest {LARGEST}")
    cnx.system_sql(f"UPDATE entities_id_seq SET last = {after:d}")
    return before, after
