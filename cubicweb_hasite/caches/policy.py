"""Who may store a response, and for how long: the one policy of the cube (RFC 9111).

A response that shared caches may store holds only what an anonymous visitor may read, carries
no cookie, and varies on nothing that a visitor controls.
"""

from typing import Any

from webob import Response

NO_STORE = "no-store"
#: how long a redirect from a former eid may be kept, in seconds: short, since an image may be
#: replaced again, but longer than Squid's `minimum_expiry_time`, 60 seconds
REDIRECT_MAX_AGE = 120
_ONE_YEAR = 365 * 24 * 3600


def cache_control(*, shared: bool, max_age: int | None) -> str:
    """Return the value of Cache-Control for data that the visitor may read.

    :param shared: whether an anonymous visitor may read it too
    :param max_age: for how long the data may be used without asking, in seconds; None for data
        that may change under its URL, which is to be revalidated at each use
    """
    who = "public" if shared else "private"
    if max_age is None:
        return f"{who}, no-cache"
    # RFC 8246: browsers do not even revalidate on reload
    forever = ", immutable" if max_age >= _ONE_YEAR else ""
    return f"{who}, max-age={max_age}{forever}"


def redirect_cache_control(*, shared: bool) -> str:
    """Return the value of Cache-Control for the redirect from a former eid."""
    return cache_control(shared=shared, max_age=REDIRECT_MAX_AGE)


def page_languages(config: Any) -> set[str]:
    """Return the languages in which pages of an instance may be asked for."""
    return set(config.available_languages())


def page_cache_control(age: int) -> str:
    """Return the value of Cache-Control for a page that is the same for all anonymous visitors.

    Browsers do not keep it: their user may log in meanwhile.

    :param age: for how long shared caches may keep it, in seconds
    """
    return f"public, max-age=0, s-maxage={age}"


def protect(response: Response, *, static: bool, own: bool = False) -> None:
    """Keep what another view answered from shared caches, unless it says `public` itself.

    CubicWeb's own pages depend on who asks, and some caches store a response without any
    `Cache-Control`. Errors, and redirects that are not said to be cacheable, nobody stores.

    :param static: whether it is a static file, which is the same for all and needs no cookie
    :param own: whether it is the visitor's own even if it says `public`
    """
    headers = response.headers
    if own:
        # Of CubicWeb's pages the ETag says the groups of the visitor, no more: Squid 5.7, whose
        # collapsed_forwarding lets others wait for the answer, would take it for theirs.
        for validator in ("ETag", "Last-Modified"):
            headers.pop(validator, None)
    value = headers.get("Cache-Control", "")
    directives = {directive.split("=")[0].strip().lower() for directive in value.split(",")}
    if directives & {"no-store", "private"}:
        return
    if response.status_code >= 400 or (
        300 <= response.status_code < 400 and response.status_code != 304 and not value
    ):
        headers["Cache-Control"] = NO_STORE
    elif own:
        headers["Cache-Control"] = "private, no-cache"
    elif static or directives & {"public", "s-maxage"}:
        if "Set-Cookie" in headers:
            del headers["Set-Cookie"]  # all of them
    else:
        headers["Cache-Control"] = f"{value}, private" if value else "private"
