"""Managers do not see the cube's own types among those of the application, nor edit them."""

from editing import BLUE, EditingTC

from cubicweb_hasite import schema
from cubicweb_hasite.views.internal_types import INTERNAL_TYPES


def test_all_types_are_internal() -> None:
    """Each entity type of the cube's schema is here."""
    defined = {
        name
        for name, value in vars(schema).items()
        if getattr(value, "__module__", "") == schema.__name__
        and hasattr(value, "__permissions__")
    }
    assert defined == set(INTERNAL_TYPES)


class InternalTypesTC(EditingTC):
    def setUp(self) -> None:
        super().setUp()
        with self.admin_access.cnx() as cnx:
            image = self.new_image(cnx)
            cnx.commit()
        self.login()
        self.upload(image.eid, BLUE)
        with self.admin_access.cnx() as cnx:
            [[self.eid]] = cnx.execute("Any X WHERE X is FormerEid").rows

    def test_home_page(self) -> None:
        page = self.page("/").text
        assert "File" in page
        assert "FormerEid" not in page
        assert "ormer eid" not in page

    def test_forms(self) -> None:
        for url in (
            "/add/FormerEid",
            "/view?vid=creation&etype=FormerEid",
            "/{eid}?vid=edition",
            "/{eid}?vid=copy",
            "/{eid}?vid=deleteconf",
            "/view?rql=Any X WHERE X is FormerEid&vid=muledit",
            "/view?rql=Any X WHERE X is FormerEid&vid=edition",
        ):
            with self.subTest(url):
                response = self.page(url.format(eid=self.eid), status=403)
                assert "entityForm" not in response.text
        assert "entityForm" in self.page("/add/File").text
