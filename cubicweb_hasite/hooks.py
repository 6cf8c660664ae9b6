"""When data changes: replace the entity; when it is deleted: forget its former eids.

When caches may hold what is no longer so: have them forget it.
"""

from collections.abc import Iterator, Mapping

from cubicweb import Binary, UnknownEid, ValidationError
from cubicweb.entity import Entity, EntityAdapter
from cubicweb.predicates import is_instance
from cubicweb.schema import INTERNAL_TYPES, META_RTYPES, CubicWebEntitySchema
from cubicweb.server import hook
from cubicweb.server.session import NO_UNDO_TYPES, Connection
from rql.nodes import Relation, VariableRef

from cubicweb_hasite import upstream
from cubicweb_hasite.caches import policy, purge
from cubicweb_hasite.images import data, replacement
from cubicweb_hasite.monitoring import metrics

# CubicWeb runs the hooks of this category when a transaction is undone too.
_CATEGORY = "undo"
# A former eid stays one when the transaction of the replacement is undone.
NO_UNDO_TYPES.add("FormerEid")

# where LockHook leaves for ReplaceOnDataEditHook the adapters of the entities being edited
_EDITED = "hasite_edited"

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


def _edited_adapter(entity: Entity) -> EntityAdapter | None:
    """Return the adapter of an entity whose immutable data is being edited, None otherwise.

    What is stored decides, since it is what caches may hold: the adapter is that of the entity
    without the edition.
    """
    stored = type(entity)(entity._cw)
    stored.eid = entity.eid
    adapter = stored.cw_adapt_to("IImmutableData")
    if adapter is None or not adapter.immutable or adapter.attribute not in entity.cw_edited:
        return None
    return adapter


class LockHook(hook.Hook):
    """Lock an entity that could be replaced, so that no edition of it is lost silently.

    Without the lock, an update that waits for a replacement of the same entity to be committed
    would find no row under the eid afterwards, and change nothing; and a deletion would wait for
    it with locks that it waits for.
    """

    __regid__ = "hasite.lock"
    events = ("before_update_entity", "before_delete_entity")
    category = _CATEGORY
    order = -100  # before any read of what another transaction may be changing

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
    """Replace an entity whose immutable data is given other bytes through the web."""

    __regid__ = "hasite.replace_on_data_edit"
    events = ("before_update_entity",)
    category = _CATEGORY
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
    """Replace entities when all other operations that may remember their eids have run."""

    def precommit_event(self) -> None:
        replaced = replacement.track(self.cnx)
        for eid in sorted(replaced):
            if not self.cnx.deleted_in_transaction(eid):
                replaced[eid] = replacement.replace(self.cnx, eid)
        self._number = sum(eid is not None for eid in replaced.values())

    def postcommit_event(self) -> None:
        metrics.count_replacements(self._number)


class ForgetFormerEidsHook(hook.Hook):
    """The former eids of an entity end with it."""

    __regid__ = "hasite.forget_former_eids"
    __select__ = hook.Hook.__select__ & ~is_instance("FormerEid")
    events = ("after_delete_entity",)
    category = _CATEGORY

    def __call__(self) -> None:
        ForgetFormerEidsOp.get_instance(self._cw).add_data(self.entity.eid)


class ForgetFormerEidsOp(hook.DataOperationMixIn, hook.Operation):
    """Delete in one query the former eids of all the entities deleted in a transaction."""

    def precommit_event(self) -> None:
        eids = ",".join(str(eid) for eid in sorted(self.get_data()))
        self.cnx.execute(f"DELETE FormerEid F WHERE F current IN ({eids})")


class CheckPurgersHook(hook.Hook):
    """Refuse to start with caches to purge that make no sense, not to fail an edit later."""

    __regid__ = "hasite.check_purgers"
    events = ("server_startup", "server_maintenance")
    category = _CATEGORY

    def __call__(self) -> None:
        purge.purgers(self.repo.config)


class WholeTransactionsHook(hook.Hook):
    """Let no migration go on with half of a transaction."""

    __regid__ = "hasite.whole_transactions"
    events = ("server_maintenance",)
    category = _CATEGORY

    def __call__(self) -> None:
        if self.repo.config.mode != "test":  # CubicWeb's test cases connect again at will
            upstream.keep_transactions_whole(self.repo)


class PurgeHook(hook.Hook):
    """Purge an entity that is changed or deleted, under the names it had and those it gets."""

    __regid__ = "hasite.purge"
    events = ("before_update_entity", "before_delete_entity")
    category = _CATEGORY
    order = 1000  # after the hooks that change what is being edited

    def __call__(self) -> None:
        if purge.purgers(self._cw.vreg.config):
            edited = self.entity.cw_edited if self.event == "before_update_entity" else {}
            PurgeOp.add(self._cw, self.entity.eid, edited)


