"""Visitors of the lab's site, as browsers: run on the client host, until the end of its input.

Each line that it prints is the outcome of one request, in JSON; `traffic.py` reads them.
"""

import argparse
import asyncio
import errno
import itertools
import json
import os
import random
import re
import ssl
import sys
import threading
import time
from dataclasses import asdict, dataclass
from urllib.parse import urljoin, urlsplit

import aiohttp
import requests
from pictures import picture
from requests.adapters import HTTPAdapter
from servers.visitor import Visitor

from cubicweb_hasite.deploy.environment import CACHEABLE_PATH

#: pages of a visit, see traffic.md
PAGES = 5
#: seconds after which a visitor gives up
PATIENCE = 35
#: connections of a browser to one host
CONNECTIONS = 4

_SHOWN = re.compile(r'(?:src|href)="(https?://[^"]+)"')
#: kept by a browser for longer than a visit lasts
_KEPT = re.compile(r"\bmax-age=\d{4,}")
#: of all images, those that are being replaced too
_GALLERY = "view?vid=gallery&rql=Any+X+ORDERBY+D+WHERE+X+is+File,+X+creation_date+D"


@dataclass
class Outcome:
    """What became of a request."""

    kind: str  # page, image, static, login, edit
    method: str
    url: str
    who: str
    started: float  # time.monotonic(), the same for all processes of the machine
    seconds: float
    status: int = 0  # 0: no answer
    error: str = ""
    served_by: str = ""
    cache: str = ""
    lost_session: bool = False
    #: of an edit that was acknowledged: what is to be found in the database
    written: str = ""


_lock = threading.Lock()


def tell(outcome: Outcome) -> None:
    """Print an outcome."""
    with _lock:
        print(json.dumps(asdict(outcome)), flush=True)


def kind_of(url: str) -> str:
    """Return whether a URL is that of a page, an image or a static file."""
    path = urlsplit(url).path
    if not re.match(CACHEABLE_PATH, path):
        return "page"
    return "image" if re.search("/(raw|thumb|download)", path) else "static"


class Browser:
    """A browser: an address, cookies, connections that stay open, a cache.

    :param login: the user's, who logs in first; none for an anonymous visitor
    """

    def __init__(self, url: str, address: str, context: ssl.SSLContext, login: str, password: str):
        self._url = url
        self._login = login
        self._password = password
        self._who = login or address
        self._cache: set[str] = set()
        connector = aiohttp.TCPConnector(
            ssl=context, local_addr=(address, 0), limit=CONNECTIONS, use_dns_cache=True
        )
        self._session = aiohttp.ClientSession(
            connector=connector,
            timeout=aiohttp.ClientTimeout(total=PATIENCE),
            headers={"Accept-Encoding": "gzip"},
        )

    async def close(self) -> None:
        """Close it."""
        await self._session.close()

    async def request(self, method: str, path: str, kind: str = "", **kwargs) -> tuple[int, str]:
        """Make a request, and tell its outcome; return status and text."""
        url = urljoin(self._url, path)
        outcome = Outcome(kind or kind_of(url), method, url, self._who, time.monotonic(), 0)
        text = ""
        try:
            async with await self._answer(method, url, **kwargs) as response:
                outcome.status = response.status
                outcome.served_by = response.headers.get("X-Served-By", "")
                outcome.cache = response.headers.get("X-Cache", "").partition(" ")[0]
                content = await response.read()
                if _KEPT.search(response.headers.get("Cache-Control", "")):
                    self._cache.add(url)
                if outcome.kind == "page" and response.status == 200:
                    text = content.decode(errors="replace")
                    outcome.lost_session = bool(self._login) and self._login not in text
        except Exception as error:
            outcome.error = _said(error)
        outcome.seconds = time.monotonic() - outcome.started
        tell(outcome)
        return outcome.status, text

    async def _answer(self, method: str, url: str, **kwargs) -> aiohttp.ClientResponse:
        for _ in range(CONNECTIONS):
            try:
                return await self._session.request(method, url, allow_redirects=False, **kwargs)
            except aiohttp.ClientOSError as error:
                # the server has closed a connection that was idle: browsers take another one
                if error.errno != errno.EPIPE or method != "GET":
                    raise
        return await self._session.request(method, url, allow_redirects=False, **kwargs)

    async def log_in(self) -> None:
        """Log in, if it is a user's; try again until that succeeds."""
        while self._login:
            await self.request("GET", "login", "login")
            jar = self._session.cookie_jar.filter_cookies(self._url)
            token = jar["csrf_token"].value if "csrf_token" in jar else ""
            status, _text = await self.request(
                *("POST", "login", "login"),
                data={"__login": self._login, "__password": self._password},
                headers={"X-CSRF-Token": token, "Origin": self._url.rstrip("/")},
            )
            if status == 303:
                return
            await asyncio.sleep(0.5)

    async def look_at(self, path: str) -> None:
        """Show a page, with what is on it and not in the cache."""
        status, text = await self.request("GET", path)
        if status != 200:
            return
        shown = {url.replace("&amp;", "&") for url in _SHOWN.findall(text)}
        wanted = [url for url in shown - self._cache if kind_of(url) in ("image", "static")]
        await asyncio.gather(*(self.request("GET", url) for url in wanted))


