"""A text that names an image by its eid shows the image after it was replaced."""

import re

from cubicweb_web.ext.rest import rest_publish
from editing import BLUE, EditingTC

TEXT = """
BEGIN
:eid:`{eid}:the picture`

:rql:`Any X WHERE X eid {eid}:oneline`

:rql:`Any X WHERE X is File, X eid IN ({eid}, {other}):oneline`

:rql:`Any Y WHERE X eid {eid}, Y cover X:oneline`

:bookmark:`{bookmark}`

.. rql-table::

   Any X, N WHERE X eid {eid},
   X data_name N

END
"""
WRONG = ("UNEXISTANT", "No result", "empty result", "error", "nknown")


class TextsTC(EditingTC):
    def setUp(self) -> None:
        super().setUp()
        with self.admin_access.cnx() as cnx:
            self.former = self.new_image(cnx).eid
            self.other = self.new_image(cnx, data_name="other.png").eid
            bookmark = cnx.create_entity(
                "Bookmark",
                title="picture",
                path=f"view?rql=Any X WHERE X eid {self.former}&vid=oneline",
            )
            self.text = TEXT.format(eid=self.former, other=self.other, bookmark=bookmark.eid)
            article = cnx.create_entity(
                "Article",
                title="a",
                content=self.text,
                content_format="text/rest",
                cover=self.former,
            )
            self.article = article.eid
            cnx.commit()

    def body(self) -> str:
        """Return the text as its page shows it."""
        page = self.page(f"/article/{self.article}").text
        return re.search("BEGIN(.*?)END", page, re.DOTALL)[1]

    def check(self, eid: int) -> None:
        body = self.body()
        assert not [wrong for wrong in WRONG if wrong in body], body
        assert len(re.findall(rf"\b{eid}\b", body)) >= 5, body

    def test_after_replacements(self) -> None:
        self.check(self.former)
        self.login()
        eid = self.former
        for data in (BLUE, BLUE + b"\0"):
            self.upload(eid, data)
            eid = self.current_eid(eid)
            self.check(eid)
        with self.admin_access.cnx() as cnx:  # the texts themselves are their authors'
            bookmark = cnx.execute("Any P WHERE X is Bookmark, X path P")[0][0]
            assert f"eid {self.former}&" in bookmark
            assert cnx.entity_from_eid(self.article).content == self.text

    def test_unreadable(self) -> None:
        """The current eid is told to nobody who may not read the image."""
        self.login()
        self.upload(self.former, BLUE)
        current = self.current_eid(self.former)
        with self.temporary_permissions((self.schema["File"], {"read": ("managers",)})):
            with self.new_access("anon").web_request() as req:
                text = rest_publish(req.entity_from_eid(self.article), self.text)
            with self.admin_access.web_request() as req:
                for_managers = rest_publish(req.entity_from_eid(self.article), self.text)
        assert not re.search(rf"\b{current}\b", text)
        assert "UNEXISTANT EID" in text
        assert re.search(rf"\b{current}\b", for_managers)

    def test_wrong(self) -> None:
        """What names no eid is answered as by CubicWeb."""
        self.text = ":eid:`the picture` :eid:`-1` :rql:`Any` :bookmark:`x` :bookmark:`99999`"
        self.text += "\n\n.. rql-table::\n\nEND\n"
        with self.admin_access.cnx() as cnx:
            cnx.entity_from_eid(self.article).cw_set(content=self.text)
            cnx.commit()
        page = self.page(f"/article/{self.article}").text
        assert page.count("must be a positive number") >= 2
        assert "Unknown EID 99999" in page
        assert "Content block expected" in page
