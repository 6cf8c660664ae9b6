"""What a page costs the process that serves it."""

from collections.abc import Iterator
from functools import partial

from measure import Row, in_turn, less
from sites import OURS, STOCK, Bench, create_file, image

REQUESTS = 30
#: how many times cheaper than stock CubicWeb's a page should be at least
EXPECTED = 1.7


def rows(bench: Bench, rounds: int) -> Iterator[Row]:
    """Compare pages with stock CubicWeb: CPU time, per request, of an anonymous visitor."""
    sites = {name: bench.sites[name] for name in (STOCK, OURS)}
    eids = {
        name: create_file(site.manager, "Sunset.png", "image/png", image(2000))
        for name, site in sites.items()
    }
    pages = {
        "home page": ("/", b"Browse by entity type"),
        "entity page": ("/file/{eid}", b"Sunset.png"),
        "search": (
            "/view?rql=Sunset&__fromsearchbox=1&subvid=tsearch",
            b"Sunset.png",
        ),
    }
    for title, (path, text) in pages.items():

        def cost(name: str, path: str = path, text: bytes = text) -> float:
            return sites[name].cost(
                path.format(eid=eids[name]),
                REQUESTS,
                lambda status, body: status == 200 and text in body,
            )

        found = in_turn({name: partial(cost, name) for name in sites}, rounds)
        yield less(f"{title}, CPU ms", found[STOCK], found[OURS], EXPECTED)
