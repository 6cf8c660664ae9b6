"""Tell clients that hold eids, such as front ends over an API, which eid an entity has now."""

import re
from contextlib import closing

from pyramid.config import Configurator
from pyramid.request import Request
from pyramid.response import Response

from cubicweb_hasite import responses
from cubicweb_hasite.caches import policy
from cubicweb_hasite.images import replacement
from cubicweb_hasite.images.visibility import connections, readable_entity

PATH = "/current-eid/{eid}"
#: how often an entity is looked for that is replaced meanwhile
_LOOKS = 10
_EID = re.compile(r"[0-9]{1,10}")


def includeme(config: Configurator) -> None:
    """Add the route of the look-up."""
    config.add_route("hasite_current_eid", PATH)
    config.add_view(current_eid, route_name="hasite_current_eid", request_method="GET")


def current_eid(request: Request) -> Response:
    """Answer which eid the entity has now that has, or had, the eid in the path.

    Who may not read the entity gets the same 404 as for an eid that no entity ever had.
    """
    named = request.matchdict["eid"]
    current = readable_successor(request, int(named)) if _EID.fullmatch(named) else None
    responses.without_cookies(request)
    if current is None:
        return answer(404, "UnknownEid", f"there is no entity {named[:20]}")
    # it may be replaced at any time, and not everybody may read it
    cache_control = policy.cache_control(shared=False, max_age=None)
    return _json(200, {"eid": int(named), "current": current}, cache_control)


def readable_successor(request: Request, eid: int) -> int | None:
    """Return the eid under which an entity is found now that has the eid `eid`, or had it.

    None if there is none that the visitor may read.
    """
    repo = request.registry["cubicweb.repository"]
    current = None
    for _ in range(_LOOKS):
        before = current
        with repo.internal_cnx() as cnx:
            current = replacement.where(cnx, eid)
        if current is None or current == before:
            return None
        with closing(connections(request)) as readers:
            for cnx, _shared in readers:
                if readable_entity(cnx, current) is not None:
                    return current
    return None


def answer(status: int, title: str, message: str, data: dict[str, int] | None = None) -> Response:
    """Return an error in the format of cubicweb-api (cubicweb_api/httperrors.py)."""
    return _json(status, {"title": title, "message": message, "data": data}, policy.NO_STORE)


def _json(status: int, body: dict[str, object], cache_control: str) -> Response:
    response = Response(status=status, json_body=body)
    response.headers["Cache-Control"] = cache_control
    return response
