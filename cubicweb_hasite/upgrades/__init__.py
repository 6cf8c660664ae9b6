"""Rehearse an upgrade on a copy of production, then upgrade production in the same way.

Like `cubicweb_hasite.deploy`, whose site file it reads, this package imports nothing of what runs
in an instance.
"""

import re

# How PostgreSQL's programs, libpq and CubicWeb report a connection that was lost or refused.
LOST = re.compile(
    r"server closed the connection|terminating connection|connection to server .* failed|"
    r"connection to server was lost|could not (send data|receive data)|"
    r"SSL connection has been closed|connection (not open|already closed|to client lost)|"
    r"Connection (refused|timed out)|database system is (starting up|shutting down|in recovery)|"
    r"canceling statement due to conflict"
)


class UpgradeError(Exception):
    """Why a rehearsal or an upgrade does not go on.

    The message is one line: what is wrong and what to do.

    :param details: more lines, such as the last output of a program
    """

    def __init__(self, message: str, details: str = "") -> None:
        super().__init__(message)
        self.details = details

    @property
    def lost(self) -> bool:
        """Whether a connection to PostgreSQL was lost: it is worth another try."""
        return bool(LOST.search(f"{self}\n{self.details}"))

    @property
    def deadlock(self) -> bool:
        """Whether PostgreSQL has ended a transaction because of a deadlock."""
        return "deadlock detected" in f"{self}\n{self.details}"


class Refused(UpgradeError):
    """Why a rehearsal or an upgrade was not started: it could have damaged production."""
