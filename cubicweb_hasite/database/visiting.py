"""Decides for each request which database it is read from, and makes it again if need be.

It wraps the execution policy of Pyramid, so it includes the callbacks in which CubicWeb commits.
A request that is made again is a new one to Pyramid: nothing is kept of the first try.
"""

import logging
import os
import re
import threading
import time
from collections.abc import Callable, Collection
from functools import partial
from typing import Any
from urllib.parse import urlsplit

from cubicweb import ConfigurationError
from cubicweb.server.repository import Repository
from pyramid.config import Configurator
from pyramid.events import ApplicationCreated
from pyramid.response import Response
from pyramid.router import Router as PyramidRouter

from cubicweb_hasite import names, paths
from cubicweb_hasite.caches import policy
from cubicweb_hasite.database import pool, router
from cubicweb_hasite.monitoring import metrics, routes
from cubicweb_hasite.standbys import positions, sampler, visits
from cubicweb_hasite.standbys.positions import Position
from cubicweb_hasite.standbys.sampler import Sampler, Standby
from cubicweb_hasite.standbys.visits import Visit

log = logging.getLogger(__name__)

Policy = Callable[[dict[str, Any], PyramidRouter], Response]

#: URLs whose answers caches may keep for everybody: images, pages of anonymous visitors
_PUBLIC = re.compile(
    rf"/(raw|thumb)/[^?]*|/download(\?|$)|[?&]vid=(download|thumbnail)(&|$)|^{names.ANONYMOUS}"
)
#: the tries of one request: a standby, the primary, and a standby if the primary is just lost
_TRIES = 3


def start(config: Configurator, timeout: float) -> None:
    """Let GET and HEAD be read from standbys, if the option `hasite-standby-hosts` names some.

    :param timeout: how long to wait for a connection of an exhausted pool, in seconds
    :raises ConfigurationError: the database has no standbys.
    """
    repo = config.registry["cubicweb.repository"]
    hosts = repo.config["hasite-standby-hosts"]
    if not hosts:
        return
    if repo.system_source.dbdriver != "postgres":
        raise ConfigurationError(
            "option hasite-standby-hosts names standbys: only PostgreSQL has them"
        )
    if not pool.heals(repo):
        log.error("option hasite-standby-hosts is ignored: this CubicWeb is not known")
        return
    found = Sampler(
        repo,
        [host.strip() for host in hosts],
        repo.config["hasite-standby-max-lag"],
        repo.config["hasite-standby-max-outage"],
    )
    router.route(repo, found, timeout)
    sampler.remember(repo, found)
    config.add_subscriber(partial(_wrap, repo, found), ApplicationCreated)
    found.start()


def _wrap(repo: Repository, found: Sampler, event: ApplicationCreated) -> None:
    event.app.execution_policy = _Visiting(repo, found, event.app.execution_policy).answer


