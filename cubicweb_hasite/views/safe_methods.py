"""GET edits nothing: CubicWeb checks the CSRF token of POST alone.

Without this, a link on any site would be enough to edit in the name of a visitor who is logged in:
browsers send the cookie when a link is followed (`SameSite=Lax`).
"""

from typing import Any

from cubicweb.rset import ResultSet
from cubicweb_web.controller import Controller
from cubicweb_web.request import CubicWebRequestBase
from logilab.common.registry import objectify_predicate

from cubicweb_hasite.caches.policy import NO_STORE
from cubicweb_hasite.hooks import safe_methods

#: Functions of cubicweb-web that change the session alone: the next form writes to the database
#: what is added there (`GenericRelationsField.process_posted`), what is removed the visitor was
#: editing. Its scripts call them by POST; by GET only `remove_pending_insert`, which takes an
#: addition back.
_CHANGE_THE_SESSION = (
    "add_pending_inserts",
    "add_pending_delete",
    "remove_pending_delete",
    "cancel_edition",
    "unload_page_data",
)


def has_token(req: CubicWebRequestBase) -> bool:
    """Return whether a request may edit: it is a POST, whose token CubicWeb has checked.

    It may, whatever its method, if the option `hasite-edit-by-get` is set, and in CubicWeb's test
    cases, whose requests are all GET unless said otherwise (`cubicweb_web.devtools.testlib`).
    """
    config = req.vreg.config
    return req.http_method() == "POST" or config["hasite-edit-by-get"] or config.mode == "test"


def refuse(req: CubicWebRequestBase) -> bytes:
    """Answer 405 (RFC 9110, section 15.5.6), in plain text."""
    req.status_out = 405
    req.set_header("Allow", "POST")
    req.set_header("Cache-Control", NO_STORE)
    req.set_content_type("text/plain")
    return b"405 Method Not Allowed: only POST edits\n"


@objectify_predicate
def may_not_edit(_cls: type, req: CubicWebRequestBase, **_kwargs: object) -> int:
    """Select, before what an application has, if :func:`has_token` says no."""
    return 0 if has_token(req) or safe_methods.is_read_only(req.cnx) else 1000


class RefuseEdit(Controller):
    """Refuses forms by another method than POST, whichever controller the application has."""

    __regid__ = "edit"
    __select__ = may_not_edit()

    def publish(self, rset: ResultSet | None = None) -> bytes:
        """Refuse."""
        return refuse(self._cw)


class RefuseValidation(RefuseEdit):
    """Refuses the forms that scripts send."""

    __regid__ = "validateform"


class ReadingAjaxController(Controller):
    """Lets functions for scripts read by GET, and refuses those that change something."""

    __regid__ = "ajax"
    __select__ = may_not_edit()

    def publish(self, rset: ResultSet | None = None) -> Any:
        """Call the application's controller where nothing can be changed."""
        req = self._cw
        if req.form.get("fname") in _CHANGE_THE_SESSION:
            return refuse(req)
        with safe_methods.read_only(req.cnx) as refused:
            try:
                controller = req.vreg["controllers"].select("ajax", req, appli=self.appli)
                answer = controller.publish(rset)
            except Exception:
                if not refused:
                    raise
        if not refused:
            return answer
        req.cnx.rollback()
        return refuse(req)
