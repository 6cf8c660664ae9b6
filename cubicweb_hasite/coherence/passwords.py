"""Sessions end when the password of their user changes, but for the one that changes it.

The ticket that a login puts into the cookie (cubicweb.pyramid.auth) gets a token of the password
that is stored. Each request compares it with the one that is stored then.
"""

from collections.abc import Iterable
from hashlib import blake2b
from typing import Any

from cubicweb.pyramid.auth import CWAuthTktAuthenticationPolicy
from cubicweb.server.session import Connection
from cubicweb.server.sqlutils import SQL_PREFIX
from pyramid.request import Request
from pyramid.response import Response

_PREFIX = "password_"


def token(stored: Any) -> str:
    """Return the token of a password, of which it tells nothing.

    :param stored: the password as it is in the database, which is salted and hashed; None of a
        user without one
    """
    return _PREFIX + blake2b(bytes(stored or b""), digest_size=16).hexdigest()


def stored_password(cnx: Connection, eid: int) -> Any:
    """Return the password of a user as it is in the database."""
    [password] = cnx.system_sql(
        f"SELECT {SQL_PREFIX}upassword FROM {SQL_PREFIX}CWUser WHERE {SQL_PREFIX}eid=%(eid)s",
        {"eid": eid},
    ).fetchone()
    return password


def remember_tokens(policy: Any) -> None:
    """Let an authentication policy put the token of the password into each ticket."""
    stock = policy.remember

    def remember(request: Request, principal: int, **options: Any) -> Any:
        with request.registry["cubicweb.repository"].internal_cnx() as cnx:
            of_password = token(stored_password(cnx, int(principal)))
        tokens = (*options.pop("tokens", ()), of_password)
        return stock(request, principal, tokens=tokens, **options)

    policy.remember = remember


def is_valid(request: Request, stored: Any) -> bool:
    """Return whether the ticket of a request is of the password that is stored.

    Tickets without a token are: those of an earlier version, and other ways to log in.
    """
    tokens: Iterable[str] = request.environ.get("REMOTE_USER_TOKENS", ())
    given = {each for each in tokens if each.startswith(_PREFIX)}
    valid = {token(stored), getattr(request, "_hasite_password", "")}
    return not given or bool(given & valid)


def renew(request: Request, eid: int, stored: Any) -> None:
    """Let the session of a request go on after it has changed its user's own password."""
    given = {each for each in request.environ.get("REMOTE_USER_TOKENS", ()) if each}
    if not any(each.startswith(_PREFIX) for each in given):
        return
    # what this request asks of its ticket later is answered as before
    request._hasite_password = next(each for each in given if each.startswith(_PREFIX))
    others = sorted(each for each in given if not each.startswith(_PREFIX))
    for policy in request.registry["cubicweb.authpolicy"]._policies:
        if not isinstance(policy, CWAuthTktAuthenticationPolicy):
            continue
        if policy.cookie.cookie_name not in request.cookies:
            continue
        headers = policy.cookie.remember(
            request, eid, max_age=policy.cookie.max_age, tokens=(*others, token(stored))
        )

        def add(_request: Request, response: Response, headers: Any = headers) -> None:
            response.headerlist.extend(headers)

        request.add_response_callback(add)
