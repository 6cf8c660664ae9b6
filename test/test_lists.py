"""Lists, which are read at once, show what they show in stock CubicWeb."""

import re
from collections.abc import Iterator
from typing import Any

import pytest
from base import HasiteTC
from cubicweb import Binary
from cubicweb.entity import Entity
from cubicweb.schema import ERQLExpression
from cubicweb.server.session import Connection
from servers.instance import Instance, Process
from servers.visitor import Visitor

from cubicweb_hasite import upstream_lists

_FILES = "X is File, X title LIKE 'list%'"
#: lists of files, of entities of several types, and of several entities in each row
PAGES = (
    f"view?rql=Any X ORDERBY X WHERE {_FILES}&vid=gallery",
    f"view?rql=Any X ORDERBY X WHERE {_FILES}&vid=list",
    f"view?rql=Any X ORDERBY X WHERE {_FILES}&vid=sameetypelist",
    f"view?rql=Any X ORDERBY X WHERE {_FILES}&vid=album",
    f"view?rql=Any X,T ORDERBY X WHERE {_FILES}, X title T&vid=table",
    "view?rql=Any X ORDERBY X WHERE X is IN (Article, Blog, File), X title LIKE 'list%'&vid=list",
    f"view?rql=Any Y,X ORDERBY Y,X WHERE {_FILES}, Y cover X&vid=table",
    "view?rql=Any Y,Z ORDERBY Y WHERE Y is Article, Y in_blog Z?&vid=table",
    "file",
    "article",
)
#: of forms and of scripts, drawn anew for each page
_DRAWN = re.compile(r'(?<=csrf_token" value=")[^"]*|[0-9a-f]{24,}')
_FILL = """
from cubicweb import Binary
blog = cnx.create_entity("Blog", title="list of articles")
for number in range(12):
    name = "list%02d.png" % number
    image = cnx.create_entity("File", title=name, data=Binary(b"%d" % number), data_name=name,
                              data_format="image/png")
    if number % 3:
        article = cnx.create_entity("Article", title="list%02d" % number, cover=image,
                                    in_blog=blog if number % 2 else None)
        image.cw_set(main_article=article)

cnx.commit()
"""


@pytest.fixture
def processes(instance: Instance, monkeypatch: pytest.MonkeyPatch) -> Iterator[list[Process]]:
    """A process without speed-ups and one with them, of the same site."""
    instance.shell(_FILL)
    address = "http://site.example/"
    monkeypatch.setenv("PYTHONHASHSEED", "1")  # CubicWeb writes the fields of a form as a set
    with (
        instance.process(base_url=address, hasite_speed_ups="no") as stock,
        instance.process(base_url=address) as ours,
    ):
        yield [stock, ours]


def test_pages_are_those_of_stock_cubicweb(processes: list[Process]) -> None:
    for login in (None, "admin"):
        visitors = [Visitor(process.url) for process in processes]
        for visitor in visitors:
            if login:
                visitor.login(login)
            visitor.get()
        for page in PAGES:
            stock, ours = (visitor.get(page) for visitor in visitors)
            assert stock.status_code == ours.status_code == 200
            assert re.search(r"list[01]\d", ours.text)
            expected, found = (_DRAWN.sub("", response.text) for response in (stock, ours))
            assert found.splitlines() == expected.splitlines(), f"{page} of {login}"


class ReadingTC(HasiteTC):
    """What is read of the other entities of a list."""

    def setUp(self) -> None:
        super().setUp()
        upstream_lists.read_lists_at_once()
        with self.admin_access.cnx() as cnx:
            for title in "abc":
                self.new_file(cnx, title)
            cnx.commit()

    def new_file(self, cnx: Connection, title: str) -> Entity:
        return cnx.create_entity("File", title=title, data=Binary(b"1"), data_name=title)

    def files(self, req: Any) -> list[Entity]:
        rset = req.execute("Any X ORDERBY T WHERE X is File, X title T")
        return [rset.get_entity(row, 0) for row in range(len(rset))]

    def rename_files(self, req: Any) -> None:
        """Change them behind the entities: who asks the database now is answered differently."""
        req.cnx.system_sql("UPDATE cw_File SET cw_data_name='changed'")

    def test_one_attribute(self) -> None:
        with self.admin_access.web_request() as req:
            first, *others = self.files(req)
            assert first.data_name == "a"
            for other in others:
                assert "data_name" in other.cw_attr_cache
                assert "description" not in other.cw_attr_cache  # it may be long
            assert [other.data_name for other in others] == ["b", "c"]

    def test_data_is_not_read(self) -> None:
        with self.admin_access.web_request() as req:
            first, *others = self.files(req)
            assert first.data.getvalue() == b"1"
            assert not any("data" in other.cw_attr_cache for other in others)

    def test_all_attributes(self) -> None:
        with self.admin_access.web_request() as req:
            files = self.files(req)
            files[1].complete()
            self.rename_files(req)
            for each, title in zip(files, "abc", strict=True):
                each.complete()
                assert each.data_name == title
                assert each.cw_attr_cache["description"] is None
                assert each.cw_relation_cached("main_article", "subject")
            assert not any("data" in each.cw_attr_cache for each in files)

    def test_what_the_user_may_not_read(self) -> None:
        rdef = self.schema["File"].relation_definition("data_hash")
        with (
            self.temporary_permissions((rdef, {"read": ("managers",)})),
            self.new_access("anon").web_request() as req,
        ):
            assert [each.data_hash for each in self.files(req)] == [None] * 3
            req.drop_entity_cache()
            files = self.files(req)
            files[0].complete()
            assert [each.cw_attr_cache["data_hash"] for each in files] == [None] * 3

    def test_whom_the_user_may_not_read(self) -> None:
        own = ERQLExpression("X owned_by U")
        with self.new_access("anon").cnx() as cnx, cnx.security_enabled(write=False):
            self.new_file(cnx, "d")
            cnx.commit()
        with (
            self.temporary_permissions((self.schema["File"], {"read": ("managers", own)})),
            self.new_access("anon").web_request() as req,
        ):
            with req.cnx.security_enabled(read=False):
                files = self.files(req)
            assert files[3].data_name == "d"
            assert [each.data_name for each in files[:3]] == [None] * 3
            with pytest.raises(Exception, match="read access"):
                files[1].complete()

    def test_a_list_longer_than_a_page(self) -> None:
        with self.admin_access.cnx() as cnx:
            for number in range(upstream_lists.ROWS):
                self.new_file(cnx, f"d{number:03}")
            cnx.commit()
        with self.admin_access.web_request() as req:
            files = self.files(req)
            files[-1].complete()
            files[1].complete()
            self.rename_files(req)
            for each in files:
                each.complete()
                assert each.data_name == each.title

    def test_edits_and_scripts_read_as_before(self) -> None:
        with self.admin_access.web_request(method="POST") as req:
            self.assert_alone(req)
        with self.admin_access.cnx() as cnx:
            self.assert_alone(cnx)

    def assert_alone(self, req: Any) -> None:
        first, *others = self.files(req)
        first.complete()
        assert first.data_name == "a"
        assert not any("data_name" in other.cw_attr_cache for other in others)
