"""What is an image, and how its thumbnail looks."""

import io

import pytest
from cubicweb import Binary
from cubicweb.devtools import BASE_URL
from editing import BLUE, EditingTC
from PIL import Image, ImageCms

from cubicweb_hasite.images import thumbnails

WRITTEN = (
    "image/png",
    "IMAGE/PNG",
    "image/png; charset=binary",
    "image/x-png",
    "image/jpg",
    "image/pjpeg",
    "image/x-icon",
    "image/vnd.microsoft.icon",
)
_LEFT, _RIGHT = (0, 0, 255), (255, 0, 0)


def drawing(mode: str) -> Image.Image:
    """Return an image of 100 x 50 in a mode, blue at the left and red at the right."""
    colours = Image.new("RGB", (100, 50), "red")
    colours.paste("blue", (0, 0, 50, 50))
    if mode == "LAB":
        profiles = ImageCms.createProfile("sRGB"), ImageCms.createProfile("LAB")
        return ImageCms.profileToProfile(colours, *profiles, outputMode="LAB")
    if mode in ("I", "F", "I;16"):
        bright = 65535 if mode == "I;16" else 1000
        measures = Image.new(mode, (100, 50), bright)
        measures.paste(0, (0, 0, 50, 50))
        return measures
    return colours.convert(mode)


def saved(image: Image.Image, kind: str, **options) -> bytes:
    stream = io.BytesIO()
    image.save(stream, kind, **options)
    return stream.getvalue()


def oriented(orientation: int, kind: str = "JPEG") -> bytes:
    """Return an image that is to be turned."""
    exif = Image.Exif()
    exif[0x0112] = orientation
    return saved(drawing("RGB"), kind, exif=exif)


def near(colour: tuple[int, ...], expected: tuple[int, ...]) -> bool:
    return all(abs(one - other) < 30 for one, other in zip(colour, expected, strict=True))


def ends(thumbnail: bytes) -> tuple[Image.Image, tuple[int, ...], tuple[int, ...]]:
    """Return a thumbnail, and its colours at the upper left and at the lower right."""
    image = Image.open(io.BytesIO(thumbnail))
    assert image.format == "PNG"
    assert image.mode in ("L", "LA", "RGB", "RGBA")  # what browsers show
    colours = image.convert("RGB")
    width, height = image.size
    return image, colours.getpixel((2, 2)), colours.getpixel((width - 3, height - 3))


@pytest.mark.parametrize(
    ("mode", "kind"),
    [
        ("CMYK", "JPEG"),
        ("CMYK", "TIFF"),
        ("YCbCr", "TIFF"),
        ("LAB", "TIFF"),
        ("P", "PNG"),
        ("P", "GIF"),
        ("RGBA", "WEBP"),
        ("RGBA", "ICO"),
        ("RGB", "BMP"),
    ],
)
def test_colours(mode: str, kind: str) -> None:
    image, left, right = ends(thumbnails.thumbnail(saved(drawing(mode), kind), (40, 40)))
    assert image.size == (40, 20)
    assert near(left, _LEFT)
    assert near(right, _RIGHT)


@pytest.mark.parametrize(
    ("mode", "kind"), [("I;16", "PNG"), ("I;16", "TIFF"), ("I", "TIFF"), ("F", "TIFF")]
)
def test_measures(mode: str, kind: str) -> None:
    """Grey of more than 8 bits: dark stays dark, and bright is bright."""
    image, left, right = ends(thumbnails.thumbnail(saved(drawing(mode), kind), (40, 40)))
    assert image.size == (40, 20)
    assert near(left, (0, 0, 0))
    assert near(right, (255, 255, 255))


@pytest.mark.parametrize("mode", ["1", "L", "LA"])
def test_grey(mode: str) -> None:
    image, left, right = ends(thumbnails.thumbnail(saved(drawing(mode), "PNG"), (40, 40)))
    assert image.size == (40, 20)
    assert left != right


def test_transparency() -> None:
    for data in (
        saved(Image.new("P", (40, 40), 0), "PNG", transparency=0),
        saved(Image.new("P", (40, 40), 0), "GIF", transparency=0),
        saved(Image.new("RGB", (40, 40), "red"), "PNG", transparency=(255, 0, 0)),
        saved(Image.new("LA", (40, 40), (9, 0)), "PNG"),
    ):
        image = Image.open(io.BytesIO(thumbnails.thumbnail(data, (20, 20))))
        assert image.convert("RGBA").getpixel((5, 5))[3] == 0


