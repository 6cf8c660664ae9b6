"""What a download costs the process that serves it."""

from collections.abc import Callable, Iterator

from measure import Row, in_turn
from servers.visitor import Visitor
from sites import ARTICLE, OURS, STOCK, Bench, Site, create_file, image

#: enough for the garbage collection to be counted, where no megabytes are sent
REQUESTS, LARGE_REQUESTS = 60, 10
SIZES = {"2 kB": 2_000, "100 kB": 100_000, "5 MB": 5_000_000}
#: how many times cheaper than stock CubicWeb's a response should be at least
EXPECTED = {
    ("200", "2 kB"): 8,
    ("200", "100 kB"): 9,
    ("200", "5 MB"): 4,
    **{("304", size): 8 for size in SIZES},
}
RANGE = {"Range": "bytes=100-1099"}
#: an image of which a visitor asks for 1000 bytes in the middle, and how many times what an image
#: of 2 kB costs this may cost
VERY_LARGE = 50_000_000
MIDDLE = {"Range": f"bytes={VERY_LARGE // 2}-{VERY_LARGE // 2 + 999}"}
RANGE_EXPECTED = 2


def rows(bench: Bench, rounds: int) -> Iterator[Row]:
    """Compare with stock CubicWeb, and with the article's view on it: CPU time, per request.

    An anonymous visitor asks for an image of each size at `/file/<eid>/raw/<name>`: whole, with
    the validators that the instance gave, and for a range of 1000 bytes; and for a thumbnail. Last
    a range of a very large image is compared with a small image.
    """
    urls = {name: _Urls(site) for name, site in bench.sites.items()}
    for kind in ("200", "304", "206"):
        for size in SIZES:
            found = in_turn({name: url.asking(kind, size) for name, url in urls.items()}, rounds)
            what = "206 (stock: 200)" if kind == "206" else kind
            yield _row(f"image {what}, {size}, CPU ms", found, EXPECTED.get((kind, size)))
    found = in_turn(
        {name: url.asking("thumbnail", "100 kB") for name, url in urls.items()}, rounds
    )
    yield _row("thumbnail, CPU ms", found, None)
    yield _range(bench.sites[OURS], urls[OURS], rounds)


def _row(what: str, found: dict, least: float | None) -> Row:
    stock, article, ours = found[STOCK], found[ARTICLE], found[OURS]
    return Row(what, stock, article, ours, stock.over(ours), "stock / hasite", least=least)


def _range(site: Site, urls: "_Urls", rounds: int) -> Row:
    eid = create_file(site.manager, "image.png", "image/png", image(VERY_LARGE))

    def part() -> float:
        return site.cost(
            f"/file/{eid}/raw/image.png",
            REQUESTS,
            lambda status, body: (status, len(body)) == (206, 1000),
            headers=site.cookies | MIDDLE,
        )

    found = in_turn({"small": urls.asking("200", "2 kB"), "part": part}, rounds)
    return Row(
        "image 206 of 1 kB out of 50 MB, CPU ms",
        ours=found["part"],
        ratio=found["part"].over(found["small"]),
        of="206 / 200 of 2 kB",
        most=RANGE_EXPECTED,
    )


class _Urls:
    """The images of a site, and what it says of them."""

    def __init__(self, site: Site) -> None:
        self._site = site
        self._eids = {
            size: create_file(site.manager, "image.png", "image/png", image(length))
            for size, length in SIZES.items()
        }
        self._validators = {}
        # as the anonymous visitor is given it, which stock CubicWeb makes of his groups
        for size, eid in self._eids.items():
            visitor = Visitor(site.process.url)
            headers = visitor.get(f"/file/{eid}/raw/image.png").headers
            self._validators[size] = {
                name: headers[header]
                for name, header in (
                    ("If-None-Match", "ETag"),
                    ("If-Modified-Since", "Last-Modified"),
                )
                if header in headers
            }

    def asking(self, kind: str, size: str) -> Callable[[], float]:
        """Return a function that asks, and returns what each request has cost."""
        site, eid, length = self._site, self._eids[size], SIZES[size]
        path, headers = f"/file/{eid}/raw/image.png", dict(site.cookies)
        expected = {(200, length)}
        if kind == "thumbnail":
            path, expected = f"/file/{eid}/thumb/image_75x75.png", set()
        elif kind == "304":
            headers |= self._validators[size]
            # the article's view gives no validator
            expected = {(304, 0)} if self._validators[size] else {(200, length)}
        elif kind == "206":
            headers |= RANGE
            expected = {(206, 1000), (200, length)}

        def check(status: int, body: bytes) -> bool:
            return (status, len(body)) in expected if expected else status == 200

        requests = LARGE_REQUESTS if length > 10**6 and kind != "304" else REQUESTS
        return lambda: site.cost(path, requests, check, headers=headers)
