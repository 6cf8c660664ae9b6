"""Workarounds for what CubicWeb gets wrong of images, up to the last version that does.

The lines are those of cubicweb 5.0.1 and of cubicweb-web 1.6.2. For cubicweb-file see
:mod:`cubicweb_hasite.images.upstream_file`.
"""

from importlib.metadata import version

from cubicweb.entity import Entity
from cubicweb.predicates import has_mimetype
from logilab.common.changelog import Version

from cubicweb_hasite.images import media_types

_CUBICWEB = Version(version("cubicweb"))


def read_media_types_as_meant() -> None:
    """Let CubicWeb take `IMAGE/PNG`, `image/png; charset=binary` and `image/x-png` for one type.

    `has_mimetype` (cubicweb/predicates.py, lines 691 to 709) compares what is written, and so do
    views of cubicweb-web (cubicweb_web/views/idownloadable.py, line 130).
    """
    if Version("5.0.1") >= _CUBICWEB:
        has_mimetype.score_entity = _has_mimetype


def _has_mimetype(predicate: has_mimetype, entity: Entity) -> int:
    downloadable = entity.cw_adapt_to("IDownloadable")
    if downloadable is None:
        return 0
    wanted = media_types.canonical(predicate.mimetype) or predicate.mimetype
    written = downloadable.download_content_type() or ""
    # what is no media type is compared as stock
    return int((media_types.canonical(written) or written).startswith(wanted))