def _said(error: Exception) -> str:
    if isinstance(error, (TimeoutError, requests.Timeout)):
        return "time-out"
    text = f"{type(error).__name__}: {error}"
    for word in ("refused", "reset", "disconnected"):
        if word in text.lower():
            return word
    return text[:200]


def some_page(pictures: list[int]) -> str:
    """Return the path of a page, as often as visitors look at it."""
    draw = random.random()
    if draw < 0.2:
        return ""
    if draw < 0.5:
        return f"{_GALLERY}&__start={random.randrange(2) * 40}"
    return f"file/{random.choice(pictures)}"


async def visits(
    arguments: argparse.Namespace, address: str, context: ssl.SSLContext, login: str
) -> None:
    """Visit the site for ever: a user with one browser, anonymous visitors each with another."""
    while True:
        browser = Browser(arguments.url, address, context, login, arguments.password)
        try:
            await browser.log_in()
            for _ in itertools.count() if login else range(PAGES):
                pause = random.expovariate(1 / arguments.pause)
                await asyncio.sleep(min(pause, 5 * arguments.pause))
                await browser.look_at(some_page(arguments.pictures))
        finally:
            await browser.close()


async def views(arguments: argparse.Namespace, address: str, context: ssl.SSLContext) -> None:
    """Look at pictures alone, as from pages of other sites: first each of them, then some."""
    browser = Browser(arguments.url, address, context, "", "")
    paths = [
        f"file/{eid}/raw/picture{number}.jpg" for number, eid in enumerate(arguments.pictures)
    ]
    try:
        for path in paths:
            await browser.request("GET", path)
        while True:
            await asyncio.sleep(random.expovariate(4 / arguments.pause))
            await browser.request("GET", random.choice(paths))
    finally:
        await browser.close()


async def arrivals(
    arguments: argparse.Namespace, addresses: list[str], context: ssl.SSLContext
) -> None:
    """Let visitors come at a rate, whether the site keeps up or not."""
    running: set[asyncio.Task] = set()

    async def visit(address: str) -> None:
        browser = Browser(arguments.url, address, context, "", "")
        try:
            for number in range(PAGES):
                if number:
                    await asyncio.sleep(random.expovariate(1 / arguments.pause))
                await browser.look_at(some_page(arguments.pictures))
        finally:
            await browser.close()

    for address in itertools.cycle(addresses):
        task = asyncio.create_task(visit(address))
        running.add(task)
        task.add_done_callback(running.discard)
        await asyncio.sleep(random.expovariate(arguments.arrivals))


