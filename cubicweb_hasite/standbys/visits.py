"""The request that a thread serves, and which database is read for it."""

import time
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar, Token

from webob import Response

from cubicweb_hasite.standbys.positions import Position
from cubicweb_hasite.standbys.sampler import Standby


class Visit:
    """One try to answer a request, from one database.

    :param safe: whether its method promises to change nothing (RFC 9110, section 9.2.1)
    :param standby: which one is read, None: the primary
    :param primary_up: whether the primary could be asked when the database was chosen
    :param known: as of when what is read is known, in seconds since 1970; None: now
    :param movable: whether it may be ended when its database is lost, to be made again
    :param refused: whether no database may be asked for it, by order of `hasite-read-only`
    """

    def __init__(
        self,
        *,
        safe: bool,
        standby: Standby | None = None,
        primary_up: bool = True,
        known: float | None = None,
        movable: bool = False,
        refused: bool = False,
    ) -> None:
        self.safe = safe
        self.standby = standby
        self.primary_up = primary_up
        self.known = known
        self.movable = movable
        self.refused = refused
        #: whether a connection was taken to the standby
        self.used = False
        #: why its answer is not to be trusted; the first reason
        self.trouble = ""
        #: the position after its last commit
        self.committed: Position | None = None
        #: whether the primary is asked at the moment, see :func:`on_primary`
        self.on_primary = False

    def doubt(self, reason: str) -> None:
        """Let the answer be made again, from another database."""
        self.trouble = self.trouble or reason

    def reason_to_repeat(self, response: Response | None) -> str:
        """Return why an answer from a standby is not sent if the primary can be asked.

        :param response: None if there was an error instead
        """
        if self.standby is None:
            return ""
        if self.trouble or response is None:
            return self.trouble or "error"
        if response.status_code == 404 or response.status_code >= 500:
            return str(response.status_code)
        return "public" if self.used and is_public(response) else ""


_visit: ContextVar[Visit | None] = ContextVar("visit", default=None)


def current() -> Visit | None:
    """Return the visit that this thread serves, None if it serves none, or no standby is read."""
    return _visit.get()


def begin(visit: Visit) -> Token[Visit | None]:
    """Let this thread serve a visit, until :func:`end`."""
    return _visit.set(visit)


def end(token: Token[Visit | None]) -> None:
    """Let this thread serve what it served before."""
    _visit.reset(token)


def reads_standby() -> bool:
    """Return whether a connection that is taken now leads to a standby."""
    visit = _visit.get()
    return visit is not None and visit.standby is not None and not visit.on_primary


@contextmanager
def on_primary() -> Iterator[None]:
    """Let connections that are taken in this block lead to the primary.

    Where the primary cannot be asked, they fail at once.
    """
    visit = _visit.get()
    if visit is None:
        yield
        return
    before, visit.on_primary = visit.on_primary, True
    try:
        yield
    finally:
        visit.on_primary = before


def known() -> float:
    """Return as of when what is read is known, in seconds since 1970."""
    visit = _visit.get()
    now = time.time()
    return now if visit is None or visit.known is None else min(visit.known, now)


def doubt(reason: str) -> None:
    """Let the answer to a visit be made again by the primary, if it is read from a standby."""
    if reads_standby() and (visit := _visit.get()) is not None:
        visit.doubt(reason)


def is_discarded(response: Response | None) -> bool:
    """Return whether a response is not sent, because it is made again."""
    visit = _visit.get()
    return visit is not None and visit.primary_up and bool(visit.reason_to_repeat(response))


def is_public(response: Response) -> bool:
    """Return whether a shared cache may keep a response."""
    value = response.headers.get("Cache-Control", "")
    directives = {each.split("=")[0].strip().lower() for each in value.split(",")}
    return bool(directives & {"public", "s-maxage"})
