"""The base of the tests of purges: two real caches in front of the test application."""

import itertools
import logging
import threading
from types import SimpleNamespace

import pytest
import requests
import waitress
from cubicweb.devtools import BASE_URL
from editing import EditingTC
from servers.squid import Squid
from servers.varnish import Varnish
from waitress import wasyncore

from cubicweb_hasite.caches import purge

_last_eids = itertools.count(100_000, 1000)


class Errors(logging.Handler):
    """The errors that purges log."""

    def __init__(self) -> None:
        super().__init__(logging.WARNING)
        self.messages: list[str] = []

    def emit(self, record: logging.LogRecord) -> None:
        self.messages.append(record.getMessage())


class CachesTC(EditingTC):
    """Test case whose application is served to a real Squid and a real Varnish.

    `self.eid` is an image; `self.errors` are the errors that purges log.
    """

    @pytest.fixture(autouse=True)
    def _caches(self, caches: SimpleNamespace) -> None:
        self.squid, self.varnish = caches.squid, caches.varnish
        self.origin_port = caches.origin_port

    def setUp(self) -> None:
        super().setUp()
        sockets: dict = {}
        server = waitress.create_server(
            self.webapp.app,
            map=sockets,
            host="127.0.0.1",
            port=self.origin_port,
            url_scheme="https",
            asyncore_use_poll=True,
        )
        thread = threading.Thread(target=server.run, daemon=True)
        thread.start()
        self.addCleanup(thread.join)
        self.addCleanup(wasyncore.close_all, sockets, True)  # those that caches keep open too
        self.addCleanup(server.task_dispatcher.shutdown)
        self.purge_by(self.squid.url, self.varnish.url)
        self.errors = Errors()
        purge.log.addHandler(self.errors)
        self.addCleanup(purge.log.removeHandler, self.errors)
        with self.admin_access.cnx() as cnx:
            # each test finds the database anew, but not the caches
            cnx.system_sql(f"UPDATE entities_id_seq SET last={next(_last_eids)}")
            cnx.commit()
            self.eid = self.new_image(cnx).eid
            cnx.commit()

    def purge_by(self, *urls: str) -> tuple[purge.Purger, ...]:
        """Purge these caches from now on."""
        self.config.global_set_option("hasite-purge-urls", urls)
        self.addCleanup(self.config.global_set_option, "hasite-purge-urls", ())
        return purge.purgers(self.config)

    def get(self, cache: Squid | Varnish, url: str, **headers: str) -> requests.Response:
        """Get a URL through a cache, as an anonymous visitor of the site."""
        return requests.get(
            cache.url.rstrip("/") + url.format(eid=self.eid),
            headers={"Host": BASE_URL.split("/")[2], **headers},
            allow_redirects=False,
            timeout=10,
        )

    def store(self, *urls: str, status: int = 200) -> list[tuple[Squid | Varnish, str, bytes]]:
        """Have both caches store URLs; return what they hold."""
        held = []
        for cache in (self.squid, self.varnish):
            for url in urls:
                first, second = self.get(cache, url), self.get(cache, url)
                assert (first.status_code, second.status_code) == (status, status), url
                assert second.headers["X-Cache"].startswith("HIT"), (cache, url)
                held.append((cache, url, first.content))
        return held

    def flush(self) -> None:
        """Wait until all purges are sent."""
        for purger in purge.purgers(self.config):
            assert purger.flush(10)
