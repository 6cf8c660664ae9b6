"""Downloads: what caches may keep, preconditions, ranges, names and types, at every URL."""

import random
import re
import tempfile
from datetime import UTC, datetime, timedelta
from email.utils import formatdate, parsedate_to_datetime
from unittest.mock import patch

import pytest
from cubicweb import Binary, ConfigurationError
from cubicweb.devtools import BASE_URL
from cubicweb.server.sources.storages import (
    BytesFileSystemStorage,
    set_attribute_storage,
    unset_attribute_storage,
)
from cubicweb_file.entities import FileIDownloadableAdapter
from editing import BLUE, RED, EditingTC
from logilab.common.registry import yes

from cubicweb_hasite.images import contents
from cubicweb_hasite.images.file_names import content_disposition
from cubicweb_hasite.pyramid import includeme
from cubicweb_hasite.storages import spool

DOWNLOADS = (
    "/file/{eid}/raw/picture.png",
    "/file/{eid}/raw",
    "/file/{eid}?vid=download",
    "/file/{eid}/download",
    "/{eid}/download",
    "/{eid}?vid=download",
    "/view?eid={eid}&vid=download",
    "/view?rql=Any%20X%20WHERE%20X%20eid%20{eid}&vid=download",
)
THUMBNAILS = ("/file/{eid}/thumb/picture_75x75.png", "/file/{eid}?vid=thumbnail")
URL = "/file/{eid}/raw/picture.png"


class DownloadTC(EditingTC):
    def setUp(self) -> None:
        super().setUp()
        with self.admin_access.cnx() as cnx:
            self.eid = self.new_image(cnx).eid
            cnx.commit()

    def get(self, url: str = URL, status: int = 200, method: str = "GET", **headers: str):
        """Return the response to a visitor who has no session."""
        self.webapp.reset()
        headers = {name.replace("_", "-"): value for name, value in headers.items()}
        return self.webapp.request(
            BASE_URL + url.format(eid=self.eid)[1:],
            method=method,
            headers=headers,
            status=status,
        )

    def private(self):
        """Return a context manager in which anonymous visitors may not read files."""
        return self.temporary_permissions((self.schema["File"], {"read": ("managers", "users")}))


