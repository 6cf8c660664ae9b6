"""Images linked in every way: inlined or not, mandatory, symmetric, composite, with a workflow."""

from cubicweb.schema import make_workflowable
from cubicweb_file.schema import File
from yams.buildobjs import (
    Bytes,
    EntityType,
    RelationDefinition,
    RelationType,
    RichString,
    String,
)

make_workflowable(File)


class Article(EntityType):
    """a text with images"""

    title = String(required=True, fulltextindexed=True, maxsize=256)
    content = RichString(fulltextindexed=True)


class Blog(EntityType):
    """a blog, whose page shows the titles of its articles"""

    title = String(required=True, maxsize=256)


class in_blog(RelationType):
    inlined = True


class article_in_blog(RelationDefinition):
    name = "in_blog"
    subject = "Article"
    object = "Blog"
    cardinality = "?*"


class Caption(EntityType):
    """a text that belongs to an image"""

    text = String(required=True, fulltextindexed=True, maxsize=256)


class Album(EntityType):
    """images that belong to the album"""

    name = String(required=True, maxsize=256)


class Image(EntityType):
    """an image, as cubicweb-file had it at the time of CubicWeb 3.10"""

    title = String(fulltextindexed=True, maxsize=256)
    data = Bytes()
    data_format = String(maxsize=128)
    data_name = String(fulltextindexed=True, maxsize=256)
    description = RichString(fulltextindexed=True)


class cover(RelationType):
    """the image without which an article cannot be"""

    inlined = True


class article_cover(RelationDefinition):
    name = "cover"
    subject = "Article"
    object = "File"
    cardinality = "1*"


class main_article(RelationType):
    """the article that an image was made for"""

    inlined = True


class file_main_article(RelationDefinition):
    name = "main_article"
    subject = "File"
    object = "Article"
    cardinality = "?*"


class illustrates(RelationDefinition):
    subject = "File"
    object = "Article"
    cardinality = "**"


class see_also_image(RelationType):
    symmetric = True


class file_see_also_image(RelationDefinition):
    name = "see_also_image"
    subject = "File"
    object = "File"
    cardinality = "**"


class caption_of(RelationType):
    inlined = True


class caption_caption_of(RelationDefinition):
    name = "caption_of"
    subject = "Caption"
    object = "File"
    cardinality = "1*"
    composite = "object"


class album_image(RelationDefinition):
    subject = "Album"
    object = "File"
    cardinality = "*?"
    composite = "subject"


class file_tags(RelationDefinition):
    name = "tags"
    subject = "Tag"
    object = "File"


class file_comments(RelationDefinition):
    name = "comments"
    subject = "Comment"
    object = "File"
    cardinality = "1*"
    composite = "object"


class file_filed_under(RelationDefinition):
    name = "filed_under"
    subject = "File"
    object = "Folder"
