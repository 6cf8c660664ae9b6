"""Sessions in a signed cookie that never overflows, in the place of CubicWeb's default ones.

For each form that is shown, CubicWeb puts into the session the message that follows when it is
saved, and, if it is for a new entity, data of the page. To these comes all that was typed into a
form that is refused. CubicWeb's default session (cubicweb.pyramid.default_session) is a cookie.
Once that would be longer than 4,064 bytes, each request that changes it is an error 500.

Here a session that is too long for the cookie is shortened in this order, until it fits:

1. it is compressed;
2. the oldest messages are forgotten;
3. the data of pages, and what was typed, move to one row of a table; if that is not enough, all
   but the login does.

What comes later stays in the cookie until that is full again. So most changes write nothing to
the database, and a page that needs nothing from the row does not read it. If the row cannot be
written, the oldest items are forgotten.
"""

import logging
import pickle
import secrets
import time
from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

from cubicweb.server.repository import Repository
from pyramid.config import PHASE3_CONFIG, Configurator
from pyramid.interfaces import ISessionFactory
from pyramid.request import Request
from pyramid.response import Response
from pyramid.session import BaseCookieSessionFactory
from pyramid.settings import aslist

from cubicweb_hasite.sessions import packing, shortening
from cubicweb_hasite.sessions.table import Table

log = logging.getLogger(__name__)

#: the longest value of the cookie, in bytes: browsers ignore one of more than 4,093 with its name
#: and its attributes (http://browsercookielimits.iain.guru), and those are 30
MOST_COOKIE = 4000
#: the longest session in a cookie and in a row, in bytes before the compression
MOST_IN_COOKIE, MOST_IN_ROW = 2**16, 2**24

_COOKIE = "session"
#: in how many seconds a session ends that is not used: Pyramid's default, which CubicWeb has
_TIMEOUT = 1200
#: after how many seconds a row is deleted, and after how many it is written again if it is in use
_AGE, _RENEWAL = 3 * _TIMEOUT, 3 * _TIMEOUT // 2

#: the key under which the cookie names its row
_ROW = "hasite.row"
#: how many messages are not forgotten: that of the page that comes next is among them
_NEWEST = 8


def includeme(config: Configurator) -> None:
    """Replace CubicWeb's default sessions. Others, such as those in Redis, are left alone."""
    settings = config.registry.settings
    if "cubicweb.pyramid.default_session" in aslist(settings.get("cubicweb.includes", ())):
        session = factory(
            settings["cubicweb.session.secret"], config.registry["cubicweb.repository"]
        )
        # after CubicWeb's own has been registered
        config.action(
            None,
            partial(config.registry.registerUtility, session, ISessionFactory),
            order=PHASE3_CONFIG,
        )


def factory(secret: str, repo: Repository) -> Callable[[Request], Any]:
    """Return a factory of sessions, as Pyramid wants it.

    :param secret: what the cookies are signed with: the same in all processes of a site
    """
    cookies = packing.signed(
        secret, "pyramid.session.", plain=MOST_COOKIE * 3 // 4 - 64, limit=MOST_IN_COOKIE
    )
    members = {
        "_cookies": cookies,
        "_rows": packing.signed(secret, "hasite.session.", plain=0, limit=MOST_IN_ROW),
        "_table": Table(repo, _AGE),
    }
    stock = BaseCookieSessionFactory(cookies, cookie_name=_COOKIE, timeout=_TIMEOUT)
    return type("Session", (_Session, stock), members)


class _Row(NamedTuple):
    """What a cookie says of its row."""

    id: str
    #: in seconds since 1970
    written: int

    @property
    def session(self) -> str:
        """What the rows of one session have in common."""
        return self.id.partition(".")[0]

    @property
    def is_old(self) -> bool:
        """Whether it is to be written again, before it is deleted."""
        return time.time() - self.written > _RENEWAL


