"""Applications name the pages that show an entity, which are purged when it changes."""

import logging
import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import backend
import pytest
from cubicweb.entity import EntityAdapter
from cubicweb.predicates import is_instance, relation_possible, score_entity
from cubicweb.server.session import Connection
from documents import CHECKOUT
from purging import CachesTC

from cubicweb_hasite.caches import page_urls, purge
from cubicweb_hasite.database import pool
from cubicweb_hasite.database.connection import NoConnection
from cubicweb_hasite.entities import CachedPagesAdapter
from cubicweb_hasite.hooks import page_adapters

LANGUAGES = ("en", "fr")
HTML = "text/html"


def documented_adapter() -> type[CachedPagesAdapter]:
    """Return the adapter of the example in docs/applications.md."""
    text = (CHECKOUT / "docs" / "applications.md").read_text()
    [example] = re.findall(r"^```python\n([^`]*class ArticlePages.*?)^```$", text, re.M | re.S)
    names: dict[str, Any] = {"__name__": "application"}
    exec(example, names)
    return names["ArticlePages"]


class AlbumPages(CachedPagesAdapter):
    """The page of the album of an image, which is linked by a relation of its own table."""

    __select__ = is_instance("File")

    def urls(self) -> Iterator[str]:
        for album in self.entity.reverse_album_image:
            yield album.rest_path()


class TitlePages(CachedPagesAdapter):
    """A page for each title of a blog."""

    __select__ = is_instance("Blog")

    def urls(self) -> list[str]:
        return [f"album?vtitle={self.entity.title}"]


class BlogVarnish(EntityAdapter):
    """As applications have them that use cubicweb-varnish."""

    __regid__ = "IVarnish"
    __select__ = is_instance("Blog")
    asked: list[tuple[str, bool]] = []

    def urls_to_purge(self) -> tuple[str, ...] | None:
        edited = getattr(self.entity, "cw_edited", None)
        self.asked.append((self.entity.title, edited is not None))
        if self.entity.title == "nothing":
            return None
        named = (f"/file/{self.entity.title}/raw/picture.png?x=1",)
        if edited is None:
            return named
        return (*named, "/album", self._cw.build_url("album", vtitle="x"))


class PagesTC(CachesTC):
    """Test case with two blogs, an article in the first of them, and an album with the image."""

    # the pages are those of cubicweb-web
    settings = {"cubicweb.includes": ["cubicweb.pyramid.auth", "cubicweb.pyramid.default_session"]}
    max_age: tuple[str, ...] = ("primary:600", "index:600", "sameetypelist:600")

    @classmethod
    def init_config(cls, config: Any) -> None:
        super().init_config(config)
        config.global_set_option("hasite-page-max-age", cls.max_age)

    def setUp(self) -> None:
        super().setUp()
        page_adapters._logged.clear()
        for log in (page_adapters.log, page_urls.log):
            log.addHandler(self.errors)
            self.addCleanup(log.removeHandler, self.errors)
        with self.admin_access.cnx() as cnx:
            self.first = cnx.create_entity("Blog", title="first").eid
            self.second = cnx.create_entity("Blog", title="second").eid
            self.article = self.new_article(cnx, in_blog=self.first).eid
            self.album = cnx.create_entity("Album", name="album", album_image=self.eid).eid
            self.other_album = cnx.create_entity("Album", name="other").eid
            cnx.commit()
        self.flush()

    def new_article(self, cnx: Connection, **attributes: object) -> Any:
        cover = self.new_image(cnx)
        return cnx.create_entity("Article", title="article", cover=cover, **attributes)

    @property
    def known(self) -> set[str]:
        """The URLs of pages that the caches hold before each change."""
        return {
            *("", "article", "blog", "album", "album?vtitle=x"),
            *(f"blog/{self.first}", f"blog/{self.first}?page=2", f"{self.first}"),
            *(f"blog/{self.second}", f"blog/{self.second}?page=2"),
            *(f"article/{self.article}", f"{self.article}"),
            *(f"album/{self.album}", f"album/{self.other_album}"),
            f"file/{self.eid}",
        }

    def held(self, url: str) -> set[bool]:
        """Return whether the caches hold a page of anonymous visitors, in each language."""
        return {
            self.get(cache, f"/_anonymous/{language}/{url}", Accept=HTML)
            .headers["X-Cache"]
            .startswith("HIT")
            for cache in (self.squid, self.varnish)
            for language in LANGUAGES
        }

    def purged(
        self, change: Callable[[Connection], object], *urls: str, commit: bool = True
    ) -> set[str]:
        """Change something; return which of the known pages, and of `urls`, are purged."""
        known = self.known | set(urls)
        self.flush()  # what the preparation has changed
        for url in known:
            self.held(url)
            assert self.held(url) == {True}, url
        with self.admin_access.cnx() as cnx:
            change(cnx)
            if commit:
                cnx.commit()
        self.flush()
        found = {url: self.held(url) for url in known}
        assert all(len(held) == 1 for held in found.values()), found
        return {url for url, held in found.items() if held == {False}}

    @contextmanager
    def own_page(self) -> Iterator[list[bool]]:
        """Put into a list whether each cache has purged the URL of the image in this block."""
        self.store("/file/{eid}/raw/picture.png")
        forgotten: list[bool] = []
        yield forgotten
        self.flush()
        for cache in (self.squid, self.varnish):
            response = self.get(cache, "/file/{eid}/raw/picture.png")
            forgotten.append(not response.headers["X-Cache"].startswith("HIT"))

    def default(self, etype: str, eid: int) -> set[str]:
        """Return the known pages that show an entity by default."""
        return {"", etype, f"{etype}/{eid}", f"{eid}"} & self.known


