"""What makes an `Image` presentable, and its data downloadable."""

from cubicweb.entities import AnyEntity
from cubicweb.entities.adapters import IDownloadableAdapter
from cubicweb.predicates import is_instance


class Image(AnyEntity):
    __regid__ = "Image"

    def dc_title(self) -> str:
        return self.title or self.data_name


class ImageDownloadable(IDownloadableAdapter):
    """Downloads of `Image`, at an URL without a file name."""

    __select__ = is_instance("Image")

    def download_url(self, **kwargs) -> str:
        return self._cw.build_url(f"image/{self.entity.eid}/download", **kwargs)

    def download_content_type(self) -> str:
        return self.entity.data_format

    def download_encoding(self) -> str | None:
        return None

    def download_file_name(self) -> str:
        return self.entity.data_name

    def download_data(self) -> bytes:
        return self.entity.data.getvalue()
