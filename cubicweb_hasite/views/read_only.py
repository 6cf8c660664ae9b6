"""A line at the top of pages while the site can be read, and not be written to."""

from collections.abc import Callable
from typing import Any, ClassVar

from cubicweb import _
from cubicweb_web.component import CtxComponent
from cubicweb_web.request import CubicWebRequestBase
from logilab.common.registry import objectify_predicate

from cubicweb_hasite.standbys import visits


@objectify_predicate
def reads_only(_cls: type, _req: CubicWebRequestBase, **_kwargs: object) -> int:
    """Select if the page is read from a standby because the primary cannot be reached."""
    visit = visits.current()
    return int(visit is not None and not visit.primary_up)


class ReadOnlyLine(CtxComponent):
    """The line, above what the main template shows. No user can hide it."""

    __regid__ = "hasite.read-only"
    __select__ = CtxComponent.__select__ & reads_only()
    cw_property_defs: ClassVar[dict[str, Any]] = {}
    context = "navtop"
    order = -1

    def cw_propval(self, propid: str) -> object:
        """Return the values of the class: the component has no properties."""
        return getattr(self, propid)

    def render(self, w: Callable[..., None], **_kwargs: object) -> None:
        """Write the line."""
        why = _("For the moment, this site can be read only: what you send cannot be saved.")
        w('<div class="errorMessage" role="status">%s</div>', self._cw._(why))
