"""What processes tell each other: which part of their memory is out of date.

A notice is sent in the transaction of the change, so PostgreSQL delivers it at the commit or never
(`NOTIFY`). It names parts, not values: whoever gets it reads the database. Ordinary edits send
none.
"""

from collections.abc import Iterable

from cubicweb.server.session import Connection

#: the channel, in the database of the instance
CHANNEL = "hasite"
#: the properties of the site, such as its title
PROPERTIES = "properties"
#: the users: login, language, e-mail address
USERS = "users"
#: the schema: permissions, types and relations
SCHEMA = "schema"
ALL = frozenset({PROPERTIES, USERS, SCHEMA})


def send(cnx: Connection, parts: Iterable[str]) -> None:
    """Tell all processes of the site, at the commit; on SQLite there is only one."""
    if cnx.repo.system_source.dbdriver == "postgres":
        cnx.system_sql(
            "SELECT pg_notify(%(channel)s, %(parts)s)",
            {"channel": CHANNEL, "parts": " ".join(sorted(parts))},
        )


def read(payload: str) -> frozenset[str]:
    """Return the parts that a notice names: all, if it names one of another version."""
    parts = frozenset(payload.split())
    return parts if parts <= ALL else ALL
