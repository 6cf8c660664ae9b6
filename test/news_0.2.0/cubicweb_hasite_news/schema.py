"""News, each with a picture and a summary, and with tags."""

from yams.buildobjs import EntityType, RelationDefinition, String, SubjectRelation


class News(EntityType):
    """what has happened"""

    title = String(required=True, fulltextindexed=True, maxsize=256)
    summary = String(fulltextindexed=True, maxsize=256)
    picture = SubjectRelation("File", cardinality="?*", inlined=True)


class news_tags(RelationDefinition):
    name = "tags"
    subject = "Tag"
    object = "News"
