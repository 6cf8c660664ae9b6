"""Why the database does not answer, found in the text of an error of PostgreSQL or libpq.

psycopg2 gives no SQLSTATE for a refused connection. PostgreSQL writes in the language of its
`lc_messages`.
"""

import re

_SILENCE = re.compile(r"timeout expired|timed out")
_REFUSALS = (
    (
        r"too many (clients|connections)|connection slots|trop de (clients|connexions)"
        r"|emplacements? de connexions?|demasiad[oa]s (clientes|conexiones)|slots? de conexi",
        "the database refuses: too many connections",
    ),
    (
        r"password|authentication|pg_hba|role|mot de passe|authentification|rôle"
        r"|contraseña|autentificación|rol\b",
        "the database refuses the user or the password",
    ),
    (r"read-only|hot standby", "the database is read-only"),
    (
        r"starting up|shutting down|not yet accepting|recovery",
        "the database is starting or stopping",
    ),
    (r"database .* does not exist|base de données|base de datos", "there is no such database"),
    (r"could not translate host name", "the name of the database's host is unknown"),
    (r"refused|No such file", "the database is stopped: connection refused"),
    (r"closed the connection|reset by peer", "the database closes the connection"),
    (r"unreachable|No route", "the database's host is not reachable"),
    (r"canceling statement|lock timeout", "the database is too busy: a query was cancelled"),
)


def is_silence(error: Exception) -> bool:
    """Return whether an error means that the database did not answer at all."""
    return _SILENCE.search(str(error)) is not None


def cause(error: Exception) -> str:
    """Return why the database does not answer, without any name or address."""
    words = re.sub(r'"[^"]*"|«[^»]*»', "", str(error))
    for pattern, meaning in _REFUSALS:
        if re.search(pattern, words):
            return meaning
    return f"the database does not answer ({type(error).__name__})"
