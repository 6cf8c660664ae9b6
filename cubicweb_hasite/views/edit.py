"""The edit controllers: an image whose data is edited in a form gets a new eid.

An application may have edit controllers of its own, which CubicWeb selects in place of its own.
So each of them gets a subclass that does this too.
"""

import logging
import re
from typing import Any

from cubicweb import CW_EVENT_MANAGER, UnknownEid, ValidationError
from cubicweb.cwvreg import CWRegistryStore
from cubicweb.entity import Entity
from cubicweb.rset import ResultSet
from cubicweb_web.controller import NAV_FORM_PARAMETERS
from cubicweb_web.views import editcontroller

from cubicweb_hasite.database.answers import UNAVAILABLE, unavailability
from cubicweb_hasite.images import replacement
from cubicweb_hasite.images.conflicts import changed_meanwhile
from cubicweb_hasite.storages import errors
from cubicweb_hasite.upstream_web import settle_failed_edit

log = logging.getLogger(__name__)


class ReplacingController(editcontroller.EditController):
    """An edit controller that replaces entities whose immutable data is edited."""

    __abstract__ = True

    _edited_entity: Entity | None = None
    _replaced: dict[int, int | None] | None = None

    def publish(self, rset: ResultSet | None = None) -> Any:
        unavailable = tuple(unavailability(self._cw.cnx.repo.system_source))
        try:
            return super().publish(rset)
        except ValidationError as error:
            settle_failed_edit(self._cw, error)
            raise
        except errors.StorageUnavailable as error:
            log.warning("an edit is refused: %s", error)
            refused = ValidationError(None, {None: errors.UNAVAILABLE})
            settle_failed_edit(self._cw, refused)
            raise refused from error
        except unavailable as error:
            if not self._cw.ajax_request:
                raise  # the answer is 503
            # `validateform` would show the query
            raise ValidationError(None, {None: UNAVAILABLE}) from error
        except (UnknownEid, self._cw.cnx.repo.system_source.DbapiError):
            # perhaps the form links to an entity that was replaced since the form was opened
            self._cw.cnx.rollback()
            former = self._former_eid_in_form()
            if former is None:
                raise
            conflict = changed_meanwhile(former)
            settle_failed_edit(self._cw, conflict)
            raise conflict from None

    def _former_eid_in_form(self) -> int | None:
        for value in self._cw.form.values():
            for each in value if isinstance(value, list) else [value]:
                former = _eid(each) if isinstance(each, str) else None
                if former and replacement.current_eid(self._cw.cnx, former) is not None:
                    return former
        return None

    def _default_publish(self) -> None:
        self._replaced = replacement.track(self._cw.cnx)
        super()._default_publish()

    def edit_entity(self, formparams: dict[str, Any], multiple: bool = False) -> Any:
        eschema = self._cw.vreg.schema.entity_schema_for(formparams["__type"])
        if replacement.replaceable(eschema):
            self._lock(formparams["eid"])
        return super().edit_entity(formparams, multiple)

    def _lock(self, eid: str) -> None:
        """Lock the entity before CubicWeb reads it.

        If it was replaced since the form was opened, the edit is a conflict, like any concurrent
        edit in CubicWeb.
        """
        former = _eid(eid)
        if former is None:
            return  # the entity is being created
        try:
            replacement.lock(self._cw.cnx, former, exclusive=False)
        except UnknownEid:
            current = replacement.current_eid(self._cw.cnx, former, reconnect=False)
            form = self._cw.form
            if current and "__errorurl" in form:  # show the error in the form of the new eid
                named = rf"(?<=[/=]){eid}(?=[/?#&]|$)"
                form["__errorurl"] = re.sub(named, str(current), form["__errorurl"])
            raise changed_meanwhile(former) from None

    def reset(self) -> None:
        """Commit, then redirect as CubicWeb does, but to the new eid of a replaced entity."""
        self._commit()
        edited = self._edited_entity
        if edited is not None and self._replaced:
            current = self._replaced.get(edited.eid)
            if current is not None:
                self._land_on(current)
        try:
            super().reset()
        finally:
            self._complete()

    def _commit(self) -> None:
        """Commit now, for new eids to exist, and for an error to be shown in the form."""
        transaction = self._cw.cnx.commit()
        if transaction is not None:
            self._cw.data["last_undoable_transaction"] = transaction

    def _complete(self) -> None:
        """Load the attributes that `validateform` will use: the entity may be gone by then."""
        entity = self._edited_entity
        if entity is not None:
            try:
                entity.complete()
            except Exception:  # a bare Exception where the row is missing
                if replacement.entity_type(self._cw.cnx, entity.eid) is not None:
                    raise
                self._edited_entity = None

    def _land_on(self, eid: int) -> None:
        """Redirect to the page of the entity, whatever the form asks for."""
        self._edited_entity = self._cw.entity_from_eid(eid)
        for parameter in (*NAV_FORM_PARAMETERS, "__onsuccess"):
            self._cw.form.pop(parameter, None)


def extend_controllers(vreg: CWRegistryStore) -> None:
    """Let the edit controllers of the application, and CubicWeb's own, replace entities."""
    for controller in list(vreg["controllers"].get("edit", ())):
        extends = issubclass(controller, editcontroller.EditController)
        if not extends or issubclass(controller, ReplacingController):
            continue
        names = {
            "__doc__": controller.__doc__,
            "__module__": controller.__module__,
            "__select__": controller.__select__,
        }
        extended = type(controller.__name__, (ReplacingController, controller), names)
        vreg.register_and_replace(extended, controller)


def registration_callback(vreg: CWRegistryStore) -> None:
    """Extend the controllers when all modules of the application are loaded."""
    CW_EVENT_MANAGER.bind("after-registry-reload", extend_controllers, vreg)


def _eid(value: str) -> int | None:
    """Return the eid in a form parameter, None if there is none."""
    digits = value.isascii() and value.isdigit() and len(value) <= len(str(replacement.MAX_EID))
    return int(value) if digits else None
