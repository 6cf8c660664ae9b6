"""Purge the pages that show an entity when it changes."""

from collections.abc import Mapping

from cubicweb.entity import Entity
from cubicweb.predicates import is_instance
from cubicweb.schema import INTERNAL_TYPES, META_RTYPES
from cubicweb.server import hook
from cubicweb.server.session import Connection

from cubicweb_hasite import options
from cubicweb_hasite.caches import page_urls, purge
from cubicweb_hasite.hooks import CATEGORY, page_adapters
from cubicweb_hasite.hooks.purge import CachesOp


class PurgePagesHook(hook.Hook):
    """Purge the pages that show an entity when it is added, changed or deleted."""

    __regid__ = "hasite.purge_pages"
    __select__ = hook.Hook.__select__ & ~is_instance("FormerEid", *INTERNAL_TYPES)
    events = ("after_add_entity", "before_update_entity", "before_delete_entity")
    category = CATEGORY

    def __call__(self) -> None:
        edited = self.entity if self.event == "before_update_entity" else None
        # a login changes a user too, but not the pages
        if edited is None or set(edited.cw_edited) != {"last_login_time", "modification_date"}:
            PurgePagesOp.add(self._cw, self.entity.eid, edited)


class PurgePagesOnRelationHook(hook.Hook):
    """Purge the pages of both entities when a relation between them is added or deleted."""

    __regid__ = "hasite.purge_pages_on_relation"
    __select__ = hook.Hook.__select__ & ~hook.match_rtype(*META_RTYPES)
    events = ("before_add_relation", "before_delete_relation")
    category = CATEGORY

    def __call__(self) -> None:
        for eid in (self.eidfrom, self.eidto):
            PurgePagesOp.add(self._cw, eid)


class PurgePagesOp(CachesOp):
    """Purge the pages of entities, under their URLs before and after the transaction."""

    def __init__(self, *args: object, **kwargs: object) -> None:
        super().__init__(*args, **kwargs)
        self._own_urls: set[str] = set()

    @classmethod
    def add(cls, cnx: Connection, eid: int, edited: Entity | None = None) -> None:
        """Purge the pages that show an entity.

        :param edited: the entity, if its attributes are being edited
        """
        config = cnx.vreg.config
        if not purge.purgers(config) or not (
            options.page_ages(config) or page_adapters.adapters(cnx, cnx.entity_type(eid))
        ):
            return
        operation = cls.get_instance(cnx)
        if eid not in operation:
            # no page shows a new entity before the commit
            is_new = cnx.added_in_transaction(eid)
            operation._note(
                eid, page_adapters.Pages() if is_new else page_adapters.pages(cnx, eid)
            )
        if edited is not None:
            operation._note(eid, page_adapters.pages_of_edited(edited))

    def _note(self, eid: int, pages: page_adapters.Pages) -> None:
        self.add_urls(eid, pages.shared)
        self._own_urls |= pages.own

    def paths(self, urls: Mapping[int, set[str]]) -> set[str]:
        found = page_adapters.Pages(set().union(*urls.values()), self._own_urls)
        for eid in urls:
            if not self.cnx.deleted_in_transaction(eid):
                found.add(page_adapters.pages(self.cnx, eid))
        paths = page_urls.paths(self.cnx, found.own)
        if options.page_ages(self.cnx.vreg.config):
            paths |= page_urls.anonymous_paths(self.cnx, found.shared)
        return paths
