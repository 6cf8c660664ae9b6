"""Workarounds for what cubicweb-file gets wrong of images, up to the last version that does.

The lines are those of cubicweb-file 4.2.0.
"""

from collections.abc import Callable
from importlib.metadata import version

from cubicweb import Binary
from cubicweb_file.entities import (
    FileIDownloadableAdapter,
    FileThumbnailAdapter,
    IImageAdapter,
    UnResizeable,
)
from logilab.common.changelog import Version

from cubicweb_hasite.images import media_types, thumbnails

_CUBICWEB_FILE = Version(version("cubicweb-file"))


def read_media_types_as_meant() -> None:
    """Let files of the type `IMAGE/PNG` or `image/x-png` be images of the type `image/png`."""
    if Version("4.2.0") >= _CUBICWEB_FILE:
        FileIDownloadableAdapter.download_content_type = _download_content_type


def _download_content_type(adapter: FileIDownloadableAdapter) -> str | None:
    written = adapter.entity.data_format
    return media_types.canonical(written) if media_types.is_image(written) else written


def draw_thumbnails_of_any_image() -> None:
    """Let thumbnails be upright, and in colours that browsers show.

    `IImageAdapter` (cubicweb_file/entities.py, lines 264 to 325) knows nothing of the orientation
    in EXIF, and fails for images in modes that PNG has not, such as CMYK. When it resizes an
    uploaded image (option `image-max-size`) it takes the media type for the name of Pillow's
    format, and forgets the orientation; what it cannot read fails the upload.
    """
    if Version("4.2.0") < _CUBICWEB_FILE:
        return
    IImageAdapter.thumbnail, IImageAdapter.resize = _thumbnail, _resize
    FileThumbnailAdapter._thumbnail_path = _thumbnail_path


def _thumbnail(adapter: IImageAdapter, shadow: bool = False, size: str | None = None) -> Binary:
    size = size or adapter._cw.vreg.config["image-thumb-size"]
    stream = _drawn(adapter, thumbnails.thumbnail, size)
    stream.filename = adapter.entity.cw_adapt_to("IThumbnail").thumbnail_file_name()
    return stream


def _resize(adapter: IImageAdapter, size: str) -> Binary:
    stream = _drawn(adapter, thumbnails.resized, size)
    stream.filename = adapter.download_file_name()
    return stream


def _drawn(
    adapter: IImageAdapter, draw: Callable[[bytes, tuple[int, int]], bytes], size: str
) -> Binary:
    width, height = (int(side) for side in size.split("x"))
    content = adapter.download_data()
    try:
        return Binary(draw(content, (width, height)))
    except Exception as error:  # Pillow's errors are of many types
        raise UnResizeable(str(error)) from error


_stock_thumbnail_path = FileThumbnailAdapter._thumbnail_path


def _thumbnail_path(adapter: FileThumbnailAdapter) -> str | None:
    """Return where the thumbnail is kept: not where those are that look differently."""
    path = _stock_thumbnail_path(adapter)
    return path and f"{path}.{media_types.THUMBNAILS_VERSION}"
