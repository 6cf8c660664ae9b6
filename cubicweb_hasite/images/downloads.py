"""Serve the data of an entity over HTTP: validators, preconditions and ranges (RFC 9110).

The data is read only if the response needs it.
"""

import logging
import re
import sys
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from functools import partial
from tempfile import TemporaryFile
from typing import Any
from urllib.parse import quote

from cubicweb.entity import Entity, EntityAdapter
from logilab.mtconverter import BINARY_ENCODINGS
from pyramid.response import FileIter, Response
from webob import Request
from webob.byterange import Range

from cubicweb_hasite.caches import policy
from cubicweb_hasite.images import data
from cubicweb_hasite.images.urls import Representation
from cubicweb_hasite.responses import refuse

log = logging.getLogger(__name__)

# What browsers may show, because they run nothing in it (so no SVG). Everything else is downloaded
# as a file.
_INLINE = {
    f"image/{subtype}"
    for subtype in ("apng", "avif", "bmp", "gif", "jpeg", "png", "webp", "x-icon")
}
_MEDIA_TYPE = re.compile(r"[\w!#$&^.+-]{1,127}/[\w!#$&^.+-]{1,127}", re.ASCII)
_CHARSET = re.compile(r"[\w.:+-]{1,40}", re.ASCII)
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
# the last 0 bytes: cannot be satisfied, but WebOb takes it for all bytes
_LAST_NONE = re.compile(r"bytes\s*=\s*-0+\s*", re.IGNORECASE)
# in bytes
_IN_MEMORY = 2**20
_BLOCK = 2**16
_MAX_NAME = 200
_MAX_RANGE = 100


@dataclass(frozen=True)
class Selected:
    """The representation of an entity that a request selects (RFC 9110, section 3.2)."""

    content_type: str
    file_name: str
    etag: str
    last_modified: datetime
    cache_control: str
    #: returns the bytes, None where there are none; raises :class:`data.Changed` if they are not
    #: those that the other fields describe
    read: Callable[[], bytes | None]


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
        size = entity._cw.vreg.config["image-thumb-size"]
        variant, read = f"-{size}", partial(_thumbnail, adapter)
    else:
        adapter = entity.cw_adapt_to("IDownloadable")
        if adapter is None:
            return None
        content_type, file_name = _content_type(adapter), adapter.download_file_name()
        variant, read = "", partial(_download, adapter)
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
        read=read,
    )


def respond(request: Request, selected: Selected) -> Response:
    """Answer a GET or HEAD request for a representation.

    :raises data.Changed: the entity was changed since the representation was selected.
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

    body = selected.read()
    if body is None:
        return refuse(404)
    response.headers["Accept-Ranges"] = "bytes"
    response.headers["Content-Type"] = selected.content_type
    response.headers["X-Content-Type-Options"] = "nosniff"
    response.headers["Content-Disposition"] = content_disposition(
        selected.file_name, inline=selected.content_type in _INLINE
    )
    if wanted := _wanted_range(request, response):
        content_range = wanted.content_range(len(body))
        if content_range is None:
            response = refuse(416)
            response.headers["Content-Range"] = f"bytes */{len(body)}"
            return response
        response.status_code = 206
        response.content_range = content_range
        body = body[content_range.start : content_range.stop]
    if request.method == "HEAD":
        response.content_length = len(body)
    elif len(body) <= _IN_MEMORY:
        response.body = body
    else:
        response.app_iter = _in_file(request, body)
        response.content_length = len(body)
    return response


def _in_file(request: Request, body: bytes) -> Iterable[bytes]:
    """Return a large body as a temporary file, so that slow visitors occupy no memory.

    The server sends it itself (PEP 3333, `wsgi.file_wrapper`), and waitress needs no thread for
    it. The file is removed when the response is closed.
    """
    file = TemporaryFile()  # noqa: SIM115
    file.write(body)
    file.seek(0)
    return request.environ.get("wsgi.file_wrapper", FileIter)(file, _BLOCK)


def content_disposition(file_name: str, *, inline: bool) -> str:
    """Return the value of Content-Disposition for a file name (RFC 6266 and RFC 8187)."""
    printable = "".join(char for char in file_name if char.isprintable())
    name = printable.replace("/", "_").replace("\\", "_")[-_MAX_NAME:] or "file"
    ascii_name = name.encode("ascii", "replace").decode().replace('"', "_").replace("%", "_")
    value = f'{"inline" if inline else "attachment"}; filename="{ascii_name}"'
    if ascii_name != name:
        value += f"; filename*=UTF-8''{quote(name, safe='')}"
    return value


def _wanted_range(request: Request, response: Response) -> Range | None:
    """RFC 9110, section 14.2: a range applies only to GET; several ranges may be ignored."""
    header = request.headers.get("Range", "")
    if request.method != "GET" or "," in header or len(header) > _MAX_RANGE:
        return None
    if _LAST_NONE.fullmatch(header):
        wanted = Range(sys.maxsize, None)
    else:
        wanted = _tolerant(lambda: request.range)
    return wanted if wanted and _tolerant(lambda: response in request.if_range) else None


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


def _download(adapter: EntityAdapter) -> bytes | None:
    entity = adapter.entity
    immutable_data = entity.cw_adapt_to("IImmutableData")
    attribute = "data" if immutable_data is None else immutable_data.attribute
    if not entity.e_schema.has_relation(attribute, "subject"):
        body = adapter.download_data()
        data.check(entity)
        return body
    data.load(entity, attribute)
    if entity.cw_attr_cache.get(attribute, entity) is None:
        return None
    body = adapter.download_data()
    # the request, and the entity with it, may outlive the response until the garbage collection
    entity.cw_attr_cache.pop(attribute, None)
    return body


def _modified_since(request: Request, selected: Selected) -> bool:
    date = _tolerant(lambda: request.if_unmodified_since)
    return date is not None and selected.last_modified > date


def _thumbnail(adapter: EntityAdapter) -> bytes | None:
    try:
        body = adapter.thumbnail_data() or None
    except Exception as exc:  # Pillow raises errors of many types on data that is no image
        data.check(adapter.entity)
        log.warning("no thumbnail of %s: %s", adapter.entity, exc)
        return None
    data.check(adapter.entity)
    return body


def _content_type(adapter: EntityAdapter) -> str:
    """Return the media type as stock CubicWeb's download view does, made safe for a header."""
    encoding = adapter.download_encoding()
    if encoding in BINARY_ENCODINGS:
        return f"application/{encoding}"
    content_type = adapter.download_content_type() or ""
    if not _MEDIA_TYPE.fullmatch(content_type):
        return "application/octet-stream"
    if content_type.startswith("text/") and encoding and _CHARSET.fullmatch(encoding):
        return f"{content_type}; charset={encoding}"
    return content_type
