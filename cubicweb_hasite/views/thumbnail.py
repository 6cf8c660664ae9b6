"""The thumbnail view, for URLs that do not name an eid: see :mod:`cubicweb_hasite.views.download`.

It replaces that of cubicweb-file, and is not there without it.
"""

from cubicweb.cwvreg import CWRegistryStore
from cubicweb.predicates import adaptable, one_line_rset
from logilab.common.registry import yes

from cubicweb_hasite import parts
from cubicweb_hasite.images.urls import Representation
from cubicweb_hasite.views.download import DownloadView


class ThumbnailView(DownloadView):
    """Downloads the thumbnail of an entity that adapts to IThumbnail."""

    __regid__ = "thumbnail"
    # before CubicWeb's own, after an application's, which has `yes()`, and so 0.5 more
    __select__ = one_line_rset() & adaptable("IThumbnail") & yes(0.25)
    representation: Representation = "thumbnail"


def registration_callback(vreg: CWRegistryStore) -> None:
    """Register the view where there are thumbnails."""
    if parts.has_file(vreg.config):
        vreg.register(ThumbnailView)
