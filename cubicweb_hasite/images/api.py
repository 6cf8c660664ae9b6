"""Writes by cubicweb-api to an entity that was replaced: 409, with the eid that it has now.

Without it a write to a former eid changes nothing, or is an error 500. A client that has the
current eid may write again, if it still wants to. Nothing is written to the current eid in its
place: the client has not seen what it is about to change.
"""

import json
import re
from collections.abc import Callable, Iterator
from typing import Any

from cubicweb import UnknownEid, ValidationError
from pyramid.registry import Registry
from pyramid.request import Request
from pyramid.response import Response
from rql import nodes, parse
from rql._exceptions import RQLException

from cubicweb_hasite.images import lookup, replacement, urls
from cubicweb_hasite.storages.errors import StorageUnavailable

Handler = Callable[[Request], Response]

_PATH = re.compile(f"{urls.API}rql$")
#: how queries begin that write
_WRITES = re.compile(r"\s*(insert|set|delete)\b", re.IGNORECASE)
_EID = re.compile("[0-9]{1,10}")
_FOREIGN_KEY_VIOLATION = "23503"  # PostgreSQL's error code


def tween_factory(handler: Handler, registry: Registry) -> Handler:
    """Answer 409 to writes to former eids, and 404 to those to eids that no entity has."""

    def api_tween(request: Request) -> Response:
        if request.method != "POST" or not _PATH.search(request.path):
            return handler(request)
        eids = list(_written(request))
        refused = _conflict(request, eids)
        if refused is not None:
            return refused
        try:
            return handler(request)
        except Exception as error:
            cause = getattr(error, "original_exception", error)
            if isinstance(cause, StorageUnavailable):
                request.cw_cnx.rollback()
                return lookup.answer(503, "StorageUnavailable", str(cause))
            refused = _explain(request, cause, eids)
            if refused is None:
                raise
            return refused

    return api_tween


def _written(request: Request) -> Iterator[int]:
    """Yield the eids that the queries of a request name which write."""
    try:
        multipart = request.content_type == "multipart/form-data"
        queries = json.loads(request.POST["queries"] if multipart else request.body)
        for query in queries:
            yield from _eids(query["query"], query.get("params") or {})
    except (ValueError, KeyError, TypeError, AttributeError):  # cubicweb-api tells what is wrong
        return


def _eids(query: str, params: dict[str, Any]) -> Iterator[int]:
    if not _WRITES.match(query):
        return
    try:
        tree = parse(query, print_errors=False)
    except RQLException:
        return
    for relation in tree.iget_nodes(nodes.Relation):
        if relation.r_type != "eid":
            continue
        for constant in relation.children[1].iget_nodes(nodes.Constant):
            value = params.get(constant.value) if constant.type == "Substitute" else constant.value
            if isinstance(value, int | str) and _EID.fullmatch(str(value)):
                yield int(value)


def _conflict(request: Request, eids: list[int]) -> Response | None:
    """Return the answer to a write to the first of the eids that is a former one, if any is."""
    if not eids:
        return None
    with request.registry["cubicweb.repository"].internal_cnx() as cnx:
        former = replacement.former_among(cnx, eids)
    for eid in former:
        current = lookup.readable_successor(request, eid)
        if current is not None and current != eid:
            return lookup.answer(
                409,
                "FormerEid",
                f"the entity {eid} was replaced: it is {current} now",
                {"former": eid, "current": current},
            )
    return None


def _explain(request: Request, error: Exception, eids: list[int]) -> Response | None:
    """Return the answer to a write that failed because an entity is gone, None if none is.

    :param eids: those that the queries name
    """
    if isinstance(error, UnknownEid):
        gone = [*_numbers(error.args), *eids]
    elif isinstance(error, ValidationError):
        # not an entity that the queries create: nobody knows its eid
        gone = [eid for eid in _numbers([error.entity]) if eid in eids]
    elif getattr(error, "pgcode", None) == _FOREIGN_KEY_VIOLATION:
        gone = eids
    else:
        return None
    request.cw_cnx.rollback()
    conflict = _conflict(request, gone)
    if conflict is not None:
        return conflict
    with request.registry["cubicweb.repository"].internal_cnx() as cnx:
        for eid in gone:
            if replacement.entity_type(cnx, eid) is None:
                return lookup.answer(404, "UnknownEid", f"there is no entity {eid}")
    return None


def _numbers(values: Any) -> Iterator[int]:
    for value in values:
        if _EID.fullmatch(str(value)):
            yield int(value)
