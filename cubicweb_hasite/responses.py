"""Responses of all rooms: errors in plain text, and answers without cookies."""

from pyramid.request import Request
from pyramid.response import Response

from cubicweb_hasite.caches.policy import NO_STORE


def refuse(status: int, why: str = "") -> Response:
    """Return an error in plain text that no cache keeps.

    :param why: what the visitor is told beside the name of the status
    """
    response = Response(status=status, content_type="text/plain", charset="utf-8")
    response.headers["Cache-Control"] = NO_STORE
    response.text = f"{response.status}{why and ': '}{why}\n"
    return response


def without_cookies(request: Request) -> None:
    """Remove all cookies from the response to a request.

    Call it after the session was read: Pyramid runs the callbacks of a request in the order in
    which they were added, and the session adds its cookie by one.
    """

    def drop(request: Request, response: Response) -> None:
        if "Set-Cookie" in response.headers:
            del response.headers["Set-Cookie"]  # all of them

    request.add_response_callback(drop)
