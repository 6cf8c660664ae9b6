"""The roles and the directive by which a text in ReStructuredText names eids, former ones too.

They replace those of cubicweb_web.ext.rest, and call them. URLs in texts need nothing: those of
former eids are redirected.
"""

from typing import Any

from cubicweb import UnknownEid
from cubicweb_web.ext import rest
from docutils.parsers.rst import directives
from docutils.parsers.rst.roles import register_canonical_role
from docutils.statemachine import StringList

from cubicweb_hasite.images import former

# what a role of docutils returns: nodes, and messages
Nodes = tuple[list[Any], list[Any]]


def eid_role(role: str, raw: str, text: str, line: int, inliner: Any, *args: Any) -> Nodes:
    """Link to an entity: `:eid:`812:its name``."""
    current = _current_eid_first(_cnx(inliner.document), text)
    return rest.eid_reference_role(role, raw, current, line, inliner, *args)


def rql_role(role: str, raw: str, text: str, line: int, inliner: Any, *args: Any) -> Nodes:
    """Show what a query finds: `:rql:`Any X WHERE X eid 812:table``."""
    rql, colon, vid = text.strip().rpartition(":")
    if not colon:
        rql, vid = vid, ""
    current = former.current_rql(_cnx(inliner.document), rql) + colon + vid
    return rest.rql_role(role, raw, current, line, inliner, *args)


def bookmark_role(role: str, raw: str, text: str, line: int, inliner: Any, *args: Any) -> Nodes:
    """Show what the query of a bookmark finds: `:bookmark:`1234:table``."""
    req = inliner.document.settings.context._cw
    eid = text.strip().partition(":")[0]
    try:
        # CubicWeb gets this very object
        bookmark = req.entity_from_eid(int(eid))
        stock = bookmark.path
        path, mark, query = stock.partition("?")
        parameters = dict(req.url_parse_qsl(query))
        rql = former.current_rql(_cnx(inliner.document), parameters["rql"])
    except (UnknownEid, ValueError, KeyError, AttributeError):
        return rest.bookmark_role(role, raw, text, line, inliner, *args)
    if rql == parameters["rql"]:
        return rest.bookmark_role(role, raw, text, line, inliner, *args)
    bookmark.cw_attr_cache["path"] = (
        path + mark + req.build_url_params(**{**parameters, "rql": rql})
    )
    try:
        return rest.bookmark_role(role, raw, text, line, inliner, *args)
    finally:
        bookmark.cw_attr_cache["path"] = stock


class RQLTableDirective(rest.RQLTableDirective):
    """Show what a query finds in a table."""

    content: Any

    def run(self) -> list[Any]:
        """Return the nodes of the table."""
        rql = " ".join(line.strip() for line in self.content)
        current = former.current_rql(_cnx(self.state.document), rql)
        if current != rql:
            self.content = StringList([current])
        return super().run()


def _cnx(document: Any) -> Any:
    """Return the connection of the page, or of the script, that a document is made for."""
    req = document.settings.context._cw
    return getattr(req, "cnx", req)


def _current_eid_first(cnx: Any, text: str) -> str:
    eid, colon, rest_of_text = text.partition(":")
    # CubicWeb says of what is no eid that it is none
    current = former.successor(cnx, int(eid)) if eid.isascii() and eid.isdigit() else None
    return text if current is None else f"{current}{colon}{rest_of_text}"


def register() -> None:
    """Let docutils take these for CubicWeb's own, which the configuration has registered."""
    register_canonical_role("eid", eid_role)
    register_canonical_role("rql", rql_role)
    register_canonical_role("bookmark", bookmark_role)
    directives.register_directive("rql-table", RQLTableDirective)