def edit(eid: int, **attributes: object) -> Callable[[Connection], object]:
    """Return what edits an entity."""
    return lambda cnx: cnx.entity_from_eid(eid).cw_set(**attributes)


def delete(eid: int) -> Callable[[Connection], object]:
    """Return what deletes an entity."""
    return lambda cnx: cnx.entity_from_eid(eid).cw_delete()


class CachedPagesTC(PagesTC):
    def pages_of(self, blog: int) -> set[str]:
        """Return the pages of a blog that the documented adapter names."""
        return {f"blog/{blog}", f"blog/{blog}?page=2"}

    def test_default(self) -> None:
        """Without an adapter: the page, the list of the type, the home page."""
        default = self.default("article", self.article)
        assert len(default) == 4
        assert self.purged(edit(self.article, title="other")) == default
        with self.admin_access.cnx() as cnx:
            article = cnx.entity_from_eid(self.article)
            assert set(article.cw_adapt_to("ICachedPages").urls()) == default

    def test_edit(self) -> None:
        with self.temporary_appobjects(documented_adapter()):
            purged = self.purged(edit(self.article, title="other"))
        assert purged == self.default("article", self.article) | self.pages_of(self.first)

    def test_deletion(self) -> None:
        with self.temporary_appobjects(documented_adapter()):
            purged = self.purged(delete(self.article))
        # both ends of the relation change
        assert purged >= self.default("article", self.article) | self.pages_of(self.first)
        assert not purged & self.pages_of(self.second)

    def test_creation(self) -> None:
        with self.temporary_appobjects(documented_adapter()):
            purged = self.purged(lambda cnx: self.new_article(cnx, in_blog=self.second))
        assert purged >= {"", "article", *self.pages_of(self.second)}
        assert not purged & self.pages_of(self.first)

    def test_move(self) -> None:
        """The pages of the former parent and of the new one are purged."""
        with self.temporary_appobjects(documented_adapter()):
            purged = self.purged(edit(self.article, in_blog=self.second))
        assert purged >= self.pages_of(self.first) | self.pages_of(self.second)

    def test_move_by_another_relation(self) -> None:
        """A page that is not that of an end of the relation: an image moves, of other albums."""

        class Neighbours(CachedPagesAdapter):
            """The pages of the images in the same album."""

            __select__ = is_instance("Album")

            def urls(self) -> Iterator[str]:
                for image in self.entity.album_image:
                    yield image.rest_path()

        with self.admin_access.cnx() as cnx:
            image = self.new_image(cnx, reverse_album_image=self.other_album).eid
            cnx.commit()

        def move(cnx: Connection) -> None:
            cnx.execute(
                "SET A album_image X WHERE A eid %(a)s, X eid %(x)s",
                {"a": self.other_album, "x": self.eid},
            )

        moved = {f"file/{self.eid}", f"file/{image}"}
        self.flush()
        with self.temporary_appobjects(Neighbours):
            assert self.purged(move, *moved) >= moved
        with self.temporary_appobjects(AlbumPages):
            back = self.purged(edit(self.album, album_image=self.eid))
        assert back >= {f"album/{self.album}", f"album/{self.other_album}"}

    def test_relation_that_is_added(self) -> None:
        """The pages that show an entity without the relation are purged too."""

        class Orphans(CachedPagesAdapter):
            __select__ = is_instance("File")

            def urls(self) -> list[str]:
                return [] if self.entity.reverse_album_image else ["album?vtitle=x"]

        with self.admin_access.cnx() as cnx:
            image = self.new_image(cnx).eid
            cnx.commit()
        with self.temporary_appobjects(Orphans):
            purged = self.purged(
                lambda cnx: cnx.execute(
                    "SET A album_image X WHERE A eid %(a)s, X eid %(x)s",
                    {"a": self.album, "x": image},
                )
            )
            assert "album?vtitle=x" in purged

    def test_former_title(self) -> None:
        """URLs of former values and of new ones are purged, quoted as browsers do."""
        before, after = "album?vtitle=first", "album?vtitle=L%27%C3%A9t%C3%A9%20%22a%22"
        with self.temporary_appobjects(TitlePages):
            purged = self.purged(edit(self.first, title='L\'été "a"'), before, after)
        assert purged == {before, after}

    def test_rollback(self) -> None:
        with self.temporary_appobjects(documented_adapter(), BlogVarnish):
            assert not self.purged(edit(self.article, in_blog=self.second), commit=False)

    def test_own_urls(self) -> None:
        """URLs that caches keep for anybody are purged if the adapter says so."""

        class ImagePages(CachedPagesAdapter):
            __select__ = is_instance("Blog")

            def urls(self) -> list[str]:
                return [f"file/{self.entity.title}/raw/picture.png"]

        self.edit_blog(title=str(self.eid))
        for anonymous_only in (True, False):
            ImagePages.anonymous_only = anonymous_only
            with self.temporary_appobjects(ImagePages), self.own_page() as purged:
                self.edit_blog(title=str(self.eid))
            assert purged == [not anonymous_only] * 2

    def edit_blog(self, **attributes: object) -> None:
        with self.admin_access.cnx() as cnx:
            edit(self.first, **attributes)(cnx)
            cnx.commit()
        self.flush()

    def test_varnish(self) -> None:
        """The adapters of cubicweb-varnish are asked, with the entity that is being edited too."""
        self.edit_blog(title=str(self.eid))
        del BlogVarnish.asked[:]
        with self.temporary_appobjects(BlogVarnish), self.own_page() as forgotten:
            purged = self.purged(edit(self.first, title="nothing"))
            assert BlogVarnish.asked == [
                (str(self.eid), False),
                ("nothing", True),
                ("nothing", False),
            ]
            assert purged == self.default("blog", self.first)
            assert "album" in self.purged(edit(self.first, title=str(self.eid)))
            assert "album?vtitle=x" in self.purged(edit(self.first, title=str(self.eid)))
        # without its query, as cubicweb-varnish does
        assert forgotten == [True, True]
        assert not self.errors.messages

    def test_what_is_no_page(self) -> None:
        """It is logged once, and the other pages are purged."""
        bad = (None, 12, "http://elsewhere/album", "//elsewhere/album", "mailto:a@b", "http://[")
        bad += ("../x", "100%", "\ud800", b"album")

        class BadPages(CachedPagesAdapter):
            __select__ = is_instance("Blog")

            def urls(self) -> tuple[object, ...]:
                return (*bad, "album")

        with self.temporary_appobjects(BadPages):
            for title in ("a", "b"):
                assert self.purged(edit(self.first, title=title)) == {"album"}
        [message] = self.errors.messages
        assert "BadPages names no pages for Blog" in message
        for value in bad:
            assert f"{value!r} (" in message

    def test_list_that_is_a_text(self) -> None:
        class TextPages(CachedPagesAdapter):
            __select__ = is_instance("Blog")

            def urls(self) -> str:
                return "album"

        with self.temporary_appobjects(TextPages):
            purged = self.purged(edit(self.first, title="a"))
        assert purged == self.default("blog", self.first)
        [message] = self.errors.messages
        assert "TextPages fails for Blog" in message

    def test_two_adapters_for_one_type(self) -> None:
        """CubicWeb takes one of them, and logs it."""
        with self.temporary_appobjects(documented_adapter(), TitlePages):
            assert "album?vtitle=a" in self.purged(edit(self.first, title="a"), "album?vtitle=a")