class PurgeOnRelationHook(hook.Hook):
    """Purge an entity when a relation that its permission to be read names is added or removed.

    So is it when it changes its state, if the state is what the permission asks for. What is
    farther from the entity, such as the state of what it is related to, is not seen.
    """

    __regid__ = "hasite.purge_on_relation"
    events = ("before_add_relation", "before_delete_relation")
    category = _CATEGORY

    def __call__(self) -> None:
        if not purge.purgers(self._cw.vreg.config):
            return
        for eid, role in ((self.eidfrom, 0), (self.eidto, 1)):
            if self._cw.added_in_transaction(eid):
                continue  # caches have nothing of it yet
            eschema = self._cw.vreg.schema.entity_schema_for(self._cw.entity_type(eid))
            if (self.rtype, role) in _read_relations(eschema):
                PurgeOp.add(self._cw, eid)


def _read_relations(eschema: CubicWebEntitySchema) -> Iterator[tuple[str, int]]:
    """Yield the relations of an entity that its permission to be read names.

    With each, whether the entity is the subject, 0, or the object, 1.
    """
    for expression in eschema.get_rqlexprs("read"):
        for relation in expression.snippet_rqlst.get_nodes(Relation):
            for role, variable in enumerate(relation.get_variable_parts()):
                if any(node.name == "X" for node in variable.iget_nodes(VariableRef)):
                    yield relation.r_type, role


class PurgeOp(hook.DataOperationMixIn, hook.Operation):
    """Purge once the transaction is committed: a purge before it would be undone by a visit."""

    containercls = dict
    _paths: frozenset[str] | set[str] = frozenset()

    @classmethod
    def add(cls, cnx: Connection, eid: int, edited: Mapping[str, object] | None = None) -> None:
        """Purge what caches may hold of an entity.

        :param edited: attributes that it is about to get
        """
        if cnx.added_in_transaction(eid):
            return  # they have nothing of it yet
        etype = cnx.entity_type(eid)
        names = data.attributes(cnx.vreg.schema.entity_schema_for(etype))
        stored = data.row(cnx, etype, eid, names)
        if stored is None:
            return  # another transaction has deleted it, and purges it
        entity = _entity(cnx, eid, stored)
        adapter = entity.cw_adapt_to("IImmutableData")
        if adapter is not None and adapter.immutable:
            urls = cls.get_instance(cnx)._container.setdefault(eid, set())
            urls |= purge.entity_urls(entity)
            changes = {
                name: value
                for name, value in (edited or {}).items()
                if name in stored and value != stored[name] and name != "modification_date"
            }
            if changes:
                # another object: an entity remembers its adapters
                urls |= purge.entity_urls(_entity(cnx, eid, stored | changes))

    def precommit_event(self) -> None:
        # Now: the former eids are forgotten, or become another eid's, before the commit.
        self._paths = purge.paths(self.cnx, self.get_data())

    def postcommit_event(self) -> None:
        for purger in purge.purgers(self.cnx.vreg.config):
            purger.add(self._paths)


class PurgePagesHook(hook.Hook):
    """Purge the pages where an entity is shown when it is added, changed or deleted."""

    __regid__ = "hasite.purge_pages"
    __select__ = hook.Hook.__select__ & ~is_instance("FormerEid", *INTERNAL_TYPES)
    events = ("after_add_entity", "before_update_entity", "before_delete_entity")
    category = _CATEGORY

    def __call__(self) -> None:
        edited = self.entity.cw_edited if self.event == "before_update_entity" else ()
        # those of a user are not renewed each time he logs in
        if set(edited) != {"last_login_time", "modification_date"}:
            PurgePagesOp.add(self._cw, self.entity.eid)


class PurgePagesOnRelationHook(hook.Hook):
    """Purge the pages of both entities when a relation between them is added or deleted."""

    __regid__ = "hasite.purge_pages_on_relation"
    __select__ = hook.Hook.__select__ & ~hook.match_rtype(*META_RTYPES)
    events = ("after_add_relation", "before_delete_relation")
    category = _CATEGORY

    def __call__(self) -> None:
        for eid in (self.eidfrom, self.eidto):
            PurgePagesOp.add(self._cw, eid)


class PurgePagesOp(hook.DataOperationMixIn, hook.Operation):
    """Purge pages once the transaction is committed, under their URLs before and after it."""

    containercls = dict
    _paths: frozenset[str] | set[str] = frozenset()

    @classmethod
    def add(cls, cnx: Connection, eid: int) -> None:
        """Purge the pages where an entity is shown."""
        config = cnx.vreg.config
        if purge.purgers(config) and policy.page_ages(config):
            pages = cls.get_instance(cnx)._container
            if eid not in pages:
                pages[eid] = _page_urls(cnx, eid)

    def precommit_event(self) -> None:
        urls = set()
        for eid, before in self.get_data().items():
            urls |= before
            if not self.cnx.deleted_in_transaction(eid):
                urls |= _page_urls(self.cnx, eid)
        self._paths = purge.page_paths(self.cnx, urls)

    def postcommit_event(self) -> None:
        for purger in purge.purgers(self.cnx.vreg.config):
            purger.add(self._paths)


def _page_urls(cnx: Connection, eid: int) -> set[str]:
    with cnx.security_enabled(read=False):
        return purge.page_urls(cnx.entity_from_eid(eid))


def _entity(cnx: Connection, eid: int, attributes: Mapping[str, object]) -> Entity:
    entity = cnx.vreg["etypes"].etype_class(cnx.entity_type(eid))(cnx)
    entity.eid = eid
    entity.cw_attr_cache.update(attributes)
    return entity
