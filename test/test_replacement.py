"""An image whose data is edited in a form gets a new eid, and nothing attached to it is lost."""

import json

import pytest
import webtest
from cubicweb import Binary, UnknownEid
from cubicweb.devtools import BASE_URL
from editing import BLUE, RED, EditingTC, validation
from graph import graph
from pictures import picture

from cubicweb_hasite.images import replacement

CONTROLLERS = ("edit", "validateform")


class WholeGraphTC(EditingTC):
    """An image linked in every way keeps all of its links."""

    def populate(self) -> int:
        """Create an image in the middle of a graph; return its eid."""
        with self.admin_access.cnx() as cnx:
            self.create_user(cnx, "alice", ("users",))
            article = cnx.create_entity("Article", title="made for", cover=self.new_image(cnx))
            image = self.new_image(
                cnx, title="a title", description="words to find", main_article=article
            )
            other = self.new_image(cnx, title="other", see_also_image=image)
            image.cw_set(see_also_image=self.new_image(cnx), illustrates=article)
            for title in ("one", "two"):
                cnx.create_entity("Article", title=title, cover=image, reverse_illustrates=image)
            for name in ("red", "square"):
                cnx.create_entity("Tag", name=name, tags=(image, other))
            comment = cnx.create_entity("Comment", content="nice", comments=image)
            cnx.create_entity("Comment", content="indeed", comments=comment)
            cnx.create_entity("Caption", text="first", caption_of=image)
            cnx.create_entity("Caption", text="second", caption_of=image)
            cnx.create_entity("Album", name="album", album_image=(image, other))
            image.cw_set(filed_under=cnx.create_entity("Folder", name="folder"))
            image.cw_set(owned_by=cnx.find("CWUser", login="alice").one())
            cnx.commit()
            image.cw_adapt_to("IWorkflowable").fire_transition("publish", comment="good")
            cnx.commit()
            image.cw_adapt_to("IWorkflowable").fire_transition("withdraw")
            cnx.commit()
            return image.eid

    def check(self, controller: str) -> None:
        first = eid = self.populate()
        self.login()
        with self.admin_access.cnx() as cnx:
            before = graph(cnx)
        for data in (BLUE, RED):  # twice: a replaced entity is replaced as any other
            self.upload(eid, data, controller=controller)
            former, eid = eid, self.current_eid(eid)
            assert eid is not None
            with self.admin_access.cnx() as cnx:
                after = graph(cnx, {eid: first})
                assert cnx.entity_from_eid(eid).data.getvalue() == data
                with pytest.raises(UnknownEid):
                    cnx.entity_from_eid(former)
            assert sorted(before) == sorted(after)
            for table, rows in before.items():
                assert rows == after[table], table

    def test_plain(self) -> None:
        self.check("edit")

    def test_javascript(self) -> None:
        self.check("validateform")

    def test_full_text(self) -> None:
        eid = self.populate()
        self.login()
        self.upload(eid, BLUE)
        with self.admin_access.cnx() as cnx:
            rset = cnx.execute('Any X WHERE X is File, X has_text "words find"')
            assert [row[0] for row in rset] == [self.current_eid(eid)]

    def test_works_afterwards(self) -> None:
        """The new eid can be tagged, commented, moved in its workflow and deleted."""
        eid = self.populate()
        self.login()
        self.upload(eid, BLUE)
        with self.admin_access.cnx() as cnx:
            image = cnx.entity_from_eid(self.current_eid(eid))
            cnx.create_entity("Comment", content="more", comments=image)
            image.cw_adapt_to("IWorkflowable").fire_transition("publish")
            cnx.commit()
            assert image.cw_adapt_to("IWorkflowable").state == "published"
            assert len(image.reverse_wf_info_for) == 3
            cnx.execute("DELETE Article A")
            image.cw_delete()
            cnx.commit()
            assert not cnx.execute("Any F WHERE F is FormerEid")


