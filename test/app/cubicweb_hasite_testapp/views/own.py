"""What applications have in place of CubicWeb's own, selected as CubicWeb's documentation says."""

from typing import Any

from cubicweb.cwvreg import CWRegistryStore
from cubicweb.rset import ResultSet
from cubicweb_web.views import ajaxcontroller, basecontrollers, editcontroller, idownloadable
from logilab.common.registry import yes


class OwnEditController(editcontroller.EditController):
    __select__ = editcontroller.EditController.__select__ & yes()

    def publish(self, rset: ResultSet | None = None) -> Any:
        self._cw.set_header("X-Own", "edit")
        return super().publish(rset)


class OwnFormValidator(basecontrollers.FormValidatorController):
    __select__ = basecontrollers.FormValidatorController.__select__ & yes()

    def publish(self, rset: ResultSet | None = None) -> Any:
        self._cw.set_header("X-Own-Form", "validateform")
        return super().publish(rset)


class OwnAjaxController(ajaxcontroller.AjaxController):
    __select__ = ajaxcontroller.AjaxController.__select__ & yes()

    def publish(self, rset: ResultSet | None = None) -> Any:
        self._cw.set_header("X-Own", "ajax")
        return super().publish(rset)


class OwnDownloadView(idownloadable.DownloadView):
    __select__ = idownloadable.DownloadView.__select__ & yes()

    def call(self, **kwargs: Any) -> None:
        self._cw.set_header("X-Own", "download")
        super().call(**kwargs)


def registration_callback(vreg: CWRegistryStore) -> None:
    """Register them if the option says so."""
    if vreg.config["testapp-own-controllers"]:
        vreg.register_all(globals().values(), __name__)
