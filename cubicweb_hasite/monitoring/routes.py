"""The routes of the monitors: native ones of Pyramid, which need no connection and no session."""

from typing import Any
from urllib.parse import parse_qs

from pyramid.config import Configurator
from pyramid.request import Request
from pyramid.response import Response

from cubicweb_hasite import names, responses
from cubicweb_hasite.monitoring import answers, port, probes


def includeme(config: Configurator) -> None:
    """Add the routes of the monitors."""
    cubes = config.registry["cubicweb.config"].cubes()
    config.add_route_predicate("hasite_monitor", _AsksMonitor)
    config.add_route("hasite_monitor", "/view", hasite_monitor=True)
    config.add_view(monitor, route_name="hasite_monitor", request_method="GET")
    for path in names.MONITOR_PATHS:
        if path == names.METRICS and "prometheus" in cubes:
            continue  # cubicweb-prometheus serves the same registry there
        config.add_route(f"hasite_{path}", path)
        config.add_view(monitor, route_name=f"hasite_{path}", request_method="GET")


class _AsksMonitor:
    """Predicate of a route: the query names a monitor. One route costs less than one for each."""

    def __init__(self, _value: bool, _config: Configurator):
        pass

    def text(self) -> str:
        """Return how Pyramid names the predicate."""
        return "hasite_monitor"

    phash = text

    def __call__(self, _info: object, request: Request) -> bool:
        return request.GET.get("vid") in probes.PROBES


def monitor(request: Request) -> Response:
    """Answer a request for a monitor on the public port."""
    try:
        query = request.GET
    except UnicodeDecodeError:
        return responses.refuse(400)
    # the pattern of the route begins with the path of the site
    path = f"/{request.path_info.rpartition('/')[2]}"
    repo = request.registry["cubicweb.repository"]
    answer = answers.answer(repo, path, query, request.headers, trusted=False)
    return port.response(answer or answers.error(404, "there is no such monitor"))


def is_monitor(environ: dict[str, Any]) -> bool:
    """Return whether a WSGI request is for a monitor."""
    page = f"/{environ.get('PATH_INFO', '').rpartition('/')[2]}"
    [view, *_others] = parse_qs(environ.get("QUERY_STRING", "")).get("vid", [""])
    return page in names.MONITOR_PATHS or (page == "/view" and view in probes.PROBES)
