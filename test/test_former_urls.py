"""The URLs of an eid that was replaced lead to its successor, in every process."""

import re
from datetime import UTC, datetime, timedelta

import pytest
from cubicweb import Binary, Unauthorized
from cubicweb.devtools import BASE_URL
from cubicweb_web.view import View
from editing import BLUE, RED, EditingTC
from pictures import picture
from pyramid.request import Request
from servers.instance import Instance, Process
from servers.visitor import Visitor

from cubicweb_hasite.images import replacement
from cubicweb_hasite.images.urls import entity_url, path_pattern

URLS = (
    "/{eid}",
    "/file/{eid}",
    "/File/{eid}",
    "/file/eid/{eid}",
    "/file/{eid}?vid=edition",
    "/file/{eid}/raw/some%20name%C3%A9.png",
    "/file/{eid}/raw",
    "/file/{eid}/thumb/picture_75x75.png",
    "/file/{eid}?vid=download",
    "/file/{eid}/download",
    "/{eid}/download",
    "/view?eid={eid}&vid=primary",
    "/view?vid=edition&eid={eid}",
    "/view?rql=Any+X+WHERE+X+eid+{eid}&vid=primary",
    "/view?rql=Any%20X%20WHERE%20X%20eid%20{eid}",
)


class FormerURLTC(EditingTC):
    def setUp(self) -> None:
        super().setUp()
        with self.admin_access.cnx() as cnx:
            self.former = self.new_image(cnx).eid
            cnx.commit()
        self.login()
        self.upload(self.former, BLUE)
        self.current = self.current_eid(self.former)

    def check_redirects(self, former: int, current: int, shared: bool = True) -> None:
        for url in URLS:
            for method in ("GET", "HEAD"):
                with self.subTest(url, method=method):
                    response = self.webapp.request(
                        BASE_URL + url[1:].format(eid=former), method=method, status=301
                    )
                    expected = BASE_URL + url[1:].format(eid=current)
                    assert response.location == expected
                    who = "public" if shared else "private"
                    assert response.headers["Cache-Control"] == f"{who}, max-age=120"
                    assert "Set-Cookie" not in response.headers
                    assert "Vary" not in response.headers

    def test_every_url(self) -> None:
        self.webapp.reset()
        self.check_redirects(self.former, self.current)

    def test_one_step_after_several_replacements(self) -> None:
        eids = [self.former, self.current]
        for size in (1, 2):
            self.upload(eids[-1], picture("red", size=(size, size)))
            eids.append(self.current_eid(eids[-1]))
        self.webapp.reset()
        for former in eids[:-1]:
            self.check_redirects(former, eids[-1])

    def test_private(self) -> None:
        """A former eid says nothing to who may not read the image."""
        with self.temporary_permissions((self.schema["File"], {"read": ("managers", "users")})):
            self.check_redirects(self.former, self.current, shared=False)
            self.webapp.reset()
            for url in URLS:
                with self.subTest(url):
                    never = self.webapp.get(url.format(eid=self.current + 5000), status="*")
                    response = self.webapp.get(url.format(eid=self.former), status="*")
                    assert response.status_code == never.status_code
                    assert "Location" not in response.headers
                    # as a number: the page holds random hexadecimal ones
                    assert not re.search(rf"\b{self.current}\b", response.text)

    def test_host_of_the_request_is_not_trusted(self) -> None:
        response = self.webapp.get(
            f"/file/{self.former}/raw/a.png", headers={"X-Forwarded-Host": "evil"}, status=301
        )
        assert response.location.startswith(BASE_URL)

    def test_deleted(self) -> None:
        with self.admin_access.cnx() as cnx:
            cnx.entity_from_eid(self.current).cw_delete()
            cnx.commit()
            assert not cnx.execute("Any F WHERE F is FormerEid")
        self.webapp.reset()
        for eid in (self.former, self.current):
            for url in URLS:
                with self.subTest(url, eid=eid):
                    response = self.webapp.get(
                        url.format(eid=eid), headers={"Accept": "text/html"}, status=404
                    )
                    assert response.headers["Cache-Control"] == "no-store"

    def test_gone_while_its_page_is_made(self) -> None:
        """It would be an error of the server in stock CubicWeb."""
        for sql, status in (("UPDATE", 301), ("DELETE", 404)):
            with self.subTest(sql), self.admin_access.cnx() as cnx:
                eid = self.new_image(cnx).eid
                cnx.commit()

                class Vanishing(View):
                    __regid__ = "vanishing"
                    case = self
                    update = sql == "UPDATE"

                    def call(self) -> None:
                        image = self.cw_rset.get_entity(0, 0)
                        with self.case.admin_access.cnx() as cnx:
                            other = cnx.entity_from_eid(image.eid)
                            if self.update:
                                replacement.track(cnx)
                                other.cw_set(data=Binary(BLUE))
                            else:
                                other.cw_delete()
                            cnx.commit()
                        image.complete()

                with self.temporary_appobjects(Vanishing):
                    response = self.page(f"/file/{eid}?vid=vanishing", status=status)
                if status == 301:
                    current = self.current_eid(eid)
                    assert response.location == f"{BASE_URL}file/{current}?vid=vanishing"

    def test_gone_while_a_page_that_shows_it_is_made(self) -> None:
        """The page is made again, with what there is now."""
        with self.admin_access.cnx() as cnx:
            eid = self.new_image(cnx, title="on a page").eid
            cnx.commit()

        class Listing(View):
            __regid__ = "listing"
            case = self
            made = 0

            def call(self) -> None:
                type(self).made += 1
                [image] = self.cw_rset.entities()
                if image.eid == eid:
                    with self.case.admin_access.cnx() as cnx:
                        replacement.track(cnx)
                        cnx.entity_from_eid(eid).cw_set(data=Binary(BLUE))
                        cnx.commit()
                image.complete()
                self.w("eid: %s", image.eid)

        with self.temporary_appobjects(Listing):
            url = "/view?rql=Any X WHERE X title 'on a page'&vid=listing"
            page = self.page(url)
            assert f"eid: {self.current_eid(eid)}" in page
            assert Listing.made == 2

    def test_page_that_fails(self) -> None:
        """It is made once where nothing was replaced."""

        class Failing(View):
            __regid__ = "failing"
            made = 0

            def call(self) -> None:
                type(self).made += 1
                raise RuntimeError("for the test")

        with self.temporary_appobjects(Failing):
            with self.admin_access.cnx() as cnx:  # an hour ago, as far as one can tell
                date = datetime.now(UTC) - timedelta(hours=1)
                cnx.execute("SET X creation_date %(d)s WHERE X is FormerEid", {"d": date})
                cnx.commit()
            self.page("/view?vid=failing", status=500)
            assert Failing.made == 1

    def test_former_eids_are_for_managers(self) -> None:
        with self.new_access("anon").cnx() as cnx, pytest.raises(Unauthorized):
            cnx.execute("Any F WHERE F is FormerEid")


