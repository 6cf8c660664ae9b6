"""A visitor of a site, with a browser that does not run JavaScript."""

import json
import re
from typing import Any, Literal
from urllib.parse import urljoin, urlsplit

import lxml.html
import requests

#: an uploaded file: its name, its bytes, its media type
Upload = tuple[str, bytes, str]


class Visitor:
    """Somebody who visits a site, and keeps its cookies.

    Redirects are not followed unless asked for. URLs may be given as the site writes them: their
    path and query are asked of `base_url`, which may be changed to pass from a process to another.

    :param base_url: where the site is
    """

    def __init__(self, base_url: str) -> None:
        self.base_url = base_url
        self.session = requests.Session()

    def request(self, method: str, url: str, **kwargs: Any) -> requests.Response:
        """Make a request; `kwargs` are those of :meth:`requests.Session.request`."""
        kwargs.setdefault("timeout", 30)
        kwargs.setdefault("allow_redirects", False)
        return self.session.request(method, self._here(url), **kwargs)

    def get(self, url: str = "", **kwargs: Any) -> requests.Response:
        """GET a URL."""
        return self.request("GET", url, **kwargs)

    def head(self, url: str = "", **kwargs: Any) -> requests.Response:
        """Ask for the headers of a URL."""
        return self.request("HEAD", url, **kwargs)

    def post(self, url: str, data: Any = None, **kwargs: Any) -> requests.Response:
        """POST a form, with the token that protects from forged requests."""
        if "csrf_token" not in self.session.cookies:
            self.get("login")
        token = self.session.cookies.get("csrf_token", "")
        headers = {"X-CSRF-Token": token, **kwargs.pop("headers", {})}
        return self.request("POST", url, data=data, headers=headers, **kwargs)

    def login(self, user: str = "admin", password: str = "admin") -> None:
        """Log in.

        :raises RuntimeError: the site refuses.
        """
        response = self.post("login", {"__login": user, "__password": password})
        if response.status_code != 303 or "auth_tkt" not in self.session.cookies:
            answer = f"{response.status_code} {response.headers}\n{response.text}"
            raise RuntimeError(f"{user} may not log in: {answer}")

    def form(self, url: str) -> lxml.html.FormElement:
        """Return the edition form of a page.

        :raises RuntimeError: the page has not one.
        """
        response = self.get(url)
        if response.status_code == 200:
            for form in lxml.html.fromstring(response.content).forms:
                if form.get("id") == "entityForm":
                    return form
        raise RuntimeError(f"no edition form at {response.url}: {response.status_code}")

    def edit(
        self,
        eid: int,
        etype: str,
        changes: dict[str, str] | None = None,
        files: dict[str, Upload] | None = None,
        controller: Literal["edit", "validateform"] = "edit",
        extra: dict[str, str] | None = None,
    ) -> requests.Response:
        """Edit an entity through its edition form.

        :param changes: values of fields of the entity, by attribute or relation. Fields of other
            entities in the same form are given by their full names, such as `title-subject:B`
        :param files: files to upload, by field in the same way
        :param controller: `edit` answers as without JavaScript, `validateform` as with it, for
            which see :func:`validation`
        :param extra: other form parameters, by their names
        :raises RuntimeError: the visitor is not given the form.
        """
        form = self.form(f"{etype.lower()}/{eid}?vid=edition")
        return self.submit(form, eid, changes, files, controller, extra)

    def create(
        self,
        etype: str,
        changes: dict[str, str] | None = None,
        files: dict[str, Upload] | None = None,
        controller: Literal["edit", "validateform"] = "edit",
        extra: dict[str, str] | None = None,
    ) -> requests.Response:
        """Create an entity through its creation form; see :meth:`edit`."""
        form = self.form(f"add/{etype}")
        return self.submit(form, form.fields["__maineid"], changes, files, controller, extra)

    def submit(
        self,
        form: lxml.html.FormElement,
        eid: int | str,
        changes: dict[str, str] | None = None,
        files: dict[str, Upload] | None = None,
        controller: Literal["edit", "validateform"] = "edit",
        extra: dict[str, str] | None = None,
    ) -> requests.Response:
        """Send a form of :meth:`form`; `changes` and `files` are those of its entity `eid`."""
        changed = {_field_name(name, eid): value for name, value in (changes or {}).items()}
        changed |= extra or {}
        values = [(name, value) for name, value in form.form_values() if name not in changed]
        values += changed.items()
        # a browser sends the file inputs that are left empty too
        uploads = {
            field.name: ("", b"", "application/octet-stream")
            for field in form.inputs
            if field.get("type") == "file" and field.name
        }
        uploads |= {_field_name(name, eid): upload for name, upload in (files or {}).items()}
        return self.post(controller, values, files=uploads)

    def _here(self, url: str) -> str:
        parts = urlsplit(url)
        path = parts.path.lstrip("/") + (f"?{parts.query}" if parts.query else "")
        return urljoin(self.base_url, path)


def validation(response: requests.Response) -> tuple[bool, Any, dict[str, Any] | None]:
    """Return what `validateform` answered to the page's JavaScript.

    That is: whether the form is valid; the URL to go to or else the errors; the entity.
    """
    match = re.search(r"handleFormValidationResponse\('\w+', (.*)\);", response.text)
    _onsuccess, _onfailure, outcome, _args = json.loads(f"[{match[1]}]")
    return tuple(outcome)


def _field_name(name: str, eid: int | str) -> str:
    return name if ":" in name else f"{name}-subject:{eid}"
