"""Replace an entity when its immutable data changes; delete its former eids with it."""

from cubicweb import Binary, UnknownEid
from cubicweb.entity import Entity, EntityAdapter
from cubicweb.predicates import is_instance
from cubicweb.server import hook
from cubicweb.server.session import NO_UNDO_TYPES

from cubicweb_hasite.hooks import CATEGORY
from cubicweb_hasite.images import replacement
from cubicweb_hasite.images.conflicts import changed_meanwhile
from cubicweb_hasite.monitoring import metrics

# A former eid remains one when the transaction of the replacement is undone.
NO_UNDO_TYPES.add("FormerEid")

# where LockHook leaves the adapters of the edited entities for ReplaceOnDataEditHook
_EDITED = "hasite_edited"


def _edited_adapter(entity: Entity) -> EntityAdapter | None:
    """Return the adapter of an entity whose immutable data is being edited, None otherwise.

    The adapter is that of the stored entity, before the edit, because caches may hold its data.
    """
    stored = type(entity)(entity._cw)
    stored.eid = entity.eid
    adapter = stored.cw_adapt_to("IImmutableData")
    if adapter is None or not adapter.immutable or adapter.attribute not in entity.cw_edited:
        return None
    return adapter


class LockHook(hook.Hook):
    """Lock an entity that could be replaced, so that no edit of it is lost silently.

    Without the lock, an update that waits for the commit of a replacement would find no row under
    the eid, and change nothing. A deletion that waits for it would cause a deadlock.
    """

    __regid__ = "hasite.lock"
    events = ("before_update_entity", "before_delete_entity")
    category = CATEGORY
    order = -100  # before anything is read that another transaction may be changing

    def __call__(self) -> None:
        if not replacement.replaceable(self.entity.e_schema):
            return
        deletes = self.event == "before_delete_entity"
        replaces = not deletes and replacement.tracked(self._cw) is not None
        adapter = _edited_adapter(self.entity) if replaces else None
        exclusive = deletes or adapter is not None
        try:
            replacement.lock(self._cw, self.entity.eid, exclusive=exclusive)
        except UnknownEid:
            raise changed_meanwhile(self.entity.eid) from None
        self._cw.transaction_data.setdefault(_EDITED, {})[self.entity.eid] = adapter


class ReplaceOnDataEditHook(hook.Hook):
    """Replace an entity whose immutable data gets other bytes through the web."""

    __regid__ = "hasite.replace_on_data_edit"
    events = ("before_update_entity",)
    category = CATEGORY
    order = 100  # after the hooks that change the data, such as the resizing of cubicweb-file

    def __call__(self) -> None:
        adapter = self._cw.transaction_data.get(_EDITED, {}).pop(self.entity.eid, None)
        if adapter is None or self._cw.added_in_transaction(self.entity.eid):
            return
        stored = getattr(adapter.entity, adapter.attribute)
        if _bytes(stored) != _bytes(self.entity.cw_edited[adapter.attribute]):
            replacement.track(self._cw)[self.entity.eid] = None
            ReplaceOp(self._cw)


def _bytes(data: Binary | None) -> bytes | None:
    return None if data is None else data.getvalue()


class ReplaceOp(hook.SingleLastOperation):
    """Replace entities after all other operations, which may remember their eids."""

    def precommit_event(self) -> None:
        replaced = replacement.track(self.cnx)
        for eid in sorted(replaced):
            if not self.cnx.deleted_in_transaction(eid):
                replaced[eid] = replacement.replace(self.cnx, eid)
        self._number = sum(eid is not None for eid in replaced.values())

    def postcommit_event(self) -> None:
        metrics.count_replacements(self._number)


class ForgetFormerEidsHook(hook.Hook):
    """Delete the former eids of an entity that is deleted."""

    __regid__ = "hasite.forget_former_eids"
    __select__ = hook.Hook.__select__ & ~is_instance("FormerEid")
    events = ("after_delete_entity",)
    category = CATEGORY

    def __call__(self) -> None:
        ForgetFormerEidsOp.get_instance(self._cw).add_data(self.entity.eid)


class ForgetFormerEidsOp(hook.DataOperationMixIn, hook.Operation):
    """Delete the former eids of all entities that a transaction deletes, in one query."""

    def precommit_event(self) -> None:
        eids = ",".join(str(eid) for eid in sorted(self.get_data()))
        self.cnx.execute(f"DELETE FormerEid F WHERE F current IN ({eids})")
