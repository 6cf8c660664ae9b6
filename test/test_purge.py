"""Purges, with a real Squid and a real Varnish in front of the test application."""

import re
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from cubicweb import Binary, ConfigurationError, ValidationError
from cubicweb.schema import ERQLExpression
from editing import BLUE, RED
from purging import CachesTC
from servers.instance import Instance
from servers.squid import ALLOW_PURGE, Squid
from servers.support import free_port, wait_until
from servers.visitor import Visitor

from cubicweb_hasite.caches import purge

NAMES = ("/file/{eid}/raw/picture.png", "/file/{eid}/thumb/picture_75x75.png")
URLS = (
    *NAMES,
    "/file/{eid}?vid=download",
    "/file/{eid}?vid=thumbnail",
    "/{eid}?vid=download",
    "/file/{eid}/download",
    "/{eid}/download",
)
#: for how long caches may give what was before the commit, in seconds
SOON = 1.0


class PurgeTC(CachesTC):
    def edit(self, **attributes: object) -> float:
        """Write to the image as a script does; return when it was committed."""
        with self.admin_access.cnx() as cnx:
            cnx.entity_from_eid(self.eid).cw_set(**attributes)
            cnx.commit()
        return time.monotonic()

    def assert_soon(self, since: float, condition: Callable[[], bool], what: str) -> None:
        wait_until(condition, what, timeout=since + SOON - time.monotonic(), interval=0.01)

    def test_write_that_bypasses_the_web(self) -> None:
        held = self.store(*URLS)
        committed = self.edit(data=Binary(BLUE))
        for cache, url, content in held:
            self.assert_soon(
                committed,
                lambda cache=cache, url=url, content=content: (
                    self.get(cache, url).content != content
                ),
                f"{url} forgotten by {cache.url}",
            )
            if "thumb" not in url:
                assert self.get(cache, url).content == BLUE
        # and it is stored again
        self.store(*URLS)
        assert not self.errors.messages

    def test_rollback(self) -> None:
        held = self.store(*URLS)
        sent = [purger.sent for purger in purge.purgers(self.config)]
        with self.admin_access.cnx() as cnx:
            cnx.entity_from_eid(self.eid).cw_set(data=Binary(BLUE))
            cnx.rollback()
            cnx.entity_from_eid(self.eid).cw_set(data=Binary(BLUE))
            cnx.create_entity("Caption", text="of nothing")
            with pytest.raises(ValidationError):
                cnx.commit()
        time.sleep(0.3)
        self.flush()
        assert [purger.sent for purger in purge.purgers(self.config)] == sent
        for cache, url, _content in held:
            assert self.get(cache, url).headers["X-Cache"].startswith("HIT")

    def test_deletion(self) -> None:
        held = self.store(*URLS)
        with self.admin_access.cnx() as cnx:
            cnx.entity_from_eid(self.eid).cw_delete()
            cnx.commit()
        committed = time.monotonic()
        for cache, url, _content in held:
            self.assert_soon(
                committed,
                lambda cache=cache, url=url: self.get(cache, url).status_code == 404,
                f"{url} forgotten by {cache.url}",
            )

    def test_names(self) -> None:
        """A URL is purged under the name that it had, and under that which it gets."""
        before, after = NAMES[0], "/file/{eid}/raw/d%C3%A9tail%20%28%22a%22%29.png"
        held = self.store(before, after)
        self.edit(data=Binary(BLUE), data_name='détail ("a").png')
        self.flush()
        for cache, url, _content in held:
            assert self.get(cache, url).content == BLUE

    def test_name_in_other_words(self) -> None:
        """An application's own URL is purged in the normal form, which is what visitors get."""
        held = self.store("/file/{eid}/raw/~%C3%A9.png")
        for purger in purge.purgers(self.config):
            purger.add([f"/file/./{self.eid}//raw/%7E%c3%a9.png"])
        self.flush()
        for cache, url, _content in held:
            assert self.get(cache, url).headers["X-Cache"].startswith("MISS")

    def test_replacement(self) -> None:
        """What a former URL answers leads to the current one, from the first eid on."""
        first = self.eid
        self.webapp.login()
        self.store(*URLS)
        self.upload(first, BLUE)
        second = self.current_eid(first)
        self.flush()
        for cache, url, _content in self.store(*URLS, status=301):
            assert self.get(cache, url).headers["Location"].count(str(second)), url
        self.upload(second, RED)
        third = self.current_eid(first)
        assert third not in (first, second)
        self.flush()
        for cache, url, _content in self.store(*URLS, status=301):
            assert self.get(cache, url).headers["Location"].count(str(third)), url

    def test_state_that_decides_who_may_read(self) -> None:
        expression = ERQLExpression('X in_state S, S name "published"')
        with self.temporary_permissions(File={"read": ("managers", expression)}):
            self.fire("publish")
            self.flush()
            held = self.store(*URLS)
            self.fire("withdraw")
            committed = time.monotonic()
            for cache, url, _content in held:
                self.assert_soon(
                    committed,
                    lambda cache=cache, url=url: self.get(cache, url).status_code == 403,
                    f"{url} forgotten by {cache.url}",
                )

    def fire(self, transition: str) -> None:
        with self.admin_access.cnx() as cnx:
            image = cnx.entity_from_eid(self.eid)
            image.cw_adapt_to("IWorkflowable").fire_transition(transition)
            cnx.commit()

    def test_other_relation(self) -> None:
        """A relation that has no say in who may read purges nothing."""
        sent = [purger.sent for purger in purge.purgers(self.config)]
        with self.admin_access.cnx() as cnx:
            cnx.create_entity("Tag", name="tag", tags=self.eid)
            cnx.commit()
        self.flush()
        assert [purger.sent for purger in purge.purgers(self.config)] == sent

    def test_file_to_be_revalidated(self) -> None:
        """A file that is no image is not stored without being revalidated: nothing to purge."""
        with self.admin_access.cnx() as cnx:
            text = cnx.create_entity(
                "File", data=Binary(b"one"), data_name="a.txt", data_format="text/plain"
            )
            cnx.commit()
            sent = [purger.sent for purger in purge.purgers(self.config)]
            text.cw_set(data=Binary(b"two"))
            cnx.commit()
        self.flush()
        assert [purger.sent for purger in purge.purgers(self.config)] == sent

    def test_stopped_cache(self) -> None:
        """Edits go on; what was edited meanwhile is purged when the cache is back."""
        squid, varnish = purge.purgers(self.config)
        self.squid.kill()
        failed, dropped = squid.failed, squid.dropped
        try:
            for data in (BLUE, RED, BLUE):
                self.edit(data=Binary(data))
            wait_until(lambda: squid.failed >= failed + 3, "several tries")
            assert squid.queued > 0
            assert squid.dropped == dropped
            assert varnish.flush(2), "the other cache is not concerned"
        finally:
            self.squid.start()
        wait_until(lambda: not squid.queued, "purges", timeout=5)
        wait_until(lambda: "PURGE" in self.squid.access_log.splitlines()[-1], "line of the log")
        [message] = self.errors.messages
        assert message.startswith(f"{self.squid.url} is down, purges wait: ConnectionRefusedError")
        # another outage is told again
        self.squid.kill()
        try:
            self.edit(data=Binary(RED))
            wait_until(lambda: len(self.errors.messages) == 2, "message")
        finally:
            self.squid.start()
        wait_until(lambda: not squid.queued, "purges", timeout=5)

    def test_hung_cache(self) -> None:
        """A cache that takes connections and does not answer delays no edit, nor another cache."""
        held = self.store(*URLS)
        _squid, varnish = purge.purgers(self.config)
        self.varnish._process.pause()
        try:
            start = time.monotonic()
            committed = self.edit(data=Binary(BLUE))
            assert committed - start < SOON
            self.assert_soon(
                committed,
                lambda: self.get(self.squid, URLS[0]).content == BLUE,
                "purge by Squid",
            )
            wait_until(lambda: self.errors.messages, "message")
        finally:
            self.varnish._process.resume()
        wait_until(lambda: not varnish.queued, "purges", timeout=10)
        for cache, url, content in held:
            assert self.get(cache, url).content != content
        assert len(self.errors.messages) == 1

    def test_cache_that_refuses(self) -> None:
        with Squid(self.squid.directory.with_suffix(".denies"), self.origin_port) as squid:
            [purger] = self.purge_by(squid.url)
            for data in (BLUE, RED):
                self.edit(data=Binary(data))
            assert purger.flush(10)
            squid.kill()
        assert purger.sent == 0
        assert purger.failed > 2
        [message] = self.errors.messages
        assert re.search(r" refuses to purge \S+: status 403$", message)

    def test_no_cache_to_purge(self) -> None:
        self.purge_by()
        held = self.store(NAMES[0])
        self.edit(data=Binary(BLUE))
        for cache, url, content in held:
            assert self.get(cache, url).content == content


