"""The table of the parts of sessions that are too long for a cookie.

A row is never changed, so a cookie always means what it meant when it was sent, as with a cookie
that holds everything. Its `id` is that of the session, a dot, and a part of its own.
"""

import logging
import time

from cubicweb.server.repository import Repository
from cubicweb.server.session import Connection
from pyramid.request import Request

from cubicweb_hasite.standbys import visits

log = logging.getLogger(__name__)


def create(cnx: Connection) -> None:
    """Create the table, unless it is there. `written` is in seconds since 1970."""
    cnx.system_sql(
        "CREATE TABLE IF NOT EXISTS hasite_session "
        "(id VARCHAR(80) PRIMARY KEY, written BIGINT NOT NULL, data TEXT NOT NULL)"
    )
    cnx.system_sql("CREATE INDEX IF NOT EXISTS hasite_session_written ON hasite_session (written)")


class Table:
    """The table, in the database of an instance.

    :param age: after how many seconds a row may be deleted
    """

    def __init__(self, repo: Repository, age: int) -> None:
        self._repo = repo
        self._age = age
        self._fails = False

    def read(self, request: Request, row: str) -> str | None:
        """Return the data of a row, None if it is gone.

        The connection of the request is used if it has one: it would wait for a second one as
        long as other requests do the same.

        :raises Exception: the database does not answer.
        """
        cnx = vars(request).get("cw_cnx")
        if visits.reads_standby():
            return self._read_both(cnx, row)
        return self._read(cnx, row)

    def _read(self, cnx: Connection | None, row: str) -> str | None:
        if cnx is None:
            with self._repo.internal_cnx() as cnx:
                return self._data(cnx, row)
        cnx.system_sql("SAVEPOINT hasite_session", rollback_on_failure=False)
        try:
            return self._data(cnx, row)
        finally:  # after an error too the request may go on
            cnx.system_sql("ROLLBACK TO SAVEPOINT hasite_session", rollback_on_failure=False)

    def _read_both(self, cnx: Connection | None, row: str) -> str | None:
        """Return the data of a row from a standby or, if it has not got it yet, the primary.

        A row never changes.
        """
        data = self._read(cnx, row)
        if data is None:
            with visits.on_primary():
                data = self._read(None, row)
        return data

    def _data(self, cnx: Connection, row: str) -> str | None:
        query = "SELECT data FROM hasite_session WHERE id=%(id)s"
        found = cnx.system_sql(query, {"id": row}, rollback_on_failure=False).fetchone()
        return found and found[0]

    def write(self, row: str, data: str) -> bool:
        """Add a row, and delete those that are too old.

        :return: whether it was added. If not, the log says why, once.
        """
        now = int(time.time())
        try:
            with visits.on_primary(), self._repo.internal_cnx() as cnx:
                cnx.system_sql(
                    "INSERT INTO hasite_session (id, written, data) "
                    "VALUES (%(id)s, %(written)s, %(data)s)",
                    {"id": row, "written": now, "data": data},
                )
                cnx.commit()
        except Exception as error:
            if not self._fails:
                log.error(  # by default `cubicweb-ctl start` logs only errors
                    "sessions are too long for their cookies, and cannot be written to the "
                    "database: the oldest forms are forgotten: %s",
                    # without the data, which `doexec` (cubicweb.server.sources.native) adds
                    str(error).rpartition("got the error ")[2].strip(),
                )
            self._fails = True
            return False
        self._fails = False
        self._delete("written < %(since)s", since=now - self._age)
        return True

    def delete(self, session: str) -> None:
        """Delete all rows of a session."""
        self._delete("id LIKE %(id)s", id=f"{session}.%")

    def _delete(self, condition: str, **values: object) -> None:
        try:
            with visits.on_primary(), self._repo.internal_cnx() as cnx:
                cnx.system_sql(f"DELETE FROM hasite_session WHERE {condition}", values)
                cnx.commit()
        except Exception as error:  # they are deleted later
            log.info("rows of sessions are left: %s", error)
