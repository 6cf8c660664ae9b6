"""Let shared caches keep pages for anonymous visitors. An option gives the time for each view.

The balancer recognizes anonymous visitors, who have neither logged in nor a session. For them it
requests `/file/812` under the name `/_anonymous/en/file/812`
(:data:`cubicweb_hasite.names.ANONYMOUS`). Only responses under such a name are shared, so a stored
page never reaches a logged-in user. Without such a balancer nothing is shared.

Such a page is rendered without the visitor's headers, and with an empty session. It is shared
only if the rendering shows that it is the same for all: see :func:`_is_shareable`.
"""

import re
from collections.abc import Callable, Mapping
from functools import partial
from typing import Any
from uuid import uuid4

from pyramid.config import Configurator
from pyramid.csrf import get_csrf_token
from pyramid.interfaces import ICSRFStoragePolicy, ISession, ISessionFactory
from pyramid.registry import Registry
from pyramid.request import Request
from pyramid.response import Response
from pyramid.tweens import EXCVIEW, INGRESS, MAIN
from zope.interface import implementer

from cubicweb_hasite import options, parts, paths
from cubicweb_hasite.caches import policy, token
from cubicweb_hasite.names import ANONYMOUS, AUDIENCE_COOKIES

Handler = Callable[[Request], Response]

#: what a tween is over that sees the requests for pages; without cubicweb-web, all requests
ABOVE_PAGES = ("cubicweb_web.bwcompat.TweenHandler", MAIN)

_KEY = "hasite.anonymous_page"
_AUDIENCE_COOKIE = re.compile(AUDIENCE_COOKIES)
_POST_FORM = re.compile(rb"""<form\b[^>]*\bmethod\s*=\s*["']?post[^>]*>""", re.IGNORECASE)
# A form of facets (cubicweb_web.views.facets) is not sent, it has no token: a script reads it, and
# asks /ajax with the visitor's own token.
_FACETS_FORM = re.compile(rb"""<form\b[^>]*\baction="" cubicweb:facetargs="[^>]*>""")


def includeme(config: Configurator) -> None:
    """Let pages be shared if the option `hasite-page-max-age` names views."""
    by_view = options.page_ages(config.registry["cubicweb.config"])
    if by_view:
        config.include(token)
    # without the option too: the balancer may be configured before the instance, or after it
    config.add_tween(
        "cubicweb_hasite.caches.pages.name_tween_factory", under=INGRESS, over=EXCVIEW
    )
    views = parts.views(config.registry["cubicweb.registry"])
    for regid in by_view:
        for view in views[regid]:
            # CubicWeb calls it before it renders the view
            view.http_cache_manager = partial(_Manager, view.http_cache_manager, by_view)
    config.add_tween(
        "cubicweb_hasite.caches.pages.tween_factory",
        under=EXCVIEW,
        over=ABOVE_PAGES,
    )


def name_tween_factory(handler: Handler, registry: Registry) -> Handler:
    """Remove :data:`names.ANONYMOUS` and the language from the path of a request."""

    def name_tween(request: Request) -> Response:
        path = request.environ.get("PATH_INFO", "")
        asked = paths.asked_target(request.environ)
        # it must also be written so, if the server tells: balancers compare what is written
        if path.startswith(ANONYMOUS) and (asked is None or asked[0].startswith(ANONYMOUS)):
            language, _slash, rest = path.removeprefix(ANONYMOUS).partition("/")
            request.environ["PATH_INFO"] = f"/{rest}"
            request.environ[_KEY] = _Page(language)
        return handler(request)

    return name_tween


def tween_factory(handler: Handler, registry: Registry) -> Handler:
    """Give anonymous visitors an empty session. It is kept only if something is put into it."""
    languages = policy.page_languages(registry["cubicweb.config"])

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
    """Let shared caches keep a response if it is a page that they may keep; return whether it is.

    Call it when the response is complete.
    """
    page = request.environ.get(_KEY)
    if page is None or page.age is None or not page.shareable or request.session.changed:
        return False
    cookies = {cookie.partition("=")[0] for cookie in response.headers.getall("Set-Cookie")}
    if not cookies <= {_csrf_cookie(request)}:
        return False
    # CubicWeb makes a token for each request (cubicweb_web.bwcompat), which is not in the page
    for name in ("Set-Cookie", "ETag", "Last-Modified", "Expires", "Vary"):
        if name in response.headers:
            del response.headers[name]  # all of them
    response.headers["Cache-Control"] = policy.page_cache_control(page.age)
    return True


def is_anonymous(request: Request) -> bool:
    """Return whether a request came under the name for pages of anonymous visitors."""
    return _KEY in request.environ


class _Page:
    """A page that was requested under the name for anonymous visitors."""

    #: whether the visitor is anonymous indeed
    renders = False
    #: how long its view may be kept, in seconds; None if the option does not name the view
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
        """Note the age of a page for an anonymous visitor, and drop the headers of the browser."""
        view, req = self._view, self._view._cw
        page = req._request.environ.get(_KEY)
        # a view that inherits from one in the option inherits its manager too
        age = self._by_view.get(view.__regid__)
        if page is None or not page.renders or age is None or req.ajax_request:
            self._stock(view).set_headers()
            return
        page.age = age
        req._headers_in = type(req._headers_in)()
        environ = req._request.environ
        for name in [name for name in environ if name.startswith("HTTP_")]:
            # the cookie holds only the token, which must not be in the page
            if name not in ("HTTP_HOST", "HTTP_COOKIE", "HTTP_ACCEPT_LANGUAGE"):
                del environ[name]


def _is_nobody(request: Request) -> bool:
    """Return whether a request is that of an anonymous visitor, without a session.

    The name alone is no proof: the balancer may not know all ways to log in to this instance.
    """
    return (
        request.method in ("GET", "HEAD")
        and request.registry.get("cubicweb.anonymous_eid") is not None
        and "Authorization" not in request.headers
        and all(
            name == _csrf_cookie(request) or _AUDIENCE_COOKIE.match(f"{name}=")
            for name in request.cookies
        )
        and not request.authenticated_userid
    )


def _is_shareable(request: Request, response: Response) -> bool:
    """Return whether a rendered page is the same for all visitors with its language.

    It is not if it holds a form that a browser sends, a login or a message, or if its view has set
    headers for caches or cookies. (A message comes from the session, which has changed then.)
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
        and all(map(_FACETS_FORM.fullmatch, _POST_FORM.findall(response.body)))
    )


def _csrf_cookie(request: Request) -> str | None:
    policy = request.registry.queryUtility(ICSRFStoragePolicy)
    return getattr(policy, "cookie_name", None)


@implementer(ISession)
class _EmptySession(dict[str, Any]):
    """An empty session, which notes whether something is put into it."""

    created = 0
    new = True
    changed = False

    def __setitem__(self, key: str, value: Any) -> None:
        # at each request CubicWeb sets it to None (cubicweb_web.request)
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
