"""Purge caches when the data or the pages that they may hold change."""

from collections.abc import Iterable, Iterator, Mapping

from cubicweb.entity import Entity
from cubicweb.schema import CubicWebEntitySchema
from cubicweb.server import hook
from cubicweb.server.session import Connection
from rql.nodes import Relation, VariableRef

from cubicweb_hasite.caches import purge
from cubicweb_hasite.hooks import CATEGORY
from cubicweb_hasite.images import data


class CheckPurgersHook(hook.Hook):
    """Refuse to start if `hasite-purge-urls` has the wrong format: an edit would fail later."""

    __regid__ = "hasite.check_purgers"
    events = ("server_startup", "server_maintenance")
    category = CATEGORY

    def __call__(self) -> None:
        purge.purgers(self.repo.config)


class PurgeHook(hook.Hook):
    """Purge an entity that is changed or deleted, under its former URLs and its new ones."""

    __regid__ = "hasite.purge"
    events = ("before_update_entity", "before_delete_entity")
    category = CATEGORY
    order = 1000  # after the hooks that change what is being edited

    def __call__(self) -> None:
        if purge.purgers(self._cw.vreg.config):
            edited = self.entity.cw_edited if self.event == "before_update_entity" else {}
            PurgeOp.add(self._cw, self.entity.eid, edited)


class PurgeOnRelationHook(hook.Hook):
    """Purge an entity when a relation changes that its read permission depends on.

    An example is its workflow state. Only the entity's own relations are seen, not, for example,
    the state of a related entity.
    """

    __regid__ = "hasite.purge_on_relation"
    events = ("before_add_relation", "before_delete_relation")
    category = CATEGORY

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
    """Yield the relations in the read permission of an entity type.

    With each comes the role of the entity: 0 for the subject, 1 for the object.
    """
    for expression in eschema.get_rqlexprs("read"):
        for relation in expression.snippet_rqlst.get_nodes(Relation):
            for role, variable in enumerate(relation.get_variable_parts()):
                if any(node.name == "X" for node in variable.iget_nodes(VariableRef)):
                    yield relation.r_type, role


class CachesOp(hook.DataOperationMixIn, hook.Operation):
    """Purge after the commit: before it, a visit would store the former data again.

    Its data are the eids of the entities to purge.
    """

    def __init__(self, *args: object, **kwargs: object) -> None:
        super().__init__(*args, **kwargs)
        self._urls: dict[int, set[str]] = {}
        self._paths: set[str] = set()

    def add_urls(self, eid: int, urls: Iterable[str]) -> None:
        """Note URLs of an entity, relative to the site."""
        self.add_data(eid)
        self._urls.setdefault(eid, set()).update(urls)

    def paths(self, urls: Mapping[int, set[str]]) -> set[str]:
        """Return the paths to purge, at the end of the transaction.

        :param urls: those noted, by eid
        """
        raise NotImplementedError

    def precommit_event(self) -> None:
        # before the commit, which deletes the former eids or gives them to another eid
        self._paths = self.paths({eid: self._urls[eid] for eid in self.get_data()})

    def postcommit_event(self) -> None:
        for purger in purge.purgers(self.cnx.vreg.config):
            purger.add(self._paths)


class PurgeOp(CachesOp):
    """Purge the data of entities, under its URLs before and after the change."""

    @classmethod
    def add(cls, cnx: Connection, eid: int, edited: Mapping[str, object] | None = None) -> None:
        """Purge the data of an entity.

        :param edited: the new values of the attributes that are being edited
        """
        if cnx.added_in_transaction(eid):
            return  # caches have nothing of it yet
        entity = immutable_entity(cnx, eid)
        if entity is None:
            return
        stored = dict(entity.cw_attr_cache)
        operation = cls.get_instance(cnx)
        operation.add_urls(eid, purge.entity_urls(entity))
        changes = {
            name: value
            for name, value in (edited or {}).items()
            if name in stored and value != stored[name] and name != "modification_date"
        }
        if changes:
            # another object, because an entity remembers its adapters
            operation.add_urls(eid, purge.entity_urls(_entity(cnx, eid, stored | changes)))

    def paths(self, urls: Mapping[int, set[str]]) -> set[str]:
        return purge.paths(self.cnx, urls)


def immutable_entity(cnx: Connection, eid: int) -> Entity | None:
    """Return an entity as it is stored; None if caches may not keep its data, or it is gone."""
    etype = cnx.entity_type(eid)
    stored = data.row(cnx, etype, eid, data.attributes(cnx.vreg.schema.entity_schema_for(etype)))
    if stored is None:
        return None  # another transaction has deleted it, and purges it
    entity = _entity(cnx, eid, stored)
    adapter = entity.cw_adapt_to("IImmutableData")
    return entity if adapter is not None and adapter.immutable else None


def _entity(cnx: Connection, eid: int, attributes: Mapping[str, object]) -> Entity:
    entity = cnx.vreg["etypes"].etype_class(cnx.entity_type(eid))(cnx)
    entity.eid = eid
    entity.cw_attr_cache.update(attributes)
    return entity
