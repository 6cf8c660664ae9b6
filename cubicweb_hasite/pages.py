"""Let shared caches keep pages for anonymous visitors, for as long as an option says of each view.

The balancer tells anonymous visitors from others: it asks the caches, and they the instance, for
the page `/file/812` of a visitor who has neither logged in nor a session under the name
`/_anonymous/en/file/812` (:data:`caching.ANONYMOUS`). Only an answer under such a name is shared,
so that a stored page is never given to another visitor: where there is no such balancer nothing
is shared.

Such a page is rendered with nothing of the visitor: his headers are taken away, and his session
is an empty one. What the rendering did decides whether it is shared: see :func:`_is_shareable`.
"""

import re
from collections.abc import Callable, Mapping
from functools import partial
from typing import Any
from uuid import uuid4

from cubicweb import ConfigurationError
from cubicweb_web.http_headers import Headers
from pyramid.config import Configurator
from pyramid.csrf import get_csrf_token
from pyramid.interfaces import ICSRFStoragePolicy, ISession, ISessionFactory
from pyramid.registry import Registry
from pyramid.request import Request
from pyramid.response import Response
from pyramid.tweens import EXCVIEW, INGRESS
from zope.interface import implementer

from cubicweb_hasite import caching, paths
from cubicweb_hasite.caching import ANONYMOUS

Handler = Callable[[Request], Response]

_KEY = "hasite.anonymous_page"
# of the programs that measure audiences: they mean nothing to CubicWeb
_FOREIGN_COOKIE = re.compile("_ga[_=]|_gid=|_gat[_=]|_gcl_|_pk_|_hj|_fbp=|_clck=|_clsk=|__utm")
_POST_FORM = re.compile(rb"""<form\b[^>]*\bmethod\s*=\s*["']?post""", re.IGNORECASE)


def includeme(config: Configurator) -> None:
    """Let pages be shared if the option `hasite-page-max-age` names views.

    :raises ConfigurationError: the option makes no sense.
    """
    by_view = caching.page_ages(config.registry["cubicweb.config"])
    # a balancer may use the name already, or still
    config.add_tween("cubicweb_hasite.pages.name_tween_factory", under=INGRESS, over=EXCVIEW)
    views = config.registry["cubicweb.registry"]["views"]
    for regid in by_view:
        if regid not in views:
            raise ConfigurationError(f"option hasite-page-max-age: there is no view {regid!r}")
        for view in views[regid]:
            # where CubicWeb has a view say who may keep it, before it is rendered
            view.http_cache_manager = partial(_Manager, view.http_cache_manager, by_view)
    config.add_tween(
        "cubicweb_hasite.pages.tween_factory",
        under=EXCVIEW,
        over="cubicweb_web.bwcompat.TweenHandler",
    )


def name_tween_factory(handler: Handler, registry: Registry) -> Handler:
    """Lead :data:`caching.ANONYMOUS` and what follows to the page that was asked for."""

    def name_tween(request: Request) -> Response:
        path = request.environ.get("PATH_INFO", "")
        asked = paths.asked_target(request.environ)
        # written so too, if the server tells: balancers compare what is written
        if path.startswith(ANONYMOUS) and (asked is None or asked[0].startswith(ANONYMOUS)):
            language, _slash, rest = path.removeprefix(ANONYMOUS).partition("/")
            request.environ["PATH_INFO"] = f"/{rest}"
            request.environ[_KEY] = _Page(language)
        return handler(request)

    return name_tween


def tween_factory(handler: Handler, registry: Registry) -> Handler:
    """Give anonymous visitors an empty session, which is kept if something is put into it."""
    languages = caching.page_languages(registry["cubicweb.config"])

    def anonymous_page_tween(request: Request) -> Response:
        page = request.environ.get(_KEY)
        if page is None or page.language not in languages or not _is_nobody(request):
            return handler(request)
        page.renders = True
        session = request.session = _EmptySession()
        request.accept_language = page.language
        try:
            response = handler(request)
        finally:
            if session.changed:
                request.session = request.registry.getUtility(ISessionFactory)(request)
                request.session.update(session)
        page.shareable = not session.changed and _is_shareable(request, response)
        if page.age is not None and not page.shareable:
            response.headers.setdefault("Cache-Control", "no-cache")  # as CubicWeb's pages have
        return response

    return anonymous_page_tween


