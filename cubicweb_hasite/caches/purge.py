"""Remove the data of an entity from shared caches, by `PURGE` requests after each commit.

A background thread sends them. If a cache is down the edit is not affected: the purge is retried,
and the outage is logged once.

The method `PURGE` is not in the HTTP standard. Squid has it, and Varnish has it in its VCL; both
take the URL and the `Host` of the site as a visitor sends them. If a cache holds a resource under
other URLs than those below, it holds it until its max-age.
"""

import atexit
import logging
import re
import string
import threading
import time
from collections.abc import Iterable, Iterator, Mapping
from http.client import HTTPConnection, HTTPException, HTTPSConnection
from itertools import groupby, islice
from operator import itemgetter
from urllib.parse import quote, urlsplit

from cubicweb.cwconfig import CubicWebConfiguration
from cubicweb.entity import Entity
from cubicweb.server.session import Connection
from cubicweb.server.sqlutils import SQL_PREFIX

from cubicweb_hasite import options
from cubicweb_hasite.caches import page_urls
from cubicweb_hasite.paths import normal_form

log = logging.getLogger(__name__)

#: how long to wait for a cache, in seconds
TIMEOUT = 2.0
#: how long to wait after a failure, in seconds
RETRY_DELAY = 1.0
#: how many paths may wait for one cache: about 20 MB of memory
MAX_QUEUED = 100_000
#: how long the end of the process waits for purges, in seconds, if the cache is up
EXIT_TIMEOUT = 30.0
#: How many former eids of an entity are purged, the latest ones. For the others caches hold only
#: redirects, which expire soon (see policy.REDIRECT_MAX_AGE).
MAX_FORMER_EIDS = 20

# the statuses of a proxy in front of a cache that is down
_DOWN = (502, 503, 504)


class Purger:
    """Sends the purges of one cache, in a thread of its own.

    A path is queued once, however often it is added. While the cache is down the paths wait. If
    the queue is full the oldest ones are dropped, because their max-age ends first.

    :param url: the URL of the cache, `http` or `https`, without a path
    :param base_url: the URL of the site for visitors
    :param max_queued: how many paths may wait
    :raises ConfigurationError: the URL has the wrong format.
    """

    def __init__(self, url: str, base_url: str, *, max_queued: int = MAX_QUEUED) -> None:
        parts, site = options.cache_url(url), urlsplit(base_url)
        self._address = parts.hostname or "", parts.port
        self._connection_class = HTTPSConnection if parts.scheme == "https" else HTTPConnection
        self.url = url
        self._host = page_urls.host(site)
        self._max_queued = max_queued
        #: requests that the cache accepted
        self.sent = 0
        #: requests that the cache did not answer (they are retried) or refused
        self.failed = 0
        #: paths that were dropped because the queue was full
        self.dropped = 0
        self._paths: dict[str, None] = {}
        self._sending = 0
        self._down = False
        self._logged = False
        self._changed = threading.Condition()
        self._thread: threading.Thread | None = None

    @property
    def queued(self) -> int:
        """How many paths wait, with the one that is being sent."""
        return len(self._paths) + self._sending

    @property
    def down(self) -> bool:
        """Whether the cache did not answer the last request."""
        return self._down

    @property
    def refuses(self) -> bool:
        """Whether the cache answered the last request, but did not accept it."""
        return self._logged and not self._down

    def add(self, paths: Iterable[str]) -> None:
        """Queue paths, and return at once.

        :param paths: with their query strings, as :func:`paths` returns them
        """
        with self._changed:
            for path in paths:
                self._put(path)
            # started here, in the process that needs it: a process may have forked before
            if self._thread is None or not self._thread.is_alive():
                self._thread = threading.Thread(
                    target=self._run, name=f"purges of {self.url}", daemon=True
                )
                self._thread.start()
            self._changed.notify_all()

    def flush(self, timeout: float) -> bool:
        """Wait until nothing is queued, or the cache is down; return whether nothing is queued.

        :param timeout: how long to wait, in seconds
        """
        with self._changed:
            self._changed.wait_for(lambda: not self.queued or self._down, timeout)
            return not self.queued

    def _put(self, path: str) -> None:
        self._paths[path] = None
        if len(self._paths) > self._max_queued:
            del self._paths[next(iter(self._paths))]
            self.dropped += 1

    def _run(self) -> None:
        connection = self._connection_class(*self._address, timeout=TIMEOUT)
        while True:
            path = self._take(connection)
            down = False
            try:
                connection.request("PURGE", _target(path), headers={"Host": self._host})
                response = connection.getresponse()
                response.read()
                answer, down = f"status {response.status}", response.status in _DOWN
                # 404: the cache had nothing under this URL
                done = response.status < 300 or response.status == 404
            except (OSError, HTTPException) as error:
                connection.close()
                answer, down, done = f"{type(error).__name__}: {error}", True, False
            self._settle(path, answer, down=down, done=done)
            if down:
                time.sleep(RETRY_DELAY)

    def _take(self, connection: HTTPConnection) -> str:
        """Wait for a path and remove it. If it is added meanwhile, it is sent again."""
        with self._changed:
            if not self._paths:
                connection.close()  # the cache would close it later, unnoticed
                self._changed.wait_for(lambda: self._paths)
            path = next(iter(self._paths))
            del self._paths[path]
            self._sending = 1
        return path

    def _settle(self, path: str, answer: str, *, down: bool, done: bool) -> None:
        """Count the result for a path, and log it if the state of the cache has changed."""
        with self._changed:
            self._sending = 0
            self.sent += done
            self.failed += not done
            if down:
                self._put(path)
            self._down = down
            self._changed.notify_all()
        if done and self._logged:
            log.info("%s accepts purges again", self.url)
        elif not done and not self._logged:
            what = "is down, purges wait" if down else f"refuses to purge {path}"
            log.error("%s %s: %s", self.url, what, answer)
        self._logged = not done


