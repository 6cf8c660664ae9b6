"""The management port: monitors that answer while all threads that serve visitors are stuck.

It is a listener inside the process, with its own threads. It needs no token, so only monitoring
systems and load balancers may be able to reach it.
"""

import logging
import threading
from collections.abc import Callable, Iterable
from typing import Any

import waitress
from cubicweb import ConfigurationError
from cubicweb.server.repository import Repository
from webob import Request, Response

from cubicweb_hasite.monitoring import answers

log = logging.getLogger(__name__)

# some may wait for the database, others answer what needs no database
_THREADS = 8
# how long an idle connection is kept, in seconds
_IDLE_TIMEOUT = 30


def start(repo: Repository) -> None:
    """Listen on the management port, if there is one (option `hasite-management-port`).

    :raises ConfigurationError: it cannot listen on the port, or on the address.
    """
    host, port = repo.config["hasite-management-host"], repo.config["hasite-management-port"]
    if not port:
        return
    try:
        server = waitress.create_server(
            _Application(repo),
            host=host,
            port=port,
            threads=_THREADS,
            channel_timeout=_IDLE_TIMEOUT,
            clear_untrusted_proxy_headers=True,
        )
    except (OSError, ValueError) as exc:
        raise ConfigurationError(
            f"options hasite-management-host and -port: cannot listen on {host}:{port}: {exc}. "
            "Each process of an instance needs its own port."
        ) from exc
    threading.Thread(target=server.run, name="hasite-management", daemon=True).start()
    log.info("monitors at http://%s:%s/", host, port)


class _Application:
    """The WSGI application of the management port."""

    def __init__(self, repo: Repository):
        self._repo = repo

    def __call__(
        self, environ: dict[str, Any], start_response: Callable[..., Any]
    ) -> Iterable[bytes]:
        request = Request(environ)
        return self._respond(request)(environ, start_response)

    def _respond(self, request: Request) -> Response:
        if request.method not in ("GET", "HEAD"):
            return response(answers.error(405, "only GET and HEAD are answered"))
        try:
            path, query = request.path_info, request.GET
            answer = answers.answer(self._repo, path, query, request.headers, trusted=True)
        except UnicodeDecodeError:
            answer = answers.error(400, "the URL is not UTF-8")
        return response(answer or answers.error(404, "there is no such monitor"))


def response(answer: answers.Answer) -> Response:
    """Return an answer as a response of WebOb."""
    return Response(answer.body, status=answer.status, headerlist=list(answer.headers.items()))
