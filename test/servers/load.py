"""Many visitors of a site."""

import itertools
import threading
import time
from collections import Counter
from concurrent.futures import Future, ThreadPoolExecutor

import requests

from servers.support import wait_until
from servers.visitor import Visitor

RATE = 20  # requests per second


class Load:
    """Visitors who come at a constant rate, whether the former ones were answered or not.

    :param rate: how many each second
    """

    def __init__(self, url: str, pages: list[str], *, rate: float = RATE) -> None:
        self.outcomes: Counter[str] = Counter()
        self._url = url
        self._rate = rate
        self._pages = itertools.cycle(pages)
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run)

    def _run(self) -> None:
        with ThreadPoolExecutor(40) as executor:
            pause = time.monotonic()
            while not self._stop.wait(max(0, pause - time.monotonic())):
                pause += 1 / self._rate
                executor.submit(self._visit, next(self._pages)).add_done_callback(self._note)

    def _visit(self, page: str) -> int:
        if page == "login":
            Visitor(self._url).login()
            return 200
        return requests.get(self._url + page, timeout=60).status_code

    def _note(self, future: Future) -> None:
        error = future.exception()
        self.outcomes[repr(error) if error else str(future.result())] += 1

    def wait_for(self, count: int) -> None:
        """Wait until so many more visitors were answered."""
        goal = self.outcomes.total() + count
        wait_until(lambda: self.outcomes.total() >= goal, f"{count} visitors", timeout=120)

    def __enter__(self) -> "Load":
        self._thread.start()
        return self

    def __exit__(self, *exc_info: object) -> None:
        self._stop.set()
        self._thread.join()
