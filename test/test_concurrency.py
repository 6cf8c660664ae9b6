"""Editions of one image at the same time: both effects are kept, or the later one is told."""

import threading
import unittest
from collections.abc import Callable

import backend
from cubicweb import Binary, ValidationError
from editing import BLUE, RED, EditingTC

from cubicweb_hasite.images import replacement


class Concurrent:
    """A function that runs on a connection of its own, in a thread, and commits."""

    def __init__(self, access, function: Callable) -> None:
        self.error: BaseException | None = None
        self._thread = threading.Thread(target=self._run, args=(access, function), daemon=True)
        self._thread.start()

    def _run(self, access, function: Callable) -> None:
        try:
            with access.cnx() as cnx:
                function(cnx)
                cnx.commit()
        except Exception as error:
            self.error = error

    def waits(self, seconds: float = 0.5) -> bool:
        """Return whether it is still running after a moment."""
        self._thread.join(seconds)
        return self._thread.is_alive()

    def end(self) -> BaseException | None:
        """Wait for the end; return the error if there was one."""
        self._thread.join(20)
        assert not self._thread.is_alive()
        return self.error


@unittest.skipUnless(backend.POSTGRES, "SQLite, for trying things out, has no row locks")
class ConcurrencyTC(EditingTC):
    def setUp(self) -> None:
        super().setUp()
        with self.admin_access.cnx() as cnx:
            self.eid = self.new_image(cnx, title="old").eid
            cnx.commit()

    def set_title(self, cnx) -> None:
        cnx.entity_from_eid(self.eid).cw_set(title="new")

    def replace(self, cnx) -> None:
        replacement.track(cnx)
        cnx.entity_from_eid(self.eid).cw_set(data=Binary(BLUE))

    def comment(self, cnx) -> None:
        cnx.create_entity("Comment", content="hello", comments=self.eid)

    def image(self, cnx):
        return cnx.entity_from_eid(self.current_eid(self.eid) or self.eid)

    def test_update_during_a_replacement(self) -> None:
        with self.admin_access.cnx() as cnx:
            self.replace(cnx)
            update = Concurrent(self.admin_access, self.set_title)
            assert update.waits()
            cnx.commit()
        error = update.end()
        assert isinstance(error, ValidationError)
        error.translate(str)
        assert "has changed since you started to edit it" in error.errors[None]
        with self.admin_access.cnx() as cnx:
            assert self.image(cnx).title == "old"
            assert self.image(cnx).data.getvalue() == BLUE

    def test_replacement_during_an_update(self) -> None:
        with self.admin_access.cnx() as cnx:
            self.set_title(cnx)
            replace = Concurrent(self.admin_access, self.replace)
            assert replace.waits()
            cnx.commit()
        assert replace.end() is None
        with self.admin_access.cnx() as cnx:
            assert self.image(cnx).title == "new"
            assert self.image(cnx).data.getvalue() == BLUE

    def test_replacement_that_is_rolled_back(self) -> None:
        with self.admin_access.cnx() as cnx:
            self.replace(cnx)
            update = Concurrent(self.admin_access, self.set_title)
            assert update.waits()
            cnx.rollback()
        assert update.end() is None
        with self.admin_access.cnx() as cnx:
            assert self.image(cnx).title == "new"
            assert self.image(cnx).data.getvalue() == RED

    def test_two_replacements(self) -> None:
        with self.admin_access.cnx() as cnx:
            self.replace(cnx)
            second = Concurrent(self.admin_access, self.replace)
            assert second.waits()
            cnx.commit()
        assert isinstance(second.end(), ValidationError)
        with self.admin_access.cnx() as cnx:
            assert len(cnx.execute("Any F WHERE F is FormerEid")) == 1

    def test_deletion_during_a_replacement(self) -> None:
        with self.admin_access.cnx() as cnx:
            self.replace(cnx)
            delete = Concurrent(
                self.admin_access, lambda other: other.entity_from_eid(self.eid).cw_delete()
            )
            assert delete.waits()
            cnx.commit()
        assert isinstance(delete.end(), ValidationError)
        with self.admin_access.cnx() as cnx:
            assert self.image(cnx).data.getvalue() == BLUE

    def test_form_during_a_replacement(self) -> None:
        """It waits before it looks at the image, and leads to the form of the new one."""
        self.login()
        form = self.edition_form(self.eid)
        form[f"title-subject:{self.eid}"] = "typed"
        responses = []
        with self.admin_access.cnx() as cnx:
            self.replace(cnx)
            submit = Concurrent(
                self.admin_access, lambda _cnx: responses.append(self.submit(form))
            )
            assert submit.waits()
            cnx.commit()
        assert submit.end() is None
        current = self.current_eid(self.eid)
        assert f"/{current}?vid=edition" in responses[0].location
        assert f"Entity {self.eid} has changed since" in self.page(responses[0].location).text
        with self.admin_access.cnx() as cnx:
            assert self.image(cnx).title == "old"

    def test_comment_before_a_replacement(self) -> None:
        with self.admin_access.cnx() as cnx:
            self.comment(cnx)
            replace = Concurrent(self.admin_access, self.replace)
            assert replace.waits()
            cnx.commit()
        assert replace.end() is None
        with self.admin_access.cnx() as cnx:
            assert [comment.content for comment in self.image(cnx).reverse_comments] == ["hello"]
            assert self.image(cnx).data.getvalue() == BLUE

    def test_comment_during_a_replacement(self) -> None:
        """It comes too late: it is refused, not attached to nothing."""
        with self.admin_access.cnx() as cnx:
            self.replace(cnx)
            comment = Concurrent(self.admin_access, self.comment)
            assert comment.waits()
            cnx.commit()
        assert comment.end() is not None
        with self.admin_access.cnx() as cnx:
            assert not cnx.execute("Any C WHERE C is Comment")
            assert self.image(cnx).data.getvalue() == BLUE
