"""The download view, for URLs that do not name an eid.

URLs that name an eid are answered by :mod:`cubicweb_hasite.images.requests` before CubicWeb
dispatches them. These views serve the others, such as `/view?rql=…&vid=download`. The same rules
apply, but caches must revalidate at each use, because the URL may lead to another entity later.
"""

from cubicweb import Unauthorized
from cubicweb_web import NotFound
from cubicweb_web.views import idownloadable
from logilab.common.registry import yes
from webob import Request

from cubicweb_hasite import responses
from cubicweb_hasite.images import data, downloads, replacement
from cubicweb_hasite.images.urls import Representation
from cubicweb_hasite.images.visibility import readable_entity
from cubicweb_hasite.monitoring import metrics

_CONDITIONAL = ("If-Match", "If-None-Match", "If-Modified-Since", "If-Unmodified-Since")
_HEADERS = (*_CONDITIONAL, "If-Range", "Range")


class DownloadView(idownloadable.DownloadView):
    """Downloads an entity that adapts to IDownloadable."""

    # before CubicWeb's own, after an application's, which has `yes()`, and so 0.5 more
    __select__ = idownloadable.DownloadView.__select__ & yes(0.25)
    representation: Representation = "download"

    def set_http_cache_headers(self) -> None:
        """Make the response, because CubicWeb asks for its headers here."""
        req = self._cw
        eid = self.cw_rset[self.cw_row or 0][self.cw_col or 0]
        entity = readable_entity(req.cnx, eid)
        if entity is None:
            if replacement.entity_type(req.cnx, eid) is None:
                raise data.Changed(eid)  # since it was found: see cubicweb_hasite.images.retries
            raise Unauthorized
        selected = downloads.select(entity, self.representation, shared=False, max_age=None)
        if selected is None:
            raise NotFound  # it has no such data
        headers = {name: req.get_header(name) for name in _HEADERS if req.get_header(name)}
        request = Request.blank("/", method=req.http_method(), headers=headers)
        self.response = downloads.respond(request, selected)
        metrics.count_download(self.response.status_code, shared=False)
        req.status_out = self.response.status_code
        for name, value in self.response.headers.items():
            req.set_header(name, value)
        if pyramid_request := getattr(req, "_request", None):
            responses.without_cookies(pyramid_request)

    def set_request_content_type(self) -> None:
        """Do nothing: the response has its content type."""

    def call(self) -> None:
        self.w(self.response.body)