def test_profile_of_a_printer_is_not_kept() -> None:
    """Browsers would read the colours of the thumbnail by it."""
    profile = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    for broken in (profile, b"no profile"):
        data = saved(drawing("CMYK"), "JPEG", icc_profile=broken)
        image, left, right = ends(thumbnails.thumbnail(data, (40, 40)))
        assert "icc_profile" not in image.info
        assert left != right


@pytest.mark.parametrize("kind", ["JPEG", "TIFF", "PNG", "WEBP"])
@pytest.mark.parametrize(
    ("orientation", "size", "blue_first"),
    [(1, (40, 20), 1), (3, (40, 20), 0), (6, (20, 40), 1), (8, (20, 40), 0)],
)
def test_upright(kind: str, orientation: int, size: tuple[int, int], blue_first: int) -> None:
    """As browsers show the original (EXIF, tag 0x0112)."""
    image, first, last = ends(thumbnails.thumbnail(oriented(orientation, kind), (40, 40)))
    assert image.size == size
    assert near(first, _LEFT if blue_first else _RIGHT)
    assert near(last, _RIGHT if blue_first else _LEFT)
    assert not dict(image.getexif())


def test_broken_orientation() -> None:
    for orientation in (0, 9, 65535):
        assert thumbnails.thumbnail(oriented(orientation), (40, 40))


class ThumbnailTC(EditingTC):
    def thumbnail(self, **attributes) -> bytes:
        with self.admin_access.cnx() as cnx:
            eid = self.new_image(cnx, **attributes).eid
            cnx.commit()
        self.webapp.reset()
        response = self.webapp.get(f"/file/{eid}/thumb/x.png", status=200)
        assert response.content_type == "image/png"
        return response.body

    def test_orientation(self) -> None:
        image, left, _right = ends(
            self.thumbnail(data=Binary(oriented(6)), data_format="image/jpeg")
        )
        assert image.height > image.width
        assert near(left, _LEFT)

    def test_colours_of_printers(self) -> None:
        data = Binary(saved(drawing("CMYK"), "JPEG"))
        _image, left, right = ends(self.thumbnail(data=data, data_format="image/jpeg"))
        assert near(left, _LEFT)
        assert near(right, _RIGHT)

    def test_whatever_the_type_is_called(self) -> None:
        for written in WRITTEN:
            with self.subTest(written):
                assert self.thumbnail(data_format=written)

    def test_resized_when_uploaded(self) -> None:
        """Upright, whatever the type is called; what cannot be resized is kept."""
        self.config.global_set_option("image-max-size", "40x40")
        self.addCleanup(self.config.global_set_option, "image-max-size", "")
        svg = b"<svg xmlns='http://www.w3.org/2000/svg'/>"
        with self.admin_access.cnx() as cnx:
            upright = self.new_image(cnx, data=Binary(oriented(6)), data_format="image/jpg")
            drawn = self.new_image(cnx, data=Binary(svg), data_format="image/svg+xml")
            cnx.commit()
            image = Image.open(io.BytesIO(upright.data.getvalue()))
            assert (image.format, image.size) == ("JPEG", (20, 40))
            assert not image.getexif().get(0x0112)
            assert drawn.data.getvalue() == svg


class MediaTypeTC(EditingTC):
    def test_replaced(self) -> None:
        """Whatever its type is called, an image is one: replaced, kept, shown."""
        self.login()
        for written in WRITTEN:
            with self.subTest(written):
                with self.admin_access.cnx() as cnx:
                    eid = self.new_image(cnx, data_format=written).eid
                    cnx.commit()
                self.upload(eid, BLUE)
                current = self.current_eid(eid)
                assert current is not None
                response = self.webapp.get(f"/file/{current}/raw/picture.png")
                assert response.headers["Cache-Control"] == "public, max-age=3600"
                assert response.headers["Content-Disposition"].startswith("inline")

    def test_shown_on_its_page(self) -> None:
        with self.admin_access.cnx() as cnx:
            eids = [self.new_image(cnx, data_format=written).eid for written in WRITTEN]
            cnx.commit()
        for eid, written in zip(eids, WRITTEN, strict=True):
            with self.subTest(written):
                page = self.page(f"/file/{eid}?vid=primary")
                assert page.html.find("img", src=f"{BASE_URL}file/{eid}/raw/picture.png")

    def test_what_is_none(self) -> None:
        with self.admin_access.cnx() as cnx:
            for written in ("text/plain", "imagex/png", "images", "application/x-image/png"):
                entity = self.new_image(cnx, data_format=written)
                assert entity.cw_adapt_to("IImmutableData") is None
