"""Which caches may store a response, and how long: the only policy of the cube (RFC 9111).

A response that shared caches may store holds only what an anonymous visitor may read. It has no
cookie, and does not vary on anything that a visitor controls.
"""

from typing import Any

from webob import Response

NO_STORE = "no-store"
#: How long a redirect from a former eid may be kept, in seconds. It is short, because an image
#: may be replaced again, but longer than Squid's `minimum_expiry_time`, 60 seconds.
REDIRECT_MAX_AGE = 120
_ONE_YEAR = 365 * 24 * 3600


def cache_control(*, shared: bool, max_age: int | None) -> str:
    """Return the value of Cache-Control for data that the visitor may read.

    :param shared: whether an anonymous visitor may read it too
    :param max_age: how long the data may be used without revalidation, in seconds; None for data
        that may change under its URL and must be revalidated at each use
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
    """Return the languages of the pages of an instance."""
    return set(config.available_languages())


def page_cache_control(age: int) -> str:
    """Return the value of Cache-Control for a page that is the same for all anonymous visitors.

    Browsers do not keep it, because the visitor may log in meanwhile.

    :param age: how long shared caches may keep it, in seconds
    """
    return f"public, max-age=0, s-maxage={age}"


def protect(response: Response, *, static: bool, own: bool = False) -> None:
    """Make the response of any view safe for shared caches. It is shared only if it says `public`.

    CubicWeb's own pages depend on the visitor, and some caches store responses that have no
    `Cache-Control`. Errors are never stored, nor redirects without `Cache-Control`.

    :param static: whether it is a static file, which is the same for all and needs no cookie
    :param own: whether it is for this visitor only, even if it says `public`
    """
    headers = response.headers
    if own:
        # The ETag of CubicWeb's pages depends only on the groups of the visitor. Other visitors
        # may wait for the same response in Squid 5.7 (collapsed_forwarding), which would find
        # the page unchanged and give it to them.
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
