"""Let a process remember what the database has now."""

import logging
from collections.abc import Collection
from functools import lru_cache

from cubicweb.schema import RQLExpression, normalize_expression
from cubicweb.server.repository import Repository
from cubicweb.server.schemaserial import deserialize_ertype_permissions
from yams.schema import EntitySchema, RelationDefinitionSchema

from cubicweb_hasite.coherence.notices import PROPERTIES, SCHEMA, USERS
from cubicweb_hasite.coherence.users import USERS as KNOWN_USERS
from cubicweb_hasite.operations import restart

log = logging.getLogger(__name__)

#: what the schema consists of, each with an eid (cubicweb.server.schemaserial)
_DEFINITIONS = (
    "Any X WHERE X is CWEType, X final FALSE",
    "Any X WHERE X is IN (CWRType, CWComputedRType, CWRelation, CWAttribute)",
)


def refresh(repo: Repository, parts: Collection[str]) -> set[str]:
    """Read again what has changed.

    :param parts: those of :mod:`.notices`
    :return: the types of which somebody may read fewer than before
    :raises Exception: the database does not answer.
    """
    if USERS in parts:
        KNOWN_USERS.forget()
    if PROPERTIES in parts:
        _read_properties(repo)
    if SCHEMA in parts:
        return _read_schema(repo)
    return set()


def types(repo: Repository, eid: int) -> set[str]:
    """Return the types that a permission is about: of a type, an attribute or a relation.

    :param eid: that of its definition in the schema
    """
    definition = repo.schema._eid_index.get(eid)
    if isinstance(definition, RelationDefinitionSchema):
        ends = {definition.subject, definition.object}
        return {str(each) for each in ends if not each.final}
    return {str(definition)} if isinstance(definition, EntitySchema) else set()


def _read_properties(repo: Repository) -> None:
    """Read the properties of the site (`CWRegistryStore.init_properties` adds, removes none)."""
    stored = dict(repo.properties().rows)
    known = repo.vreg["propertyvalues"]
    repo.vreg.init_properties(stored.items())
    for key in set(known) - set(stored):
        known.pop(key, None)


def _read_schema(repo: Repository) -> set[str]:
    """Read the permissions; say so if the types or the relations are not those that are loaded.

    :return: the types of which somebody may read fewer than before
    """
    lost: set[str] = set()
    schema = repo.schema
    with repo.internal_cnx() as cnx:
        stored = deserialize_ertype_permissions(cnx)
        eids = {eid for query in _DEFINITIONS for (eid,) in cnx.execute(query)}
    known = {eid: each for eid, each in schema._eid_index.items() if isinstance(eid, int)}
    for eid in eids & known.keys():
        definition = known[eid]
        for action in definition.ACTIONS:
            granted = stored.get(eid, {}).get(action, ())
            former = set(map(_text, definition.permissions.get(action, ())))
            if former == set(map(_text, granted)):
                continue
            if action == "read" and former - set(map(_text, granted)):
                lost |= types(repo, eid)
            # requests that run see the former ones or these, never a part of them
            definition.set_action_permissions(
                action,
                tuple(
                    definition.rql_expression(*each) if isinstance(each, tuple) else each
                    for each in granted
                ),
            )
            log.info("%s %s: %s", action, definition, ", ".join(map(_text, granted)))
    restart.advise(repo.config, "" if known.keys() == eids else "the schema has changed")
    return lost


def _text(granted: str | tuple[str, str, int] | RQLExpression) -> str:
    """Return the name of a group, or the text of an expression, loaded or stored."""
    if isinstance(granted, tuple):
        return _normal_form(granted[0])
    return granted if isinstance(granted, str) else str(granted.expression)


@lru_cache(4096)
def _normal_form(expression: str) -> str:
    return str(normalize_expression(expression))  # it parses the expression
