"""Refuse changes in a request that says it makes none (RFC 9110, section 9.2.1)."""

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar

from cubicweb import Unauthorized
from cubicweb.server import hook
from cubicweb.server.session import Connection

from cubicweb_hasite.hooks import CATEGORY

#: the connection that may only read, and the changes that were refused. Not in `transaction_data`,
#: which is emptied by a commit.
_reading: ContextVar[tuple[Connection, list[str]] | None] = ContextVar("reading", default=None)


@contextmanager
def read_only(cnx: Connection) -> Iterator[list[str]]:
    """Let each change by a connection raise :class:`Unauthorized` in this block.

    It yields a list, to which the changes are added that were refused.
    """
    refused: list[str] = []
    token = _reading.set((cnx, refused))
    try:
        yield refused
    finally:
        _reading.reset(token)


def is_read_only(cnx: Connection) -> bool:
    """Return whether a connection is in a :func:`read_only` block."""
    reading = _reading.get()
    return reading is not None and reading[0] is cnx


class RefuseChangeHook(hook.Hook):
    """Refuse all changes in a :func:`read_only` block."""

    __regid__ = "hasite.read-only"
    events = (
        "before_add_entity",
        "before_update_entity",
        "before_delete_entity",
        "before_add_relation",
        "before_delete_relation",
    )
    category = CATEGORY
    order = -200  # before what other hooks would do

    def __call__(self) -> None:
        reading = _reading.get()
        if reading is not None and is_read_only(self._cw):
            reading[1].append(self.event)
            raise Unauthorized("not by GET")
