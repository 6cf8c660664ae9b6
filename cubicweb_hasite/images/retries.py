"""Render a page again if an entity on it was replaced meanwhile.

CubicWeb needs several queries for a page, and each of them sees what is committed by then
(PostgreSQL's READ COMMITTED). If the first query finds an image that has another eid when the
next one reads its attributes, the response is an error 500 (cubicweb/entity.py, line 935). The
page that is rendered again shows the image under its new eid.
"""

import logging
from collections.abc import Callable
from datetime import UTC, datetime, timedelta

from cubicweb.server.session import Connection
from pyramid.httpexceptions import HTTPException
from pyramid.registry import Registry
from pyramid.request import Request
from pyramid.response import Response

from cubicweb_hasite.images import data, replacement

log = logging.getLogger(__name__)

Handler = Callable[[Request], Response]

#: how often a page is made again
RETRIES = 3
#: how much clocks may differ, and how long a replacement may take until it is committed
_MARGIN = timedelta(minutes=1)


def tween_factory(handler: Handler, registry: Registry) -> Handler:
    """Answer a GET or HEAD request again if it fails and something was replaced meanwhile."""

    def retry_tween(request: Request) -> Response:
        start = datetime.now(UTC)
        for _ in range(RETRIES):
            try:
                return handler(request)
            except HTTPException:
                raise
            except Exception as error:
                if request.method not in ("GET", "HEAD") or not _may_succeed(
                    request, error, start
                ):
                    raise
                log.info("%s is made again: %s", request.path, error)
            forget(request)
        return handler(request)

    return retry_tween


def forget(request: Request) -> None:
    """Forget what a request has found, for it to be answered again."""
    cnx: Connection | None = vars(request).get("cw_cnx")  # if it was asked for
    if cnx is not None:
        cnx.rollback()
        cnx.drop_entity_cache()
    for name in ("cw_request", "response", "matchdict", "matched_route"):
        vars(request).pop(name, None)


def _may_succeed(request: Request, error: Exception, start: datetime) -> bool:
    cnx: Connection | None = vars(request).get("cw_cnx")
    if cnx is None or getattr(cnx.cnxset, "failed", False):
        return False
    if isinstance(error, data.Changed):
        return True
    cnx.rollback()
    last = replacement.last(cnx)
    return last is not None and last > start - _MARGIN
