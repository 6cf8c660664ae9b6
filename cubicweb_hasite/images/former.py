"""Where an eid that somebody has written down leads now, if the user may know it."""

from cubicweb.server.session import Connection
from rql import parse
from rql._exceptions import RQLException
from rql.nodes import Comparison, Constant, Function, Relation

from cubicweb_hasite.images import replacement
from cubicweb_hasite.images.visibility import readable_entity


def successor(cnx: Connection, eid: int) -> int | None:
    """Return the current eid of the entity that had an eid.

    None if it is no former eid, or if the user of the connection may not read the entity.
    """
    current = replacement.current_eid(cnx, eid, reconnect=False)
    if current is None or readable_entity(cnx, current) is None:
        return None
    return current


def current_rql(cnx: Connection, rql: str) -> str:
    """Return a query with the current eids in place of the former ones that it names.

    What names an eid is `X eid 812`, `X eid IN (812, 813)` and `X rtype 812`. A query that names
    no former eid, or that is wrong, is returned as it is.
    """
    try:
        tree = parse(rql, print_errors=False)
    except (RQLException, IndexError):  # the latter for an empty query, in rql 1.0.2
        return rql
    changed = False
    for select in tree.children:
        for constant in select.get_nodes(Constant):
            if constant.type == "Int" and _is_eid(cnx, constant):
                current = successor(cnx, constant.value)
                if current is not None:
                    constant.value = current
                    changed = True
    return tree.as_string() if changed else rql


def _is_eid(cnx: Connection, constant: Constant) -> bool:
    node = constant.parent
    if isinstance(node, Function) and node.name == "IN":
        node = node.parent
    if not isinstance(node, Comparison) or node.operator != "=":
        return False
    relation = node.parent
    if not isinstance(relation, Relation):
        return False
    if relation.r_type in ("eid", "identity"):
        return True
    schema = cnx.vreg.schema
    return relation.r_type in schema and not schema.relation_schema_for(relation.r_type).final
