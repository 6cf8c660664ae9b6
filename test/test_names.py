"""The names that Python and the templates share."""

import re

import pytest

from cubicweb_hasite import names
from cubicweb_hasite.monitoring import probes


@pytest.mark.parametrize(
    "url",
    [*names.MONITOR_PATHS, "/readyz?format=json", *(f"/view?vid={p}" for p in probes.PROBES)],
)
def test_the_urls_of_monitors_match(url: str) -> None:
    assert any(re.search(pattern, url) for pattern in names.MONITOR_URLS)


@pytest.mark.parametrize("url", ["/livezoo", "/file/812", "/view?vid=index", "/data/metrics"])
def test_other_urls_do_not_match(url: str) -> None:
    assert not any(re.search(pattern, url) for pattern in names.MONITOR_URLS)


def test_static_files() -> None:
    assert re.search(names.STATIC_PATH, "/data/cubicweb.css")
    assert not re.search(names.STATIC_PATH, "/database")


@pytest.mark.parametrize(
    ("cookie", "matches"),
    [("_ga=", True), ("_pk_id.1.2=", True), ("_gallery=", False), ("session=", False)],
)
def test_cookies_of_audience_measurement(cookie: str, matches: bool) -> None:
    assert bool(re.match(names.AUDIENCE_COOKIES, cookie)) is matches