def _target(path: str) -> str:
    """Return a path and its query as caches know them: as the balancer asks for them."""
    # quoted as browsers quote a URL that a page has not quoted
    quoted, mark, query = quote(path, safe=string.punctuation).partition("?")
    return (normal_form(quoted) or quoted) + mark + query


_purgers: dict[tuple[str, ...], tuple[Purger, ...]] = {}
_making = threading.Lock()


def purgers(config: CubicWebConfiguration) -> tuple[Purger, ...]:
    """Return the purgers of this process, one for each cache that the configuration lists.

    There are none without a base URL, as when an instance is created: caches keep what they have
    by the URLs of the site.

    :raises ConfigurationError: one of the URLs has the wrong format.
    """
    urls, base_url = config.get("hasite-purge-urls"), config["base-url"]
    if not urls:
        return ()
    if not base_url:
        for url in urls:
            options.cache_url(url)
        return ()
    key = (base_url, *urls)
    with _making:
        if key not in _purgers:
            _purgers[key] = tuple(Purger(url, base_url) for url in urls)
            atexit.register(_end, _purgers[key])
        return _purgers[key]


def _end(purgers: Iterable[Purger]) -> None:
    """Let a short process, such as a script, send its purges before it ends."""
    deadline = time.monotonic() + EXIT_TIMEOUT
    for purger in purgers:
        if not purger.flush(max(deadline - time.monotonic(), 0)):
            log.error("%s did not get %s purges", purger.url, purger.queued)


def entity_urls(entity: Entity) -> set[str]:
    """Return the URLs of an entity's data that caches may hold, relative to the site."""
    base_url = entity._cw.base_url()
    urls = {
        f"{stem}{rest}"
        for stem in (f"{entity.cw_etype.lower()}/{entity.eid}", f"{entity.eid}")
        for rest in ("/download", "?vid=download", "?vid=thumbnail")
    }
    for regid, method in (("IDownloadable", "download_url"), ("IThumbnail", "thumbnail_url")):
        try:
            adapter = entity.cw_adapt_to(regid)
            url = "" if adapter is None else getattr(adapter, method)()
        except Exception:  # from the application's own code, which must not fail the edit
            log.exception("no URL to purge from %s of %s", regid, entity)
            continue
        if url.startswith(base_url):
            urls.add(url.removeprefix(base_url))
    return urls


def paths(cnx: Connection, urls: Mapping[int, set[str]]) -> set[str]:
    """Return the paths, with query strings, that visitors request for URLs of entities.

    They include those of the latest former eids. Caches may hold redirects for them or, if they
    were down at the time of the replacement, the former data.

    :param urls: the URLs that :func:`entity_urls` returned, by eid
    """
    found = set().union(*urls.values())
    for eid, former in _former_eids(cnx, urls):
        found |= {
            re.sub(rf"(^|/){eid}(?=[/?])", rf"\g<1>{former}", url, count=1) for url in urls[eid]
        }
    return page_urls.paths(cnx, found)


def _former_eids(cnx: Connection, eids: Iterable[int]) -> Iterator[tuple[int, int]]:
    """Yield pairs of an eid and one of its latest former eids."""
    cursor = cnx.system_sql(
        f"SELECT {SQL_PREFIX}current, {SQL_PREFIX}former FROM {SQL_PREFIX}FormerEid "
        f"WHERE {SQL_PREFIX}current IN ({','.join(map(str, eids))}) ORDER BY 1, 2 DESC"
    )
    for _eid, pairs in groupby(cursor.fetchall(), key=itemgetter(0)):
        yield from islice(pairs, MAX_FORMER_EIDS)
