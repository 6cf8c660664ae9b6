"""Refuse changes in a request that says it makes none (RFC 9110, section 9.2.1)."""

from collections.abc import Iterator
from contextlib import contextmanager

from cubicweb import Unauthorized
from cubicweb.server import hook
from cubicweb.server.session import Connection

from cubicweb_hasite.hooks import CATEGORY

_READ_ONLY = "hasite_read_only"


@contextmanager
def read_only(cnx: Connection) -> Iterator[None]:
    """Let each change of an entity or a relation raise :class:`Unauthorized` in this block."""
    cnx.transaction_data[_READ_ONLY] = False
    try:
        yield
    finally:
        cnx.transaction_data.pop(_READ_ONLY, None)


def changed(cnx: Connection) -> bool:
    """Return whether a change was refused in the block, so far."""
    return bool(cnx.transaction_data.get(_READ_ONLY))


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
        if _READ_ONLY in self._cw.transaction_data:
            self._cw.transaction_data[_READ_ONLY] = True
            raise Unauthorized("not by GET")
