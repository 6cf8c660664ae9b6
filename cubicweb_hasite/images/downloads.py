"""Serve the data of an entity over HTTP: validators, preconditions and ranges (RFC 9110).

The data is read only if the response needs it.
"""

import logging
import re
import sys
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from email.utils import parsedate_to_datetime
from functools import partial
from typing import Any

from cubicweb.entity import Entity, EntityAdapter
from logilab.mtconverter import BINARY_ENCODINGS
from pyramid.response import FileIter, Response
from webob import Request
from webob.byterange import Range

from cubicweb_hasite.caches import policy
from cubicweb_hasite.images import contents, data, media_types
from cubicweb_hasite.images.file_names import content_disposition
from cubicweb_hasite.images.urls import Representation
from cubicweb_hasite.responses import refuse
from cubicweb_hasite.storages.errors import DataMissing, StorageUnavailable

log = logging.getLogger(__name__)

_CHARSET = re.compile(r"[\w.:+-]{1,40}", re.ASCII)
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
# the last 0 bytes: cannot be satisfied, but WebOb takes it for all bytes
_LAST_NONE = re.compile(r"bytes\s*=\s*-0+\s*", re.IGNORECASE)
#: how long after a change its date is a strong validator
_STRONG_AFTER = timedelta(minutes=1)
# in bytes
_BLOCK = 2**16
_MAX_RANGE = 100


@dataclass(frozen=True)
class Selected:
    """The representation of an entity that a request selects (RFC 9110, section 3.2)."""

    content_type: str
    file_name: str
    etag: str
    last_modified: datetime
    cache_control: str
    #: returns the bytes, None where there are none; is told if all are going to be read, and
    #: raises, as :func:`contents.content`
    content: Callable[[bool], contents.Content | None]


def select(
    entity: Entity, representation: Representation, *, shared: bool, max_age: int | None
) -> Selected | None:
    """Return the representation of an entity's data, None if the entity has no such one.

    :param entity: an entity that the visitor may read, with its data
    :param shared: whether an anonymous visitor may read the entity and its data
    :param max_age: how long immutable data may be cached, in seconds; None if the URL does not
        name the eid, and may lead to other data later
    """
    if representation == "thumbnail":
        adapter = entity.cw_adapt_to("IThumbnail")
        if adapter is None:
            return None
        content_type, file_name = "image/png", adapter.thumbnail_file_name()
        size = entity._cw.vreg.config.get("image-thumb-size", "")  # of cubicweb-file
        variant, content = (
            f"-{size}-{media_types.THUMBNAILS_VERSION}",
            partial(_thumbnail, adapter),
        )
    else:
        adapter = entity.cw_adapt_to("IDownloadable")
        if adapter is None:
            return None
        content_type, file_name = _content_type(adapter), adapter.download_file_name()
        variant, content = "", partial(_download, adapter)
    immutable_data = entity.cw_adapt_to("IImmutableData")
    immutable = max_age is not None and immutable_data is not None and immutable_data.immutable
    modified = data.aware(entity.modification_date)
    # The time of the last change, in microseconds, validates the bytes without reading them,
    # because every change of the bytes sets it.
    return Selected(
        content_type=content_type,
        file_name=file_name or str(entity.eid),
        etag=f"{entity.eid}-{(modified - _EPOCH) // timedelta(microseconds=1):x}{variant}",
        last_modified=modified.replace(microsecond=0),
        cache_control=policy.cache_control(shared=shared, max_age=max_age if immutable else None),
        content=content,
    )


def respond(request: Request, selected: Selected) -> Response:
    """Answer a GET or HEAD request for a representation.

    :raises data.Changed: the entity was changed since the representation was selected.
    :raises StorageUnavailable: the storage of its bytes is out of order.
    """
    response = Response()
    response.headers.clear()
    response.headers["Cache-Control"] = selected.cache_control
    response.etag = selected.etag
    response.last_modified = selected.last_modified
    # RFC 9110, section 13.2.2: the order of the preconditions
    if "If-Match" in request.headers:
        if selected.etag not in request.if_match:
            return refuse(412)
    elif _modified_since(request, selected):
        return refuse(412)
    if _not_modified(request, selected):
        response.status_code = 304
        return response

    try:
        content = selected.content(request.method == "GET" and "Range" not in request.headers)
    except DataMissing:  # which is logged
        content = None
    if content is None:
        return refuse(404)
    response.headers["Accept-Ranges"] = "bytes"
    response.headers["Content-Type"] = selected.content_type
    response.headers["X-Content-Type-Options"] = "nosniff"
    response.headers["Content-Disposition"] = content_disposition(
        selected.file_name, inline=media_types.is_shown(selected.content_type)
    )
    start, stop = 0, content.length
    if wanted := _wanted_range(request, selected, content.length):
        content_range = wanted.content_range(content.length)
        if content_range is None:
            response = refuse(416)
            response.headers["Content-Range"] = f"bytes */{content.length}"
            return response
        response.status_code = 206
        response.content_range = content_range
        start, stop = content_range.start, content_range.stop
    if request.method == "HEAD":
        response.content_length = content.length
        return response
    body = content.part(start, stop)
    if isinstance(body, bytes):
        response.body = body
    else:
        # The server sends a file itself (PEP 3333), and waitress needs no thread for it. It is
        # closed with the response.
        response.app_iter = request.environ.get("wsgi.file_wrapper", FileIter)(body, _BLOCK)
        response.content_length = stop - start
    return response


