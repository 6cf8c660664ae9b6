"""Tell all processes of the site what they must not remember any longer."""

from typing import Any

from cubicweb.predicates import is_instance
from cubicweb.server import hook
from cubicweb.server.session import Connection

from cubicweb_hasite.coherence import memory, notices, passwords
from cubicweb_hasite.hooks import CATEGORY

_PERMISSIONS = ("read_permission", "add_permission", "update_permission", "delete_permission")
#: what describes the schema; each names others in the same transaction
_SCHEMA = ("CWEType", "CWRType", "CWRelation", "CWAttribute", "RQLExpression")
#: what a login changes
_LOGIN = {"last_login_time", "modification_date"}


class SendNoticeOp(hook.DataOperationMixIn, hook.LateOperation):
    """Sends a notice at the commit. Its data are the parts of :mod:`coherence.notices`."""

    def precommit_event(self) -> None:
        notices.send(self.cnx, self.get_data())

    def postcommit_event(self) -> None:
        # at once in this process, which gets its own notice some milliseconds later
        if notices.USERS in self._container:
            memory.refresh(self.cnx.repo, {notices.USERS})

    def rollback_event(self) -> None:
        # CubicWeb changes its memory before the commit (cubicweb/hooks/syncschema.py, lines 1025
        # to 1076) and does not change it back
        if notices.SCHEMA in self._container:
            repo = self.cnx.repo
            repo.threaded_task(lambda: memory.refresh(repo, {notices.SCHEMA}))


def _notify(cnx: Connection, *parts: str) -> None:
    operation = SendNoticeOp.get_instance(cnx)
    for part in parts:
        operation.add_data(part)


class UserOrPropertyHook(hook.Hook):
    """Notify of users, and of properties of the site or of a user."""

    __regid__ = "hasite.user_or_property"
    __select__ = hook.Hook.__select__ & is_instance("CWUser", "CWProperty", "EmailAddress")
    events = ("after_add_entity", "after_update_entity", "before_delete_entity")
    category = CATEGORY

    def __call__(self) -> None:
        edited: Any = self.entity.cw_edited if self.event == "after_update_entity" else ()
        if set(edited) != _LOGIN:
            parts = [notices.USERS]
            if self.entity.cw_etype == "CWProperty":
                parts.append(notices.PROPERTIES)
            _notify(self._cw, *parts)


class OwnPasswordHook(hook.Hook):
    """Let the session go on in which a user changes their own password."""

    __regid__ = "hasite.own_password"
    __select__ = hook.Hook.__select__ & is_instance("CWUser")
    events = ("after_update_entity",)
    category = CATEGORY

    def __call__(self) -> None:
        cnx, eid = self._cw, self.entity.eid
        request = getattr(getattr(cnx, "session", None), "_pyramid_request", None)
        if "upassword" in self.entity.cw_edited and eid == cnx.user.eid and request is not None:
            passwords.renew(request, eid, passwords.stored_password(cnx, eid))


class UserRelationHook(hook.Hook):
    """Notify of the e-mail addresses of a user, and of whose a property is."""

    __regid__ = "hasite.user_relation"
    __select__ = hook.Hook.__select__ & hook.match_rtype("primary_email", "use_email", "for_user")
    events = ("after_add_relation", "after_delete_relation")
    category = CATEGORY

    def __call__(self) -> None:
        _notify(self._cw, notices.USERS, notices.PROPERTIES)


class PermissionHook(hook.Hook):
    """Notify of permissions that are given or taken away."""

    __regid__ = "hasite.permission"
    __select__ = hook.Hook.__select__ & hook.match_rtype(*_PERMISSIONS)
    events = ("after_add_relation", "after_delete_relation")
    category = CATEGORY

    def __call__(self) -> None:
        _notify(self._cw, notices.SCHEMA)


class SchemaHook(hook.Hook):
    """Notify of types, relations and expressions."""

    __regid__ = "hasite.schema"
    __select__ = hook.Hook.__select__ & is_instance(*_SCHEMA)
    events = ("after_add_entity", "after_update_entity", "before_delete_entity")
    category = CATEGORY

    def __call__(self) -> None:
        _notify(self._cw, notices.SCHEMA)
