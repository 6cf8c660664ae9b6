"""GET edits nothing: CubicWeb checks the CSRF token of POST alone.

Without this, a link on any site would be enough to edit in the name of a visitor who is logged in:
browsers send the cookie when a link is followed (`SameSite=Lax`).
"""

from typing import Any

from cubicweb.rset import ResultSet
from cubicweb_web.request import CubicWebRequestBase
from cubicweb_web.views import ajaxcontroller, basecontrollers
from logilab.common.registry import yes

from cubicweb_hasite.caches.policy import NO_STORE
from cubicweb_hasite.hooks import safe_methods


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


class FormValidatorController(basecontrollers.FormValidatorController):
    """CubicWeb's controller of forms, for POST."""

    __select__ = basecontrollers.FormValidatorController.__select__ & yes()

    def publish(self, rset: ResultSet | None = None) -> Any:
        return super().publish(rset) if has_token(self._cw) else refuse(self._cw)


class AjaxController(ajaxcontroller.AjaxController):
    """CubicWeb's controller of functions for scripts: by GET they may read."""

    __select__ = ajaxcontroller.AjaxController.__select__ & yes()

    def publish(self, rset: ResultSet | None = None) -> Any:
        if has_token(self._cw):
            return super().publish(rset)
        with safe_methods.read_only(self._cw.cnx) as refused:
            try:
                answer = super().publish(rset)
            except Exception:
                if not refused:
                    raise
        if not refused:
            return answer
        self._cw.cnx.rollback()
        return refuse(self._cw)
