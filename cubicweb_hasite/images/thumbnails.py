"""Small copies of images, which browsers show as they show the originals.

If they look differently, :data:`media_types.THUMBNAILS_VERSION` is to be increased.
"""

import io
from typing import Any

from PIL import Image, ImageCms, ImageOps

#: modes of Pillow that PNG holds and browsers show
_SHOWN = ("L", "LA", "RGB", "RGBA")
_ORIENTATION = 0x0112  # tag of EXIF


def thumbnail(data: bytes, size: tuple[int, int]) -> bytes:
    """Return a PNG of an image, upright, in colours that browsers show.

    Of an animation it is the first picture.

    :param size: the largest width and height, in pixels
    :raises Exception: Pillow cannot read the image; its errors are of many types.
    """
    with Image.open(io.BytesIO(data)) as image:
        # JPEG is decoded at a fraction of its size, where that is enough
        image.draft(None, (2 * max(size), 2 * max(size)))
        image.load()
        orientation = image.getexif().get(_ORIENTATION, 1)
        small = shown(image)
        small.thumbnail(size if orientation < 5 else (size[1], size[0]))
        upright = _transposed(small, orientation)
        stream = io.BytesIO()
        upright.save(stream, "PNG")
    return stream.getvalue()


def resized(data: bytes, size: tuple[int, int]) -> bytes:
    """Return an image of the same kind, upright, made smaller if it is larger than a size.

    :param size: the largest width and height, in pixels
    :raises Exception: Pillow cannot read or write the image; its errors are of many types.
    """
    with Image.open(io.BytesIO(data)) as image:
        kind = image.format
        upright = ImageOps.exif_transpose(image)
        upright.thumbnail(size)
        stream = io.BytesIO()
        upright.save(stream, kind)
    return stream.getvalue()


def shown(image: Image.Image) -> Image.Image:
    """Return an image in a mode that browsers show.

    See https://pillow.readthedocs.io/en/stable/handbook/concepts.html#concept-modes
    """
    if image.mode in ("I", "F") or image.mode.startswith("I;"):
        return _grey(image)
    if image.mode in ("CMYK", "LAB", "YCbCr", "HSV"):
        return _printed(image)
    if "transparency" in image.info or image.mode in ("PA", "RGBa"):
        return image.convert("RGBA")
    if image.mode in _SHOWN:
        return image
    return image.convert({"1": "L", "La": "LA"}.get(image.mode, "RGB"))


def _grey(image: Image.Image) -> Image.Image:
    """Return an image with one value for each pixel, of more than 8 bits, as one of 8 bits."""
    wide = image if image.mode == "F" else image.convert("I")
    extrema: Any = wide.getextrema()  # of measures, of any range
    low, high = (0, 2**16 - 1) if image.mode.startswith("I;") else extrema
    scale = 255 / (high - low) if high > low else 1
    return wide.convert("F").point(lambda value: value * scale - low * scale).convert("L")


def _printed(image: Image.Image) -> Image.Image:
    """Return an image in colours of printers, or of measures, in those of screens."""
    screen = ImageCms.createProfile("sRGB")
    profile = image.info.get("icc_profile")
    converted = None
    if image.mode == "LAB":
        lab = ImageCms.createProfile("LAB")
        converted = ImageCms.profileToProfile(image, lab, screen, outputMode="RGB")
    elif image.mode == "CMYK" and profile:
        try:
            converted = ImageCms.profileToProfile(
                image, ImageCms.ImageCmsProfile(io.BytesIO(profile)), screen, outputMode="RGB"
            )
        except (ImageCms.PyCMSError, OSError):
            converted = None  # the profile is broken, or of something else
    if converted is None:
        converted = image.convert("RGB")
    converted.info.pop("icc_profile", None)  # which says how to read the former colours
    return converted


def _transposed(image: Image.Image, orientation: int) -> Image.Image:
    """Return an image as its EXIF orientation says that it is to be seen."""
    exif = image.getexif()
    exif[_ORIENTATION] = orientation
    return ImageOps.exif_transpose(image)