class CacheControlTC(DownloadTC):
    def check_public(self, response) -> None:
        assert response.headers["Cache-Control"] == "public, max-age=3600"
        assert "Set-Cookie" not in response.headers
        assert "Vary" not in response.headers
        assert "Link" not in response.headers

    def test_public(self) -> None:
        for url in DOWNLOADS + THUMBNAILS:
            with self.subTest(url):
                response = self.get(url, Accept_Language="fr", Cookie="a=b")
                self.check_public(response)
                assert response.content_type == "image/png"
                assert re.search(r'^"[^"]+"$', response.headers["ETag"])
                assert "Last-Modified" in response.headers
                assert response.headers["X-Content-Type-Options"] == "nosniff"
                assert response.headers["Content-Disposition"].startswith("inline")
                if url in DOWNLOADS:
                    assert response.body == RED
                assert response.headers["Content-Length"] == str(len(response.body))

    def test_public_whoever_asks(self) -> None:
        """The answer is the same for who is logged in, so that caches may give it to all."""
        anonymous = self.get()
        self.login()
        response = self.webapp.get(URL.format(eid=self.eid))
        self.check_public(response)
        assert dict(response.headers) == dict(anonymous.headers)

    def test_private(self) -> None:
        with self.private():
            for url in DOWNLOADS + THUMBNAILS:
                with self.subTest(url):
                    response = self.get(url, status=403)
                    assert response.headers["Cache-Control"] == "no-store"
                    assert "Set-Cookie" not in response.headers
                    self.login()
                    response = self.webapp.get(url.format(eid=self.eid))
                    assert response.headers["Cache-Control"] == "private, max-age=3600"
                    assert "Set-Cookie" not in response.headers
                    assert "Vary" not in response.headers

    def test_private_data_of_a_public_entity(self) -> None:
        rdef = self.schema["File"].relation_definition("data")
        with self.temporary_permissions((rdef, {"read": ("managers",)})):
            self.get(status=403)
            self.login()
            response = self.webapp.get(URL.format(eid=self.eid))
            assert response.headers["Cache-Control"] == "private, max-age=3600"

    def test_permissions_are_looked_at_each_time(self) -> None:
        self.get()
        with self.private():
            self.get(status=403)
        self.get()

    def test_errors(self) -> None:
        with self.admin_access.cnx() as cnx:
            tag = cnx.create_entity("Tag", name="tag")
            cnx.commit()
        gone = self.eid + 1000
        for url in (
            f"/file/{gone}/raw/x.png",
            f"/file/{gone}/thumb/x.png",
            f"/file/{gone}?vid=download",
            f"/file/{gone}/download",
            f"/{gone}/download",
            "/file/99999999999999999999/raw/x.png",
            f"/file/{tag.eid}/raw/x.png",
            f"/tag/{self.eid}/raw/x.png",
        ):
            for method in ("GET", "HEAD"):
                with self.subTest(url, method=method):
                    response = self.get(url, status=404, method=method)
                    assert response.headers["Cache-Control"] == "no-store"
                    assert "Set-Cookie" not in response.headers

    def test_thumbnail_of_what_is_not_an_image(self) -> None:
        with self.admin_access.cnx() as cnx:
            eid = self.new_image(cnx, data=Binary(b"not a picture")).eid
            cnx.commit()
            text = self.new_image(cnx, data_format="text/plain").eid
            cnx.commit()
        for each in (eid, text):
            response = self.get(f"/file/{each}/thumb/x.png", status=404)
            assert response.headers["Cache-Control"] == "no-store"

    def test_age(self) -> None:
        for age, expected in (
            (60, "public, max-age=60"),
            (31536000, "public, max-age=31536000, immutable"),
        ):
            self.config.global_set_option("hasite-image-max-age", age)
            try:
                assert self.get().headers["Cache-Control"] == expected
            finally:
                self.config.global_set_option("hasite-image-max-age", 3600)

    def test_file_that_is_not_immutable(self) -> None:
        """Its eid stays when it is edited: caches are to ask each time."""
        with self.admin_access.cnx() as cnx:
            text = cnx.create_entity("File", data=Binary(b"some text"), data_name="a.txt")
            cnx.commit()
        response = self.get(f"/file/{text.eid}/raw/a.txt")
        assert response.headers["Cache-Control"] == "public, no-cache"
        etag = response.headers["ETag"]
        self.get(f"/file/{text.eid}/raw/a.txt", status=304, If_None_Match=etag)

    def test_url_that_does_not_name_the_eid(self) -> None:
        url = "/view?rql=Any%20X%20WHERE%20X%20is%20File&vid=download"
        response = self.get(url)
        assert response.body == RED
        assert response.headers["Cache-Control"] == "private, no-cache"
        assert response.headers["X-Content-Type-Options"] == "nosniff"
        assert "Set-Cookie" not in response.headers
        etag = response.headers["ETag"]
        assert self.get(url, status=304, If_None_Match=etag).body == b""
        response = self.get(url, status=206, Range="bytes=1-3")
        assert response.body == RED[1:4]
        response = self.get(url, method="HEAD")
        assert response.headers["Content-Length"] == str(len(RED))

    def test_urls_of_others(self) -> None:
        """A path that begins with something else than an entity type is not ours."""
        response = self.get(f"/invoices/{self.eid}/download", status="*")
        assert response.body != RED
        assert response.content_type == "text/html"

    def test_option_that_makes_no_sense(self) -> None:
        for option in ("hasite-image-max-age", "hasite-probe-deadline"):
            default = self.config[option]
            self.config.global_set_option(option, -1)
            try:
                with pytest.raises(ConfigurationError, match=f"{option} is -1"):
                    includeme(self.pyramid_config)
            finally:
                self.config.global_set_option(option, default)

    def test_pages_are_kept_from_shared_caches(self) -> None:
        """CubicWeb's own pages set cookies; some of them it calls cacheable."""
        for url in ("/", "/file/{eid}", "/login", "/view?vid=index", "/cwuser/admin"):
            with self.subTest(url):
                self.webapp.reset()
                response = self.webapp.get(
                    url.format(eid=self.eid), headers={"Accept": "text/html"}, status="*"
                )
                if "Set-Cookie" in response.headers:
                    assert re.search(r"\b(private|no-store)\b", response.headers["Cache-Control"])
                if response.status_code >= 300:
                    assert response.headers["Cache-Control"] == "no-store"

    def test_static_files_carry_no_cookie(self) -> None:
        page = self.webapp.get("/", headers={"Accept": "text/html"})
        url = re.search(r'"(https://[^"]*/data/[^"]*/?cubicweb.css)"', page.text)[1]
        response = self.webapp.get(url)
        while response.status_code == 302:
            response = self.webapp.get(response.location)
        assert response.status_code == 200
        assert "Set-Cookie" not in response.headers
        assert "private" not in response.headers.get("Cache-Control", "")


