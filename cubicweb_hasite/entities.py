"""Adapters by which an application declares which of its entities have immutable data."""

from cubicweb.cwvreg import CWRegistryStore
from cubicweb.entity import EntityAdapter
from cubicweb.predicates import has_mimetype, is_instance

from cubicweb_hasite import parts
from cubicweb_hasite.images import upstream


class ImmutableDataAdapter(EntityAdapter):
    """Declares that the data of an entity never changes under its eid.

    When such data is edited through the web the entity gets a new eid, and so a new URL. That is
    why caches may keep its downloads for a long time. To declare it for another type::

        class ImmutableVideo(ImmutableDataAdapter):
            __select__ = is_instance("Video")

    If some files are not immutable, select them with a higher score and set `immutable` to
    False::

        class LiveChart(ImmutableDataAdapter):
            __select__ = is_instance("File") & has_mimetype("image/") & score_entity(is_chart)
            immutable = False
    """

    __regid__ = "IImmutableData"
    __abstract__ = True

    #: whether this entity's data is immutable
    immutable = True
    #: name of the attribute, of type Bytes, that holds the data
    attribute = "data"


class ImmutableImageFile(ImmutableDataAdapter):
    """Files whose data is an image."""

    __select__ = is_instance("File") & has_mimetype("image/")


class ImmutableImage(ImmutableDataAdapter):
    """The `Image` type that some applications define."""

    __select__ = is_instance("Image")


def registration_callback(vreg: CWRegistryStore) -> None:
    """Register the adapters; let those of CubicWeb know images when they see one."""
    vreg.register_all(globals().values(), __name__)
    upstream.read_media_types_as_meant()
    if parts.has_file(vreg.config):
        from cubicweb_hasite.images import upstream_file

        upstream_file.read_media_types_as_meant()
        upstream_file.draw_thumbnails_of_any_image()