def _wanted_range(request: Request, selected: Selected, length: int) -> Range | None:
    """Return the range of the data that a request asks for, None if it asks for all.

    RFC 9110, section 14.2: a range means something for GET alone, and a server may ignore it, as
    we do where there are several, or no data. A range of the last bytes that is longer than the
    data is all of it (section 14.1.2).

    :param length: that of the data
    """
    header = request.headers.get("Range", "")
    if request.method != "GET" or not length or "," in header or len(header) > _MAX_RANGE:
        return None
    if not _same_as_part(request.headers.get("If-Range"), selected):
        return None
    if _LAST_NONE.fullmatch(header):
        return Range(sys.maxsize, None)
    wanted = _tolerant(lambda: request.range)
    if wanted is not None and wanted.start < 0:
        return Range(max(wanted.start, -length), None)
    return wanted


def _same_as_part(if_range: str | None, selected: Selected) -> bool:
    """Return whether the part that a client has is surely of the data as it is now.

    RFC 9110, section 13.1.5: the validator must be strong, and the same. A date is none where the
    data changed within the same minute: the client may have what was there a moment before, with
    the same date (section 8.8.2.2, with the margin of RFC 7232 for clocks that differ).
    """
    if if_range is None:
        return True
    if_range = if_range.strip()
    if if_range.startswith(('"', "W/")):
        return if_range == f'"{selected.etag}"'
    age = datetime.now(UTC) - selected.last_modified
    date = _tolerant(lambda: parsedate_to_datetime(if_range))
    return date == selected.last_modified and age >= _STRONG_AFTER


def _tolerant(parse: Callable[[], Any]) -> Any:
    """Return what WebOb parses from a header, None if it is malformed and must be ignored."""
    try:
        return parse()
    except Exception:  # errors of many types, for dates and numbers out of range
        return None


def _not_modified(request: Request, selected: Selected) -> bool:
    if "If-None-Match" in request.headers:  # then If-Modified-Since is ignored
        return selected.etag in request.if_none_match
    since = _tolerant(lambda: request.if_modified_since)
    return since is not None and selected.last_modified <= since


def _download(adapter: EntityAdapter, whole: bool) -> contents.Content | None:
    entity = adapter.entity
    # that of cubicweb-file returns the bytes of the attribute `data`
    if type(adapter).download_data.__module__ == "cubicweb_file.entities":
        return contents.content(entity, "data", whole=whole)
    # the adapter of an application decides which they are
    immutable_data = entity.cw_adapt_to("IImmutableData")
    attribute = "data" if immutable_data is None else immutable_data.attribute
    if not entity.e_schema.has_relation(attribute, "subject"):
        body = adapter.download_data()
        data.check(entity)
        return contents.of_bytes(body)
    contents.load(entity, attribute)
    if entity.cw_attr_cache.get(attribute, entity) is None:
        return None
    body = adapter.download_data()
    # the request, and the entity with it, may outlive the response until garbage is collected
    entity.cw_attr_cache.pop(attribute, None)
    return None if body is None else contents.of_bytes(body)


def _modified_since(request: Request, selected: Selected) -> bool:
    date = _tolerant(lambda: request.if_unmodified_since)
    return date is not None and selected.last_modified > date


def _thumbnail(adapter: EntityAdapter, _whole: bool) -> contents.Content | None:
    try:
        body = adapter.thumbnail_data() or None
    except StorageUnavailable:
        data.check(adapter.entity)
        raise
    except Exception as exc:  # Pillow raises errors of many types on data that is no image
        data.check(adapter.entity)
        log.warning("no thumbnail of %s: %s", adapter.entity, exc)
        return None
    data.check(adapter.entity)
    return None if body is None else contents.of_bytes(body)


def _content_type(adapter: EntityAdapter) -> str:
    """Return the media type as stock CubicWeb's download view does, made safe for a header."""
    encoding = adapter.download_encoding()
    if encoding in BINARY_ENCODINGS:
        return f"application/{encoding}"
    written = adapter.download_content_type()
    content_type = media_types.canonical(written) or "application/octet-stream"
    if content_type.startswith("text/"):
        charset = encoding or media_types.charset(written)
        if charset and _CHARSET.fullmatch(charset):
            return f"{content_type}; charset={charset}"
    return content_type