class ConditionalTC(DownloadTC):
    """RFC 9110, section 13."""

    def test_if_none_match(self) -> None:
        etag = self.get().headers["ETag"]
        for value in (etag, f'"other", {etag}', f"W/{etag}", "*", f'{etag},"other"'):
            with self.subTest(value):
                response = self.get(status=304, If_None_Match=value)
                assert response.body == b""
                assert response.headers["ETag"] == etag
                assert response.headers["Cache-Control"] == "public, max-age=3600"
                assert "Content-Length" not in response.headers
        for value in ('"other"', etag[:-1] + 'x"', "garbage", ""):
            with self.subTest(value):
                assert self.get(If_None_Match=value).body == RED

    def test_if_modified_since(self) -> None:
        modified = self.get().headers["Last-Modified"]
        time = parsedate_to_datetime(modified).timestamp()
        self.get(status=304, If_Modified_Since=modified)
        self.get(status=304, If_Modified_Since=formatdate(time + 60, usegmt=True))
        self.get(If_Modified_Since=formatdate(time - 60, usegmt=True))
        self.get(If_Modified_Since="no date")

    def test_if_none_match_comes_first(self) -> None:
        modified = self.get().headers["Last-Modified"]
        self.get(If_None_Match='"other"', If_Modified_Since=modified)

    def test_not_modified_does_not_read_the_data(self) -> None:
        etag = self.get().headers["ETag"]
        statements = []
        source = self.repo.system_source
        doexec = source.doexec

        def recorded(cnx, sql, args=None, *rest, **kwargs):
            statements.append(sql)
            return doexec(cnx, sql, args, *rest, **kwargs)

        source.doexec = recorded
        try:
            self.get(status=304, If_None_Match=etag)
        finally:
            del source.doexec
        assert statements
        assert not [sql for sql in statements if re.search(r"\bcw_data\b", sql)]
        with patch.object(contents, "content", wraps=contents.content) as read:
            self.get(status=304, If_None_Match=etag)
            read.assert_not_called()
            self.get()
            read.assert_called_once()

    def test_if_match(self) -> None:
        etag = self.get().headers["ETag"]
        self.get(If_Match=etag)
        response = self.get(status=412, If_Match='"other"')
        assert response.headers["Cache-Control"] == "no-store"
        self.get(status=412, If_Match=f"W/{etag}")

    def test_if_unmodified_since(self) -> None:
        modified = self.get().headers["Last-Modified"]
        time = parsedate_to_datetime(modified).timestamp()
        self.get(If_Unmodified_Since=modified)
        self.get(status=412, If_Unmodified_Since=formatdate(time - 60, usegmt=True))

    def test_etags(self) -> None:
        """They differ by representation and by entity, and change with the data."""
        with self.admin_access.cnx() as cnx:
            other = self.new_image(cnx).eid
            cnx.commit()
        urls = (URL, THUMBNAILS[0], f"/file/{other}/raw/picture.png")
        etags = [self.get(url).headers["ETag"] for url in urls]
        assert len(set(etags)) == 3
        with self.admin_access.cnx() as cnx:
            cnx.entity_from_eid(self.eid).cw_set(data=Binary(BLUE))
            cnx.commit()
        assert self.get().headers["ETag"] not in etags


