"""Answer requests for the URLs of entities: downloads, and those that name a former eid."""

from collections.abc import Callable, Iterator
from contextlib import closing, nullcontext

from cubicweb.entity import Entity
from cubicweb.pyramid import tools
from cubicweb.server.session import Connection
from pyramid.registry import Registry
from pyramid.request import Request
from pyramid.response import Response

from cubicweb_hasite import caching, downloads, metrics, replacement, urls
from cubicweb_hasite.visibility import load_user, readable_entity

Handler = Callable[[Request], Response]


def tween_factory(handler: Handler, registry: Registry) -> Handler:
    """Answer downloads, and lead former eids on, before CubicWeb dispatches the request.

    Waiting for a 404 would not do: a process that still has a former eid in its type cache
    answers a page or an error instead.
    """
    config = registry["cubicweb.config"]
    root, prefix = urls.site_root(config)
    languages = ()
    if config.get("language-mode") == "url-prefix":
        languages = config.available_languages()
    pattern = urls.path_pattern(prefix, languages)
    etypes = {None, "any", *registry["cubicweb.registry"].case_insensitive_etypes}

    def entity_url_tween(request: Request) -> Response:
        try:
            url = urls.entity_url(request, pattern)
        except UnicodeDecodeError:  # nobody behind us could read the URL either
            return downloads.refuse(400)
        if request.method not in ("GET", "HEAD") or url is None or url.etype not in etypes:
            return handler(request)
        visit = _Visit(request, url, root)
        response = visit.page() if url.representation is None else visit.download()
        if response is not None:
            return response
        try:
            return handler(request)
        except Exception:  # of many types, where a row is missing
            if not visit.is_gone():
                raise
            return visit.redirect() or downloads.refuse(404)

    return entity_url_tween


class _Visit:
    """A GET or HEAD request for the URL of an entity.

    Both faces return None where the answer is CubicWeb's own.
    """

    def __init__(self, request: Request, url: urls.EntityURL, root: str):
        self.request = request
        self.url = url
        self.root = root
        self.repo = request.registry["cubicweb.repository"]
        self.anonymous_eid = request.registry.get("cubicweb.anonymous_eid")

    def page(self) -> Response | None:
        if self.url.eid > replacement.MAX_EID:
            return downloads.refuse(404)  # CubicWeb would ask the database for it
        # by the connection that the page takes too, if the visitor may see any
        if not self.is_gone(self.request.cw_cnx):
            return None
        return self.redirect() or (downloads.refuse(404) if self.url.fails_if_gone else None)

    def download(self) -> Response | None:
        with closing(self._connections()) as connections:
            for cnx, shared in connections:
                entity = readable_entity(cnx, self.url.eid)
                if entity is not None:
                    return self._send(entity, shared)
        if self.anonymous_eid is None and not self.request.authenticated_userid:
            return None  # CubicWeb asks to log in
        if self.is_gone():
            return self.redirect() or downloads.refuse(404)
        return downloads.refuse(403)

    def _send(self, entity: Entity, shared: bool) -> Response | None:
        eschemas = (entity.e_schema, *entity.e_schema.ancestors())
        if self.url.etype not in {None, "any", *(e.type.lower() for e in eschemas)}:
            return downloads.refuse(404)
        selected = downloads.select(
            entity,
            self.url.representation,
            shared=shared,
            max_age=self.repo.config["hasite-image-max-age"],
        )
        if selected is None:
            # CubicWeb would answer the home page instead of a thumbnail
            return downloads.refuse(404) if self.url.representation == "thumbnail" else None
        if not shared:
            downloads.without_cookies(self.request)
        response = downloads.respond(self.request, selected)
        metrics.count_download(response.status_code, shared=shared)
        return response

    def is_gone(self, cnx: Connection | None = None) -> bool:
        """Whether no entity has the eid, or not any more.

        :param cnx: a connection to ask by, by default one of its own
        """
        with self.repo.internal_cnx() if cnx is None else nullcontext(cnx) as asked:
            return replacement.entity_type(asked, self.url.eid) is None

    def redirect(self) -> Response | None:
        """Lead a former eid on, if the visitor may read the entity that had it."""
        with self.repo.internal_cnx() as cnx:
            current = replacement.current_eid(cnx, self.url.eid)
        if current is None:
            return None
        with closing(self._connections()) as connections:
            for cnx, shared in connections:
                if readable_entity(cnx, current) is not None:
                    response = Response(status=301, content_type="text/plain", charset="utf-8")
                    # not from the Host of the request, which a visitor controls
                    response.location = self.root + self.url.with_eid(current)
                    response.text = f"{response.location}\n"  # Apache stores no empty body
                    response.headers["Cache-Control"] = caching.redirect_cache_control(
                        shared=shared
                    )
                    if not shared:
                        downloads.without_cookies(self.request)
                    metrics.count_redirect()
                    return response
        return None

    def _connections(self) -> Iterator[tuple[Connection, bool]]:
        """Yield the connections by which the visitor may read, and if shared caches may store it.

        What an anonymous visitor may read is answered to everybody alike, from his connection
        and without a look at the session; only then comes the visitor's own.
        """
        if self.anonymous_eid is not None:
            user, lang = tools.cached_build_user(self.repo, self.anonymous_eid)
            connection = Connection(self.repo, user)
            connection.lang = lang
            with connection as cnx:
                load_user(cnx, self.anonymous_eid)
                yield cnx, True
        if self.request.authenticated_userid:
            yield self.request.cw_cnx, False