@pytest.mark.parametrize(
    ("url", "expected"),
    [
        ("/812", (812, None, None)),
        ("/file/812", (812, "file", None)),
        ("/file/812/raw/a.png", (812, "file", "download")),
        ("/file/812/thumb/a.png", (812, "file", "thumbnail")),
        ("/812/download", (812, None, "download")),
        ("/file/812?vid=download", (812, "file", "download")),
        ("/view?eid=812&vid=thumbnail", (812, None, "thumbnail")),
        ("/view?rql=Any%20X%20WHERE%20X%20eid%20812&vid=download", (812, None, "download")),
        ("/view?rql=Any%20X%20WHERE%20X%20y%20Z,%20Z%20eid%20812&vid=download", (812, None, None)),
        ("/view?vid=monitor_db&eid=812", None),
        ("/view?rql=Any%20X%20WHERE%20X%20eid%20812x", None),
        ("/view?eid=81a", None),
        ("/view?eids=812", None),
        ("/", None),
        ("/file", None),
        ("/file/some-title", None),
        ("/file/812bis", None),
        ("/-5", None),
        ("/a/b/812", None),
    ],
)
def test_entity_url(url: str, expected: tuple | None) -> None:
    named = entity_url(Request.blank(url), path_pattern())
    if expected is None:
        assert named is None
    else:
        assert (named.eid, named.etype, named.representation) == expected
        assert named.with_eid(812) == url
        assert named.with_eid(9) == re.sub(r"812(?!\d)", "9", url)


def test_entity_url_under_a_prefix_and_a_language() -> None:
    pattern = path_pattern("/site", ["en", "fr"])
    for url in ("/site/fr/file/812/raw/a", "/site/file/812", "/site/en/812"):
        assert entity_url(Request.blank(url), pattern).eid == 812
    assert entity_url(Request.blank("/file/812"), pattern) is None


@pytest.fixture
def second_process(instance: Instance, process: Process) -> Process:
    """Another process of the same site."""
    with instance.process(base_url=process.base_url) as second:
        yield second


def test_second_process(process: Process, second_process: Process) -> None:
    """A process that knows the former eid learns of the replacement and of the deletion."""
    editor, reader = Visitor(process.url), Visitor(second_process.url)
    editor.login()
    location = editor.create("File", files={"data": ("a.png", RED, "image/png")})
    former = int(re.search(r"/file/(\d+)", location.headers["Location"])[1])
    urls = [url.format(eid=former) for url in URLS]
    browser = {"Accept": "text/html"}
    for url in urls:  # the second process has the eid in its type cache from now on
        assert reader.get(url, headers=browser).status_code < 400, url

    location = editor.edit(former, "File", files={"data": ("a.png", BLUE, "image/png")})
    current = int(re.search(r"/file/(\d+)", location.headers["Location"])[1])
    assert current != former
    for url, template in zip(urls, URLS, strict=True):
        response = reader.get(url, headers=browser)
        assert response.status_code == 301, url
        assert response.headers["Location"] == process.base_url + template[1:].format(eid=current)
    assert reader.get(f"/file/{current}/raw/a.png").content == BLUE

    deleted = editor.post(
        "edit", {"eid": current, f"__type:{current}": "File", "__action_delete": "1"}
    )
    assert deleted.status_code == 303
    for eid in (former, current):
        for template in URLS:
            for visited in (editor, reader):
                response = visited.get(template.format(eid=eid), headers=browser)
                assert response.status_code == 404, (template, visited.base_url)