class RangeTC(DownloadTC):
    """RFC 9110, section 14."""

    def test_single_range(self) -> None:
        size = len(RED)
        for value, start, stop in (
            ("bytes=0-9", 0, 10),
            ("bytes=5-", 5, size),
            ("bytes=-4", size - 4, size),
            (f"bytes=3-{size * 2}", 3, size),
            ("bytes=0-0", 0, 1),
            # section 14.1.2: more than there is, is all
            (f"bytes=-{size}", 0, size),
            (f"bytes=-{size + 1}", 0, size),
            (f"bytes=-{5 * size}", 0, size),
            (f"bytes=-{10**30}", 0, size),
        ):
            with self.subTest(value):
                response = self.get(status=206, Range=value)
                assert response.body == RED[start:stop]
                assert response.headers["Content-Range"] == f"bytes {start}-{stop - 1}/{size}"
                assert response.headers["Content-Length"] == str(stop - start)
                assert response.headers["Cache-Control"] == "public, max-age=3600"

    def test_ignored(self) -> None:
        for value in ("bytes=0-1,4-5", "lines=0-1", "bytes=9-3", "bytes=a-b", "garbage"):
            with self.subTest(value):
                response = self.get(Range=value)
                assert response.body == RED
                assert "Content-Range" not in response.headers

    def test_not_satisfiable(self) -> None:
        for value in (f"bytes={len(RED)}-", "bytes=-0"):
            with self.subTest(value):
                response = self.get(status=416, Range=value)
                assert response.headers["Content-Range"] == f"bytes */{len(RED)}"
                assert response.headers["Cache-Control"] == "no-store"

    def test_empty(self) -> None:
        with self.admin_access.cnx() as cnx:
            eid = self.new_image(cnx, data=Binary(b"")).eid
            cnx.commit()
        for value in ("bytes=-1", "bytes=-5265", "bytes=0-", "bytes=0-9"):
            with self.subTest(value):
                response = self.get(f"/file/{eid}/raw/a.png", Range=value)
                assert response.body == b""
                assert response.headers["Content-Length"] == "0"
                assert "Content-Range" not in response.headers

    def test_if_range(self) -> None:
        """Section 13.1.5: what is not the same, and surely, is sent whole."""
        etag = self.get().headers["ETag"]
        self.get(status=206, Range="bytes=0-1", If_Range=etag)
        for other in ('"other"', f"W/{etag}", etag.strip('"'), f"{etag}, {etag}", "*", ""):
            assert self.get(Range="bytes=0-1", If_Range=other).body == RED

    def test_if_range_with_a_date(self) -> None:
        """It must be that of the data, and the data must not have changed just then."""
        modified = self.get().headers["Last-Modified"]
        assert self.get(Range="bytes=0-1", If_Range=modified).body == RED
        for age, status in ((50, 200), (70, 206), (3600, 206)):
            with self.subTest(age=age):
                with self.admin_access.cnx() as cnx:
                    date = datetime.now(UTC) - timedelta(seconds=age)
                    cnx.execute(
                        "SET F modification_date %(d)s WHERE F eid %(f)s",
                        {"f": self.eid, "d": date},
                    )
                    cnx.commit()
                modified = self.get().headers["Last-Modified"]
                self.get(status=status, Range="bytes=0-1", If_Range=modified)
                time = parsedate_to_datetime(modified).timestamp()
                for other in (time - 1, time + 1, time + 30, 0):
                    date = formatdate(other, usegmt=True)
                    assert self.get(Range="bytes=0-1", If_Range=date).body == RED
        for wrong in ("Mon, 32 Jan 99999 00:00:00 GMT", "Mon, -1 Nov -2001 00:00:00 GMT"):
            assert self.get(Range="bytes=0-1", If_Range=wrong).body == RED

    def test_head(self) -> None:
        full = self.get()
        for headers in ({}, {"Range": "bytes=0-1"}):
            response = self.get(method="HEAD", **headers)
            assert response.body == b""
            assert dict(response.headers) == dict(full.headers)


