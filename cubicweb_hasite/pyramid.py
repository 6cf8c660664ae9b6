"""The cube's faces in Pyramid: monitors, errors, limits, paths, protection of shared caches."""

import gc
import logging
import re
import string
from collections.abc import Callable
from typing import Any
from urllib.parse import parse_qsl, quote

from cubicweb import ConfigurationError
from pyramid.config import Configurator
from pyramid.events import ApplicationCreated, NewResponse
from pyramid.httpexceptions import HTTPServiceUnavailable
from pyramid.registry import Registry
from pyramid.request import Request
from pyramid.response import Response
from pyramid.router import Router
from pyramid.tweens import EXCVIEW, INGRESS
from webob.multidict import MultiDict

from cubicweb_hasite import (
    caching,
    downloads,
    draining,
    health,
    management,
    metrics,
    pages,
    paths,
    upstream,
    urls,
)

log = logging.getLogger(__name__)

Handler = Callable[[Request], Response]

# directories that CubicWeb serves to everybody alike (cubicweb_web.views.staticcontrollers)
_STATIC = ("/data/", "/static/", "/fckeditor/")


def includeme(config: Configurator) -> None:
    """Register the routes, the tweens, the subscribers and the exception views of the cube.

    Its management port listens from here on.

    :raises ConfigurationError: an option of the cube has a value that makes no sense.
    """
    options = config.registry["cubicweb.config"]
    for option in ("hasite-image-max-age", "hasite-probe-deadline", "hasite-pool-timeout"):
        value = options[option]
        if value < 0:
            raise ConfigurationError(f"option {option} is {value}: give 0 seconds or more")
    repo = config.registry["cubicweb.repository"]
    health.check_options(repo.config)
    config.add_route_predicate("hasite_monitor", _AsksMonitor)
    config.add_route("hasite_monitor", "/view", hasite_monitor=True)
    config.add_view(monitor, route_name="hasite_monitor", request_method="GET")
    for path in (health.LIVEZ, health.READYZ, health.METRICS):
        if path == health.METRICS and "prometheus" in repo.config.cubes():
            continue  # cubicweb-prometheus serves the same registry there
        config.add_route(f"hasite_{path}", path)
        config.add_view(monitor, route_name=f"hasite_{path}", request_method="GET")
    if options.mode != "test":  # CubicWeb's test cases hold connections of the stock pool
        draining.start(options)
        config.add_subscriber(tell_requests, ApplicationCreated)
        config.add_subscriber(spare_the_collector, ApplicationCreated)
        upstream.heal_connections(repo, options["hasite-pool-timeout"])
    for error in upstream.unavailability(repo.system_source):
        config.add_exception_view(unavailable, context=error)
    if options["hasite-remember-source-lines"]:
        upstream.remember_source_lines()
    if options["hasite-load-users-at-once"]:
        upstream.load_users_at_once()
    if options["hasite-look-up-rdf-on-demand"]:
        config.add_subscriber(upstream.look_up_rdf_on_demand, ApplicationCreated)
    if options["hasite-remember-options"] and options.mode != "test":  # which change there
        upstream.remember_options()
    config.add_tween(
        "cubicweb_hasite.pyramid.upload_limit_tween_factory", under=INGRESS, over=EXCVIEW
    )
    config.add_tween("cubicweb_hasite.pyramid.path_tween_factory", under=INGRESS, over=EXCVIEW)
    if metrics.AVAILABLE:
        metrics.watch(repo)
        config.add_tween(
            "cubicweb_hasite.metrics.response_tween_factory", under=INGRESS, over=EXCVIEW
        )
    below = "cubicweb_web.bwcompat.TweenHandler"
    for tween in (
        "cubicweb_hasite.entity_requests.tween_factory",
        "cubicweb_hasite.retries.tween_factory",
        "cubicweb_hasite.pyramid.lost_connection_tween_factory",
    ):
        config.add_tween(tween, under=EXCVIEW, over=below)
        below = tween
    config.include(pages)
    config.add_subscriber(protect_caches, NewResponse)
    management.start(repo)


class _AsksMonitor:
    """Predicate of a route: the query names a monitor. One route is cheaper than one for each."""

    def __init__(self, _value: bool, _config: Configurator):
        pass

    def text(self) -> str:
        """Return how Pyramid names it."""
        return "hasite_monitor"

    phash = text

    def __call__(self, _info: object, request: Request) -> bool:
        return health.names_monitor(request.GET)


def monitor(request: Request) -> Response:
    """Answer a monitor, to who may ask on the public port."""
    try:
        query = request.GET
    except UnicodeDecodeError:
        return downloads.refuse(400)
    repo = request.registry["cubicweb.repository"]
    # the pattern of the route begins with the path of the site
    path = request.path_info.removeprefix(urls.site_root(repo.config)[1])
    answer = health.answer(repo, path, query, request.headers, trusted=False)
    # Pyramid's patterns take `/livez` and a line break for the same
    return management.response(answer or health.error(404, "there is no such monitor"))