class FailingPages(CachedPagesAdapter):
    """Names a page, then fails as a test says."""

    __select__ = is_instance("Blog")
    fail: Callable[[Connection], object]

    def urls(self) -> Iterator[str]:
        yield "album"
        type(self).fail(self._cw)


def sql_error(cnx: Connection) -> None:
    cnx.system_sql("SELECT nothing FROM nowhere")


def sql_error_in_rql(cnx: Connection) -> None:
    cnx.execute("Any X WHERE X is Blog, X title ILIKE 'a', X creation_date > 'no date'")


def cancelled(cnx: Connection) -> None:
    cnx.system_sql("SET LOCAL statement_timeout = 1")
    cnx.system_sql("SELECT pg_sleep(5)")


def ignored_error(cnx: Connection) -> None:
    for fail in (sql_error, cancelled):
        try:
            fail(cnx)
        except Exception:
            logging.getLogger(__name__).info("ignored")
    raise LookupError("after errors that were ignored")


def refused_by_the_schema(cnx: Connection) -> None:
    cnx.execute("INSERT Blog B: B title %(t)s", {"t": "x" * 300})


def lost_connection(cnx: Connection) -> None:
    cnx.system_sql("SELECT pg_terminate_backend(pg_backend_pid())")


FAILURES = [sql_error, refused_by_the_schema]
if backend.POSTGRES:
    FAILURES += [sql_error_in_rql, cancelled, ignored_error]


