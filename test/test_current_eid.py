"""Clients that hold eids find the current one, and are told when they write to a former one."""

import re

import pytest
from cubicweb import Binary, Unauthorized
from cubicweb.schema import ERQLExpression
from documents import CHECKOUT
from editing import EditingTC
from pictures import picture
from pyramid.events import NewRequest

from cubicweb_hasite.images import replacement

DOCUMENT = CHECKOUT / "docs" / "applications.md"


class CurrentEidTC(EditingTC):
    #: what another user edits before the query
    replaced_meanwhile: int | None = None

    def includeme(self, config) -> None:
        super().includeme(config)
        config.include("cubicweb_api")
        config.add_subscriber(self.before_cubicweb, NewRequest)

    def before_cubicweb(self, _event: NewRequest) -> None:
        """Called when our part has looked at the request, before cubicweb-api does."""
        if self.replaced_meanwhile is not None:
            eid, self.replaced_meanwhile = self.replaced_meanwhile, None
            with self.admin_access.cnx() as cnx:
                self.replace(cnx, eid)

    def setUp(self) -> None:
        super().setUp()
        with self.admin_access.cnx() as cnx:
            self.former = self.new_image(cnx).eid
            cnx.commit()
            self.current = self.replace(cnx, self.former)
        self.unknown = self.current + 5000

    def replace(self, cnx, eid: int) -> int:
        replacement.track(cnx)
        cnx.entity_from_eid(eid).cw_set(data=Binary(picture("blue", size=(eid % 50 + 1, 1))))
        cnx.commit()
        return replacement.current_eid(cnx, eid)

    def look_up(self, eid: object, status: int = 200):
        return self.webapp.get(f"/current-eid/{eid}", status=status)

    def write(self, *queries: str, status: int = 200, **params: object):
        return self.webapp.post_json(
            "/api/v1/rql",
            [{"query": query, "params": params} for query in queries],
            headers={"X-Client-Name": "test"},
            status=status,
        )

    def test_look_up(self) -> None:
        for eid in (self.former, self.current):
            response = self.look_up(eid)
            assert response.json == {"eid": eid, "current": self.current}
            assert response.headers["Cache-Control"] == "private, no-cache"
            assert "Set-Cookie" not in response.headers

    def test_look_up_of_none(self) -> None:
        for eid in (self.unknown, 0, 2**31, 10**30, "a", "-1", "%D9%A1"):
            with self.subTest(eid):
                response = self.look_up(eid, status=404)
                assert response.json["title"] == "UnknownEid"
                assert response.headers["Cache-Control"] == "no-store"

    def test_look_up_of_what_may_not_be_read(self) -> None:
        with self.temporary_permissions((self.schema["File"], {"read": ("managers",)})):
            for eid in (self.former, self.current):
                answer = self.look_up(eid, status=404)
                assert str(self.current) not in answer.text.replace(str(eid), "")
            self.login()
            assert self.look_up(self.former).json["current"] == self.current

    def test_write_to_a_former_eid(self) -> None:
        self.login()
        told = {"former": self.former, "current": self.current}
        for query in (
            "SET X title 'a' WHERE X eid %(x)s",
            "SET X title 'a' WHERE X is File, X eid %(x)s",
            f"SET X title 'a' WHERE X eid {self.former}",
            f"SET X title 'a' WHERE X eid IN ({self.former}, {self.current})",
            "DELETE File X WHERE X eid %(x)s",
            "INSERT Tag T: T name 'new', T tags X WHERE X eid %(x)s",
        ):
            with self.subTest(query):
                before = self.write("Any COUNT(X) WHERE X is IN (File, Tag)").json
                answer = self.write("INSERT Tag T: T name 'b'", query, x=self.former, status=409)
                assert answer.json["data"] == told
                assert answer.json.keys() == {"title", "message", "data"}
                assert answer.headers["Cache-Control"] == "no-store"
                assert self.write("Any COUNT(X) WHERE X is IN (File, Tag)").json == before

    def test_write_to_what_is_replaced_meanwhile(self) -> None:
        self.login()
        for query in (
            "SET X title 'a' WHERE X eid %(x)s",
            "INSERT Tag T: T name 'new', T tags X WHERE X eid %(x)s",
        ):
            with self.subTest(query):
                former = self.current_eid(self.former)
                self.replaced_meanwhile = former
                answer = self.write(query, x=former, status=409)
                current = self.current_eid(self.former)
                assert current != former
                assert answer.json["data"] == {"former": former, "current": current}

    def test_write_with_data(self) -> None:
        self.login()
        query = (
            '[{"query": "SET X title %(t)s WHERE X eid %(x)s", "params": {"t": "a", "x": EID}}]'
        )
        for eid, status in ((self.former, 409), (self.current, 200)):
            self.webapp.post(
                "/api/v1/rql",
                {"queries": query.replace("EID", str(eid))},
                upload_files=[("other", "a.png", b"data")],
                headers={"X-Client-Name": "test"},
                status=status,
            )

    def test_write_to_an_unknown_eid(self) -> None:
        self.login()
        for query in (
            "SET X title 'a' WHERE X eid %(x)s",
            "INSERT Tag T: T name 'new', T tags X WHERE X eid %(x)s",
        ):
            with self.subTest(query):
                answer = self.write(query, x=self.unknown, status=404)
                assert answer.json["title"] == "UnknownEid"

    def test_write_to_the_current_eid(self) -> None:
        self.login()
        self.write("SET X title 'written' WHERE X eid %(x)s", x=self.current)
        with self.admin_access.cnx() as cnx:
            assert cnx.entity_from_eid(self.current).title == "written"

    def test_other_errors_are_those_of_the_api(self) -> None:
        self.login()
        assert self.write("SET X", status=400).json["title"] != "UnknownEid"
        self.write("SET X nothing 'a' WHERE X eid %(x)s", x=self.current, status=400)

    def test_error_of_an_entity_that_is_being_created(self) -> None:
        """It is the error of the entity: its eid is gone with the transaction."""
        self.login()
        query = "INSERT CWUser U: U login 'nobody', U upassword 'long enough'"
        assert self.write(query, status=400).json["title"] == "ValidationError"

    def test_look_up_in_rql(self) -> None:
        """An application gives the permission that is documented."""
        [expression] = re.findall(r'ERQLExpression\("(.*)"\)', DOCUMENT.read_text())
        query = "Any C WHERE X former %(x)s, X current C"
        given = self.schema["FormerEid"], {"read": ("managers", ERQLExpression(expression))}
        for groups in (("managers", "guests"), ("managers",)):
            of_images = self.schema["File"], {"read": groups}
            with (
                self.temporary_permissions(given, of_images),
                self.new_access("anon").cnx() as cnx,
            ):
                if "guests" in groups:
                    assert cnx.execute(query, {"x": self.former}).rows == [[self.current]]
                else:
                    with pytest.raises(Unauthorized):
                        cnx.execute(query, {"x": self.former})
