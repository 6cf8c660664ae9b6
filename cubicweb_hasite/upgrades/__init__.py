"""Rehearse an upgrade on a copy of production, then upgrade production by what was learnt.

Like `cubicweb_hasite.deploy`, whose site file it reads, it imports nothing of the cube that runs.
"""

import re

# what PostgreSQL's programs and CubicWeb say of a connection that was lost, or is not to be had
_LOST = re.compile(
    r"server closed the connection|terminating connection|connection to server .* failed|"
    r"could not (send data|receive data)|SSL connection has been closed|"
    r"connection (not open|already closed|to client lost)|Connection (refused|timed out)|"
    r"database system is (starting up|shutting down|in recovery)|"
    r"canceling statement due to conflict"
)


class RehearsalError(Exception):
    """Why something was not done: one line that says what is wrong and what to do, then details.

    :param details: such as the last lines that a program wrote
    """

    def __init__(self, message: str, details: str = "") -> None:
        super().__init__(message)
        self.details = details

    @property
    def lost(self) -> bool:
        """Whether a connection to PostgreSQL was lost, so that another try may succeed."""
        return bool(_LOST.search(f"{self}\n{self.details}"))

    @property
    def deadlock(self) -> bool:
        """Whether PostgreSQL has ended a transaction that another one and itself waited for."""
        return "deadlock detected" in f"{self}\n{self.details}"


class Refused(RehearsalError):
    """Why something was not even begun, for it could have harmed production."""
