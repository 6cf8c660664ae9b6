"""Adapters by which an application says what caches keep of its entities, and for how long."""

from collections.abc import Iterable

from cubicweb.cwvreg import CWRegistryStore
from cubicweb.entity import EntityAdapter
from cubicweb.predicates import has_mimetype, is_instance

from cubicweb_hasite import parts
from cubicweb_hasite.caches import page_urls
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


class CachedPagesAdapter(EntityAdapter):
    """Names the pages that show an entity, which are purged when it changes.

    This adapter, for any entity, names the page of the entity, the list of its type and the home
    page. An application adds the other pages that show a type. For example, a blog shows the
    titles of its articles::

        class ArticlePages(CachedPagesAdapter):
            __select__ = is_instance("Article")

            def urls(self):
                yield from super().urls()
                for blog in self.entity.in_blog:
                    yield blog.absolute_url()
                    yield f"{blog.rest_path()}?page=2"

    It is asked before an entity is changed or deleted, and again before the commit, also when one
    of the relations of the entity changes. So the former blog of an article and its new one are
    purged. It may run queries, for which no permission is checked. It must not change data.

    If it fails the edit goes on. The error is logged, and the pages of this class are purged.
    """

    __regid__ = "ICachedPages"

    #: Whether only the pages are purged that anonymous visitors share (`hasite-page-max-age`), in
    #: all languages. Set it to False if the views of the application let caches keep these URLs
    #: by a `Cache-Control` of their own: then the URLs themselves are purged too.
    anonymous_only = True

    def urls(self) -> Iterable[str]:
        """Return the URLs of the pages, with their query strings.

        They are relative to the site, or absolute. A prefix of a language is ignored: the pages
        in all languages are purged. A URL on another host is logged, and not purged.
        """
        return page_urls.default_urls(self.entity)


def registration_callback(vreg: CWRegistryStore) -> None:
    """Register the adapters; let those of CubicWeb know images when they see one."""
    vreg.register_all(globals().values(), __name__)
    upstream.read_media_types_as_meant()
    if parts.has_file(vreg.config):
        from cubicweb_hasite.images import upstream_file

        upstream_file.read_media_types_as_meant()
        upstream_file.draw_thumbnails_of_any_image()