class Editor(Visitor):
    """A user who replaces images and adds others, for ever."""

    def __init__(self, arguments: argparse.Namespace, address: str, login: str, image: int):
        super().__init__(arguments.url)
        self._who, self._password, self._image = login, arguments.password, image
        self._pause = arguments.pause
        self._kind, self._written = "page", ""
        self.session.headers["Origin"] = arguments.url.rstrip("/")
        self.session.verify = arguments.certificate
        self.session.mount("https://", _From(address))

    def request(self, method: str, url: str, **kwargs) -> requests.Response:
        """Make a request, and tell its outcome."""
        kwargs["timeout"] = PATIENCE
        kind = "edit" if method == "POST" else "page"
        outcome = Outcome(kind, method, url, self._who, time.monotonic(), 0)
        try:
            response = super().request(method, url, **kwargs)
            outcome.status = response.status_code
            outcome.served_by = response.headers.get("X-Served-By", "")
            # to the page of the image; where an edit is refused, to its form again
            location = response.headers.get("Location", "")
            done = re.search(r"/file/\d+(\?|$)", location) and "vid=edition" not in location
            if method == "POST" and response.status_code == 303:
                outcome.written = self._written if done else ""
                outcome.error = "" if done or not self._written else "refused by the form"
            elif method == "GET" and response.status_code == 200 and "login" not in url:
                outcome.lost_session = self._who not in response.text
            return response
        except requests.RequestException as error:
            outcome.error = _said(error)
            raise
        finally:
            outcome.seconds = time.monotonic() - outcome.started
            tell(outcome)

    def work(self) -> None:
        """Edit for ever."""
        logged_in = False
        for number in itertools.count():
            try:
                if not logged_in:
                    self._written = ""
                    self.login(self._who, self._password)
                    logged_in = True
                self._edit(number) if number % 2 else self._add(number)
            except (RuntimeError, requests.RequestException):
                pass  # it is told
            time.sleep(random.expovariate(1 / self._pause))

    def _add(self, number: int) -> None:
        title = f"{self._who} {time.monotonic():.6f}"
        self._written = f"title {title}"
        self.create("File", {"title": title}, {"data": _new_picture(number)})

    def _edit(self, number: int) -> None:
        # where the image is now: an edit that was not acknowledged may have been done
        location = self.head(f"file/{self._image}").headers.get("Location", "")
        if match := re.search(r"/file/(\d+)", location):
            self._image = int(match[1])
        self._written = f"former {self._image}"
        response = self.edit(self._image, "File", files={"data": _new_picture(number)})
        if match := re.search(r"/file/(\d+)", response.headers.get("Location", "")):
            self._image = int(match[1])


def _new_picture(number: int) -> tuple[str, bytes, str]:
    colour = f"#{random.randrange(1 << 24):06x}"
    return f"edited{number}.png", picture(colour), "image/png"


class _From(HTTPAdapter):
    """Connects from an address of the host."""

    def __init__(self, address: str) -> None:
        self._address = address
        super().__init__()

    def init_poolmanager(self, *args, **kwargs) -> None:
        super().init_poolmanager(*args, source_address=(self._address, 0), **kwargs)


def _numbers(text: str) -> list[int]:
    return [int(word) for word in text.split()]


async def main(arguments: argparse.Namespace) -> None:
    """Let all of them visit the site until the end of the input."""
    context = ssl.create_default_context(cafile=arguments.certificate)
    addresses = iter(arguments.addresses)
    users = (f"visitor{number}" for number in itertools.count())
    tasks = []
    for _ in range(arguments.users):
        tasks.append(visits(arguments, next(addresses), context, next(users)))
    for number in range(arguments.editors):
        editor = Editor(arguments, next(addresses), next(users), arguments.edited[number])
        threading.Thread(target=editor.work, daemon=True).start()
    for _ in range(arguments.viewers):
        tasks.append(views(arguments, next(addresses), context))
    if arguments.arrivals:
        tasks.append(arrivals(arguments, list(addresses), context))
    else:
        for _ in range(arguments.anonymous):
            tasks.append(visits(arguments, next(addresses), context, ""))
    running = [asyncio.create_task(task) for task in tasks]
    await asyncio.to_thread(sys.stdin.read)
    for task in running:
        task.cancel()


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--url", required=True)
    parser.add_argument("--certificate", required=True)
    parser.add_argument("--password", required=True)
    parser.add_argument("--addresses", required=True, type=str.split)
    for name in ("pictures", "edited"):
        parser.add_argument(f"--{name}", required=True, type=_numbers)
    parser.add_argument("--anonymous", type=int, default=0, help="visitors at a time")
    parser.add_argument("--users", type=int, default=0, help="visitors who have logged in")
    parser.add_argument("--editors", type=int, default=0, help="users who edit")
    parser.add_argument("--viewers", type=int, default=0, help="visitors of pictures alone")
    parser.add_argument("--arrivals", type=float, default=0, help="anonymous visits per second")
    parser.add_argument("--pause", type=float, default=2, help="seconds between pages, on average")
    asyncio.run(main(parser.parse_args()))
    sys.stdout.flush()
    os._exit(0)  # editors are in the middle of something