def share(request: Request, response: Response) -> bool:
    """Let shared caches keep a response if it is a page that they may; return whether it is.

    To be called when nothing is added to the response any more.
    """
    page = request.environ.get(_KEY)
    if page is None or page.age is None or not page.shareable or request.session.changed:
        return False
    cookies = {cookie.partition("=")[0] for cookie in response.headers.getall("Set-Cookie")}
    if not cookies <= {_csrf_cookie(request)}:
        return False
    # CubicWeb makes a token for each request (cubicweb_web.bwcompat); the page does not hold it
    for name in ("Set-Cookie", "ETag", "Last-Modified", "Expires", "Vary"):
        if name in response.headers:
            del response.headers[name]  # all of them
    response.headers["Cache-Control"] = caching.page_cache_control(page.age)
    return True


def is_anonymous(request: Request) -> bool:
    """Return whether a request came under the name for pages of anonymous visitors."""
    return _KEY in request.environ


class _Page:
    """What is known of the page that answers an anonymous visitor."""

    #: whether the visitor is one indeed
    renders = False
    #: for how long its view may be kept, in seconds; None if the option does not name it
    age: int | None = None
    shareable = False

    def __init__(self, language: str) -> None:
        self.language = language


class _Manager:
    """Cache manager (cubicweb_web.httpcache) of the views that the option names."""

    def __init__(self, stock: type, by_view: Mapping[str, int], view: Any) -> None:
        self._stock = stock
        self._by_view = by_view
        self._view = view

    def set_headers(self) -> None:
        """Note the age of a page for an anonymous visitor, and forget what his browser says."""
        view, req = self._view, self._view._cw
        page = req._request.environ.get(_KEY)
        # views that inherit from those that are named inherit their manager too
        age = self._by_view.get(view.__regid__)
        if page is None or not page.renders or age is None or req.ajax_request:
            self._stock(view).set_headers()
            return
        page.age = age
        req._headers_in = Headers()
        environ = req._request.environ
        for name in [name for name in environ if name.startswith("HTTP_")]:
            # the cookie is that of the token, which the page must not hold
            if name not in ("HTTP_HOST", "HTTP_COOKIE", "HTTP_ACCEPT_LANGUAGE"):
                del environ[name]


def _is_nobody(request: Request) -> bool:
    """Return whether a request is that of an anonymous visitor, without a session.

    Whatever its name says: who gave it may not know all the ways in which one logs in here.
    """
    return (
        request.method in ("GET", "HEAD")
        and request.registry.get("cubicweb.anonymous_eid") is not None
        and "Authorization" not in request.headers
        and all(
            name == _csrf_cookie(request) or _FOREIGN_COOKIE.match(f"{name}=")
            for name in request.cookies
        )
        and not request.authenticated_userid
    )


def _is_shareable(request: Request, response: Response) -> bool:
    """Return whether a rendered page is the same for all who read its language.

    It is not when it holds a form, a login or a message, or when its view says something of
    caches or cookies by itself. (A message comes by the session, which has changed then.)
    """
    headers = response.headers
    vary = {field.strip().lower() for field in ",".join(headers.getall("Vary")).split(",")}
    return (
        response.status_code == 200
        and response.content_type == "text/html"
        and not request.authenticated_userid
        and "Cache-Control" not in headers
        and "Set-Cookie" not in headers
        and vary <= {"", "accept-language"}
        and get_csrf_token(request).encode() not in response.body
        and not _POST_FORM.search(response.body)
    )


def _csrf_cookie(request: Request) -> str | None:
    policy = request.registry.queryUtility(ICSRFStoragePolicy)
    return getattr(policy, "cookie_name", None)


@implementer(ISession)
class _EmptySession(dict):
    """A session in which there is nothing, and which tells if something was put into it."""

    created = 0
    new = True
    changed = False

    def __setitem__(self, key: str, value: Any) -> None:
        # at each request CubicWeb says that nothing is searched for (cubicweb_web.request)
        if (key, value) != ("search_state", None):
            self.changed = True
            super().__setitem__(key, value)

    def setdefault(self, key: str, default: Any = None) -> Any:
        if key not in self:
            self[key] = default
        return self[key]

    def update(self, *args: Any, **kwargs: Any) -> None:
        for key, value in dict(*args, **kwargs).items():
            self[key] = value

    def invalidate(self) -> None:
        self.clear()

    def flash(self, msg: str, queue: str = "", allow_duplicate: bool = True) -> None:
        messages = self.setdefault(f"_f_{queue}", [])
        if allow_duplicate or msg not in messages:
            messages.append(msg)

    def pop_flash(self, queue: str = "") -> list[str]:
        return self.pop(f"_f_{queue}", [])

    def peek_flash(self, queue: str = "") -> list[str]:
        return self.get(f"_f_{queue}", [])

    def new_csrf_token(self) -> str:
        self["_csrft_"] = uuid4().hex
        return self["_csrft_"]

    def get_csrf_token(self) -> str:
        return self.get("_csrft_") or self.new_csrf_token()
