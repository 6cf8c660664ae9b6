"""What a page costs the process that serves it."""

from collections.abc import Iterator
from functools import partial

from measure import Row, in_turn, less
from sites import OURS, STOCK, Bench, create_file, image

REQUESTS, REQUESTS_OF_LISTS = 30, 10
#: how many times cheaper than stock CubicWeb's a page should be at least
EXPECTED = 1.7
#: the same of a list, which shows so many images
EXPECTED_OF_LISTS, IMAGES = 2.5, 40
_CREATE = f"""
from cubicweb import Binary
for number in range({IMAGES}):
    name = "list%02d.png" % number
    cnx.create_entity("File", title=name, data_name=name, data_format="image/png",
                      data=Binary(name.encode()))

cnx.commit()
"""
_LISTED = "rql=Any+X,T+ORDERBY+T+WHERE+X+is+File,+X+title+T,+X+title+LIKE+'list%25'"


def rows(bench: Bench, rounds: int) -> Iterator[Row]:
    """Compare pages with stock CubicWeb: CPU time, per request, of an anonymous visitor."""
    sites = {name: bench.sites[name] for name in (STOCK, OURS)}
    eids = {
        name: create_file(site.manager, "Sunset.png", "image/png", image(2000))
        for name, site in sites.items()
    }
    for name in sites:
        bench.instances[name].shell(_CREATE)
    pages = {
        "home page": ("/", b"Browse by entity type"),
        "entity page": ("/file/{eid}", b"Sunset.png"),
        "search": (
            "/view?rql=Sunset&__fromsearchbox=1&subvid=tsearch",
            b"Sunset.png",
        ),
        **{
            f"{view} of {IMAGES} images": (f"/view?{_LISTED}&vid={view}", b"list39.png")
            for view in ("gallery", "sameetypelist", "table")
        },
    }
    for title, (path, text) in pages.items():
        requests, expected = (
            (REQUESTS_OF_LISTS, EXPECTED_OF_LISTS) if "images" in title else (REQUESTS, EXPECTED)
        )

        def cost(
            name: str, path: str = path, text: bytes = text, requests: int = requests
        ) -> float:
            return sites[name].cost(
                path.format(eid=eids[name]),
                requests,
                lambda status, body: status == 200 and text in body,
            )

        found = in_turn({name: partial(cost, name) for name in sites}, rounds)
        yield less(f"{title}, CPU ms", found[STOCK], found[OURS], expected)