class EditTC(EditingTC):
    """Each row of what the article's controller lost, and what is right instead."""

    def setUp(self) -> None:
        super().setUp()
        with self.admin_access.cnx() as cnx:
            self.eid = self.new_image(cnx, title="a title", description="text").eid
            cnx.commit()
        self.login()

    def attributes(self, eid: int) -> dict:
        with self.admin_access.cnx() as cnx:
            image = cnx.entity_from_eid(eid)
            image.complete()
            names = ("title", "description", "data_name", "data_format", "data_encoding")
            return {name: getattr(image, name) for name in names} | {"data": image.data.getvalue()}

    def test_main_entity(self) -> None:
        for controller in CONTROLLERS:
            with self.subTest(controller):
                eid = self.current_eid(self.eid) or self.eid
                jpeg = picture(
                    "green" if controller == "edit" else "black", kind="jpeg", size=(8, 8)
                )
                location = self.upload(eid, jpeg, "other.jpg", controller)
                current = self.current_eid(self.eid)
                assert location.startswith(f"{BASE_URL}file/{current}?_cwmsgid=")
                attributes = self.attributes(current)
                assert attributes["data"] == jpeg
                assert attributes["data_name"] == "other.jpg"
                assert attributes["data_format"] == "image/jpeg"
                page = self.page(location)
                assert f"file/{current}/raw/other.jpg" in page.text
                assert "entity edited" in page.text

    def test_attributes_not_in_the_form(self) -> None:
        before = self.attributes(self.eid)
        form = self.edition_form(self.eid)
        form[f"data-subject:{self.eid}"] = webtest.Upload("picture.png", BLUE)
        form[f"_cw_entity_fields:{self.eid}"] = "data-subject,__type"
        self.submit(form)
        assert self.attributes(self.current_eid(self.eid)) == before | {"data": BLUE}

    def test_attributes_edited_with_the_data(self) -> None:
        self.upload(self.eid, BLUE, title="new title")
        assert self.attributes(self.current_eid(self.eid))["title"] == "new title"

    def test_title_alone(self) -> None:
        form = self.edition_form(self.eid)
        form[f"title-subject:{self.eid}"] = "new title"
        location = self.location(self.submit(form))
        assert f"file/{self.eid}" in location
        assert self.current_eid(self.eid) is None
        assert self.attributes(self.eid)["title"] == "new title"

    def test_identical_bytes(self) -> None:
        self.upload(self.eid, RED, title="new title")
        assert self.current_eid(self.eid) is None
        assert self.attributes(self.eid)["title"] == "new title"

    def test_inline_in_the_form_of_another_entity(self) -> None:
        for controller in CONTROLLERS:
            with self.subTest(controller):
                with self.admin_access.cnx() as cnx:
                    image = self.new_image(cnx, title="inlined")
                    article = cnx.create_entity("Article", title="article", cover=image)
                    other = cnx.create_entity("Article", title="other", cover=image)
                    cnx.commit()
                form = self.edition_form(article.eid)
                form[f"data-subject:{image.eid}"] = webtest.Upload("picture.png", BLUE)
                form[f"title-subject:{article.eid}"] = "edited"
                location = self.location(self.submit(form, controller))
                assert location.startswith(f"{BASE_URL}article/{article.eid}"), location
                current = self.current_eid(image.eid)
                assert current is not None
                with self.admin_access.cnx() as cnx:
                    for eid, title in ((article.eid, "edited"), (other.eid, "other")):
                        entity = cnx.entity_from_eid(eid)
                        assert entity.title == title
                        assert entity.cover[0].eid == current
                    assert entity.cover[0].data.getvalue() == BLUE
                    assert entity.cover[0].title == "inlined"

    def test_created_entities_in_the_same_form(self) -> None:
        """A caption is added in the form in which the image is replaced."""
        caption = [
            ("_cw_fields", "eid,__maineid"),
            ("eid", "X"),
            ("__type:X", "Caption"),
            ("_cw_entity_fields:X", "text-subject,caption_of-subject,__type"),
            ("text-subject:X", "a caption"),
            ("caption_of-subject:X", str(self.eid)),
        ]
        self.upload(self.eid, BLUE, extra=caption)
        with self.admin_access.cnx() as cnx:
            image = cnx.entity_from_eid(self.current_eid(self.eid))
            assert [caption.text for caption in image.reverse_caption_of] == ["a caption"]

    def test_concurrent_edition(self) -> None:
        """CubicWeb's own check refuses a form made before another edition."""
        form = self.edition_form(self.eid)
        with self.admin_access.cnx() as cnx:
            cnx.entity_from_eid(self.eid).cw_set(title="meanwhile")
            cnx.commit()
        form[f"data-subject:{self.eid}"] = webtest.Upload("picture.png", BLUE)
        valid, [eid, errors], _entity = validation(self.submit(form, "validateform"))
        assert not valid
        assert eid == self.eid
        assert "has changed since you started to edit it" in json.dumps(errors)
        assert self.current_eid(self.eid) is None
        assert self.attributes(self.eid)["data"] == RED

    def test_concurrent_replacement(self) -> None:
        """A form made before a replacement is refused, as for any concurrent edition."""
        for controller in CONTROLLERS:
            with self.subTest(controller):
                eid = self.current_eid(self.eid) or self.eid
                form = self.edition_form(eid)
                data = picture("yellow", size=(9, 9)) if controller == "edit" else BLUE
                self.upload(eid, data)
                current = self.current_eid(eid)
                form[f"data-subject:{eid}"] = webtest.Upload("picture.png", picture("white"))
                response = self.submit(form, controller)
                if controller == "validateform":
                    valid, [_eid, errors], _entity = validation(response)
                    assert not valid
                    assert "has changed since" in json.dumps(errors)
                else:
                    assert response.status_code == 303
                    assert f"/{current}?vid=edition" in response.location
                    assert "has changed since" in self.page(response.location).text
                assert self.current_eid(eid) == current
                assert self.attributes(current)["data"] == data

    def test_validation_error(self) -> None:
        """An error is attached to the field of the entity that has it."""
        form = self.edition_form(self.eid)
        form[f"data-subject:{self.eid}"] = webtest.Upload("picture.png", BLUE)
        form[f"title-subject:{self.eid}"] = "x" * 300
        valid, [eid, errors], _entity = validation(self.submit(form, "validateform"))
        assert not valid
        assert eid == self.eid
        assert list(errors) == ["title-subject"]
        assert self.current_eid(self.eid) is None
        assert self.attributes(self.eid)["data"] == RED

    def test_redirects_to_the_former_eid(self) -> None:
        redirects = (
            {"__redirectpath": "file/{eid}"},
            {
                "__redirectpath": "view",
                "__redirectparams": "rql=Any%20X%20WHERE%20X%20eid%20{eid}",
            },
            {"__redirectrql": "Any X WHERE X eid {eid}", "__redirectvid": "primary"},
            {"__redirectpath": "folder"},
        )
        for controller in CONTROLLERS:
            for redirect in redirects:
                with self.subTest(controller, redirect=redirect):
                    eid = self.current_eid(self.eid) or self.eid
                    data = picture("red", size=(eid % 50 + 1, 7))
                    extra = [(name, value.format(eid=eid)) for name, value in redirect.items()]
                    location = self.upload(eid, data, controller=controller, extra=extra)
                    current = self.current_eid(eid)
                    assert location.startswith(f"{BASE_URL}file/{current}"), location
                    assert f"file/{current}/raw/" in self.page(location).text

    def test_apply_button(self) -> None:
        location = self.upload(self.eid, BLUE, extra=[("__action_apply", "1")])
        current = self.current_eid(self.eid)
        assert f"file/{current}?" in location
        assert "vid=edition" in location
        assert self.page(location).status_code == 200

    def test_update_permission_is_enough(self) -> None:
        with self.admin_access.cnx() as cnx:
            self.create_user(cnx, "bob", ("users",))
            cnx.commit()
        eschema = self.schema["File"]
        with self.temporary_permissions(
            (eschema, {"update": ("users",), "add": ("managers",), "delete": ("managers",)})
        ):
            self.webapp.reset()
            self.login("bob", "bob")
            self.upload(self.eid, BLUE)
        current = self.current_eid(self.eid)
        assert current is not None
        with self.admin_access.cnx() as cnx:
            owners = cnx.entity_from_eid(current).owned_by
            assert [owner.login for owner in owners] == ["admin"]

    def test_update_permission_is_needed(self) -> None:
        form = self.edition_form(self.eid)
        with self.admin_access.cnx() as cnx:
            self.create_user(cnx, "bob", ("users",))
            cnx.commit()
        with self.temporary_permissions((self.schema["File"], {"update": ("managers",)})):
            self.webapp.reset()
            self.login("bob", "bob")
            form["csrf_token"] = self.webapp.get_csrf_token()
            form[f"data-subject:{self.eid}"] = webtest.Upload("picture.png", BLUE)
            valid, _errors, _entity = validation(self.submit(form, "validateform"))
        assert not valid
        assert self.current_eid(self.eid) is None
        assert self.attributes(self.eid)["data"] == RED

    def test_writes_that_bypass_the_form(self) -> None:
        """They keep the eid, which the caller holds, but not the validator of the data."""
        url = f"/file/{self.eid}/raw/picture.png"
        etag = self.webapp.get(url).headers["ETag"]
        with self.admin_access.cnx() as cnx:
            cnx.entity_from_eid(self.eid).cw_set(data=Binary(BLUE))
            cnx.commit()
        assert self.current_eid(self.eid) is None
        response = self.webapp.get(url, headers={"If-None-Match": etag})
        assert (response.status_code, response.body) == (200, BLUE)

    def test_writes_that_ask_to_replace(self) -> None:
        with self.admin_access.cnx() as cnx:
            replaced = replacement.track(cnx)
            cnx.execute("SET F data %(d)s WHERE F eid %(f)s", {"d": Binary(BLUE), "f": self.eid})
            cnx.commit()
        assert replaced == {self.eid: self.current_eid(self.eid)}
        assert self.attributes(replaced[self.eid])["data"] == BLUE

    def test_option_to_replace_always(self) -> None:
        self.config.global_set_option("hasite-replace-always", True)
        try:
            with self.admin_access.cnx() as cnx:
                cnx.entity_from_eid(self.eid).cw_set(data=Binary(BLUE))
                new = self.new_image(cnx)
                new.cw_set(data=Binary(BLUE))  # nobody has seen its eid yet
                cnx.commit()
        finally:
            self.config.global_set_option("hasite-replace-always", False)
        assert self.attributes(self.current_eid(self.eid))["data"] == BLUE
        assert self.current_eid(new.eid) is None
        assert self.attributes(new.eid)["data"] == BLUE

    def test_rollback(self) -> None:
        with self.admin_access.cnx() as cnx:
            before = graph(cnx)
            replacement.track(cnx)
            cnx.entity_from_eid(self.eid).cw_set(data=Binary(BLUE))
            cnx.create_entity("Article", title="without cover")
            with pytest.raises(Exception, match="cover"):
                cnx.commit()
        with self.admin_access.cnx() as cnx:
            assert graph(cnx) == before
            assert cnx.entity_from_eid(self.eid).data.getvalue() == RED

    def test_deleted_in_the_same_transaction(self) -> None:
        with self.admin_access.cnx() as cnx:
            replacement.track(cnx)
            image = cnx.entity_from_eid(self.eid)
            image.cw_set(data=Binary(BLUE))
            image.cw_delete()
            cnx.commit()
            assert not cnx.execute("Any F WHERE F is IN (File, FormerEid)")

    def test_former_eids_lead_to_the_current_one_in_one_step(self) -> None:
        eids = [self.eid]
        for size in range(1, 5):
            self.upload(eids[-1], picture("blue", size=(size, size)))
            eids.append(self.current_eid(eids[-1]))
        assert len(set(eids)) == 5
        for former in eids[:-1]:
            assert self.current_eid(former) == eids[-1]

    def test_file_that_is_not_an_image(self) -> None:
        with self.admin_access.cnx() as cnx:
            text = cnx.create_entity(
                "File", data=Binary(b"one"), data_name="a.txt", data_format="text/plain"
            )
            cnx.commit()
        self.upload(text.eid, b"two", "a.txt")
        assert self.current_eid(text.eid) is None
        assert self.attributes(text.eid)["data"] == b"two"

    def test_image_that_becomes_another_type_of_file(self) -> None:
        """What was cached under the eid was an image: the eid changes."""
        self.upload(self.eid, b"%PDF-1.4", "a.pdf")
        current = self.current_eid(self.eid)
        assert self.attributes(current)["data_format"] == "application/pdf"

    def test_image_type(self) -> None:
        """The `Image` type that an application has is immutable too."""
        with self.admin_access.cnx() as cnx:
            image = cnx.create_entity(
                "Image", data=Binary(RED), data_name="a.png", data_format="image/png"
            )
            cnx.commit()
        location = self.upload(image.eid, BLUE)
        current = self.current_eid(image.eid)
        assert location.startswith(f"{BASE_URL}image/{current}"), location
        response = self.webapp.get(f"/image/{current}/download")
        assert response.body == BLUE
        assert response.headers["Cache-Control"] == "public, max-age=3600"
        response = self.webapp.get(f"/image/{image.eid}/download", status=301)
        assert response.location == f"{BASE_URL}image/{current}/download"
