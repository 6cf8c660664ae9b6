"""Make shared caches forget what they hold of an entity, by `PURGE` requests after the commit.

The method `PURGE` is no standard of HTTP: Squid has it, Varnish is taught it in its VCL, and both
take it for a URL and the site's `Host`, as a visitor sends them. What a cache holds of a URL
under other names than those below, it holds for its max-age at most.
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

from cubicweb import ConfigurationError
from cubicweb.cwconfig import CubicWebConfiguration
from cubicweb.entity import Entity
from cubicweb.server.session import Connection
from cubicweb.server.sqlutils import SQL_PREFIX

from cubicweb_hasite.caching import ANONYMOUS, page_languages
from cubicweb_hasite.paths import normal_form

log = logging.getLogger(__name__)

#: for how long a cache may keep us waiting, in seconds
TIMEOUT = 2.0
#: how long after a failure a cache is asked again, in seconds
RETRY_DELAY = 1.0
#: how many paths may wait for one cache: some 20 MB of memory
MAX_QUEUED = 100_000
#: for how long the end of the process waits for purges, in seconds, if the cache takes them
EXIT_TIMEOUT = 30.0
#: how many former eids of an entity are purged, the latest ones: what the others answered are
#: redirects, which caches forget soon (see caching.REDIRECT_MAX_AGE)
MAX_FORMER_EIDS = 20

# What a proxy in front of the cache answers when the cache is not there.
_DOWN = (502, 503, 504)
_DEFAULT_PORTS = {"http": 80, "https": 443}


class Purger:
    """Sends the purges of one cache, in a thread of its own.

    A path waits once, however often it is added meanwhile. While the cache is down the paths
    wait, the oldest ones leaving for newer ones since their max-age ends first.

    :param url: where the cache is, `http` or `https`, without a path
    :param base_url: where visitors reach the site
    :raises ConfigurationError: the URL is not such a one.
    """

    def __init__(self, url: str, base_url: str, *, max_queued: int = MAX_QUEUED) -> None:
        parts, site = urlsplit(url), urlsplit(base_url)
        try:
            valid = parts.scheme in _DEFAULT_PORTS and parts.hostname and parts.path in ("", "/")
            self._address = parts.hostname, parts.port
        except ValueError:  # of the port
            valid = False
        if not valid or parts.query or parts.username:
            raise ConfigurationError(
                f"option hasite-purge-urls: {url!r} is not like http://10.0.0.1:3128/"
            )
        self._connection_class = HTTPSConnection if parts.scheme == "https" else HTTPConnection
        self.url = url
        # as browsers write it (RFC 9110, section 4.2.3, and 7.2)
        default_port = f":{_DEFAULT_PORTS.get(site.scheme)}"
        self._host = site.netloc.rpartition("@")[2].removesuffix(default_port)
        self._max_queued = max_queued
        #: requests that the cache took
        self.sent = 0
        #: requests that the cache did not answer, which are made again, or refused
        self.failed = 0
        #: paths that left the queue because it was full
        self.dropped = 0
        self._paths: dict[str, None] = {}
        self._sending = 0
        self._down = False
        self._told = False
        self._changed = threading.Condition()
        self._thread: threading.Thread | None = None

    @property
    def queued(self) -> int:
        """How many paths wait, the one being sent included."""
        return len(self._paths) + self._sending

    def add(self, paths: Iterable[str]) -> None:
        """Have paths purged soon, and return at once.

        :param paths: with their query strings, as :func:`paths` returns them
        """
        with self._changed:
            for path in paths:
                self._put(path)
            # Started here, in the process that needs it: a process may have forked before.
            if self._thread is None or not self._thread.is_alive():
                self._thread = threading.Thread(
                    target=self._run, name=f"purges of {self.url}", daemon=True
                )
                self._thread.start()
            self._changed.notify_all()

    def flush(self, timeout: float) -> bool:
        """Wait until nothing is queued, or the cache is down; return whether nothing is queued.

        :param timeout: for how long, in seconds
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
                # 404: it had nothing under this URL
                done = response.status < 300 or response.status == 404
            except (OSError, HTTPException) as error:
                connection.close()
                answer, down, done = f"{type(error).__name__}: {error}", True, False
            self._settle(path, answer, down=down, done=done)
            if down:
                time.sleep(RETRY_DELAY)

    def _take(self, connection: HTTPConnection) -> str:
        """Wait for a path, and take it out: when it is added meanwhile it is sent again."""
        with self._changed:
            if not self._paths:
                connection.close()  # before the cache does it, unnoticed
                self._changed.wait_for(lambda: self._paths)
            path = next(iter(self._paths))
            del self._paths[path]
            self._sending = 1
        return path

    def _settle(self, path: str, answer: str, *, down: bool, done: bool) -> None:
        """Count what became of a path; tell of it when it is news."""
        with self._changed:
            self._sending = 0
            self.sent += done
            self.failed += not done
            if down:
                self._put(path)
            self._down = down
            self._changed.notify_all()
        if done and self._told:
            log.info("%s takes purges again", self.url)
        elif not done and not self._told:
            what = "is down, purges wait" if down else f"refuses to purge {path}"
            log.error("%s %s: %s", self.url, what, answer)
        self._told = not done


