"""An image that is edited, replaced or deleted at any moment of a visit is seen, or led to.

Each test lets an edit be committed, or rolled back, at one moment of a request: by the code of an
application, an event of Pyramid, an event of Python's when a file is opened, or a lock of
PostgreSQL.
"""

import os
import sys
import tempfile
import time
import unittest
from collections.abc import Callable
from pathlib import Path
from unittest.mock import patch

import backend
from cubicweb import Binary
from cubicweb.server import hook
from cubicweb.server.sources.storages import (
    BytesFileSystemStorage,
    set_attribute_storage,
    unset_attribute_storage,
)
from cubicweb_file.entities import FileIDownloadableAdapter, FileThumbnailAdapter
from editing import BLUE, RED, EditingTC
from logilab.common.registry import yes
from pictures import picture
from pyramid.events import NewRequest
from test_concurrency import Concurrent

from cubicweb_hasite.images import copying, replacement
from cubicweb_hasite.images.requests import LOOKS
from cubicweb_hasite.storages import spool

DOWNLOADS = (
    "/file/{eid}/raw/picture.png",
    "/file/{eid}?vid=download",
    "/file/{eid}/download",
    "/{eid}/download",
    "/view?eid={eid}&vid=download",
    "/view?rql=Any%20X%20WHERE%20X%20eid%20{eid}&vid=download",
)
THUMBNAILS = ("/file/{eid}/thumb/picture_75x75.png", "/file/{eid}?vid=thumbnail")
PAGES = (
    "/file/{eid}",
    "/{eid}",
    "/file/{eid}?vid=edition",
    "/view?eid={eid}&vid=primary",
    "/view?rql=Any%20X%20WHERE%20X%20eid%20{eid}",
    "/api/v1/binary?eid={eid}&attribute=data",
)
#: what may happen to an image, and what a visitor is answered whom it happens to
EDITS = {"replace": 301, "edit": 200, "roll back": 200, "delete": 404}

# what is to happen when a file is opened, by its path
_opened: dict[bytes, Callable[[], None]] = {}


def _watch(event: str, args: tuple) -> None:
    if event == "open" and isinstance(args[0], bytes | str) and _opened:
        _opened.pop(os.fsencode(args[0]), lambda: None)()


sys.addaudithook(_watch)


class Refuse(hook.SingleLastOperation):
    """Refuses a transaction when all else is done."""

    def precommit_event(self) -> None:
        raise RuntimeError("rolled back")


class MomentTC(EditingTC):
    #: what is to happen at the moment, once
    pending: Callable[[], None] | None = None

    def includeme(self, config) -> None:
        super().includeme(config)
        config.include("cubicweb_api")
        config.add_subscriber(self.before_cubicweb, NewRequest)

    def before_cubicweb(self, _event: NewRequest) -> None:
        """Called when our part has looked at the image, before CubicWeb does."""

    def setUp(self) -> None:
        super().setUp()
        self.eid = self.create()

    def create(self) -> int:
        with self.admin_access.cnx() as cnx:
            eid = self.new_image(cnx).eid
            cnx.commit()
        return eid

    def now(self) -> None:
        """Let happen what is to happen."""
        pending, self.pending = self.pending, None
        if pending is not None:
            pending()

    def happens(self, edit: str, eid: int, content: bytes = BLUE) -> None:
        """Do to an image what is one of EDITS."""
        with self.admin_access.cnx() as cnx:
            image = cnx.entity_from_eid(eid)
            if edit == "delete":
                image.cw_delete()
            else:
                if edit != "edit":
                    replacement.track(cnx)
                image.cw_set(data=Binary(content))
            if edit == "roll back":
                Refuse(cnx)
                try:
                    cnx.commit()
                except RuntimeError:
                    cnx.rollback()
            else:
                cnx.commit()

    def check(self, urls: tuple[str, ...], *, content: bool = True) -> None:
        """Visit URLs of images to which something happens at the moment."""
        for url in urls:
            for edit, status in EDITS.items():
                with self.subTest(url, edit=edit):
                    eid = self.create()
                    self.pending = lambda edit=edit, eid=eid: self.happens(edit, eid)
                    response = self.visit(url.format(eid=eid), status)
                    assert self.pending is None
                    if status == 301:
                        current = self.current_eid(eid)
                        assert response.location.endswith(url.format(eid=current))
                        response = self.visit(url.format(eid=current), 200)
                    if content and status != 404:
                        expected = RED if edit == "roll back" else BLUE
                        assert response.body == expected

    def visit(self, url: str, status: int):
        """Return what a visitor is answered."""
        self.webapp.reset()
        if status == 404 and url.startswith("/api/"):
            status = 400  # so cubicweb-api says that there is no such entity
        return self.webapp.get(url, headers={"Accept": "text/html"}, status=status)