class FailingAdapterTC(PagesTC):
    def titles(self) -> list[str]:
        with self.admin_access.cnx() as cnx:
            return [
                title for (title,) in cnx.execute("Any T ORDERBY X WHERE X title T, X is Blog")
            ]

    def edit_both(self, title: str) -> Callable[[Connection], object]:
        def edit_both(cnx: Connection) -> None:
            cnx.entity_from_eid(self.album).cw_set(name=title)
            cnx.entity_from_eid(self.first).cw_set(title=title)
            cnx.entity_from_eid(self.second).cw_set(title=title)

        return edit_both

    def test_failures(self) -> None:
        """The edit is whole, the other pages are purged, and the error is logged once."""
        default = self.default("blog", self.first) | self.default("blog", self.second)
        default |= self.default("album", self.album)
        for fail in FAILURES:
            FailingPages.fail = fail
            with self.subTest(fail.__name__), self.temporary_appobjects(FailingPages):
                page_adapters._logged.clear()
                del self.errors.messages[:]
                purged = self.purged(self.edit_both(fail.__name__))
                assert purged == {*default, "album"}
                assert self.titles() == [fail.__name__] * 2
                [message] = self.errors.messages
                assert "test_cached_pages.FailingPages fails for Blog" in message

    @pytest.mark.skipif(not backend.POSTGRES, reason="SQLite's connections are not replaced")
    def test_connection_that_heals(self) -> None:
        """The same with the connections of an instance that serves visitors."""
        for fail in FAILURES:
            FailingPages.fail = fail
            with (
                self.subTest(fail.__name__),
                self.temporary_appobjects(FailingPages),
                self.healing_connection() as cnx,
            ):
                self.edit_both(fail.__name__)(cnx)
                cnx.commit()
                assert not cnx.cnxset.failed
            assert self.titles() == [fail.__name__] * 2

    @pytest.mark.skipif(not backend.POSTGRES, reason="SQLite has no connection to lose")
    def test_lost_connection(self) -> None:
        """Nothing is saved, and the edit fails, if the connection is lost in an adapter."""
        FailingPages.fail = lost_connection
        source = self.repo.system_source
        for connect in (self.healing_connection, self.admin_access.cnx):
            with (
                self.subTest(connect.__name__),
                self.temporary_appobjects(FailingPages),
                connect() as cnx,
            ):
                with pytest.raises((source.DbapiError, NoConnection)):
                    self.edit_both("lost")(cnx)
                cnx.rollback()
            assert self.titles() == ["first", "second"]

    @contextmanager
    def healing_connection(self) -> Iterator[Connection]:
        """A connection as `heal_connections` gives to an instance that serves visitors."""
        source = self.repo.system_source
        with self.admin_access.cnx() as cnx:
            stock, cnx.cnxset = cnx.cnxset, pool.Unpooled(source).get()
            source.doexec = pool._watched(source, source.doexec)
            try:
                yield cnx
            finally:
                del source.doexec
                cnx.cnxset.close(True)
                cnx.cnxset = stock

    def test_selector(self) -> None:
        """A selector may run queries and fail too."""

        class Selected(CachedPagesAdapter):
            __select__ = is_instance("Blog") & score_entity(lambda blog: sql_error(blog._cw))

        with self.temporary_appobjects(Selected):
            purged = self.purged(self.edit_both("selected"))
        assert purged >= self.default("blog", self.first)
        assert self.titles() == ["selected"] * 2
        [message] = self.errors.messages
        assert "ICachedPages of Blog fails for Blog" in message

    def test_varnish(self) -> None:
        class FailingVarnish(EntityAdapter):
            __regid__ = "IVarnish"
            __select__ = is_instance("Blog")

            def urls_to_purge(self) -> None:
                sql_error(self._cw)

        with self.temporary_appobjects(FailingVarnish):
            purged = self.purged(self.edit_both("varnish"))
        assert purged >= self.default("blog", self.first)
        assert self.titles() == ["varnish"] * 2
        [message] = self.errors.messages
        assert "FailingVarnish fails for Blog" in message

    def test_what_it_writes_is_not_kept(self) -> None:
        def write(cnx: Connection) -> None:
            cnx.system_sql("UPDATE cw_Blog SET cw_title = 'written'")

        FailingPages.fail = write
        with self.temporary_appobjects(FailingPages):
            self.purged(edit(self.first, title="edited"))
        assert self.titles() == ["edited", "second"]
        assert not self.errors.messages

    def test_logged_again(self) -> None:
        """A new failure is logged, after the adapter has worked."""
        with self.temporary_appobjects(FailingPages):
            for fails in (True, True, False, True):
                FailingPages.fail = sql_error if fails else lambda cnx: None
                self.purged(edit(self.first, title="a"))
        assert len(self.errors.messages) == 2


