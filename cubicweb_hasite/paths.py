"""The normal form of the path of a URL, and the path as it was asked for.

A path is read by several programs: the rules of a balancer and the patterns of a cache compare
it as it was written, an application decodes it first. `/livez`, `/%6Civez` and `/x/../livez` are
one page to the one and three to the other: a rule is got past, and a purge does not reach all
that a cache holds. Here only the normal form has a page; the others lead to it.
"""

import re
from collections.abc import Mapping
from typing import Any
from urllib.parse import urlsplit

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


def site_root(config: Mapping[str, Any]) -> tuple[str, str]:
    """Return what precedes the path of a request in its URL, and the path of the site.

    Both are without a final `/`; the path is empty where requests come without it
    (`receives-base-url-path` of the instance).
    """
    base_url = config["base-url"].rstrip("/")
    prefix = urlsplit(base_url).path if config["receives-base-url-path"] else ""
    return base_url.removesuffix(prefix), prefix


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
