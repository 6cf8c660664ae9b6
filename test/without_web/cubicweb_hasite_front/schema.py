"""Images, and albums that show them."""

from yams.buildobjs import Bytes, EntityType, String, SubjectRelation


class Image(EntityType):
    """An image, as an application without cubicweb-file defines it."""

    title = String(fulltextindexed=True)
    data = Bytes(required=True)
    data_format = String(required=True)
    data_name = String(required=True)


class Album(EntityType):
    """Shows images."""

    name = String(required=True)
    shows = SubjectRelation("Image")