class _Session(dict[str, Any]):
    """A session, whose items in the row are read when they are needed."""

    # of the factory
    _cookies: Any
    _rows: Any
    _table: Table
    # of Pyramid's class
    request: Request
    accessed: int
    created: float

    def __init__(self, request: Request) -> None:
        super().__init__(request)
        row = dict.pop(self, _ROW, None)
        self._row = _Row(*row) if row else None
        #: the keys in the cookie that came with the request
        self._known = frozenset(dict.keys(self))
        #: what the row has: pickles of values, by their keys; None if it was not read
        self._read: dict[str, bytes] | None = None
        #: the session whose rows are to be deleted
        self._ended = ""

    def clear(self) -> None:
        if self._row:
            self._ended = self._row.session
            self._row = self._read = None
        super().clear()

    def __delitem__(self, key: str) -> None:
        self._load()
        super().__delitem__(key)
        if key == shortening.LOGIN:  # CubicWeb logs the visitor out
            self.clear()

    def _load(self) -> None:
        """Put the items of the row before those of the cookie, which are newer."""
        if self._row is None or self._read is not None:
            return
        try:
            data = self._table.read(self.request, self._row.id)
        except Exception as error:
            log.info("the rest of a session cannot be read: %s", error)
            return
        try:
            row, items = self._rows.loads((data or "").encode())
        except ValueError:  # there is no such row, or it is not ours
            row, items = "", {}
        if row != self._row.id:
            self._row = None
            return
        self._read = {key: pickle.dumps(value) for key, value in items.items()}
        items.update(dict.items(self))
        dict.clear(self)
        dict.update(self, items)

    def _row_differs(self) -> bool:
        """Return whether an item of the row was changed or removed."""
        return any(
            not dict.__contains__(self, key) or pickle.dumps(dict.__getitem__(self, key)) != value
            for key, value in (self._read or {}).items()
        )

    def _set_cookie(self, response: Response) -> None:
        """Add the cookie to a response. Pyramid calls it at the end of a request."""
        if self._ended:
            end = partial(self._table.delete, self._ended)
            self.request.add_finished_callback(lambda _request: end())
        if self._row and self._row.is_old:
            self._load()
        row = None if self._row_differs() else self._row
        in_row = self._read if row and self._read else {}
        items = {key: value for key, value in dict.items(self) if key not in in_row}
        messages = [key for key, value in items.items() if shortening.is_message(key, value)]
        if not (row and in_row and row.is_old):
            value = shortening.shortened(items, messages[:-_NEWEST], partial(self._pack, row))
            if value is not None:
                self._send(response, value)
                return
        for key in messages[:-_NEWEST]:
            dict.__delitem__(self, key)
            del items[key]
        self._spill(response, row, items)

    def _spill(self, response: Response, row: _Row | None, items: dict[str, Any]) -> None:
        """Add a cookie to a response, and move what is too long for it to a new row.

        :param row: the present row, None if there is none or if the session differs from it
        :param items: what is not in the present row
        """
        self._load()
        forget_oldest = partial(
            shortening.shortened, items, shortening.oldest_first(items), partial(self._pack, row)
        )
        if self._row and self._read is None:  # it cannot be read now: keep it
            self._send(response, forget_oldest())
            return
        session = self._row.session if self._row else secrets.token_hex(16)
        new = _Row(f"{session}.{secrets.token_hex(8)}", int(time.time()))
        everything = dict(dict.items(self))
        pages = {key for key, value in everything.items() if isinstance(value, dict)}
        for moved in pages, everything.keys() - {shortening.LOGIN}:
            kept = {key: value for key, value in everything.items() if key not in moved}
            value = shortening.shortened(kept, [], partial(self._pack, new))
            if value is not None:
                break
        left = {key: value for key, value in everything.items() if key in moved}
        data = shortening.shortened(
            left, list(left), lambda items: self._rows.dumps((new.id, items))
        )
        cookie = self._send(response, value)

        def write(_request: Request) -> None:
            cookies = response.headers.getall("Set-Cookie")
            # not if caches may keep the response
            if cookie in cookies and not self._table.write(new.id, data.decode()):
                cookies.remove(cookie)
                del response.headers["Set-Cookie"]  # all of them
                for other in cookies:
                    response.headers.add("Set-Cookie", other)
                self._send(response, forget_oldest())

        # when the connection of the request is free: several requests at once would wait for
        # second ones as long as they keep theirs
        self.request.add_finished_callback(write)

    def _pack(self, row: _Row | None, items: dict[str, Any]) -> str:
        """Return the value of a cookie.

        :raises ValueError: it is too long.
        """
        state = {**items, _ROW: tuple(row)} if row else items
        value = self._cookies.dumps((self.accessed, self.created, state))
        # a page that adds nothing must not be the one that writes a row: the time alone makes the
        # compressed session some bytes longer or shorter
        most = MOST_COOKIE if items.keys() - self._known else MOST_COOKIE + 32
        if len(value) > most:
            raise ValueError(f"more than {most} bytes")
        return value.decode()

    def _send(self, response: Response, value: str) -> str:
        """Add a cookie to a response; return its header."""
        response.set_cookie(_COOKIE, value, samesite="Lax")
        return response.headers.getall("Set-Cookie")[-1]


def _reading(name: str, *, always: bool) -> Callable[..., Any]:
    """Return a method of a dictionary that reads the row before.

    :param always: whether it does even if the cookie has the key that is asked for
    """

    def method(self: _Session, *args: Any) -> Any:
        if always or not dict.__contains__(self, args[0]):
            self._load()
        return getattr(super(_Session, self), name)(*args)

    return method


for _name in ("get", "__getitem__", "__contains__", "setdefault"):
    setattr(_Session, _name, _reading(_name, always=False))
# the row may have the key too
for _name in ("pop", "popitem", "items", "keys", "values", "copy", "__iter__", "__len__"):
    setattr(_Session, _name, _reading(_name, always=True))
