"""Read bytes of PostgreSQL by `COPY`, at a sixth of the cost of hexadecimal text.

The format is that of PostgreSQL's documentation, "COPY", "Binary Format".
"""

from collections.abc import Callable
from struct import Struct
from typing import Any

from cubicweb.server.session import Connection

_SIGNATURE = b"PGCOPY\n\xff\r\n\0"
_EXTENSION = Struct(f"!{len(_SIGNATURE)}xIi")  # flags, and how long the rest of the header is
_COLUMNS = Struct("!h")
_LENGTH = Struct("!i")
_END = -1

Row = list[memoryview | None]


def number(field: memoryview | int | None) -> int | None:
    """Return the value of a field of PostgreSQL's type `integer`, as it was copied or as it is."""
    return int.from_bytes(field, signed=True) if isinstance(field, memoryview) else field


def copy(cnx: Connection, query: str, args: dict[str, Any], take: Callable[[Row], object]) -> None:
    """Execute a query, and hand its rows on, one at a time.

    It must not be the first of a transaction: unlike others it is not tried again on another
    connection, where that of the pool is not open any more.

    :param take: called with the fields of each row
    :raises source.OperationalError: the connection is lost.
    """
    source, cursor = cnx.repo.system_source, cnx.cnxset.cu
    sql = cursor.mogrify(f"COPY ({query}) TO STDOUT (FORMAT binary)", args)
    try:
        cursor.copy_expert(sql, _Rows(take))
    except source.DbapiError as error:
        if not cursor.connection.closed:
            raise
        # psycopg2 2.9 raises a bare DatabaseError without a reason (`pq_raise`, of a result that
        # is no error: PGRES_COPY_OUT)
        raise source.OperationalError(f"the connection was lost: {error}") from error


class _Rows:
    """What psycopg2 writes to."""

    def __init__(self, take: Callable[[Row], object]):
        self._take = take

    def write(self, message: bytes) -> None:
        """Take a message of PostgreSQL's, which is one row.

        The first begins with the header; the last is the end of the file. See "COPY Operations"
        of "Message Flow" in PostgreSQL's documentation.
        """
        at = 0
        if message.startswith(_SIGNATURE):  # as a number of columns that would be too many
            _flags, extension = _EXTENSION.unpack_from(message)
            at = _EXTENSION.size + extension
            if at == len(message):
                return
        [columns] = _COLUMNS.unpack_from(message, at)
        if columns == _END:
            return
        at += _COLUMNS.size
        view, row = memoryview(message), Row()
        for _ in range(columns):
            [length] = _LENGTH.unpack_from(message, at)
            at += _LENGTH.size
            row.append(None if length < 0 else view[at : at + length])
            at += max(length, 0)
        self._take(row)
