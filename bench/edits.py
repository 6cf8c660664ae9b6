"""What an edit costs, with and without a replacement."""

import re
import time
from collections.abc import Callable, Iterator

from measure import Row, cpu, in_turn
from sites import ARTICLE, OURS, STOCK, Bench, Site, create_file, image

SIZE = 100_000
#: how many times a plain update of stock CubicWeb a replacement may cost at most
EXPECTED = 1.5


def rows(bench: Bench, rounds: int) -> Iterator[Row]:
    """Compare edits of an image in its form: CPU time of the process and of PostgreSQL.

    The title alone, which replaces nothing; and the data, which is updated in place by stock
    CubicWeb, copied by the article's controller, which creates another entity and deletes the
    former one with what hangs on it, and replaced by the cube.
    """
    editors = {name: _Editor(bench, name, site) for name, site in bench.sites.items()}
    found = in_turn({name: editor.title for name, editor in editors.items()}, rounds)
    stock, article, ours = found[STOCK], found[ARTICLE], found[OURS]
    yield Row(
        "edit of a title, CPU ms",
        stock,
        article,
        ours,
        stock.over(ours),
        "stock / hasite",
    )
    found = in_turn({name: editor.data for name, editor in editors.items()}, rounds)
    stock, article, ours = found[STOCK], found[ARTICLE], found[OURS]
    yield Row(
        "edit of data, CPU ms",
        stock,
        article,
        ours,
        ours.over(stock),
        "hasite, replaced / stock, in place",
        most=EXPECTED,
    )


class _Editor:
    """Edits an image of a site."""

    def __init__(self, bench: Bench, name: str, site: Site) -> None:
        self._backends: Callable[[], list[int]] = lambda: bench.backends(name)
        self._site = site
        self._eid = create_file(site.manager, "image.png", "image/png", self._data(0))
        self._edits = 0

    def title(self) -> float:
        """Edit the title, and return what it has cost."""
        self._edits += 1
        return self._edit({"title": f"title {self._edits}"}, {})

    def data(self) -> float:
        """Upload other bytes, and return what it has cost."""
        self._edits += 1
        return self._edit({}, {"data": ("image.png", self._data(self._edits), "image/png")})

    def _data(self, number: int) -> bytes:
        return image(SIZE - 8) + b"%08d" % number

    def _edit(self, changes: dict, files: dict) -> float:
        manager = self._site.manager
        form = manager.form(f"file/{self._eid}?vid=edition")
        server, database = [self._site.process.pid], self._backends()
        start = cpu(server) + cpu(database)
        response = manager.submit(form, self._eid, changes, files)
        time.sleep(0.02)  # they may still be about it
        cost = cpu(server) + cpu(database) - start
        location = response.headers.get("Location", "")
        found = re.search(r"/([0-9]+)(?:[?#]|$)", location)
        if response.status_code != 303 or found is None:
            raise RuntimeError(f"not edited: {response.status_code} {location}")
        manager.get(location)  # shows the message, which the session would keep
        self._eid = int(found[1])
        return cost
