"""Workarounds for bugs of cubicweb-web, up to the last version known to have them: 1.6.2."""

import inspect
import threading
from functools import cache
from importlib.metadata import version
from types import SimpleNamespace

from cubicweb import ValidationError
from cubicweb_web import bwcompat
from cubicweb_web.request import CubicWebRequestBase
from cubicweb_web.views import forms
from logilab.common.changelog import Version
from pyramid.request import Request
from pyramid.response import Response

from cubicweb_hasite import paths
from cubicweb_hasite.monitoring import routes
from cubicweb_hasite.standbys import visits

_CUBICWEB_WEB = Version(version("cubicweb-web"))


def settle_failed_edit(req: CubicWebRequestBase, error: ValidationError) -> None:
    """Make `/edit` show an error in the form, with nothing committed.

    CubicWeb does so itself for `validateform` (cubicweb_web.views.basecontrollers), but not for
    `/edit`, as of cubicweb-web 1.6.2:

    - `CubicWebPyramidHandler.__call__` (cubicweb_web.bwcompat) does not roll back: the entities
      that were edited before the error are committed at the end of the request;
    - `CubicWebPublisher.validation_error_handler` (cubicweb_web.application) keeps the error and
      the form in the session. The arguments of the error may hold an entity, and the form may
      hold uploaded files; they cannot be pickled, and the answer is 500.
    """
    if Version("1.6.2") < _CUBICWEB_WEB:
        return
    req.cnx.rollback()
    error.entity = getattr(error.entity, "eid", error.entity)
    error.args = (error.entity, error.errors)
    for name, value in list(req.form.items()):
        values = value if isinstance(value, list) else [value]
        # (file name, stream), which browsers do not fill in again anyway
        if any(isinstance(each, tuple) for each in values):
            del req.form[name]


def remember_source_lines() -> None:
    """Look up once in which line a controller is defined, not at each request.

    `CubicWebPyramidHandler.__call__` (cubicweb_web.bwcompat) does so to log the controller. It
    takes half of the CPU time of an ordinary page. Also, Python 3.11 sometimes fails to parse a
    file in two threads at once (https://github.com/python/cpython/issues/106905), which is an
    error 500 for the visitor.
    """
    if Version("1.6.2") >= _CUBICWEB_WEB:
        bwcompat.inspect = SimpleNamespace(
            getsourcefile=inspect.getsourcefile, getsourcelines=_source_lines
        )


_parsing = threading.Lock()


def _source_lines(controller: type) -> tuple[None, int]:
    with _parsing:
        return None, _first_line(controller)


@cache
def _first_line(controller: type) -> int:
    return inspect.getsourcelines(controller)[1]


def stamp_forms() -> None:
    """Let the form of an entity, read from a standby, say as of when its data is known.

    `EntityFieldsForm.add_generation_time` (cubicweb_web/views/forms.py) takes the time of the
    clock. When the form is sent, changes since then are conflicts: one that the standby had not
    yet replayed would be overwritten.
    """
    if Version("1.6.2") >= _CUBICWEB_WEB:
        forms.EntityFieldsForm.add_generation_time = _add_time_of_data


def _add_time_of_data(form: forms.EntityFieldsForm) -> None:
    form.add_hidden("__form_generation_time", f"{visits.known():.6f}", eidparam=True)


def print_no_monitors() -> None:
    """Leave out the requests for monitors of the lines that cubicweb-web prints, one a request.

    `TweenHandler.__call__` (cubicweb_web.bwcompat) prints them, and no logger can be told not to.
    A balancer asks two a second: in the journal they would hide what visitors do.
    """
    printing = bwcompat.TweenHandler.__call__
    if Version("1.6.2") < _CUBICWEB_WEB or printing.__module__ == __name__:
        return

    def call(self: bwcompat.TweenHandler, request: Request) -> Response:
        _root, prefix = paths.site_root(request.registry["cubicweb.config"])
        monitors = request.method in ("GET", "HEAD") and routes.is_monitor(request.environ, prefix)
        return self.handler(request) if monitors else printing(self, request)

    bwcompat.TweenHandler.__call__ = call
