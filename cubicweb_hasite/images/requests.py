"""Requests for the URLs of entities: downloads, and redirects from former eids."""

import logging
from collections.abc import Callable
from contextlib import closing, nullcontext
from datetime import datetime

from cubicweb.entity import Entity
from cubicweb.server.session import Connection
from pyramid.httpexceptions import HTTPException
from pyramid.registry import Registry
from pyramid.request import Request
from pyramid.response import Response

from cubicweb_hasite import paths, responses
from cubicweb_hasite.caches import policy
from cubicweb_hasite.images import data, downloads, replacement, retries, urls
from cubicweb_hasite.images.visibility import connections, readable_entity
from cubicweb_hasite.monitoring import metrics
from cubicweb_hasite.storages.errors import StorageUnavailable

log = logging.getLogger(__name__)

Handler = Callable[[Request], Response]

#: How often an entity is looked at that changes while it is read. One look takes some
#: milliseconds, and an image cannot be replaced that often: the second nearly always succeeds.
LOOKS = 10
_SUCCESSFUL = (200, 206, 304)


def tween_factory(handler: Handler, registry: Registry) -> Handler:
    """Answer downloads and redirect from former eids before CubicWeb dispatches the request.

    To wait for a 404 would not work: a process that still has a former eid in its type cache
    answers with a page or an error instead.
    """
    config = registry["cubicweb.config"]
    root, prefix = paths.site_root(config)
    languages = ()
    if config.get("language-mode") == "url-prefix":
        languages = config.available_languages()
    pattern = urls.path_pattern(prefix, languages)
    etypes = {None, "any", *registry["cubicweb.registry"].case_insensitive_etypes}

    def entity_url_tween(request: Request) -> Response:
        try:
            url = urls.entity_url(request, pattern)
        except UnicodeDecodeError:  # nobody behind us could read the URL either
            return responses.refuse(400)
        if request.method not in ("GET", "HEAD") or url is None or url.etype not in etypes:
            return handler(request)
        return _Visit(request, url, root, handler).answer()

    return entity_url_tween


