"""The routes of the monitors: native ones of Pyramid, which need no connection and no session."""

from typing import Any
from urllib.parse import parse_qsl

from pyramid.config import Configurator
from pyramid.request import Request
from pyramid.response import Response
from webob.multidict import MultiDict

from cubicweb_hasite import names, paths, responses
from cubicweb_hasite.caches import policy
from cubicweb_hasite.monitoring import answers, overview, port, problems

#: path of the state of the site, in JSON
OVERVIEW = "/hasite.json"


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
    config.add_route("hasite_overview", OVERVIEW)
    config.add_view(site_state, route_name="hasite_overview", request_method="GET")


class _AsksMonitor:
    """Predicate of a route: the query names a monitor. One route costs less than one for each."""

    def __init__(self, _value: bool, _config: Configurator):
        pass

    def text(self) -> str:
        """Return how Pyramid names the predicate."""
        return "hasite_monitor"

    phash = text

    def __call__(self, _info: object, request: Request) -> bool:
        return answers.names_monitor(request.GET)


def monitor(request: Request) -> Response:
    """Answer a request for a monitor on the public port."""
    try:
        query = request.GET
    except UnicodeDecodeError:
        return responses.refuse(400)
    repo = request.registry["cubicweb.repository"]
    # the pattern of the route begins with the path of the site
    path = request.path_info.removeprefix(paths.site_root(repo.config)[1])
    answer = answers.answer(repo, path, query, request.headers, trusted=False)
    # Pyramid's patterns match `/livez` with a line break at its end too
    return port.response(answer or answers.error(404, "there is no such monitor"))


def site_state(request: Request) -> Response:
    """Answer the state of the site to managers, as the page for operators shows it."""
    if not request.authenticated_userid:
        return responses.refuse(401, "log in as a manager")
    if not request.cw_cnx.user.is_in_group("managers"):
        return responses.refuse(403, "only managers may see this")
    site = overview.look(request.registry["cubicweb.repository"])
    found = [
        {"text": str(problem), "url": problem.url, "urgent": problem.urgent}
        for problem in problems.problems(site)
    ]
    response = Response(json_body={"problems": found, **site.facts()})
    response.headers["Cache-Control"] = policy.NO_STORE
    return response


def is_monitor(environ: dict[str, Any], prefix: str) -> bool:
    """Return whether a WSGI request is for a monitor.

    :param prefix: the path of the site, as :func:`cubicweb_hasite.paths.site_root` returns it
    """
    path = environ.get("PATH_INFO", "").removeprefix(prefix)
    if path != "/view":
        return path in names.MONITOR_PATHS
    query = parse_qsl(environ.get("QUERY_STRING", ""), keep_blank_values=True)
    return answers.names_monitor(MultiDict(query))
