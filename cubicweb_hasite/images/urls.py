"""The URLs of an entity: which eid a URL names, and the same URL with another eid."""

import re
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Literal

from webob import Request

from cubicweb_hasite.names import MONITOR_PREFIX

Representation = Literal["download", "thumbnail"]

# by what follows the eid in the path: cubicweb_file.views.urlrewrite, cubicweb.pyramid.rest_api
_BY_PATH: dict[str, Representation] = {
    "raw": "download",
    "download": "download",
    "thumb": "thumbnail",
}
_BY_VID: dict[str, Representation] = {"download": "download", "thumbnail": "thumbnail"}

# Both are matched against the raw query string, so that the rest of it stays as it came.
_EID_PARAMETER = re.compile(r"(?:^|&)eid=([^&]*)(?=&|$)")
_EID_IN_RQL = re.compile(r"(?:^|&)rql=[^&]*(?:%20|\+)(?i:eid)(?:%20|\+)([0-9]+)\b")
#: how the paths of cubicweb-api begin, below the one that an application gives it
API = "/v[0-9]+/"
_API_DATA = re.compile(f"{API}binary$")
_DIGITS = re.compile(r"[0-9]+")
_EID_ALONE = re.compile(r"any x where x eid [0-9]+", re.IGNORECASE)


@dataclass(frozen=True)
class EntityURL:
    """The parts of a URL that names an entity."""

    eid: int
    #: type in the path, in lower case; None if there is none
    etype: str | None
    #: representation of the data that is requested; None for a page
    representation: Representation | None
    #: whether CubicWeb fails if the entity is gone, when it should answer 404
    fails_if_gone: bool
    before: str
    after: str

    def with_eid(self, eid: int) -> str:
        """Return the same URL, path and query string, with the given eid."""
        return f"{self.before}{eid}{self.after}"


def path_pattern(prefix: str = "", languages: Iterable[str] = ()) -> re.Pattern[str]:
    """Return the pattern of the paths that name an eid, for :func:`entity_url`.

    They begin with `/812`, `/file/812` or `/file/eid/812` (cubicweb_web.views.urlpublishing).

    :param prefix: path of the site, without a final `/`
    :param languages: languages that may come first in a path (`language-mode` of the instance)
    """
    language = "|".join(re.escape(lang) for lang in languages)
    return re.compile(
        re.escape(prefix) + (f"(?:/(?:{language}))?" if language else "") + r"/"
        r"(?:(?P<etype>[a-z][a-z0-9_]*)/(?:eid/)?)?(?P<eid>[0-9]+)(?P<rest>/.*)?",
        re.IGNORECASE,
    )


def entity_url(request: Request, pattern: re.Pattern[str]) -> EntityURL | None:
    """Return the parts of the URL of a request, None if it names no eid.

    :raises UnicodeDecodeError: the query string is not UTF-8.
    """
    vid = request.GET.get("vid", "")
    if match := pattern.fullmatch(request.path):
        rest = (match["rest"] or "").split("/")
        representation = _BY_PATH.get(rest[1]) if len(rest) > 1 else _BY_VID.get(vid)
        etype = match["etype"] and match["etype"].lower()
        fails_if_gone = False
        span = match.span("eid")
    elif vid.startswith(MONITOR_PREFIX):
        return None
    elif (match := _EID_PARAMETER.search(request.query_string)) and (
        _DIGITS.fullmatch(match[1]) or vid in _BY_VID
    ):
        etype, representation = None, _BY_VID.get(vid)
        # cubicweb-api answers clearly itself, with what its clients expect
        fails_if_gone = not _API_DATA.search(request.path)
        span = _in_query(request, match)
    elif match := _EID_IN_RQL.search(request.query_string):
        fails_if_gone = _EID_ALONE.fullmatch(request.GET["rql"]) is not None
        etype, representation = None, _BY_VID.get(vid) if fails_if_gone else None
        span = _in_query(request, match)
    else:
        return None
    url = request.path_qs
    start, end = span
    # Python refuses numbers of thousands of digits; an eid has less than twelve. If it is not a
    # number, take 0, which no entity has.
    digits = _DIGITS.fullmatch(url[start:end])
    eid = int(digits[0].lstrip("0")[:12] or "0") if digits else 0
    return EntityURL(eid, etype, representation, fails_if_gone, url[:start], url[end:])


def _in_query(request: Request, match: re.Match[str]) -> tuple[int, int]:
    offset = len(request.path) + 1
    return match.start(1) + offset, match.end(1) + offset
