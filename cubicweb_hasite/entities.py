"""Adapters: by them an application says which of its entities have immutable data."""

from cubicweb.entity import EntityAdapter
from cubicweb.predicates import has_mimetype, is_instance


class ImmutableDataAdapter(EntityAdapter):
    """Says that the data of an entity never changes under its eid.

    When such data is edited through the web the entity gets a new eid, hence a new URL, and
    caches may keep its downloads for long. To say it of another type::

        class ImmutableVideo(ImmutableDataAdapter):
            __select__ = is_instance("Video")

    and to say that some files are not immutable, select those with a higher score and set
    `immutable` to False::

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