class _Visit:
    """A GET or HEAD request for the URL of an entity.

    The entity may be edited, replaced or deleted between any two queries. What is found is
    answered if it is of one moment; else :class:`data.Changed` is raised and all is looked at
    again. No lock is taken: a visitor never waits for an edit, nor an edit for a visitor.

    :param handler: what answers where we do not: CubicWeb
    """

    def __init__(self, request: Request, url: urls.EntityURL, root: str, handler: Handler):
        self.request = request
        self.url = url
        self.root = root
        self.handler = handler
        self.repo = request.registry["cubicweb.repository"]
        self.anonymous_eid = request.registry.get("cubicweb.anonymous_eid")

    def answer(self) -> Response:
        """Return the response."""
        representation = self.url.representation
        for _ in range(LOOKS):
            try:
                return self._page() if representation is None else self._download(representation)
            except data.Changed as changed:
                log.info("%s is looked up again: %s has changed", self.request.path, changed)
                retries.forget(self.request)
        response = responses.refuse(503, "this is being changed again and again")
        response.headers["Retry-After"] = "1"
        return response

    def _page(self) -> Response:
        if self.url.eid > replacement.MAX_EID:
            return responses.refuse(404)  # CubicWeb would ask the database for it
        # by the connection that the page takes too, if the visitor may see any
        before = self._version(self.request.cw_cnx)
        if before is not None:
            return self._by_cubicweb(before)
        response = self._elsewhere()
        if response is None:
            return responses.refuse(404) if self.url.fails_if_gone else self.handler(self.request)
        return response

    def _by_cubicweb(self, before: datetime) -> Response:
        """Let CubicWeb answer, unless the entity is replaced while it does.

        :param before: when the entity was changed last
        """
        try:
            response = self.handler(self.request)
        except Exception as error:  # of many types, where a row is missing
            after = self._version()
            if after is None or (after != before and not isinstance(error, HTTPException)):
                raise data.Changed(self.url.eid) from error
            raise
        # what has nothing to show may be shown with success: that nothing is found
        if response.status_code == 200 and not self.url.fails_if_gone:
            return response
        after = self._version(self.request.cw_cnx)
        if after is None or (after != before and response.status_code not in _SUCCESSFUL):
            raise data.Changed(self.url.eid)
        return response

    def _download(self, representation: urls.Representation) -> Response:
        entity = None
        try:
            with closing(connections(self.request)) as readers:
                for cnx, shared in readers:
                    entity = readable_entity(cnx, self.url.eid)
                    if entity is not None:
                        response = self._send(entity, representation, shared)
                        break
        except data.Changed:
            raise
        except StorageUnavailable as error:
            return self._unavailable(error)
        except Exception as error:  # of many types, where a row or a file is missing
            if entity is None or self._version() == entity.modification_date:
                raise
            raise data.Changed(self.url.eid) from error
        if entity is None:
            if self.anonymous_eid is None and not self.request.authenticated_userid:
                return self.handler(self.request)  # CubicWeb asks to log in
            try:
                return self._elsewhere() or responses.refuse(404)
            except data.Changed:
                # that of an entity which the visitor may not read
                if self._version() is not None:
                    return responses.refuse(403)
                raise
        if response is None:
            return self._by_cubicweb(entity.modification_date)
        return response

    def _send(
        self, entity: Entity, representation: urls.Representation, shared: bool
    ) -> Response | None:
        """Return the representation, None if CubicWeb is to answer."""
        eschemas = (entity.e_schema, *entity.e_schema.ancestors())
        if self.url.etype not in {None, "any", *(e.type.lower() for e in eschemas)}:
            return responses.refuse(404)
        selected = downloads.select(
            entity,
            representation,
            shared=shared,
            max_age=self.repo.config["hasite-image-max-age"],
        )
        if selected is None:
            # CubicWeb would answer the home page instead of a thumbnail
            return responses.refuse(404) if representation == "thumbnail" else None
        if not shared:
            responses.without_cookies(self.request)
        response = downloads.respond(self.request, selected)
        metrics.count_download(response.status_code, shared=shared)
        return response

    def _unavailable(self, error: StorageUnavailable) -> Response:
        """Answer that the storage of the data is out of order."""
        log.warning("503 to %s %s: %s", self.request.method, self.request.path, error)
        responses.without_cookies(self.request)
        metrics.count_download(503, shared=False)
        response = responses.refuse(503, "the storage of files cannot answer at the moment")
        response.headers["Retry-After"] = "1"
        return response

    def _version(self, cnx: Connection | None = None) -> datetime | None:
        """Return when the entity was changed last, None if no entity has the eid, or not any more.

        :param cnx: a connection to ask by, by default one of its own
        """
        eid = self.url.eid
        with self.repo.internal_cnx() if cnx is None else nullcontext(cnx) as asked:
            etype = replacement.entity_type(asked, eid)
            return None if etype is None else data.version(asked, etype, eid)

    def _elsewhere(self) -> Response | None:
        """Lead a former eid on, if the visitor may read the entity that had it.

        :raises data.Changed: the eid is that of an entity, or was a moment ago.
        """
        current = None
        with closing(connections(self.request)) as readers:
            for cnx, shared in readers:
                if current is None:
                    current = self._where(cnx)
                if current is None:
                    return None
                if readable_entity(cnx, current) is not None:
                    return self._redirect(current, shared=shared)
        if current is not None:
            with self.repo.internal_cnx() as cnx:
                if self._where(cnx) != current:  # replaced again, or deleted
                    raise data.Changed(current)
        return None

    def _where(self, cnx: Connection) -> int | None:
        current = replacement.where(cnx, self.url.eid)
        if current == self.url.eid:
            raise data.Changed(current)
        return current

    def _redirect(self, current: int, *, shared: bool) -> Response:
        response = Response(status=301, content_type="text/plain", charset="utf-8")
        # not from the Host of the request, which a visitor controls
        response.location = self.root + self.url.with_eid(current)
        response.text = f"{response.location}\n"  # Apache stores no empty body
        response.headers["Cache-Control"] = policy.redirect_cache_control(shared=shared)
        if not shared:
            responses.without_cookies(self.request)
        metrics.count_redirect()
        return response
