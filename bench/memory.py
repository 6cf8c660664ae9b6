"""The memory of an instance while visitors download large files."""

import hashlib
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import requests

from measure import Row, Sample
from servers.instance import Process
from servers.memory import Memory
from servers.visitor import Visitor
from sites import OURS, Bench, create_file, image

SIZE = 200_000_000
VISITORS = 20
#: the threads of a process, as `cubicweb-ctl start` has them by default
THREADS = 4
#: what the process may take more than at rest, in MB
EXPECTED = {1: 40, VISITORS: 160}
TITLES = ("", "", "", "hasite", "", "of", "expected", "")

#: bytes that cannot be compressed, as those of images, made in PostgreSQL
_DATA = (
    "(SELECT string_agg(sha512(number::text::bytea), ''::bytea ORDER BY number) "
    f"FROM generate_series(1, {SIZE // 64}) AS number)"
)


def rows(bench: Bench, rounds: int) -> Iterator[Row]:
    """Download files of 200 MB, one and 20 at a time, from a process that has served none yet.

    What counts is the peak of the resident memory, less what the process takes at rest.
    """
    found: dict[int, list[float]] = {1: [], VISITORS: []}
    url = digest = ""
    for _ in range(rounds):
        for visitors, values in found.items():
            with bench.instances[OURS].process(threads=THREADS) as process:
                if not url:
                    url, digest = _create(bench, process)
                requests.get(f"{process.url}file/1/raw/none.png", timeout=60)
                values.append(_peak(process, url, digest, visitors))
    for visitors, values in found.items():
        sample = Sample(values)
        yield Row(
            f"{visitors} x 200 MB at a time, peak of memory above rest, MB",
            ours=sample,
            ratio=sample,
            of="MB",
            most=EXPECTED[visitors],
        )


def _create(bench: Bench, process: Process) -> tuple[str, str]:
    """Return the path of a file of 200 MB, and the digest of its bytes."""
    manager = Visitor(process.url)
    manager.login()
    eid = create_file(manager, "image.png", "image/png", image(2000))
    bench.server.sql(f"UPDATE cw_File SET cw_data={_DATA} WHERE cw_eid={eid}", OURS, timeout=300)
    digest = f"SELECT encode(sha256(cw_data), 'hex') FROM cw_File WHERE cw_eid={eid}"
    return f"file/{eid}/raw/image.png", bench.server.sql(digest, OURS, timeout=300)


def _peak(process: Process, url: str, digest: str, visitors: int) -> float:
    """Return by how much the memory of a process grows at most, in MB.

    :raises RuntimeError: a visitor does not get the file.
    """

    def download(_number: int) -> str:
        received = hashlib.sha256()
        with requests.get(process.url + url, stream=True, timeout=600) as response:
            for chunk in response.iter_content(2**18):
                received.update(chunk)
        return received.hexdigest()

    memory = Memory(process.pid)
    with ThreadPoolExecutor(visitors) as executor:
        if set(executor.map(download, range(visitors))) != {digest}:
            raise RuntimeError("a visitor did not get the file")
    return memory.peak() / 1e6
