"""The URLs of pages, and the paths under which caches keep them.

An application names a page as its links do. Caches know it by its path, in the form in which the
balancer requests it. Pages of anonymous visitors are kept under a name for each language
(:data:`cubicweb_hasite.names.ANONYMOUS`).
"""

import logging
import string
from collections.abc import Iterable
from urllib.parse import SplitResult, quote, urlsplit

from cubicweb.entity import Entity
from cubicweb.server.session import Connection

from cubicweb_hasite.caches.policy import page_languages
from cubicweb_hasite.names import ANONYMOUS
from cubicweb_hasite.paths import normal_form

log = logging.getLogger(__name__)

# what browsers do not quote in a URL (https://url.spec.whatwg.org/#percent-encoded-bytes)
_PATH = "".join(sorted(set(string.punctuation) - set('"#<>?^`{}')))
_QUERY = "".join(sorted(set(string.punctuation) - set("\"#<>'")))
_DEFAULT_PORTS = {"http": 80, "https": 443}


class NotAPage(ValueError):
    """A value is not the URL of a page of the site; the message says why."""


def default_urls(entity: Entity) -> set[str]:
    """Return the URLs of the pages that show an entity of any type, relative to the site.

    They are its own page, the list of its type, and the home page.
    """
    etype = entity.cw_etype.lower()
    urls = {f"{etype}/{entity.eid}", f"{entity.eid}", etype, ""}
    try:
        urls.add(entity.rest_path())
    except Exception:  # from the application's own code, which must not fail the edit
        log.exception("no URL of the page to purge of %s", entity)
    return urls


def relative(cnx: Connection, url: object) -> str:
    """Return the URL of a page relative to the site, quoted, without the prefix of a language.

    :param url: what an application gave: a URL with the host of the site, or a path of the site,
        with or without `/` at its beginning; with a query or not
    :raises NotAPage: it is no text, is on another host or outside the site, or is no URL.
    """
    if not isinstance(url, str):
        raise NotAPage("it is no text")
    site = urlsplit(cnx.base_url())
    try:
        parts = urlsplit(url)
        path, query = quote(parts.path, safe=_PATH), quote(parts.query, safe=_QUERY)
    except ValueError as error:  # an address in brackets, or what UTF-8 does not have
        raise NotAPage(str(error)) from error
    absolute = bool(parts.scheme or parts.netloc)
    if absolute and (
        parts.scheme not in ("", *_DEFAULT_PORTS) or host(parts, site.scheme) != host(site)
    ):
        raise NotAPage(f"it is not on {host(site)}")
    normal = normal_form(path if path.startswith("/") else f"/{path}")
    if normal is None:
        raise NotAPage("its path has no normal form")
    if path.startswith("/") and f"{normal}/".startswith(site.path):
        normal = normal.removeprefix(site.path.rstrip("/"))
    elif absolute and path:
        raise NotAPage(f"it is not below {site.path}")
    found = _without_language(cnx, normal.removeprefix("/"))
    return f"{found}?{query}" if query else found


def host(parts: SplitResult, scheme: str = "") -> str:
    """Return the host of a URL as browsers write it (RFC 9110, sections 4.2.3 and 7.2).

    :param scheme: that of the page with the URL, which counts if the URL has none
    """
    default_port = f":{_DEFAULT_PORTS.get(parts.scheme or scheme)}"
    return parts.netloc.rpartition("@")[2].lower().removesuffix(default_port)


def paths(cnx: Connection, urls: Iterable[str]) -> set[str]:
    """Return the paths of URLs that are relative to the site, in all languages."""
    prefixes = [urlsplit(cnx.base_url()).path]
    if _languages_in_paths(cnx):
        languages = cnx.vreg.config.available_languages()
        prefixes += [f"{prefixes[0]}{language}/" for language in languages]
    return {prefix + url for prefix in prefixes for url in urls}


def anonymous_paths(cnx: Connection, urls: Iterable[str]) -> set[str]:
    """Return the paths under which caches keep the pages of anonymous visitors."""
    names = [f"{ANONYMOUS}{language}" for language in page_languages(cnx.vreg.config)]
    return {name + path for name in names for path in paths(cnx, urls)}


def _without_language(cnx: Connection, path: str) -> str:
    first, _slash, rest = path.partition("/")
    if _languages_in_paths(cnx) and first in page_languages(cnx.vreg.config):
        return rest
    return path


def _languages_in_paths(cnx: Connection) -> bool:
    return cnx.vreg.config.get("language-mode") == "url-prefix"
