"""Pictures to upload."""

import io

from PIL import Image


def picture(colour: str, *, size: tuple[int, int] = (20, 20), kind: str = "png") -> bytes:
    """Return the bytes of a picture of one colour."""
    stream = io.BytesIO()
    Image.new("RGB", size, colour).save(stream, kind)
    return stream.getvalue()
