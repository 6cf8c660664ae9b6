"""The cube's face in Pyramid: it hands out the routes, tweens and exception views of the rooms."""

import gc
import re
import string
from collections.abc import Callable
from typing import Any
from urllib.parse import quote

from pyramid.config import Configurator
from pyramid.events import ApplicationCreated, NewResponse
from pyramid.registry import Registry
from pyramid.request import Request
from pyramid.response import Response
from pyramid.router import Router
from pyramid.tweens import EXCVIEW, INGRESS

from cubicweb_hasite import names, options, parts, paths, responses, upstream, upstream_lists
from cubicweb_hasite.caches import pages, policy
from cubicweb_hasite.coherence import listener, users
from cubicweb_hasite.database import pool, visiting
from cubicweb_hasite.database.answers import storage_unavailable, unavailability, unavailable
from cubicweb_hasite.hooks import purge_types
from cubicweb_hasite.images import lookup
from cubicweb_hasite.monitoring import metrics, polls, port, presence, routes
from cubicweb_hasite.operations import draining
from cubicweb_hasite.sessions import cookie
from cubicweb_hasite.storages import check, guard
from cubicweb_hasite.storages.errors import StorageUnavailable

Handler = Callable[[Request], Response]

_STATIC = tuple(f"/{folder}/" for folder in names.STATIC_FOLDERS)


def includeme(config: Configurator) -> None:
    """Register the routes, the tweens, the subscribers and the exception views of the cube.

    Its management port listens from here on.

    :raises ConfigurationError: an option of the cube has a value that makes no sense.
    """
    repo = config.registry["cubicweb.repository"]
    instance = config.registry["cubicweb.config"]
    options.check(instance, parts.views(config.registry["cubicweb.registry"]))
    in_tests = instance.mode == "test"
    config.include(routes)
    config.include(lookup)
    config.include(users)
    if not in_tests:  # CubicWeb's test cases hold connections of the stock pool
        draining.start(instance)
        pool.heal_connections(repo, instance["hasite-pool-timeout"])
        visiting.start(config, instance["hasite-pool-timeout"])
        config.add_subscriber(track_in_flight, ApplicationCreated)
        config.add_subscriber(freeze_gc, ApplicationCreated)
        upstream.look_types_up(repo)
        listener.start(repo, purge_types.start)
    for error in unavailability(repo.system_source):
        config.add_exception_view(unavailable, context=error)
    guard.guard(repo, instance["hasite-storage-deadline"])
    config.add_exception_view(storage_unavailable, context=StorageUnavailable)
    speed_ups = options.speed_ups(instance)
    if in_tests:  # where options change
        speed_ups.discard("hasite-remember-options")
    upstream.speed_up(config, speed_ups)
    if parts.has_web(instance):
        from cubicweb_hasite import upstream_web

        upstream_web.print_no_monitors()
        upstream_web.stamp_forms()
        if instance["hasite-speed-ups"]:
            upstream_lists.read_lists_at_once()
        if "hasite-remember-source-lines" in speed_ups:
            upstream_web.remember_source_lines()
    config.add_tween(
        "cubicweb_hasite.pyramid.upload_limit_tween_factory", under=INGRESS, over=EXCVIEW
    )
    config.add_tween("cubicweb_hasite.pyramid.path_tween_factory", under=INGRESS, over=EXCVIEW)
    if metrics.AVAILABLE:
        metrics.watch(repo)
        config.add_tween(
            "cubicweb_hasite.monitoring.metrics.response_tween_factory",
            under=INGRESS,
            over=EXCVIEW,
        )
    below: str | tuple[str, str] = pages.ABOVE_PAGES
    for tween in (
        "cubicweb_hasite.images.api.tween_factory",
        "cubicweb_hasite.images.requests.tween_factory",
        "cubicweb_hasite.images.retries.tween_factory",
        "cubicweb_hasite.database.answers.lost_connection_tween_factory",
    ):
        config.add_tween(tween, under=EXCVIEW, over=below)
        below = tween
    config.include(pages)
    config.include(cookie)
    config.add_subscriber(protect_caches, NewResponse)
    if not in_tests:
        presence.start(repo)
        check.start(repo, polls.query)
    port.start(repo)


def track_in_flight(event: ApplicationCreated) -> None:
    """Let `hasite-drain --wait` know whether requests other than for monitors are in flight.

    It wraps the execution policy, so the callbacks in which CubicWeb commits are included.
    """
    stock_policy = event.app.execution_policy
    config = event.app.registry["cubicweb.config"]
    in_flight = draining.InFlight(config)
    _root, prefix = paths.site_root(config)

    def tracking_policy(environ: dict[str, Any], router: Router) -> Response:
        if routes.is_monitor(environ, prefix):
            return stock_policy(environ, router)
        with in_flight:
            return stock_policy(environ, router)

    event.app.execution_policy = tracking_policy


def freeze_gc(_event: ApplicationCreated) -> None:
    """Exclude what was loaded at the start from garbage collection.

    These are more than 100,000 objects, which stay as long as the process. To go through them
    again and again takes a few percent of the CPU time of a page.
    """
    gc.collect()
    gc.freeze()


def protect_caches(event: NewResponse) -> None:
    """Apply :func:`policy.protect` to the responses of all views, except shared pages."""
    request, response = event.request, event.response
    if not pages.share(request, response):
        path = request.environ.get("PATH_INFO", "")  # not always UTF-8
        static = path.startswith(_STATIC)
        policy.protect(response, static=static, own=pages.is_anonymous(request))


def upload_limit_tween_factory(handler: Handler, registry: Registry) -> Handler:
    """Refuse uploads over `max-post-length`, an option that cubicweb-web has and does not use."""
    limit = registry["cubicweb.config"].get("max-post-length")
    if limit is None:
        return handler

    def upload_limit_tween(request: Request) -> Response:
        if request.content_length is not None and request.content_length > limit:
            return responses.refuse(413, f"at most {limit} bytes (option max-post-length)")
        return handler(request)

    return upload_limit_tween


def path_tween_factory(handler: Handler, registry: Registry) -> Handler:
    """Redirect a path to its normal form, and refuse a path that has none."""
    config = registry["cubicweb.config"]
    root, _prefix = paths.site_root(config)

    def path_tween(request: Request) -> Response:
        asked = paths.asked_target(request.environ)
        if asked is None:
            return handler(request)
        path, query = asked
        normal = paths.normal_form(path)
        if normal == path:
            return handler(request)
        if normal is None:
            return responses.refuse(400, "the path of this address is not one")
        # the balancer's name for it is not for visitors
        normal = re.sub(f"^{names.ANONYMOUS}[^/]*(?=/)", "", normal)
        # WSGI takes bytes for Latin-1 (PEP 3333)
        target = quote(normal + query, safe=string.punctuation, encoding="latin-1")
        # a form is sent again as it was; not to the Host of the request, which a visitor controls
        location = root + target
        response = Response(status=308, content_type="text/plain", charset="utf-8")
        response.location = location
        response.text = f"{location}\n"
        response.headers["Cache-Control"] = policy.NO_STORE
        return response

    return path_tween
