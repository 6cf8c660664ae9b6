"""Metrics for Prometheus, in the default registry of prometheus_client.

prometheus_client is an optional extra of the package: without it nothing is counted. The values
of labels come from the configuration of the instance, so visitors cannot add any.
"""

import time
from collections.abc import Callable, Iterator
from typing import Any

from cubicweb.server.repository import Repository
from pyramid.registry import Registry
from pyramid.request import Request
from pyramid.response import Response

from cubicweb_hasite.__pkginfo__ import version
from cubicweb_hasite.caches import purge
from cubicweb_hasite.monitoring import probes
from cubicweb_hasite.operations import restart
from cubicweb_hasite.operations.draining import is_draining
from cubicweb_hasite.standbys import sampler, visits
from cubicweb_hasite.storages import check

try:
    from prometheus_client import (
        CONTENT_TYPE_LATEST,
        REGISTRY,
        Counter,
        Gauge,
        Histogram,
        generate_latest,
    )
    from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
    from prometheus_client.registry import Collector
except ImportError:
    AVAILABLE = False
else:
    AVAILABLE = True

Handler = Callable[[Request], Response]

_DOWNLOAD_STATUSES = ("200", "206", "304")
_STATUS_CLASSES = ("1xx", "2xx", "3xx", "4xx", "5xx")


def count_download(status: int, *, shared: bool) -> None:
    """Count a response to a request for the data of an entity.

    :param shared: whether an anonymous visitor may read it
    """
    if AVAILABLE:
        label = str(status) if str(status) in _DOWNLOAD_STATUSES else "other"
        _downloads.labels(label, "public" if shared else "private").inc()


def count_replacements(number: int) -> None:
    """Count entities that got a new eid, after the commit."""
    if AVAILABLE:
        _replacements.inc(number)


def count_redirect() -> None:
    """Count a redirect from a former URL to the current one."""
    if AVAILABLE:
        _redirects.inc()


def count_read(*, standby: bool) -> None:
    """Count a request that changes nothing, by the database from which it is answered."""
    if AVAILABLE:
        _reads.labels("standby" if standby else "primary").inc()


def count_made_again(reason: str) -> None:
    """Count a request that a standby has answered, and that is made again.

    :param reason: that of `Visit.reason_to_repeat`
    """
    if AVAILABLE:
        _made_again.labels(reason).inc()


def count_refused_standby(reason: str) -> None:
    """Count a request for which no standby may be read.

    :param reason: that of `Sampler.problem`, or `behind` or `older` for this visitor
    """
    if AVAILABLE:
        _refused.labels(reason).inc()


def count_notice() -> None:
    """Count a notice of another process, or of this one."""
    if AVAILABLE:
        _notices.inc()


def note_refresh() -> None:
    """Note that this process has read again all that it remembers of the database."""
    if AVAILABLE:
        _refreshed.set_to_current_time()


def watch(repo: Repository) -> None:
    """Collect the metrics of a repository."""
    if not AVAILABLE:
        return
    _collector.repo = repo
    pool = repo.cnxsets
    get = pool.get

    # CubicWeb shows what the pool does only in debug logs
    def timed_get() -> Any:
        maximum = getattr(pool, "max_size", 0)
        if not maximum or pool.qsize() or pool.size() < maximum:
            return get()
        with _pool_waits.time():
            return get()

    pool.get = timed_get


def exposition() -> bytes:
    """Return all metrics of the registry, in :data:`CONTENT_TYPE`. It reads the probes."""
    return generate_latest(REGISTRY)


def response_tween_factory(handler: Handler, registry: Registry) -> Handler:
    """Count the responses to visitors, but not those of monitors."""

    def response_tween(request: Request) -> Response:
        status_class, response = "5xx", None
        try:
            response = handler(request)
            status_class = f"{response.status_code // 100}xx"
            return response
        finally:
            route = request.matched_route
            visitor = route is None or not route.name.startswith("hasite_")
            if visitor and not visits.is_discarded(response):
                _responses.labels(status_class).inc()

    return response_tween


