"""When data changes: replace the entity; when it is deleted: forget its former eids."""

from cubicweb import UnknownEid, ValidationError
from cubicweb.predicates import is_instance
from cubicweb.server import hook

from cubicweb_hasite import replacement

# translated by the catalogs of cubicweb-web
_CHANGED_MEANWHILE = (
    "Entity %(eid)s has changed since you started to edit it."
    " Reload the page and reapply your changes."
)


def changed_meanwhile(eid: int) -> ValidationError:
    """Return CubicWeb's own error for a concurrent edition of the entity `eid`.

    See `check_concurrent_edition` in cubicweb_web/views/editcontroller.py.
    """
    return ValidationError(eid, {None: _CHANGED_MEANWHILE}, {"eid": eid})


class ReplaceOnDataEditHook(hook.Hook):
    """Replace an entity whose immutable data is given other bytes through the web."""

    __regid__ = "hasite.replace_on_data_edit"
    events = ("before_update_entity",)
    category = "hasite"
    order = 100  # after the hooks that change the data, such as the resizing of cubicweb-file

    def __call__(self) -> None:
        replaced = replacement.tracked(self._cw)
        if replaced is None:
            return
        # What is stored decides, since it is what caches may hold: look at it beside the
        # entity, whose attributes are those to come.
        stored = type(self.entity)(self._cw)
        stored.eid = self.entity.eid
        adapter = stored.cw_adapt_to("IImmutableData")
        edited = self.entity.cw_edited
        if adapter is None or not adapter.immutable or adapter.attribute not in edited:
            return
        if _bytes(getattr(stored, adapter.attribute)) == _bytes(edited[adapter.attribute]):
            return
        try:
            replacement.lock(self._cw, self.entity.eid)
        except UnknownEid:
            raise changed_meanwhile(self.entity.eid) from None
        replaced[self.entity.eid] = None
        ReplaceOp(self._cw)


def _bytes(data) -> bytes | None:
    return None if data is None else data.getvalue()


class ReplaceOp(hook.SingleLastOperation):
    """Replace entities when all other operations that may remember their eids have run."""

    def precommit_event(self) -> None:
        replaced = replacement.track(self.cnx)
        for eid in sorted(replaced):
            if not self.cnx.deleted_in_transaction(eid):
                replaced[eid] = replacement.replace(self.cnx, eid)


class ForgetFormerEidsHook(hook.Hook):
    """The former eids of an entity end with it."""

    __regid__ = "hasite.forget_former_eids"
    __select__ = hook.Hook.__select__ & ~is_instance("FormerEid")
    events = ("after_delete_entity",)
    category = "hasite"

    def __call__(self) -> None:
        ForgetFormerEidsOp.get_instance(self._cw).add_data(self.entity.eid)


class ForgetFormerEidsOp(hook.DataOperationMixIn, hook.Operation):
    """Delete in one query the former eids of all the entities deleted in a transaction."""

    def precommit_event(self) -> None:
        eids = ",".join(str(eid) for eid in sorted(self.get_data()))
        self.cnx.execute(f"DELETE FormerEid F WHERE F current IN ({eids})")
