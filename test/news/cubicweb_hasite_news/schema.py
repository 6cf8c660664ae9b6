"""News, each with a picture."""

from yams.buildobjs import EntityType, String, SubjectRelation


class News(EntityType):
    """what has happened"""

    title = String(required=True, fulltextindexed=True, maxsize=256)
    picture = SubjectRelation("File", cardinality="?*", inlined=True)
