"""What a visitor is answered when the database cannot be asked: 503, not 500."""

import json
import logging
import re
from collections.abc import Callable

from cubicweb import _
from cubicweb.server.sources.native import NativeSQLSource
from pyramid.httpexceptions import HTTPServiceUnavailable
from pyramid.registry import Registry
from pyramid.request import Request
from pyramid.response import Response

from cubicweb_hasite import responses
from cubicweb_hasite.caches import policy
from cubicweb_hasite.database.connection import NoConnection
from cubicweb_hasite.storages import errors

log = logging.getLogger(__name__)

Handler = Callable[[Request], Response]

#: what visitors are told
UNAVAILABLE = _("The database cannot answer at the moment. Please try again.")
#: what who has sent a form is told too
SEND_AGAIN = _(
    "What you have sent may not be saved. To send it again, with all that you have typed, reload "
    "this page."
)


def unavailability(source: NativeSQLSource) -> list[type[Exception]]:
    """Return the types of the errors after which the same request may succeed."""
    if source.dbdriver != "postgres":
        return []
    from psycopg2.errors import ReadOnlySqlTransaction

    return [NoConnection, source.OperationalError, source.InterfaceError, ReadOnlySqlTransaction]


def unavailable(error: Exception, request: Request) -> Response:
    """Answer 503 to a request for which the database cannot be asked."""
    # without the query and its arguments, which `doexec` (cubicweb.server.sources.native) adds
    cause = str(error).rpartition("got the error ")[2].strip()
    return _unavailable(request, UNAVAILABLE, f"{type(error).__name__}: {cause}")


def storage_unavailable(error: errors.StorageUnavailable, request: Request) -> Response:
    """Answer 503 to a request for which a storage of bytes cannot be asked."""
    responses.without_cookies(request)
    return _unavailable(request, errors.UNAVAILABLE, str(error))


def _unavailable(request: Request, why: str, cause: str) -> Response:
    """Return the answer 503, in the language of the visitor.

    :param why: what the visitor is told
    :param cause: what is logged
    """
    log.warning("503 to %s %s: %s", request.method, request.path, cause)
    vreg = request.registry["cubicweb.registry"]
    translations = vreg.config.translations
    language = request.accept_language.lookup(
        tuple(translations), default=vreg.property_value("ui.language")
    )
    response = HTTPServiceUnavailable(
        # set here, because `protect_caches` is not called after an error in a callback
        headers={"Retry-After": "1", "Cache-Control": policy.NO_STORE}
    )
    translate = translations[language][0]
    response.explanation = translate(why)
    if request.method == "POST":
        if request.path_info.endswith("/validateform"):
            response.content_type, response.text = "text/html", _in_form(request, translate(why))
        else:
            response.explanation += f" {translate(SEND_AGAIN)}"
    return response


def _in_form(request: Request, why: str) -> str:
    """Return a page that shows an error in the form that was sent, which stays as it is.

    A browser loads it in a frame of the form's page: `FormValidatorController.response`
    (cubicweb_web.views.basecontrollers).
    """
    identifier = request.POST.get("__domid")
    # anybody may have sent it, and a file too
    if not (isinstance(identifier, str) and re.fullmatch(r"[\w:-]+", identifier)):
        identifier = "entityForm"
    result = json.dumps([False, [None, {"": why}], None])
    return (
        f"<script>window.parent.handleFormValidationResponse('{identifier}', null, null, "
        f"{result}, null);</script>"
    )


def lost_connection_tween_factory(handler: Handler, registry: Registry) -> Handler:
    """Answer 503 after the loss of the connection, even where CubicWeb has handled the error.

    For example, cubicweb_web.views.magicsearch takes the loss for an error in the visitor's
    query. Forms are left alone: they show the error and keep what the visitor has filled in.
    """

    def lost_connection_tween(request: Request) -> Response:
        try:
            response = handler(request)
        except Exception as error:
            if _lost_connection(request):
                raise NoConnection("lost during the request") from error
            raise
        if request.method in ("GET", "HEAD") and _lost_connection(request):
            raise NoConnection("lost during the request")
        return response

    return lost_connection_tween


def _lost_connection(request: Request) -> bool:
    cnx = vars(request).get("cw_cnx")  # if it was asked for
    return cnx is not None and getattr(cnx.cnxset, "failed", False)
