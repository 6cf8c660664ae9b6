"""How images are downloaded."""

from cubicweb.entities.adapters import IDownloadableAdapter
from cubicweb.predicates import is_instance


class ImageDownload(IDownloadableAdapter):
    """The data of an image, with its type and its name."""

    __select__ = is_instance("Image")

    def download_url(self, **_kwargs: object) -> str:
        return f"{self._cw.base_url()}{self.entity.eid}/download"

    def download_content_type(self) -> str:
        return self.entity.data_format

    def download_encoding(self) -> None:
        return None

    def download_file_name(self) -> str:
        return self.entity.data_name

    def download_data(self) -> bytes:
        return self.entity.data.getvalue()
