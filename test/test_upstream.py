"""Workarounds that no other test fails without."""

import inspect
from typing import ClassVar
from unittest.mock import patch

from base import HasiteTC
from cubicweb import Binary, toolsutils
from cubicweb.cwconfig import CubicWebConfiguration
from cubicweb.entities.authobjs import CWUser
from cubicweb.entity import Entity
from cubicweb.server.session import Connection

from cubicweb_hasite import upstream


def create_file(cnx: Connection, title: str) -> Entity:
    return cnx.create_entity(
        "File", title=title, data=Binary(b"1"), data_name="a.txt", data_format="text/plain"
    )


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


class RDFTC(HasiteTC):
    settings: ClassVar = {
        "cubicweb.includes": [
            include
            for include in HasiteTC.settings["cubicweb.includes"]
            if include != "cubicweb.pyramid.rest_api.include_html"
        ]
    }

    def test_looked_up_on_demand(self) -> None:
        with self.admin_access.cnx() as cnx:
            eid = create_file(cnx, "Sunset").eid
            cnx.commit()
        for path in (f"/file/{eid}", f"/{eid}"):
            with patch("cubicweb.pyramid.resources.EntityResource", autospec=True) as looked_up:
                page = self.webapp.get(path, headers={"Accept": "text/html,*/*;q=0.8"})
            assert not looked_up.called
            assert "Sunset" in page
            turtle = self.webapp.get(path, headers={"Accept": "text/turtle"})
            assert turtle.content_type == "text/turtle"
            assert "Sunset" in turtle


class PagesOfTheAPITC(HasiteTC):
    def test_served(self) -> None:
        with self.admin_access.cnx() as cnx:
            eid = create_file(cnx, "Sunset").eid
            cnx.commit()
        page = self.webapp.get(f"/file/{eid}", headers={"Accept": "text/html,*/*;q=0.8"})
        assert "Relations (subject)" in page


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
        properties = CWUser.groups, CWUser.properties, CWUser.owns
        upstream.load_users_at_once()
        try:
            assert {login: self._data_of(login) for login in stock} == stock
            with self.new_access("reader").web_request() as req:
                assert req.user.groups == {"guests", "users"}
                assert req.property_value("ui.language") == "fr"
        finally:
            CWUser.groups, CWUser.properties, CWUser.owns = properties

    def test_owned_entities(self) -> None:
        with self.admin_access.cnx() as cnx:
            owner = self.create_user(cnx, "owner").eid
            other = create_file(cnx, "another's").eid
            # which its owner may not read
            hidden = cnx.create_entity("EmailAddress", address="a@example.org", owned_by=owner).eid
            cnx.commit()
        with self.new_access("owner").cnx() as cnx:
            own = create_file(cnx, "his").eid
            cnx.commit()
        properties = CWUser.groups, CWUser.properties, CWUser.owns
        owned = {own: True, other: False, hidden: False, 10**6: False, "A": False}
        assert {eid: self._owns("owner", eid) for eid in owned} == owned
        upstream.load_users_at_once()
        try:
            assert {eid: self._owns("owner", eid) for eid in owned} == owned
        finally:
            CWUser.groups, CWUser.properties, CWUser.owns = properties

    def _owns(self, login: str, eid: int | str) -> bool:
        with self.new_access(login).cnx() as cnx:
            return bool(cnx.user.owns(eid))

    def _data_of(self, login: str) -> tuple[set[str], dict[str, str], str]:
        with self.new_access(login).cnx() as cnx:
            user = cnx.user
            return user.groups, user.properties, user.property_value("ui.language")
