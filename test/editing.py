"""The base of the tests that edit entities through CubicWeb's own forms."""

import json
import re
from collections.abc import Iterable

import webtest
from base import HasiteTC
from cubicweb import Binary
from cubicweb.devtools import BASE_URL
from pictures import picture

from cubicweb_hasite.images import replacement

RED = picture("red")
BLUE = picture("blue")


class EditingTC(HasiteTC):
    """Test case that edits entities in the pages that a visitor gets."""

    def new_image(self, cnx, **attributes):
        """Return a new image, of the user of the connection."""
        attributes = {
            "data": Binary(RED),
            "data_name": "picture.png",
            "data_format": "image/png",
            **attributes,
        }
        return cnx.create_entity("File", **attributes)

    def page(self, url: str, **kwargs):
        """Return a page as a browser asks for it."""
        return self.webapp.get(url, headers={"Accept": "text/html"}, **kwargs)

    def edition_form(self, eid: int) -> webtest.Form:
        """Return the edition form of an entity."""
        return self.page(f"/{eid}?vid=edition").forms["entityForm"]

    def submit(
        self,
        form: webtest.Form,
        controller: str = "edit",
        extra: Iterable[tuple[str, str]] = (),
        status: int | None = None,
    ) -> webtest.TestResponse:
        """Send a form: to `edit`, as without JavaScript, or to `validateform`, as with it.

        :param extra: parameters that replace those of the form, or are added to them
        :param status: the status expected, by default one that is no error
        """
        extra = list(extra)
        replaced = {name for name, _value in extra} - {"eid"}
        fields = [(name, value) for name, value in form.submit_fields() if name not in replaced]
        params = [(name, value) for name, value in fields if isinstance(value, str)]
        uploads = [
            (name, value.value.filename, value.value.content)
            for name, value in fields
            if isinstance(value, webtest.forms.File) and value.value
        ]
        return self.webapp.post(
            BASE_URL + controller,
            params + extra,
            upload_files=uploads,
            headers={"Origin": BASE_URL},
            status=status,
        )

    def upload(
        self,
        eid: int,
        data: bytes,
        name: str = "picture.png",
        controller: str = "edit",
        extra: Iterable[tuple[str, str]] = (),
        **fields: str,
    ) -> str:
        """Edit an entity in its own form, with a new file; return where the visitor is sent.

        :param extra: other form parameters
        :param fields: other fields of the entity
        """
        form = self.edition_form(eid)
        form[f"data-subject:{eid}"] = webtest.Upload(name, data)
        for attribute, value in fields.items():
            form[f"{attribute}-subject:{eid}"] = value
        return self.location(self.submit(form, controller, extra))

    @staticmethod
    def location(response) -> str:
        """Return where the answer to a form sends the visitor."""
        if response.status_code == 303:
            return response.location
        valid, url, _entity = validation(response)
        assert valid, url
        return url

    def current_eid(self, eid: int) -> int | None:
        """Return the eid that the entity that had an eid has now, None if it has it still."""
        with self.admin_access.cnx() as cnx:
            return replacement.current_eid(cnx, eid)


def validation(response) -> list:
    """Return what `validateform` answered: whether it is valid, URL or errors, entity."""
    match = re.search(r"handleFormValidationResponse\('\w+', (.*)\);", response.text)
    return json.loads(f"[{match[1]}]")[2]
