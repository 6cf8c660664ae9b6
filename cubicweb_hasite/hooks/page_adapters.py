"""Ask the adapters of applications which pages show an entity.

They are code of others, which may fail and may run queries. An edit of a type for which no
application has an adapter runs no query more.
"""

import logging
from collections.abc import Iterable
from dataclasses import dataclass, field

from cubicweb.entity import Entity
from cubicweb.predicates import EClassPredicate, EntityPredicate, relation_possible
from cubicweb.server.session import Connection
from logilab.common.registry import AndPredicate, OrPredicate, Predicate

from cubicweb_hasite.caches import page_urls
from cubicweb_hasite.database.savepoint import savepoint

log = logging.getLogger(__name__)

#: the adapters that are asked, with the method of each: that of the cube, and that of
#: cubicweb-varnish 1.0.0
PAGES, VARNISH = "ICachedPages", "IVarnish"
_METHODS = {PAGES: "urls", VARNISH: "urls_to_purge"}
_CUBE = __name__.partition(".")[0]

#: the adapters with a problem that was logged
_logged: set[str] = set()


@dataclass
class Pages:
    """Pages of caches, by their URLs relative to the site."""

    #: of which caches keep what anonymous visitors share
    shared: set[str] = field(default_factory=set)
    #: that caches may keep under the URLs themselves
    own: set[str] = field(default_factory=set)

    def add(self, other: "Pages") -> None:
        """Add other pages."""
        self.shared |= other.shared
        self.own |= other.own


def adapters(cnx: Connection, etype: str) -> list[str]:
    """Return for which identifiers an application may have an adapter for an entity type.

    No query is run. Parts of a selector that depend on the entity are taken as fulfilled.
    """
    registry = cnx.vreg["adapters"]
    return [
        regid
        for regid in _METHODS
        if any(
            _may_select(adapter.__select__, cnx, etype)
            for adapter in registry.get(regid, ())
            if adapter.__module__.partition(".")[0] != _CUBE
        )
    ]


def _may_select(predicate: Predicate, cnx: Connection, etype: str) -> bool:
    if isinstance(predicate, AndPredicate):
        return all(_may_select(part, cnx, etype) for part in predicate.selectors)
    if isinstance(predicate, OrPredicate):
        return any(_may_select(part, cnx, etype) for part in predicate.selectors)
    if isinstance(predicate, EClassPredicate) and (
        # in name it depends on the entity, but scores its class first
        isinstance(predicate, relation_possible) or not isinstance(predicate, EntityPredicate)
    ):
        return predicate.score_class(cnx.vreg["etypes"].etype_class(etype), cnx) > 0
    return True


def pages(cnx: Connection, eid: int) -> Pages:
    """Return the pages that show an entity as it is in the database, in this transaction."""
    found, etype = Pages(), cnx.entity_type(eid)
    asked = adapters(cnx, etype)
    if PAGES not in asked:
        found.shared |= _default_urls(cnx, eid)
    if asked:
        # another object than that which is being edited, whose attributes are new already
        entity = cnx.vreg["etypes"].etype_class(etype)(cnx, cnx.eid_rset(eid, etype), 0, 0)
        for regid in asked:
            found.add(_ask(entity, regid))
    return found


def pages_of_edited(entity: Entity) -> Pages:
    """Return the pages that an adapter of cubicweb-varnish names for an entity being edited.

    cubicweb-varnish asks so, before each update, and an adapter may look into `cw_edited`.
    """
    asked = VARNISH in adapters(entity._cw, entity.cw_etype)
    return _ask(entity, VARNISH) if asked else Pages()


def _ask(entity: Entity, regid: str) -> Pages:
    """Return the pages that the adapter of an entity names; after an error the default ones too.

    :raises source.DbapiError: the connection to the database is lost.
    """
    cnx: Connection = entity._cw
    name, own, given = f"the adapter {regid} of {entity.cw_etype}", True, []
    with savepoint(cnx) as errors, cnx.security_enabled(read=False):
        adapter = entity.cw_adapt_to(regid)
        if adapter is None:
            return Pages()
        name = f"{type(adapter).__module__}.{type(adapter).__qualname__}"
        own = regid == VARNISH or not adapter.anonymous_only
        urls = getattr(adapter, _METHODS[regid])()
        if isinstance(urls, str):
            raise TypeError(f"{urls!r} is a text: give a list of URLs")
        if urls is not None or regid != VARNISH:  # adapters of cubicweb-varnish may return None
            given.extend(urls)
    found, refused = _relative(cnx, given)
    if errors:
        found |= _default_urls(cnx, entity.eid)
    if regid == VARNISH:
        found |= {url.partition("?")[0] for url in found}  # it compares the paths alone
    _report(name, entity, errors, refused)
    return Pages(found, found if own else set())


def _default_urls(cnx: Connection, eid: int) -> set[str]:
    with cnx.security_enabled(read=False):
        return page_urls.default_urls(cnx.entity_from_eid(eid))


def _relative(cnx: Connection, urls: Iterable[object]) -> tuple[set[str], list[str]]:
    """Return URLs relative to the site, and which of them are refused, with the reasons."""
    found, refused = set(), []
    for url in urls:
        try:
            found.add(page_urls.relative(cnx, url))
        except page_urls.NotAPage as error:
            refused.append(f"{url!r} ({error})")
    return found, refused


def _report(name: str, entity: Entity, errors: list[Exception], refused: list[str]) -> None:
    """Log the first problem of an adapter, and the first after it had none."""
    if not errors and not refused:
        _logged.discard(name)
        return
    if name in _logged:
        return
    _logged.add(name)
    which = f"{entity.cw_etype} {entity.eid}"
    for error in errors:
        log.error("%s fails for %s, its default pages are purged", name, which, exc_info=error)
    if refused:
        log.error("%s names no pages for %s: %s", name, which, ", ".join(refused))