def tell_requests(event: ApplicationCreated) -> None:
    """Let `hasite-drain --wait` know when requests are in flight, other than monitors'.

    Around the execution policy, that is with the callbacks in which CubicWeb commits.
    """
    policy = event.app.execution_policy
    config = event.app.registry["cubicweb.config"]
    in_flight = draining.InFlight(config)
    _root, prefix = urls.site_root(config)

    def telling_policy(environ: dict[str, Any], router: Router) -> Response:
        if _is_monitor(environ, prefix):
            return policy(environ, router)
        with in_flight:
            return policy(environ, router)

    event.app.execution_policy = telling_policy


def spare_the_collector(_event: ApplicationCreated) -> None:
    """Let the garbage collector not go again and again through what was loaded at the start.

    That is 100,000 objects and more, which stay as long as the process, and a few percent of the
    CPU time of a page.
    """
    gc.collect()
    gc.freeze()


def _is_monitor(environ: dict[str, Any], prefix: str) -> bool:
    path = environ.get("PATH_INFO", "").removeprefix(prefix)
    if path != "/view":
        return path in (health.LIVEZ, health.READYZ, health.METRICS)
    query = parse_qsl(environ.get("QUERY_STRING", ""), keep_blank_values=True)
    return health.names_monitor(MultiDict(query))


def unavailable(error: Exception, request: Request) -> Response:
    """Answer 503 to a visitor for whom the database cannot be asked."""
    # not what `doexec` (cubicweb.server.sources.native) adds, the query and its arguments
    cause = str(error).rpartition("got the error ")[2].strip()
    log.warning("503 to %s %s: %s: %s", request.method, request.path, type(error).__name__, cause)
    vreg = request.registry["cubicweb.registry"]
    translations = vreg.config.translations
    language = request.accept_language.lookup(
        tuple(translations), default=vreg.property_value("ui.language")
    )
    response = HTTPServiceUnavailable(
        # not left to `protect_caches`, which is not called after an error in a callback
        headers={"Retry-After": "1", "Cache-Control": caching.NO_STORE}
    )
    response.explanation = translations[language][0](upstream.UNAVAILABLE)
    return response


def lost_connection_tween_factory(handler: Handler, registry: Registry) -> Handler:
    """Let the loss of the connection be what it is, whatever CubicWeb makes of it.

    For one, cubicweb_web.views.magicsearch takes it for an error in the query of the visitor.
    Forms are left alone: they show the error, and keep what the visitor has filled in.
    """

    def lost_connection_tween(request: Request) -> Response:
        try:
            response = handler(request)
        except Exception as error:
            if _lost_connection(request):
                raise upstream.NoConnection("lost during the request") from error
            raise
        if request.method in ("GET", "HEAD") and _lost_connection(request):
            raise upstream.NoConnection("lost during the request")
        return response

    return lost_connection_tween


def _lost_connection(request: Request) -> bool:
    cnx = vars(request).get("cw_cnx")  # if it was asked for
    return cnx is not None and getattr(cnx.cnxset, "failed", False)


def protect_caches(event: NewResponse) -> None:
    """Apply :func:`caching.protect` to what any view of the instance answers, but shared pages."""
    request, response = event.request, event.response
    if not pages.share(request, response):
        path = request.environ.get("PATH_INFO", "")  # which need not be UTF-8
        static = path.startswith(_STATIC)
        caching.protect(response, static=static, own=pages.is_anonymous(request))


def upload_limit_tween_factory(handler: Handler, registry: Registry) -> Handler:
    """Refuse uploads over `max-post-length`, an option of which cubicweb-web makes no use."""
    limit = registry["cubicweb.config"]["max-post-length"]

    def upload_limit_tween(request: Request) -> Response:
        if request.content_length is not None and request.content_length > limit:
            return downloads.refuse(413, f"at most {limit} bytes (option max-post-length)")
        return handler(request)

    return upload_limit_tween


def path_tween_factory(handler: Handler, registry: Registry) -> Handler:
    """Lead a path that is not in normal form to the one that is, and refuse one that has none."""
    config = registry["cubicweb.config"]
    root, _prefix = urls.site_root(config)

    def path_tween(request: Request) -> Response:
        asked = paths.asked_target(request.environ)
        if asked is None:
            return handler(request)
        path, query = asked
        normal = paths.normal_form(path)
        if normal == path:
            return handler(request)
        if normal is None:
            return downloads.refuse(400, "the path of this address is not one")
        # the balancer's name for it is not for visitors
        normal = re.sub(f"^{caching.ANONYMOUS}[^/]*(?=/)", "", normal)
        # WSGI takes bytes for Latin-1 (PEP 3333)
        target = quote(normal + query, safe=string.punctuation, encoding="latin-1")
        # a form is sent again as it was; not to the Host of the request, which a visitor controls
        location = root + target
        response = Response(status=308, content_type="text/plain", charset="utf-8")
        response.location = location
        response.text = f"{location}\n"
        response.headers["Cache-Control"] = caching.NO_STORE
        return response

    return path_tween
