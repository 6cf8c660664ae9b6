"""A link to the login page, in place of the form that CubicWeb hides in the header of each page.

The form holds a token of the visitor, so a page with it could not be shared.
"""

from collections.abc import Callable

from cubicweb_web.request import CubicWebRequestBase
from cubicweb_web.views.basecomponents import CookieLoginComponent
from logilab.common.registry import objectify_predicate

from cubicweb_hasite import options


@objectify_predicate
def shares_pages(_cls: type, req: CubicWebRequestBase, **_kwargs: object) -> int:
    """Select if caches may keep pages of anonymous visitors."""
    return int(bool(options.page_ages(req.vreg.config)))


class LoginLink(CookieLoginComponent):
    """The link to the login page, from which the visitor comes back."""

    __select__ = CookieLoginComponent.__select__ & shares_pages()

    def render(self, w: Callable[..., None]) -> None:
        """Write the link."""
        req = self._cw
        req.add_css("cubicweb.pictograms.css")
        path = req.relative_path()
        url = req.build_url("login", **({"postlogin_path": path} if path else {}))
        w(
            '<a class="logout icon-login" title="%s" href="%s">%s</a>',
            req._("login / password"),
            url,
            req._("i18n_login_popup"),
        )
