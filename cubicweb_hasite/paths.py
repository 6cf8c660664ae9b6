"""The normal form of the path of a URL, and what is answered to a path that is not in it.

A path is read by several programs: the rules of a balancer and the patterns of a cache compare
it as it was written, an application decodes it first. `/livez`, `/%6Civez` and `/x/../livez` are
one page to the one and three to the other: a rule is got past, and a purge does not reach all
that a cache holds. Here only the normal form has a page; the others lead to it.
"""

import re
import string
from collections.abc import Callable, Mapping
from typing import Any
from urllib.parse import quote

from pyramid.registry import Registry
from pyramid.request import Request
from pyramid.response import Response

from cubicweb_hasite import caching, downloads, urls

Handler = Callable[[Request], Response]

_NOT_ENCODED = re.compile("%(?![0-9A-Fa-f]{2})")
_ENCODED = re.compile("%[0-9A-Fa-f]{2}")
# RFC 3986, section 2.3
_UNRESERVED = re.compile(r"[A-Za-z0-9._~-]")


def normal_form(path: str) -> str | None:
    """Return the normal form of a path, None if it has none.

    That of RFC 3986, section 6.2.2: characters that need not be encoded are not, the hexadecimal
    digits of others are capitals, and there is no segment `.` or `..`. Nor is there an empty one,
    but the last. What leads above the root has none. HAProxy's `normalize-uri` finds the same.

    :param path: as it was asked for, encoded, without a query
    """
    if not path.startswith("/") or _NOT_ENCODED.search(path):
        return None
    decoded = _ENCODED.sub(_decode, path)
    kept: list[str] = []
    *segments, last = decoded.split("/")
    if last in (".", ".."):
        segments.append(last)
        last = ""
    for segment in segments:
        if segment == "..":
            if not kept:
                return None
            kept.pop()
        elif segment not in ("", "."):
            kept.append(segment)
    return "/".join(["", *kept, last])


def _decode(match: re.Match[str]) -> str:
    character = chr(int(match[0][1:], 16))
    return character if _UNRESERVED.match(character) else match[0].upper()


def asked_target(environ: Mapping[str, Any]) -> tuple[str, str] | None:
    """Return the path that was asked for, and `?` and the query, as they were written.

    WSGI hands out a decoded path. Servers tell the other beside it: `RAW_URI` is gunicorn's name,
    `REQUEST_URI` that of waitress, uWSGI and mod_wsgi.

    :return: None if the server does not tell
    """
    target = environ.get("RAW_URI") or environ.get("REQUEST_URI")
    if not target:
        return None
    if not target.startswith("/"):
        # RFC 9112, section 3.2.2: with scheme and host, as proxies are asked
        target = re.sub("^[A-Za-z][A-Za-z0-9+.-]*://[^/?#]*", "", target)
    path, mark, query = target.partition("#")[0].partition("?")
    return path or "/", mark + query


def tween_factory(handler: Handler, registry: Registry) -> Handler:
    """Lead a path that is not in normal form to the one that is, and refuse one that has none."""
    config = registry["cubicweb.config"]
    root, _prefix = urls.site_root(config)

    def path_tween(request: Request) -> Response:
        asked = asked_target(request.environ)
        if asked is None:
            return handler(request)
        path, query = asked
        normal = normal_form(path)
        if normal == path:
            return handler(request)
        if normal is None:
            return downloads.refuse(400, "the path of this address is not one")
        # the balancer's name for it is not for visitors
        normal = re.sub(f"^{caching.ANONYMOUS}[^/]*(?=/)", "", normal)
        # 308, since a form is sent again as it was; not to the Host that the visitor gives
        # WSGI takes bytes for Latin-1 (PEP 3333)
        location = root + quote(normal + query, safe=string.punctuation, encoding="latin-1")
        response = Response(status=308, content_type="text/plain", charset="utf-8")
        response.location = location
        response.text = f"{location}\n"
        response.headers["Cache-Control"] = caching.NO_STORE
        return response

    return path_tween
