"""A form with an image inside another entity's, and pages that depend on who asks."""

from cubicweb.predicates import authenticated_user
from cubicweb_web.view import View
from cubicweb_web.views import uicfg
from cubicweb_web.views.ajaxcontroller import ajaxfunc
from logilab.common.registry import yes

uicfg.autoform_section.tag_subject_of(("Article", "cover", "File"), "main", "inlined")


class _Page(View):
    __abstract__ = True
    __select__ = yes()


class Headers(_Page):
    """Shows what the browser says."""

    __regid__ = "test_headers"

    def call(self) -> None:
        for name in ("Cookie", "User-Agent", "Referer", "X-Forwarded-For", "X-Hasite-Anonymous"):
            self.w("%s: %s;", name, self._cw.get_header(name, "none"))
        self.w("user: %s", self._cw.user.login)


class Form(_Page):
    """Has a form of its own, without a token."""

    __regid__ = "test_form"

    def call(self) -> None:
        self.w('<form action="/elsewhere" method="POST"></form>')


class Token(_Page):
    """Has a form of CubicWeb's."""

    __regid__ = "test_token"

    def call(self) -> None:
        self.wview("logform", id="here", klass="")


class Message(_Page):
    """Tells the visitor something."""

    __regid__ = "test_message"

    def call(self) -> None:
        self._cw.set_message("for you alone")
        self.w("%s", self._cw.message)


class Session(_Page):
    """Remembers the visitor."""

    __regid__ = "test_session"

    def call(self) -> None:
        visits = self._cw.session.data.get("visits", 0) + 1
        self._cw.session.data["visits"] = visits
        self.w("visits: %s;", visits)


class SetsCookie(_Page):
    """Sets a cookie."""

    __regid__ = "test_cookie"

    def call(self) -> None:
        self._cw.set_cookie("test", "1")


class Guarded(_Page):
    """Is for who has logged in."""

    __regid__ = "test_guarded"
    __select__ = authenticated_user()

    def call(self) -> None:
        self.w("for users")


@ajaxfunc
def rename_album(self, eid: int, name: str) -> None:
    """Rename an album, in a second transaction."""
    self._cw.cnx.commit()
    self._cw.entity_from_eid(eid).cw_set(name=name)
