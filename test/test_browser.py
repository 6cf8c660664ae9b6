"""What is seen in a real browser: edits of a picture and of another site, the operators' page."""

import html
import os
import threading
from collections.abc import Callable, Iterator
from contextlib import closing
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import urlencode

import psycopg2
import pytest
from browsers import Browser
from pictures import picture
from selenium.webdriver.common.by import By
from servers.instance import Instance, Process
from servers.visitor import Visitor

from cubicweb_hasite.monitoring import presence

TITLE = "Seen in a browser"
RED, BLUE = [255, 0, 0], [0, 0, 255]


@pytest.fixture
def browser(process: Process, tmp_path: Path) -> Iterator[Browser]:
    """A browser on the instance; its screenshots go to the environment's `SCREENSHOTS`."""
    screenshots = Path(os.environ.get("SCREENSHOTS") or tmp_path / "screenshots")
    browser = Browser(process.base_url, tmp_path / "profile", screenshots)
    yield browser
    browser.driver.quit()


@pytest.fixture
def eid(process: Process) -> int:
    """The eid of a new picture, a red one."""
    visitor = Visitor(process.base_url)
    visitor.login()
    files = {"data": ("red.png", picture("red", size=(300, 200)), "image/png")}
    created = visitor.create("File", {"title": TITLE}, files)
    return int(created.headers["Location"].partition("?")[0].rpartition("/")[2])


@pytest.mark.parametrize("width", [390, 1200])
def test_page_for_operators(browser: Browser, instance: Instance, width: int) -> None:
    """It is as wide as the screen, whatever an instance is called."""
    database = instance.database
    where = {"host": database.host, "port": database.port, "user": database.user}
    told = presence.Told("x" * presence.MAX_TEXT, reasons="y" * presence.MAX_TEXT)
    browser.resize(width)
    browser.login()
    with closing(psycopg2.connect(dbname=database.name, **where)) as connection:
        connection.cursor().execute(presence.write(told) + "SELECT 1")
        browser.open("view?vid=hasite")
        browser.screenshot(f"operators-{width}")
    assert browser.driver.execute_script("return document.documentElement.scrollWidth") <= width
    problem = browser.driver.find_element(By.CSS_SELECTOR, ".problems .urgent")
    assert "y" * presence.MAX_TEXT in problem.text
    assert problem.value_of_css_property("background-color") == "rgba(253, 236, 234, 1)"
    assert problem.location["y"] < 200
    link = problem.find_element(By.TAG_NAME, "a").get_attribute("href")
    assert link.endswith("/docs/monitor.md#an-instance-is-not-ready")


@pytest.fixture
def other_site(tmp_path: Path) -> Iterator[Callable[[str, str], str]]:
    """Serve pages at an address that is another site than that of the instance.

    Give a name and what the page has; its URL is returned.
    """
    pages = tmp_path / "pages"
    pages.mkdir()
    handler = partial(SimpleHTTPRequestHandler, directory=str(pages))
    with ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()

        def serve(name: str, body: str) -> str:
            (pages / f"{name}.html").write_text(f"<!DOCTYPE html><body>{body}</body>")
            return f"http://localhost:{server.server_port}/{name}.html"

        yield serve
        server.shutdown()


@pytest.mark.parametrize("path", ["edit", "validateform"])
def test_page_of_another_site_edits_nothing(
    browser: Browser,
    eid: int,
    instance: Instance,
    other_site: Callable[[str, str], str],
    path: str,
) -> None:
    """A link, an image and forms there, of whoever follows them while logged in here."""
    fields = {
        "eid": eid,
        "__maineid": eid,
        "__type:" + str(eid): "File",
        f"_cw_entity_fields:{eid}": "title-subject,__type",
        f"title-subject:{eid}": "Forged",
    }
    url = html.escape(f"{browser.base_url}{path}?{urlencode(fields)}")
    inputs = "".join(f'<input name="{name}" value="{fields[name]}">' for name in fields)
    target = f"{browser.base_url}{path}"
    submit = "<script>document.forms[0].submit()</script>"
    image = other_site("image", f'<img src="{url}">')
    link = other_site("link", f'<a href="{url}">Look!</a>')
    forms = [
        other_site(method, f'<form method="{method}" action="{target}">{inputs}</form>{submit}')
        for method in ("get", "post")
    ]

    def assert_unchanged() -> None:
        database = instance.database
        where = {"host": database.host, "port": database.port, "user": database.user}
        with closing(psycopg2.connect(dbname=database.name, **where)) as connection:
            cursor = connection.cursor()
            cursor.execute("SELECT cw_title FROM cw_File WHERE cw_eid=%s", [eid])
            assert cursor.fetchone() == (TITLE,)

    browser.login()
    browser.driver.get(image)  # which waits for its images
    assert_unchanged()
    browser.driver.get(link)
    browser.driver.find_element(By.TAG_NAME, "a").click()
    browser.wait(lambda: browser.driver.current_url.startswith(target))
    assert "405 Method Not Allowed" in browser.driver.page_source
    assert_unchanged()
    for form in forms:
        browser.driver.get(form)
        browser.wait(lambda: browser.driver.current_url.startswith(target))
        assert_unchanged()
    # the visitor was logged in all the while
    browser.open(f"file/{eid}?vid=edition")
    assert browser.driver.find_element(By.ID, "entityForm")


def test_edited_picture_is_shown(browser: Browser, eid: int, tmp_path: Path) -> None:
    new_file = tmp_path / "blue.png"
    new_file.write_bytes(picture("blue", size=(300, 200)))
    browser.login()
    browser.open(f"file/{eid}")
    assert browser.colour(browser.picture()) == RED
    browser.screenshot("before")
    browser.open(f"file/{eid}")
    assert browser.bytes_received(browser.picture()) == 0

    browser.open(f"file/{eid}?vid=edition")
    browser.driver.find_element(By.ID, f"data-subject:{eid}").send_keys(str(new_file))
    browser.screenshot("edition")
    browser.driver.find_element(By.CSS_SELECTOR, "#entityForm button[value=validate]").click()

    browser.wait(lambda: browser.path.startswith("file/") and browser.path != f"file/{eid}")
    new_eid = int(browser.path.removeprefix("file/"))
    image = browser.picture()
    assert f"/file/{new_eid}/raw/" in image.get_attribute("src")
    assert browser.colour(image) == BLUE
    browser.screenshot("after")

    for path in (f"file/{eid}", f"{eid}", f"file/{eid}?vid=primary"):
        browser.open(path)
        assert browser.path == path.replace(str(eid), str(new_eid)).partition("?")[0]
        assert browser.colour(browser.picture()) == BLUE

    browser.open(f"view?rql=Any X WHERE X is File, X title '{TITLE}'&vid=gallery")
    assert browser.colour(browser.picture(f"#img{new_eid}")) == BLUE
    assert not browser.driver.find_elements(By.ID, f"img{eid}")
    browser.screenshot("gallery")
