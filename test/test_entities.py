"""An application says by an adapter which of its data is immutable."""

from cubicweb import Binary
from cubicweb.predicates import is_instance, score_entity
from editing import BLUE, RED, EditingTC

from cubicweb_hasite.entities import ImmutableDataAdapter, ImmutableImageFile


class LiveChart(ImmutableDataAdapter):
    """Images whose name says that they are drawn anew all the time."""

    __select__ = ImmutableImageFile.__select__ & score_entity(
        lambda entity: entity.data_name.startswith("live")
    )
    immutable = False


class ImmutableText(ImmutableDataAdapter):
    """Text files too."""

    __select__ = is_instance("File") & score_entity(
        lambda entity: 5 * (entity.data_format == "text/plain")
    )


class AdapterTC(EditingTC):
    def replaced(self, adapter, **attributes) -> bool:
        """Edit the data of a file under an adapter; return whether it was replaced."""
        self.login()
        with self.admin_access.cnx() as cnx:
            eid = self.new_image(cnx, **attributes).eid
            cnx.commit()
        with self.temporary_appobjects(adapter):
            cached = self.webapp.get(f"/file/{eid}/raw/x").headers["Cache-Control"]
            self.upload(eid, BLUE, attributes["data_name"])
        replaced = self.current_eid(eid) is not None
        assert cached == ("public, max-age=3600" if replaced else "public, no-cache")
        return replaced

    def test_some_files_are_not_immutable(self) -> None:
        assert not self.replaced(LiveChart, data_name="live.png")
        assert self.replaced(LiveChart, data_name="still.png")

    def test_another_type_is_immutable(self) -> None:
        text = {"data": Binary(b"text"), "data_format": "text/plain"}
        assert self.replaced(ImmutableText, data_name="a.txt", **text)
        assert not self.replaced(LiveChart, data_name="b.txt", **text)

    def test_without_adapter(self) -> None:
        """Images are immutable by default, other files are not."""
        with self.admin_access.cnx() as cnx:
            image = self.new_image(cnx)
            text = self.new_image(cnx, data=Binary(RED), data_format="text/plain")
            assert image.cw_adapt_to("IImmutableData").immutable
            assert text.cw_adapt_to("IImmutableData") is None
