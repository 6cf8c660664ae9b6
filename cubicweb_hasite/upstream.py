"""Workarounds for bugs of CubicWeb, each guarded by the last version known to have the bug."""

import inspect
import threading
from functools import cache
from importlib.metadata import version
from types import SimpleNamespace

from cubicweb import ValidationError
from cubicweb_web import bwcompat
from cubicweb_web.request import CubicWebRequestBase
from logilab.common.changelog import Version

_CUBICWEB_WEB = Version(version("cubicweb-web"))


def settle_failed_edit(req: CubicWebRequestBase, error: ValidationError) -> None:
    """Make `/edit` answer an error by the form, with nothing committed.

    For `validateform` CubicWeb does it itself (cubicweb_web.views.basecontrollers). For `/edit`,
    as of cubicweb-web 1.6.2:

    - CubicWebPyramidHandler.__call__ (cubicweb_web.bwcompat) does not roll back: the entities
      edited before the error are committed at the end of the request;
    - CubicWebPublisher.validation_error_handler (cubicweb_web.application) keeps in the session
      the error, whose arguments may hold an entity, and the form, which may hold uploaded files:
      they cannot be pickled, and the answer is 500.
    """
    if Version("1.6.2") < _CUBICWEB_WEB:
        return
    req.cnx.rollback()
    error.entity = getattr(error.entity, "eid", error.entity)
    error.args = (error.entity, error.errors)
    for name, value in list(req.form.items()):
        values = value if isinstance(value, list) else [value]
        # (file name, stream); a browser does not fill them in again anyway
        if any(isinstance(each, tuple) for each in values):
            del req.form[name]


def remember_source_lines() -> None:
    """Look up once where a controller is defined, not at each request.

    `CubicWebPyramidHandler.__call__` (cubicweb_web.bwcompat) does it to log which controller it
    has chosen. It is half of the CPU time of an ordinary page; and Python 3.11 fails at times to
    parse a file in two threads at once (https://github.com/python/cpython/issues/106905), which
    the visitor sees as an error 500.
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
