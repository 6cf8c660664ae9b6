"""How a process that is told to read one standby alone comes to do so, without a failed page.

First it writes nothing any more, and reads as before. Once no request that may write is in flight,
and the standby is proven to hold all that was committed until then, pages are read from it alone.
See :mod:`cubicweb_hasite.operations.read_only`.
"""

import logging
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from cubicweb.cwconfig import CubicWebConfiguration

from cubicweb_hasite.operations import read_only

log = logging.getLogger(__name__)


class Closing:
    """Whether this process may write, and which standby alone it reads."""

    def __init__(self, config: CubicWebConfiguration) -> None:
        self._path = read_only.order_path(config)
        self._running = read_only.running()
        self._lock = threading.Lock()
        self._writers = 0
        self._ordered = read_only.ordered(self._path, self._running)
        # since when nothing is written, of `time.monotonic`; None: a request may still write
        self._closed: float | None = 0.0 if self._ordered else None
        #: the entry of the standby that alone is read; empty: all that are fresh, and the primary
        self.only = ""

    @contextmanager
    def writing(self) -> Iterator[bool]:
        """Count a request that may write while the block runs; yield whether it may."""
        with self._lock:
            may = not self._ordered
            self._writers += may
        try:
            yield may
        finally:
            with self._lock:
                self._writers -= may

    def obey(self, fresh: Callable[[str], float]) -> None:
        """Look at what is ordered now, and do the next step.

        :param fresh: returns the time, of `time.monotonic`, by which a standby holds all that was
            committed; 0: that is not known; negative: there is no such standby
        """
        ordered = read_only.ordered(self._path, self._running)
        with self._lock:
            if ordered != self._ordered:
                log.warning(
                    "nothing is written, pages are to be read from %s alone (hasite-read-only)"
                    if ordered
                    else "pages are read and written as before, no longer from %s alone",
                    ordered or self._ordered,
                )
                self._ordered, self._closed, self.only = ordered, None, ""
            if not ordered or self.only:
                return
            if self._closed is None and not self._writers:
                self._closed = time.monotonic()
            if self._closed is not None and fresh(ordered) >= self._closed:
                log.warning("pages are read from %s alone", ordered)
                self.only = ordered