class CostTC(PagesTC):
    """Edits of types without an adapter of an application run no query more."""

    def statements(self, change: Callable[[Connection], object]) -> list[str]:
        found: list[str] = []
        source = self.repo.system_source
        doexec = source.doexec

        def recorded(cnx: Connection, sql: str, *args: object, **kwargs: object) -> Any:
            found.append(sql)
            return doexec(cnx, sql, *args, **kwargs)

        with self.admin_access.cnx() as cnx:
            source.doexec = recorded
            try:
                change(cnx)
                cnx.commit()
            finally:
                del source.doexec
        return found

    def counts(self) -> list[int]:
        return [
            len(self.statements(change))
            for change in (
                edit(self.album, name="a"),
                edit(self.article, in_blog=self.second),
                edit(self.article, in_blog=self.first),
                lambda cnx: cnx.create_entity("Album", name="b"),
            )
        ]

    def test_queries(self) -> None:
        class Translated(EntityAdapter):
            __regid__ = "IVarnish"
            __select__ = relation_possible("caption_of") & score_entity(lambda entity: 1)

        class Either(CachedPagesAdapter):
            __select__ = (is_instance("Folder") | is_instance("Caption")) & ~is_instance("Tag")

        self.counts()  # what CubicWeb remembers
        before = self.counts()
        with self.temporary_appobjects(Translated, Either):
            assert self.counts() == before
        with self.temporary_appobjects(documented_adapter()):
            asked = self.statements(edit(self.article, title="b"))
            assert self.counts()[0] == before[0]
        assert len([sql for sql in asked if sql.startswith("SAVEPOINT")]) == 2

    def test_without_caches(self) -> None:
        self.purge_by()
        with self.temporary_appobjects(documented_adapter()):
            assert not [
                sql for sql in self.statements(edit(self.article, title="b")) if "SAVE" in sql
            ]