class _Visiting:
    """The execution policy."""

    def __init__(self, repo: Repository, found: Sampler, stock: Policy) -> None:
        self._sampler = found
        # each process begins with another one, so that all are read
        first = os.getpid() % len(found.standbys)
        self._standbys = found.standbys[first:] + found.standbys[:first]
        self._stock = stock
        _root, self._prefix = paths.site_root(repo.config)
        site = urlsplit(repo.config["base-url"])
        self._secure = site.scheme == "https"
        self._cookie_path = site.path or "/"
        self._lock = threading.Lock()
        # the standby that this process reads, how often it was lost before, and when it was read
        # last, of `time.monotonic`
        self._current: tuple[Standby, int] | None = None
        self._replayed = 0
        self._read = 0.0

    def answer(self, environ: dict[str, Any], app: PyramidRouter) -> Response:
        """Answer a request."""
        if routes.is_monitor(environ, self._prefix):
            return self._stock(environ, app)
        safe = environ["REQUEST_METHOD"] in ("GET", "HEAD")
        position = positions.of_visitor(environ.get("HTTP_COOKIE", ""))
        if not safe or environ.get("CONTENT_LENGTH") not in (None, "", "0"):
            with self._sampler.closing.writing() as may:
                visit = Visit(safe=False, refused=not may)
                response, error = self._try(visit, environ, app)
        else:
            visit = self._choose(environ, position)
            lost: set[Standby] = set()
            for _ in range(_TRIES - 1):
                response, error = self._try(visit, dict(environ), app)
                if visit.standby is not None and visit.trouble == "lost":
                    lost.add(visit.standby)  # which the sampler may not know yet
                other = self._other(visit, response, position, lost)
                if other is None:
                    break
                visit = other
            else:
                response, error = self._try(visit, dict(environ), app)
        if error is not None:
            raise error
        assert response is not None
        self._finish(visit, response, position)
        return response

    def _try(
        self, visit: Visit, environ: dict[str, Any], app: PyramidRouter
    ) -> tuple[Response | None, Exception | None]:
        token = visits.begin(visit)
        try:
            return self._stock(environ, app), None
        except Exception as error:
            return None, error
        finally:
            visits.end(token)
            if visit.standby is not None and visit.used:
                self._note_read(visit.standby)

    def _choose(self, environ: dict[str, Any], position: Position | None) -> Visit:
        """Choose the database for a request that changes nothing."""
        up = self._sampler.asks_primary
        if up:
            url = f"{environ.get('PATH_INFO', '')}?{environ.get('QUERY_STRING', '')}"
            if _PUBLIC.search(url.removeprefix(self._prefix)):
                return self._on_primary(position)
        visit = self._on_standby(position, up=up)
        if visit is not None:
            return visit
        for problem in self._problems(position, up=up):
            metrics.count_refused_standby(problem)
        return self._on_primary(position, up=up)

    def _on_primary(self, position: Position | None, *, up: bool = True) -> Visit:
        refused = bool(self._sampler.closing.only)
        # one that has just written is not ended: perhaps no standby has what it has written
        return Visit(safe=True, primary_up=up, movable=position is None, refused=refused)

    def _on_standby(
        self, position: Position | None, *, up: bool, lost: Collection[Standby] = ()
    ) -> Visit | None:
        """Return a visit of the first standby that may be read, None if there is none.

        :param lost: those that did not answer this request; they are tried again at last
        """
        standby = self._readable(position, up=up, lost=lost)
        closed = self._sampler.closing.only
        if standby is None and not up and (position is not None or closed):
            # what was written just before the primary was lost, or left alone, may be on its way
            self._sampler.wait(lambda: self._readable(position, up=up, lost=lost))
            standby = self._readable(position, up=up, lost=lost)
        if standby is None:
            return None
        age = time.monotonic() - standby.fresh
        known = max(time.time() - age, position.time if position is not None else 0.0)
        return Visit(safe=True, standby=standby, primary_up=up, known=known, movable=True)

    def _readable(
        self, position: Position | None, *, up: bool, lost: Collection[Standby]
    ) -> Standby | None:
        # the one that is read now, if it may still be read: visitors stay with it
        current = self._current[0] if self._current is not None else None
        for standby in sorted(self._standbys, key=lambda s: (s in lost, s is not current)):
            if not self._problem(standby, position, up=up):
                return standby
        return None

    def _problems(self, position: Position | None, *, up: bool) -> set[str]:
        """Return why this visitor may read no standby."""
        return {self._problem(standby, position, up=up) for standby in self._standbys} - {""}

    def _problem(self, standby: Standby, position: Position | None, *, up: bool) -> str:
        problem = self._sampler.problem(standby)
        if not problem and not self._sampler.has(standby, position):
            return "behind"
        return problem or ("" if self._goes_on(standby, up=up) else "older")

    def _goes_on(self, standby: Standby, *, up: bool) -> bool:
        """Return whether no visitor goes back in time who passes to a standby."""
        with self._lock:
            if self._current in (None, (standby, standby.node.losses)):
                return True
            sample = standby.node.sample
            if standby.fresh >= self._read:
                return True
            # the primary writes nothing: how much each has replayed is all there is
            return not up and sample is not None and sample.lsn >= self._replayed

    def _note_read(self, standby: Standby) -> None:
        sample = standby.node.sample
        with self._lock:
            self._current = standby, standby.node.losses
            self._read = time.monotonic()
            if sample is not None:
                self._replayed = sample.lsn

    def _other(
        self,
        visit: Visit,
        response: Response | None,
        position: Position | None,
        lost: Collection[Standby],
    ) -> Visit | None:
        """Return another visit to answer the same request, None if the answer is good.

        :param lost: standbys that did not answer this request
        """
        if visit.standby is None:
            known = self._sampler
            # the primary may just have been lost
            if not visit.trouble or not visit.primary_up:
                return None
            if known.wait(lambda: not known.asks_primary):
                other = self._on_standby(position, up=False, lost=lost)
            else:  # its connection alone was lost
                other = self._on_primary(position)
        else:
            reason = visit.reason_to_repeat(response)
            if not reason:
                return None
            if self._sampler.asks_primary:
                other = self._on_primary(position)
            elif visit.trouble == "lost":
                other = self._on_standby(position, up=False, lost=lost)
            else:
                return None
            metrics.count_made_again(reason)
        if other is not None:
            log.info("made again: %s", visit.trouble or "another answer from the primary")
        return other

    def _finish(self, visit: Visit, response: Response, position: Position | None) -> None:
        """Note what the visitor has seen, and keep caches from what may be out of date."""
        if visit.safe:
            metrics.count_read(standby=visit.standby is not None)
        public = visits.is_public(response)
        if visit.standby is not None and visit.used and public:
            response.headers["Cache-Control"] = policy.NO_STORE
        seen = visit.committed
        if seen is None and position is not None and not visit.primary_up:
            # it is kept as long as the visitor waits for the primary
            seen = position
        if seen is None or (public and "Set-Cookie" not in response.headers):
            return
        response.set_cookie(
            positions.COOKIE,
            seen.cookie(),
            max_age=positions.COOKIE_AGE,
            path=self._cookie_path,
            secure=self._secure,
            httponly=True,
            samesite="Lax",
        )