def _target(path: str) -> str:
    """Return a path and its query as caches know them: as they are asked for by the balancer."""
    # quoted as a browser does what a page has left as it is
    quoted, mark, query = quote(path, safe=string.punctuation).partition("?")
    return (normal_form(quoted) or quoted) + mark + query


_purgers: dict[tuple[str, ...], tuple[Purger, ...]] = {}
_making = threading.Lock()


def purgers(config: CubicWebConfiguration) -> tuple[Purger, ...]:
    """Return the purgers of this process, one for each cache that the configuration lists.

    :raises ConfigurationError: one of the URLs makes no sense.
    """
    urls = config.get("hasite-purge-urls")
    if not urls:
        return ()
    key = (config["base-url"], *urls)
    with _making:
        if key not in _purgers:
            _purgers[key] = tuple(Purger(url, config["base-url"]) for url in urls)
            atexit.register(_end, _purgers[key])
        return _purgers[key]


def _end(purgers: Iterable[Purger]) -> None:
    """Let a short process, as that of a script, not end before what it has changed is purged."""
    deadline = time.monotonic() + EXIT_TIMEOUT
    for purger in purgers:
        if not purger.flush(max(deadline - time.monotonic(), 0)):
            log.error("%s was not asked for %s purges", purger.url, purger.queued)


def entity_urls(entity: Entity) -> set[str]:
    """Return the URLs under which caches may hold an entity's data, below that of the site."""
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
        except Exception:  # an application's own code, which is not to fail the edit
            log.exception("no URL to purge from %s of %s", regid, entity)
            continue
        if url.startswith(base_url):
            urls.add(url.removeprefix(base_url))
    return urls


def page_urls(entity: Entity) -> set[str]:
    """Return the URLs of the pages where an entity is shown, below that of the site.

    Its own, the list of its type, and the home page.
    """
    etype = entity.cw_etype.lower()
    urls = {f"{etype}/{entity.eid}", f"{entity.eid}", etype, ""}
    try:
        urls.add(entity.rest_path())
    except Exception:  # an application's own code, which is not to fail the edit
        log.exception("no URL of the page to purge of %s", entity)
    return urls


def page_paths(cnx: Connection, urls: Iterable[str]) -> set[str]:
    """Return the paths under which caches keep the pages of anonymous visitors."""
    names = [f"{ANONYMOUS}{language}" for language in page_languages(cnx.vreg.config)]
    return {name + path for name in names for path in _paths(cnx, urls)}


def _paths(cnx: Connection, urls: Iterable[str]) -> set[str]:
    config = cnx.vreg.config
    prefixes = [urlsplit(cnx.base_url()).path]
    if config.get("language-mode") == "url-prefix":
        prefixes += [f"{prefixes[0]}{language}/" for language in config.available_languages()]
    return {prefix + url for prefix in prefixes for url in urls}


def paths(cnx: Connection, urls: Mapping[int, set[str]]) -> set[str]:
    """Return the paths, with query strings, that visitors ask for when they follow URLs.

    With those of the latest former eids, of which caches may hold redirects or, if they were
    down at the time of the replacement, the former data.

    :param urls: what :func:`entity_urls` returned, by eid
    """
    found = set().union(*urls.values())
    for eid, former in _former_eids(cnx, urls):
        found |= {
            re.sub(rf"(^|/){eid}(?=[/?])", rf"\g<1>{former}", url, count=1) for url in urls[eid]
        }
    return _paths(cnx, found)


def _former_eids(cnx: Connection, eids: Iterable[int]) -> Iterator[tuple[int, int]]:
    """Yield pairs of an eid and one of its latest former eids."""
    cursor = cnx.system_sql(
        f"SELECT {SQL_PREFIX}current, {SQL_PREFIX}former FROM {SQL_PREFIX}FormerEid "
        f"WHERE {SQL_PREFIX}current IN ({','.join(map(str, eids))}) ORDER BY 1, 2 DESC"
    )
    for _eid, pairs in groupby(cursor.fetchall(), key=itemgetter(0)):
        yield from islice(pairs, MAX_FORMER_EIDS)