def test_bounded_queue() -> None:
    """The oldest paths leave the queue; a path waits once."""
    purger = purge.Purger(f"http://127.0.0.1:{free_port()}/", "https://site/", max_queued=10)
    start = time.monotonic()
    for _ in range(2):
        purger.add(f"/{number}" for number in range(8))
    assert purger.dropped == 0
    purger.add(f"/{number}" for number in range(1000))
    assert time.monotonic() - start < 0.5
    assert purger.queued <= 11
    assert purger.dropped >= 989
    assert not purger.flush(5)


@pytest.mark.parametrize(
    "url",
    ["10.0.0.1:3128", "ftp://10.0.0.1/", "http://", "http://a:b/", "http://a/b", "http://u@a/"],
)
def test_url_that_makes_no_sense(url: str) -> None:
    with pytest.raises(ConfigurationError, match=re.escape(url)):
        purge.Purger(url, "https://site/")


@pytest.mark.parametrize(
    ("base_url", "host"),
    [
        ("https://site/", "site"),
        ("https://site:443/a/", "site"),
        ("http://site:8080/", "site:8080"),
        ("https://[::1]:80/", "[::1]:80"),
    ],
)
def test_host(base_url: str, host: str) -> None:
    assert purge.Purger("http://[::1]:3128", base_url)._host == host


def test_script(instance: Instance, server_directory: Callable[[str], Path]) -> None:
    """A script that writes to an image does not end before the image is purged."""
    port = free_port()
    squid = Squid(server_directory("squid"), port, ALLOW_PURGE)
    options = {"hasite-purge-urls": squid.url, "base-url": squid.url}
    before = dict(instance.options)
    with instance.process(port, base_url=squid.url), squid:
        admin = Visitor(squid.url)
        admin.login()
        response = admin.create("File", files={"data": ("a.png", RED, "image/png")})
        eid = int(re.search(r"/file/(\d+)", response.headers["Location"])[1])
        url = f"/file/{eid}/raw/a.png"
        assert [Visitor(squid.url).get(url).content for _ in range(2)] == [RED, RED]
        instance.options |= options
        try:
            instance.shell(
                "from cubicweb import Binary\n"
                f"cnx.entity_from_eid({eid}).cw_set(data=Binary({BLUE!r}))\n"
                "commit()\n"
            )
        finally:
            instance.options = before
        response = Visitor(squid.url).get(url)
        assert response.content == BLUE
        assert response.headers["X-Cache"].startswith("MISS")