class WithoutSharedPagesTC(PagesTC):
    """Without `hasite-page-max-age`, only what an adapter says of other views is purged."""

    max_age = ()

    def test_purges(self) -> None:
        sent: list[str] = []

        class ImagePages(CachedPagesAdapter):
            __select__ = is_instance("Blog")
            anonymous_only = False

            def urls(self) -> list[str]:
                return ["file/1/raw/a.png"]

        for purger in purge.purgers(self.config):
            self.addCleanup(setattr, purger, "add", purger.add)
            purger.add = sent.extend
        with self.admin_access.cnx() as cnx:
            edit(self.first, title="a")(cnx)
            cnx.commit()
            assert not sent
            with self.temporary_appobjects(ImagePages):
                edit(self.first, title="b")(cnx)
                edit(self.album, name="b")(cnx)
                cnx.commit()
        assert sent == ["/file/1/raw/a.png"] * 2


class UrlTC(PagesTC):
    def test_forms(self) -> None:
        """A page has one form, in whatever form an application gives its URL."""
        base = self.config["base-url"]
        assert base == "https://testing.cubicweb/"
        with self.admin_access.cnx() as cnx:
            for given, expected in (
                ("", ""),
                ("/", ""),
                (base, ""),
                (base.rstrip("/"), ""),
                ("blog/1", "blog/1"),
                ("/blog/1", "blog/1"),
                (f"{base}blog/1#top", "blog/1"),
                ("http://TESTING.cubicweb/blog/1", "blog/1"),
                ("https://testing.cubicweb:443/blog/1", "blog/1"),
                ("//testing.cubicweb/blog/1", "blog/1"),
                ("search/", "search/"),
                ("blog//1/../2?a=b c&d=é", "blog/2?a=b%20c&d=%C3%A9"),
                ("été", "%C3%A9t%C3%A9"),
                ("a%c3%a9", "a%C3%A9"),
                ("a\r\n?b\t=\0c", "a?b=%00c"),
                ("fr/blog/1", "fr/blog/1"),
            ):
                with self.subTest(given):
                    found = page_urls.relative(cnx, given)
                    assert found == expected
            for given in ("https://testing.cubicweb:8443/", "https://cubicweb/", "a:b"):
                with self.subTest(given), pytest.raises(page_urls.NotAPage, match="is not on"):
                    page_urls.relative(cnx, given)

    def test_site_below_a_path(self) -> None:
        self.set_option("base-url", "https://testing.cubicweb/a/")
        with self.admin_access.cnx() as cnx:
            for given in ("blog", "/blog", "/a/blog", "https://testing.cubicweb/a/blog"):
                assert page_urls.relative(cnx, given) == "blog", given
            for given in ("/a", "/a/", "https://testing.cubicweb/a"):
                assert page_urls.relative(cnx, given) == "", given
            with pytest.raises(page_urls.NotAPage, match="is not below /a/"):
                page_urls.relative(cnx, "https://testing.cubicweb/blog")
            assert page_urls.paths(cnx, ["blog"]) == {"/a/blog"}

    def test_languages_in_paths(self) -> None:
        self.set_option("language-mode", "url-prefix")
        with self.admin_access.cnx() as cnx:
            for given in ("blog", "/fr/blog", "https://testing.cubicweb/en/blog"):
                assert page_urls.relative(cnx, given) == "blog", given
            assert page_urls.relative(cnx, "fr") == ""
            assert page_urls.paths(cnx, ["blog"]) >= {"/blog", "/en/blog", "/fr/blog"}

    def set_option(self, name: str, value: str) -> None:
        self.addCleanup(self.config.global_set_option, name, self.config[name])
        self.config.global_set_option(name, value)
