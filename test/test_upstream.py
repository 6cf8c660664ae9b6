"""Workarounds that no other test fails without."""

import inspect
from unittest.mock import patch

from base import HasiteTC
from cubicweb import toolsutils
from cubicweb.cwconfig import CubicWebConfiguration
from cubicweb.entities.authobjs import CWUser

from cubicweb_hasite import upstream


class SourceLinesTC(HasiteTC):
    def test_looked_up_once(self) -> None:
        with patch("inspect.getsourcelines", wraps=inspect.getsourcelines) as looked_up:
            for _ in range(3):
                self.webapp.get("/", headers={"Accept": "text/html"})
        assert looked_up.call_count <= 1


class OptionsTC(HasiteTC):
    def test_remembered(self) -> None:
        environment = "cubicweb.cwconfig.option_value_from_env"
        stock = CubicWebConfiguration.__getitem__
        with (
            patch.dict("os.environ", {"CW_HASITE_IMAGE_MAX_AGE": "12"}),
            patch(environment, wraps=toolsutils.option_value_from_env) as asked,
        ):
            upstream.remember_options()
            try:
                assert [self.config["hasite-image-max-age"] for _ in range(3)] == [12] * 3
                assert asked.call_count == 1
                assert self.config.get("no-such-option") is None
                # what is set while it runs
                self.config.global_set_option("hasite-purge-urls", ["http://127.0.0.1/"])
                assert self.config["hasite-purge-urls"] == ["http://127.0.0.1/"]
                self.config.global_set_option("hasite-purge-urls", [])
                assert self.config["hasite-purge-urls"] == []
            finally:
                CubicWebConfiguration.__getitem__ = stock
                del self.config._hasite_options


class UsersTC(HasiteTC):
    def test_groups_and_properties(self) -> None:
        with self.admin_access.cnx() as cnx:
            self.create_user(cnx, "reader", groups=("guests", "users"))
            cnx.commit()
        with self.new_access("reader").cnx() as cnx:
            cnx.user.set_property("ui.language", "fr")
            cnx.commit()
        stock = {login: self._data_of(login) for login in ("admin", "anon", "reader")}
        assert stock["reader"] == ({"guests", "users"}, {"ui.language": "fr"}, "fr")
        properties = CWUser.groups, CWUser.properties
        upstream.load_users_at_once()
        try:
            assert {login: self._data_of(login) for login in stock} == stock
            with self.new_access("reader").web_request() as req:
                assert req.user.groups == {"guests", "users"}
                assert req.property_value("ui.language") == "fr"
        finally:
            CWUser.groups, CWUser.properties = properties

    def _data_of(self, login: str) -> tuple[set[str], dict[str, str], str]:
        with self.new_access(login).cnx() as cnx:
            user = cnx.user
            return user.groups, user.properties, user.property_value("ui.language")
