"""To undo a replacement is to edit again: the former data comes back, under another new eid."""

from cubicweb import Binary
from editing import BLUE, RED, EditingTC
from pictures import picture

from cubicweb_hasite.images import replacement


class UndoTC(EditingTC):
    @classmethod
    def init_config(cls, config) -> None:
        super().init_config(config)
        config.global_set_option("undo-enabled", True)

    def setUp(self) -> None:
        super().setUp()
        with self.admin_access.cnx() as cnx:
            self.eid = self.new_image(cnx, title="old").eid
            cnx.create_entity("Tag", name="tag", tags=self.eid)
            cnx.commit()

    def change(self, **attributes) -> str:
        """Edit the image as a form does; return the transaction."""
        with self.admin_access.cnx() as cnx:
            replacement.track(cnx)
            cnx.entity_from_eid(self.current()).cw_set(**attributes)
            return cnx.commit()

    def current(self) -> int:
        return self.current_eid(self.eid) or self.eid

    def undo(self, transaction: str) -> None:
        with self.admin_access.cnx() as cnx:
            cnx.undo_transaction(transaction)
            cnx.commit()

    def check(self, data: bytes, title: str) -> None:
        with self.admin_access.cnx() as cnx:
            image = cnx.entity_from_eid(self.current())
            assert image.data.getvalue() == data
            assert image.title == title
            assert [tag.name for tag in image.reverse_tags] == ["tag"]
        url = f"/file/{self.current()}/raw/picture.png"
        assert self.webapp.get(url).body == data

    def test_replacement(self) -> None:
        transaction = self.change(data=Binary(BLUE), title="new")
        replaced = self.current()
        self.check(BLUE, "new")
        self.undo(transaction)
        assert self.current() not in (self.eid, replaced)
        assert self.current_eid(replaced) == self.current()
        self.check(RED, "old")

    def test_transaction_before_a_replacement(self) -> None:
        transaction = self.change(title="new")
        self.change(data=Binary(BLUE))
        replaced = self.current()
        self.undo(transaction)
        assert self.current() == replaced
        self.check(BLUE, "old")

    def test_one_of_several_replacements(self) -> None:
        first = self.change(data=Binary(BLUE))
        second = self.change(data=Binary(picture("green")))
        self.undo(second)
        self.check(BLUE, "old")
        self.undo(first)
        self.check(RED, "old")

    def test_through_the_web(self) -> None:
        self.login()
        self.upload(self.eid, BLUE, title="new")
        with self.admin_access.cnx() as cnx:
            [transaction] = cnx.undoable_transactions(etype="File", action="U")
        replaced = self.current()
        self.webapp.get(
            f"/undo?txuuid={transaction.uuid}&__redirectpath=file/{replaced}", status=303
        )
        assert self.current() not in (self.eid, replaced)
        self.check(RED, "old")
