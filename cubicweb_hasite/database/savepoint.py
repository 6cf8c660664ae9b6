"""Let code of others read in a transaction that its errors must not end."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import NoReturn

from cubicweb.server.session import Connection

from cubicweb_hasite.database import connection

_NAME = "hasite_reading"


@contextmanager
def savepoint(cnx: Connection) -> Iterator[list[Exception]]:
    """Isolate a block: its error is put into a list, and nothing is left of it in the database.

    CubicWeb rolls back the whole transaction after an error of SQL, and may continue it on another
    connection (`doexec`, cubicweb/server/sources/native.py of cubicweb 5.0.1, lines 816 to 828).
    In the block it rolls back to the savepoint.

    :raises source.DbapiError: the connection is lost, and the transaction with it.
    """
    cnxset, commit_state = cnx.cnxset, cnx.commit_state
    cnx.system_sql(f"SAVEPOINT {_NAME}", rollback_on_failure=False)
    # kept, because a connection that heals hands out none after some errors
    cursor = cnxset.cu

    def back() -> None:
        cursor.execute(f"ROLLBACK TO SAVEPOINT {_NAME}")

    cnxset.rollback, cnxset.reconnect = back, _raise_again
    errors: list[Exception] = []
    try:
        yield errors
    except Exception as error:
        errors.append(error)
    finally:
        for name in ("rollback", "reconnect"):
            vars(cnxset).pop(name, None)  # the methods of the class again
        heals = isinstance(cnxset, connection.Connection)
        try:
            back()
            cursor.execute(f"RELEASE SAVEPOINT {_NAME}")
        except cnx.repo.system_source.DbapiError as error:
            if heals:
                cnxset.statement_failed(error, rolled_back=False)
            raise
        cnx.commit_state = commit_state
        if heals:
            cnxset.failed, cnxset.lost_by = False, None


def _raise_again() -> NoReturn:
    """Raise the error that CubicWeb is handling, and would handle by a new connection."""
    raise
