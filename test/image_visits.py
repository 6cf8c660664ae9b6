"""Visitors who look at images by all their URLs while these are edited, and what they see."""

import random
import re
import threading
from collections import Counter
from collections.abc import Collection, Iterable
from concurrent.futures import ThreadPoolExecutor

import urllib3

#: the URLs of an image, and how often they are asked for: pages take ten times as long as data
URLS = {
    "file/{eid}/raw/image.png": 8,
    "file/{eid}/thumb/image.png": 4,
    "file/{eid}?vid=download": 3,
    "file/{eid}?vid=thumbnail": 3,
    "file/{eid}/download": 3,
    "{eid}/download": 3,
    "view?eid={eid}&vid=download": 3,
    "view?rql=Any%20X%20WHERE%20X%20eid%20{eid}&vid=download": 3,
    "api/v1/binary?eid={eid}&attribute=data": 2,
    "file/{eid}": 1,
    "view?rql=Any%20X%20WHERE%20X%20eid%20{eid}": 1,
}
#: what a visitor of an image may be answered
GOOD = (200, 206, 301, 304)


class Visits:
    """Requests for the URLs of images, from several threads.

    :param sites: where the processes of the site are
    :param eids: the eids of the images, which are followed as they change
    :param pictures: the data that images may have
    """

    def __init__(
        self, sites: Collection[str], eids: Iterable[int], pictures: Collection[bytes]
    ) -> None:
        #: how often what was answered, by status and URL
        self.outcomes: Counter[tuple[str, str]] = Counter()
        self._sites = list(sites)
        self._pictures = set(pictures)
        self._lock = threading.Lock()
        self._current = list(eids)
        self._former: list[int] = []
        self._etags: dict[int, str] = {}

    @property
    def wrong(self) -> dict[tuple[str, str], int]:
        """What no visitor may see."""
        good = {str(status) for status in GOOD}
        return {seen: count for seen, count in self.outcomes.items() if seen[0] not in good}

    def summary(self) -> str:
        """How often what was answered."""
        by_status = Counter[str]()
        for (status, _url), count in self.outcomes.items():
            by_status[status] += count
        answers = ", ".join(f"{count} x {status}" for status, count in sorted(by_status.items()))
        summary = f"{self.outcomes.total()} requests, {sum(self.wrong.values())} wrong: {answers}"
        return "\n".join([summary, *(f"{n} x {what}" for what, n in self.wrong.items())])

    def make(self, count: int, *, threads: int, seed: int) -> None:
        """Make requests.

        :param count: how many, in all
        """
        with ThreadPoolExecutor(threads) as pool:
            running = [
                pool.submit(self._visit, count // threads, random.Random(seed * 100 + number))
                for number in range(threads)
            ]
            for each in running:
                each.result()

    def _visit(self, count: int, draw: random.Random) -> None:
        pools = [urllib3.connection_from_url(site, maxsize=1, timeout=60) for site in self._sites]
        templates, weights = list(URLS), list(URLS.values())
        followed = None
        for _ in range(count):
            pool = draw.choice(pools)
            if followed is None:
                [template] = draw.choices(templates, weights)
                index, eid = self._draw(draw)
                url = template.format(eid=eid)
            else:
                template, index, eid, url = followed
            headers = {"Accept": "text/html,*/*"}
            kind = draw.random()
            if kind < 0.1:
                headers["Range"] = "bytes=3-"
            elif kind < 0.2 and eid in self._etags:
                headers["If-None-Match"] = self._etags[eid]
            # the API refuses HEAD
            method = "HEAD" if draw.random() < 0.1 and "api/" not in url else "GET"
            response = pool.request(method, f"/{url}", headers=headers, redirect=False)
            followed = self._note(method, template, index, eid, response)

    def _draw(self, draw: random.Random) -> tuple[int, int]:
        """Return the number of an image and an eid that it has, or had."""
        with self._lock:
            index = draw.randrange(len(self._current))
            if self._former and draw.random() < 0.3:
                return -1, draw.choice(self._former[-50:])
            return index, self._current[index]

    def _note(
        self, method: str, template: str, index: int, eid: int, response: urllib3.BaseHTTPResponse
    ) -> tuple[str, int, int, str] | None:
        """Note an answer; return what to ask for next: where it leads."""
        outcome, followed = str(response.status), None
        if response.status == 301:
            url = re.sub(r"^https?://[^/]+/", "", response.headers["Location"])
            match = re.fullmatch(re.escape(template).replace(r"\{eid\}", "([0-9]+)"), url)
            if match is None:
                self.outcomes[f"301 to {url}", template] += 1
                return None
            current = int(match[1])
            followed = template, index, current, url
            with self._lock:
                self._former.append(eid)
                if index >= 0 and current > self._current[index]:
                    self._current[index] = current
        elif method == "GET" and response.status in (200, 206):
            outcome = self._read(template, eid, response)
        self.outcomes[outcome, template] += 1
        return followed

    def _read(self, template: str, eid: int, response: urllib3.BaseHTTPResponse) -> str:
        """Return the outcome of an answer with content: is it what was asked for?"""
        outcome, content = str(response.status), response.data
        if "thumb" in template:
            right = response.status == 206 or content.startswith(b"\x89PNG")
        elif "raw" in template or "download" in template or "binary" in template:
            start = 3 if response.status == 206 else 0
            right = content in {picture[start:] for picture in self._pictures}
            if right and "ETag" in response.headers:
                self._etags[eid] = response.headers["ETag"]
        else:
            right = b"contentimage" in content or b"Relations (subject)" in content
        return outcome if right else f"{outcome} with something else"