class DownloadTC(MomentTC):
    """Between the look at an image and the reading of its data."""

    def adapter(self, base: type, method: str, *, after: bool = False) -> type:
        """Return an application's adapter, in a method of which it happens."""

        def run(adapter):
            if not after:
                self.now()
            value = getattr(super(changing, adapter), method)()
            self.now()
            return value

        changing = type("Changing", (base,), {"__select__": base.__select__ & yes(), method: run})
        return changing

    def test_data(self) -> None:
        changing = self.adapter(FileIDownloadableAdapter, "download_file_name")
        with self.temporary_appobjects(changing):
            self.check(DOWNLOADS)

    def test_large_data(self) -> None:
        with patch.multiple(spool, IN_MEMORY=10, SLICE=10):
            self.test_data()

    @unittest.skipUnless(backend.POSTGRES, "SQLite has no COPY")
    def test_between_its_slices(self) -> None:
        def copied(*args, stock=copying.copy) -> None:
            stock(*args)
            self.now()

        with patch.multiple(spool, IN_MEMORY=10, SLICE=10), patch.object(copying, "copy", copied):
            self.check(DOWNLOADS)

    def test_thumbnail(self) -> None:
        """Before it is made, and while it is."""
        for method in ("thumbnail_file_name", "thumbnail_data"):
            for after in (False, True):
                changing = self.adapter(FileThumbnailAdapter, method, after=after)
                with self.subTest(method, after=after), self.temporary_appobjects(changing):
                    self.check(THUMBNAILS, content=False)

    def test_data_that_the_url_does_not_name(self) -> None:
        changing = self.adapter(FileIDownloadableAdapter, "download_file_name")
        for edit, content in (("replace", BLUE), ("edit", RED), ("roll back", RED)):
            with self.subTest(edit), self.temporary_appobjects(changing):
                eid = self.current_eid(self.eid) or self.eid  # of the step before
                self.happens("edit", eid, RED if content == BLUE else BLUE)
                self.pending = lambda edit=edit, content=content: self.happens(
                    edit, self.current_eid(self.eid) or self.eid, content
                )
                response = self.visit("/view?rql=Any X WHERE X is File&vid=download", 200)
                assert self.pending is None
                assert response.body == (BLUE if edit == "roll back" else content)

    def test_again_and_again(self) -> None:
        """An image that changes at every look is not waited for for ever."""
        looks = []

        def edit() -> None:
            looks.append(None)
            self.happens("edit", self.eid, picture("green", size=(len(looks), 1)))
            self.pending = edit

        changing = self.adapter(FileIDownloadableAdapter, "download_file_name")
        self.pending = edit
        with self.temporary_appobjects(changing):
            response = self.visit(f"/file/{self.eid}/raw/picture.png", 503)
        assert response.headers["Retry-After"] == "1"
        assert response.headers["Cache-Control"] == "no-store"
        assert len(looks) >= LOOKS


class PageTC(MomentTC):
    """Between the look at an image and CubicWeb's."""

    def before_cubicweb(self, event: NewRequest) -> None:
        self.now()

    def test_page(self) -> None:
        self.check(PAGES, content=False)


class FileTC(MomentTC):
    """Between the query for the path of a file and the opening of the file."""

    directory: Path

    def setUp(self) -> None:
        directory = tempfile.TemporaryDirectory()
        self.addCleanup(directory.cleanup)
        self.directory = Path(directory.name)
        super().setUp()
        self.store(BytesFileSystemStorage)
        self.addCleanup(unset_attribute_storage, self.repo, "File", "data")
        self.addCleanup(_opened.clear)

    def store(self, storage: type[BytesFileSystemStorage]) -> None:
        set_attribute_storage(self.repo, "File", "data", storage(str(self.directory)))

    def create(self) -> int:
        eid = super().create()
        for path in self.directory.glob(f"{eid}_*"):
            _opened[os.fsencode(path)] = self.now
        return eid

    def test_data(self) -> None:
        self.check((*DOWNLOADS, "/api/v1/binary?eid={eid}&attribute=data"))

    def test_thumbnail(self) -> None:
        self.check(THUMBNAILS, content=False)

    def test_storage_of_an_application(self) -> None:
        """Any that reads as CubicWeb asks for it, such as one in another service."""

        class Elsewhere(BytesFileSystemStorage):
            def callback(self, source, cnx, value):
                return super().callback(source, cnx, value)

        self.store(Elsewhere)
        self.check(DOWNLOADS)

    def test_file_that_is_lost(self) -> None:
        """It is told in the log, and no cache remembers it."""
        eid = self.create()
        for path in self.directory.iterdir():
            path.unlink()
        _opened.clear()
        response = self.visit(f"/file/{eid}/raw/picture.png", 404)
        assert response.headers["Cache-Control"] == "no-store"


@unittest.skipUnless(backend.POSTGRES, "SQLite, for trying things out, has no row locks")
class RedirectTC(MomentTC):
    """Between the query for the entity that had an eid, and the look at it."""

    def check_redirect(self, edit: str, status: int) -> None:
        self.happens("replace", self.eid)
        current = self.current_eid(self.eid)
        for url in (*DOWNLOADS, *THUMBNAILS, *PAGES):
            with self.subTest(url):
                responses = []

                def visit_it(_cnx, url=url, responses=responses) -> None:
                    responses.append(self.visit(url.format(eid=self.eid), status))

                with self.admin_access.cnx() as cnx:
                    cnx.system_sql("LOCK TABLE cw_File IN ACCESS EXCLUSIVE MODE")
                    visit = Concurrent(self.admin_access, visit_it)
                    self.wait_for_lock(cnx)
                    replacement.track(cnx)
                    image = cnx.entity_from_eid(current)
                    if edit == "delete":
                        image.cw_delete()
                    else:
                        image.cw_set(data=Binary(picture("green", size=(current % 97 + 1, 5))))
                    if edit == "roll back":
                        cnx.rollback()
                    else:
                        cnx.commit()
                assert visit.end() is None
                if edit == "replace":
                    former, current = current, self.current_eid(current)
                    assert current != former
                if edit != "delete":
                    assert responses[0].location.endswith(url.format(eid=current))

    def wait_for_lock(self, cnx) -> None:
        for _ in range(400):
            [[waiting]] = cnx.system_sql("SELECT count(*) FROM pg_locks WHERE NOT granted")
            if waiting:
                return
            time.sleep(0.05)
        raise TimeoutError("the visitor does not wait for the lock")

    def test_replaced_again(self) -> None:
        self.check_redirect("replace", 301)

    def test_rolled_back(self) -> None:
        self.check_redirect("roll back", 301)
