"""An error in a form: nothing is committed, what was typed is kept, its field tells."""

import lxml.html
import webtest
from cubicweb.predicates import is_instance
from cubicweb.server.hook import Hook, LateOperation
from editing import BLUE, RED, EditingTC, validation
from graph import graph

TOO_LONG = "x" * 300
# an upload that does not fit in memory: it comes in a temporary file
BIG = BLUE + bytes(100_000)


class EditErrorTC(EditingTC):
    def setUp(self) -> None:
        super().setUp()
        with self.admin_access.cnx() as cnx:
            image = self.new_image(cnx, title="old")
            self.article = cnx.create_entity("Article", title="old", cover=image).eid
            self.eid = image.eid
            cnx.commit()
            self.before = graph(cnx)
        self.login()

    def check_nothing_changed(self) -> None:
        with self.admin_access.cnx() as cnx:
            assert graph(cnx) == self.before
            assert cnx.entity_from_eid(self.eid).data.getvalue() == RED
        assert self.current_eid(self.eid) is None

    def form_with_error(self, response) -> webtest.Form:
        """Return the form that the visitor is led back to."""
        assert response.status_code == 303
        return self.page(response.location).forms["entityForm"]

    def test_image_alone(self) -> None:
        form = self.edition_form(self.eid)
        form[f"data-subject:{self.eid}"] = webtest.Upload("a.png", BIG)
        form[f"title-subject:{self.eid}"] = TOO_LONG
        form = self.form_with_error(self.submit(form))
        assert form[f"title-subject:{self.eid}"].value == TOO_LONG
        assert "value should have maximum size of 256" in form.text
        self.check_nothing_changed()

        form[f"title-subject:{self.eid}"] = "shorter"
        form[f"data-subject:{self.eid}"] = webtest.Upload("a.png", BLUE)
        assert f"/file/{self.eid}" not in self.location(self.submit(form))
        with self.admin_access.cnx() as cnx:
            assert cnx.entity_from_eid(self.current_eid(self.eid)).title == "shorter"

    def test_several_entities(self) -> None:
        """The image is edited before or after the article that has the error."""
        for wrong, right in ((self.article, self.eid), (self.eid, self.article)):
            for controller in ("edit", "validateform"):
                with self.subTest(controller, wrong=wrong):
                    form = self.edition_form(self.article)
                    form[f"data-subject:{self.eid}"] = webtest.Upload("a.png", BIG)
                    form[f"title-subject:{wrong}"] = TOO_LONG
                    form[f"title-subject:{right}"] = "typed"
                    response = self.submit(form, controller)
                    if controller == "edit":
                        form = self.form_with_error(response)
                        assert form[f"title-subject:{wrong}"].value == TOO_LONG
                        assert form[f"title-subject:{right}"].value == "typed"
                        document = lxml.html.fromstring(form.text)
                        [message] = document.xpath('//span[@class="errorMsg"]')
                        row = message.xpath("ancestor::tr[1]")[0]
                        assert row.xpath(f'.//input[@name="title-subject:{wrong}"]')
                    else:
                        valid, [eid, errors], _entity = validation(response)
                        assert not valid
                        assert (eid, list(errors)) == (wrong, ["title-subject"])
                    self.check_nothing_changed()

    def test_error_at_commit(self) -> None:
        """A relation that is missing is noticed at the commit only."""
        for controller in ("edit", "validateform"):
            with self.subTest(controller):
                form = self.edition_form(self.eid)
                form[f"data-subject:{self.eid}"] = webtest.Upload("a.png", BIG)
                article = [
                    ("eid", "X"),
                    ("__type:X", "Article"),
                    ("_cw_entity_fields:X", "title-subject,__type"),
                    ("title-subject:X", "without cover"),
                ]
                response = self.submit(form, controller, article)
                if controller == "edit":
                    assert "cover" in self.form_with_error(response).text
                else:
                    valid, [_eid, errors], _entity = validation(response)
                    assert not valid
                    assert list(errors) == ["cover-subject"]
                self.check_nothing_changed()

    def test_upload_that_is_too_large(self) -> None:
        for controller in ("edit", "validateform"):
            form = self.edition_form(self.eid)
            form[f"data-subject:{self.eid}"] = webtest.Upload("a.png", bytes(100 * 2**20))
            response = self.submit(form, controller, status=413)
            assert "104857600 bytes (option max-post-length)" in response.text
            assert response.headers["Cache-Control"] == "no-store"
            self.check_nothing_changed()

    def test_deleted_right_after_the_edit(self) -> None:
        """The edit is done all the same, and `validateform` says so."""
        case = self

        class DeleteHook(Hook):
            __regid__ = "test.delete"
            __select__ = Hook.__select__ & is_instance("File")
            events = ("after_update_entity",)

            def __call__(self) -> None:
                DeleteOp(self._cw)

        class DeleteOp(LateOperation):
            def postcommit_event(self) -> None:
                with case.admin_access.cnx() as cnx, cnx.security_enabled(write=False):
                    cnx.execute("DELETE File F")
                    cnx.commit()

        with self.admin_access.cnx() as cnx:
            cnx.execute("DELETE Article A")
            cnx.commit()
        for controller in ("edit", "validateform"):
            with self.admin_access.cnx() as cnx:
                eid = self.new_image(cnx).eid
                cnx.commit()
            form = self.edition_form(eid)
            form[f"title-subject:{eid}"] = "new"
            with self.subTest(controller), self.temporary_appobjects(DeleteHook):
                assert (
                    self.location(self.submit(form, controller)).split("?")[0].endswith(str(eid))
                )

    def test_link_to_an_entity_replaced_meanwhile(self) -> None:
        """A comment that was being written when the image was replaced is refused clearly."""
        for controller in ("edit", "validateform"):
            with self.subTest(controller):
                eid = self.current_eid(self.eid) or self.eid
                form = self.page("/add/Comment").forms["entityForm"]
                comment = [
                    ("content-subject:A", "hello"),
                    ("_cw_entity_fields:A", "content-subject,comments-subject,__type"),
                    ("comments-subject:A", str(eid)),
                ]
                self.upload(eid, BLUE + controller.encode())
                response = self.submit(form, controller, comment)
                if controller == "edit":
                    page = self.page(response.location)
                    assert f"Entity {eid} has changed since" in page.text
                    assert page.forms["entityForm"]["content-subject:A"].value == "hello"
                else:
                    valid, [_eid, errors], _entity = validation(response)
                    assert not valid
                    assert f"Entity {eid} has changed since" in str(errors)
                with self.admin_access.cnx() as cnx:
                    assert not cnx.execute("Any C WHERE C is Comment")