class DataTC(DownloadTC):
    """Whatever its size, and wherever it is stored."""

    def test_slices(self) -> None:
        """At and around the size of a slice, with bytes that compress and bytes that do not."""
        with patch.multiple(spool, IN_MEMORY=1500, SLICE=1000):
            for length in (0, 1, 999, 1000, 1001, 2000, 2001, 12345):
                for content in (bytes(length), random.Random(length).randbytes(length)):
                    with self.subTest(length, compresses=content[:1] == b"\0"):
                        with self.admin_access.cnx() as cnx:
                            eid = self.new_image(cnx, data=Binary(content)).eid
                            cnx.commit()
                        url = f"/file/{eid}/raw/a.png"
                        assert self.get(url).body == content
                        if length > 1:
                            part = self.get(url, status=206, Range=f"bytes={length // 2}-")
                            assert part.body == content[length // 2 :]

    def test_application_decides(self) -> None:
        class Backwards(FileIDownloadableAdapter):
            __select__ = FileIDownloadableAdapter.__select__ & yes()

            def download_data(self) -> bytes:
                return b"!" + self.entity.data.getvalue()[::-1]

        expected = b"!" + RED[::-1]
        for in_memory in (10, spool.IN_MEMORY):
            with (
                self.subTest(in_memory),
                patch.object(spool, "IN_MEMORY", in_memory),
                self.temporary_appobjects(Backwards),
            ):
                assert self.get().body == expected
                head = self.get(method="HEAD")
                assert head.headers["Content-Length"] == str(len(expected))
                assert self.get(status=206, Range="bytes=0-19").body == expected[:20]

    def test_none(self) -> None:
        with self.admin_access.cnx() as cnx:
            eid = cnx.create_entity("Image", data_name="a.png", data_format="image/png").eid
            cnx.commit()
        for url in (f"/image/{eid}/download", f"/image/{eid}?vid=download", f"/{eid}/download"):
            with self.subTest(url):
                assert self.get(url, status=404).headers["Cache-Control"] == "no-store"

    def test_stored_in_files(self) -> None:
        with tempfile.TemporaryDirectory() as directory:
            storage = BytesFileSystemStorage(directory)
            set_attribute_storage(self.repo, "File", "data", storage)
            try:
                with self.admin_access.cnx() as cnx:
                    eid = self.new_image(cnx, data=Binary(BLUE)).eid
                    cnx.commit()
                assert self.get(f"/file/{eid}/raw/a.png").body == BLUE
            finally:
                unset_attribute_storage(self.repo, "File", "data")


class TypeAndNameTC(DownloadTC):
    def download(self, **attributes):
        with self.admin_access.cnx() as cnx:
            eid = self.new_image(cnx, **attributes).eid
            cnx.commit()
        return self.get(f"/file/{eid}/raw/x")

    def test_what_a_browser_could_execute(self) -> None:
        for data_format, inline in (
            ("image/png", True),
            ("image/jpeg", True),
            ("image/webp", True),
            ("image/vnd.microsoft.icon", True),
            ("image/svg+xml", False),
            ("text/html", False),
            ("text/xml", False),
            ("application/xhtml+xml", False),
            ("application/javascript", False),
            ("application/pdf", False),
        ):
            with self.subTest(data_format):
                response = self.download(data_format=data_format)
                assert response.content_type == data_format
                expected = "inline;" if inline else "attachment;"
                assert response.headers["Content-Disposition"].startswith(expected)
                assert response.headers["X-Content-Type-Options"] == "nosniff"

    def test_type_that_is_none(self) -> None:
        for data_format in ("image/png\r\nX-Injected: 1", "image", "; a=b", "é/è"):
            with self.subTest(data_format):
                response = self.download(data_format=data_format)
                assert response.content_type == "application/octet-stream"
                assert "X-Injected" not in response.headers

    def test_as_it_is_meant(self) -> None:
        """Media types are case-insensitive, have parameters, and other names."""
        for data_format, meant, inline in (
            ("IMAGE/PNG", "image/png", True),
            ("image/png; charset=binary", "image/png", True),
            (" Image/Jpg ;q=1", "image/jpeg", True),
            ("image/pjpeg", "image/jpeg", True),
            ("image/x-png", "image/png", True),
            ("image/x-icon", "image/vnd.microsoft.icon", True),
            ("image/ico", "image/vnd.microsoft.icon", True),
            ("image/x-ms-bmp", "image/bmp", True),
            ("image/SVG", "image/svg+xml", False),
            ("Text/HTML; charset=utf-8", "text/html", False),
        ):
            with self.subTest(data_format):
                response = self.download(data_format=data_format)
                assert response.content_type == meant
                expected = "inline;" if inline else "attachment;"
                assert response.headers["Content-Disposition"].startswith(expected)
                image = meant.startswith("image/")
                expected = "public, max-age=3600" if image else "public, no-cache"
                assert response.headers["Cache-Control"] == expected

    def test_charset(self) -> None:
        with self.admin_access.cnx() as cnx:
            eid = cnx.create_entity(
                "Image", data=Binary(b"a"), data_format="text/plain; charset=iso-8859-1"
            ).eid
            cnx.commit()
        response = self.get(f"/image/{eid}/download")
        assert response.headers["Content-Type"] == "text/plain; charset=iso-8859-1"
        response = self.download(data_format="text/plain", data_encoding="iso-8859-15")
        assert response.headers["Content-Type"] == "text/plain; charset=iso-8859-15"

    def test_compressed(self) -> None:
        response = self.download(data_format="text/plain", data_encoding="gzip")
        assert response.headers["Content-Type"] == "application/gzip"


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("a.png", 'inline; filename="a.png"'),
        ('a"b\\c.png', "inline; filename=\"a_b_c.png\"; filename*=UTF-8''a%22b_c.png"),
        ("été.png", "inline; filename=\"ete.png\"; filename*=UTF-8''%C3%A9t%C3%A9.png"),
        ("cécilia.txt", "inline; filename=\"cecilia.txt\"; filename*=UTF-8''c%C3%A9cilia.txt"),
        (
            "a?*:<>|%.png",
            "inline; filename=\"a_______.png\"; filename*=UTF-8''a%3F%2A%3A%3C%3E%7C%25.png",
        ),
        # full-width: they become what file systems refuse when they lose their width
        (
            "\uff0f\uff02\uff1f.png",
            "inline; filename=\"___.png\"; filename*=UTF-8''%EF%BC%8F%EF%BC%82%EF%BC%9F.png",
        ),
        ("../../etc/passwd", 'inline; filename=".._.._etc_passwd"'),
        (
            "a\r\nSet-Cookie: b",
            "inline; filename=\"aSet-Cookie_ b\"; filename*=UTF-8''aSet-Cookie%3A%20b",
        ),
        ("日本.png", "inline; filename=\"__.png\"; filename*=UTF-8''%E6%97%A5%E6%9C%AC.png"),
        ("", 'inline; filename="file"'),
        ("x" * 10000 + ".png", f'inline; filename="{"x" * 196}.png"'),
    ],
)
def test_content_disposition(name: str, expected: str) -> None:
    assert content_disposition(name, inline=True) == expected