if AVAILABLE:
    CONTENT_TYPE = CONTENT_TYPE_LATEST

    _responses = Counter("hasite_http_responses", "Responses to visitors.", ["status"])
    _downloads = Counter(
        "hasite_downloads", "Responses to requests for data.", ["status", "visibility"]
    )
    _replacements = Counter("hasite_replacements", "Entities that got a new eid.")
    _notices = Counter("hasite_notices", "Notices that the memory of processes is out of date.")
    _refreshed = Gauge(
        "hasite_refresh_timestamp_seconds",
        "When all that is remembered of the database was read last.",
    )
    _reads = Counter("hasite_reads", "GET and HEAD by the database that was read.", ["database"])
    _made_again = Counter(
        "hasite_reads_made_again", "Answers of standbys that were made again.", ["reason"]
    )
    _refused = Counter(
        "hasite_standby_refusals", "Requests for which no standby could be read.", ["reason"]
    )
    _redirects = Counter("hasite_former_url_redirects", "Redirects from a former URL.")
    _pool_waits = Histogram(
        "hasite_pool_wait_seconds",
        "Waits for a connection of the exhausted pool.",
        buckets=(0.01, 0.1, 0.5, 1, 2, 5),
    )
    for _status in _STATUS_CLASSES:  # so that all are there from the beginning
        _responses.labels(_status)
    for _status in (*_DOWNLOAD_STATUSES, "other"):
        for _visibility in ("public", "private"):
            _downloads.labels(_status, _visibility)

    class _Collector(Collector):
        """Reads the metrics that are not counted as things happen."""

        repo: Repository | None = None

        def describe(self) -> list[Metric]:
            """Return nothing, or the registry would read the probes to know their names."""
            return []

        def collect(self) -> Iterator[Metric]:
            repo = self.repo
            if repo is not None:
                yield from _probe_metrics(repo)
                yield from _pool_metrics(repo)
                yield from _standby_metrics(repo)
                yield from _purge_metrics(repo)
                yield _gauge(
                    "draining", "Whether the instance is being drained.", is_draining(repo.config)
                )
                yield _gauge(
                    "restart_advised",
                    "Whether the instance should be restarted: the schema has changed.",
                    bool(restart.advice(repo.config)),
                )
                yield from _build_metrics(repo)

    _collector = _Collector()
    REGISTRY.register(_collector)


def _gauge(name: str, text: str, value: float) -> "Metric":
    return GaugeMetricFamily(f"hasite_{name}", text, value=value)


def _probe_metrics(repo: Repository) -> Iterator["Metric"]:
    success = GaugeMetricFamily(
        "hasite_probe_success", "Whether the probe is successful.", labels=["probe"]
    )
    duration = GaugeMetricFamily(
        "hasite_probe_duration_seconds", "How long a probe took.", labels=["probe"]
    )
    available = True
    for name in ("db", "version"):
        started = time.perf_counter()
        # if the database does not answer, the second probe would wait once more
        reading = probes.read(f"monitor_{name}", repo) if available else None
        available = reading is not None and reading.checked
        success.add_metric([name], reading is not None and reading.ok)
        duration.add_metric([name], time.perf_counter() - started)
    if check.names(repo):
        success.add_metric(["storage"], not probes.read("storage", repo).degraded)
    yield success
    yield duration


def _pool_metrics(repo: Repository) -> Iterator["Metric"]:
    values = probes.pool(repo).values
    if not values:  # there is no pool
        return
    connections = GaugeMetricFamily(
        "hasite_pool_connections", "Connections of the pool.", labels=["state"]
    )
    connections.add_metric(["in_use"], values["in_use"])
    connections.add_metric(["idle"], values["size"] - values["in_use"])
    yield connections
    yield _gauge(
        "pool_max_connections", "Maximum size of the pool; 0: unlimited.", values["maximum"]
    )


def _standby_metrics(repo: Repository) -> Iterator["Metric"]:
    found = sampler.of(repo)
    if found is None:
        return
    readable = GaugeMetricFamily(
        "hasite_standby_readable", "Whether the standby may be read.", labels=["standby"]
    )
    lag = GaugeMetricFamily(
        "hasite_standby_lag_seconds",
        "How far behind the primary the standby may be.",
        labels=["standby"],
    )
    for standby in found.standbys:
        readable.add_metric([standby.name], not found.problem(standby))
        seconds = found.lag(standby)
        if seconds is not None:
            lag.add_metric([standby.name], seconds)
    yield readable
    yield lag
    yield _gauge("primary_up", "Whether the primary answers the instance.", found.primary_up)


def _purge_metrics(repo: Repository) -> Iterator["Metric"]:
    requests = CounterMetricFamily(
        "hasite_purges", "Purges of caches, by result.", labels=["cache", "result"]
    )
    queued = GaugeMetricFamily(
        "hasite_purges_queued", "Purges that wait for their cache.", labels=["cache"]
    )
    for purger in purge.purgers(repo.config):
        for result in ("sent", "failed", "dropped"):
            requests.add_metric([purger.url, result], getattr(purger, result))
        queued.add_metric([purger.url], purger.queued)
    yield requests
    yield queued


def _build_metrics(repo: Repository) -> Iterator["Metric"]:
    build = GaugeMetricFamily(
        "hasite_build_info", "Versions of the running code.", labels=["version", "cubicweb"]
    )
    build.add_metric([version, str(repo.config.cubicweb_version())], 1)
    cubes = GaugeMetricFamily(
        "hasite_cube_info", "Versions of the cubes.", labels=["cube", "version"]
    )
    for cube in repo.config.cubes():
        cubes.add_metric([cube, str(repo.config.cube_version(cube))], 1)
    yield build
    yield cubes
