"""Large files, one and many at a time: what they take of the memory of the process."""

import hashlib
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import backend
import pytest
from servers.instance import Instance, Process
from servers.memory import Memory
from servers.visitor import Visitor

SIZE = 50 * 2**20
#: CubicWeb's server has as many threads; what it has sent to it waits in temporary files
THREADS = 4
#: What a thread may take, in bytes, whatever the size of the file. SQLite, for trying things out,
#: has no slices.
MOST = 20 * 2**20 if backend.POSTGRES else 4 * SIZE

_CREATE = f"""
import hashlib, random
from cubicweb import Binary
data = random.Random(1).randbytes({SIZE})
small, large = (
    cnx.create_entity("File", data=Binary(each), data_name="a.png", data_format="image/png").eid
    for each in (data[:1000], data)
)
commit()
print("said:", small, large, hashlib.sha256(data).hexdigest())
"""


@pytest.fixture(scope="module")
def images(instance: Instance) -> tuple[str, str, str]:
    """The URLs of a small and of a large image, and the digest of the bytes of the large one."""
    small, large, digest = instance.shell(_CREATE).split("said: ")[1].split()[:3]
    return f"file/{small}/raw/a.png", f"file/{large}/raw/a.png", digest


@pytest.fixture
def large(images: tuple[str, str, str]) -> tuple[str, str]:
    """The URL of the large image, and the digest of its bytes."""
    return images[1:]


@pytest.fixture
def fresh(instance: Instance, images: tuple[str, str, str]) -> Iterator[Process]:
    """A process that has served a small image, and no large one yet."""
    with instance.process() as process:
        assert Visitor(process.url).get(images[0]).status_code == 200
        yield process


def _digest(process: Process, url: str) -> str:
    digest = hashlib.sha256()
    with Visitor(process.url).get(url, stream=True) as response:
        assert response.status_code == 200
        assert response.headers["Content-Length"] == str(SIZE)
        for chunk in response.iter_content(2**16):
            digest.update(chunk)
    return digest.hexdigest()


def test_one(fresh: Process, large: tuple[str, str]) -> None:
    url, digest = large
    memory = Memory(fresh.pid)
    assert _digest(fresh, url) == digest
    assert memory.peak() <= MOST


def test_many(fresh: Process, large: tuple[str, str]) -> None:
    url, digest = large
    memory = Memory(fresh.pid)
    with ThreadPoolExecutor(20) as pool:
        assert set(pool.map(lambda _: _digest(fresh, url), range(20))) == {digest}
    assert memory.peak() <= MOST * THREADS
    assert Visitor(fresh.url).get("view?vid=monitor_pool").status_code == 200
    assert Visitor(fresh.url).get("").status_code == 200


def test_part(fresh: Process, large: tuple[str, str]) -> None:
    memory = Memory(fresh.pid)
    response = Visitor(fresh.url).get(large[0], headers={"Range": f"bytes={SIZE - 5}-"})
    assert (response.status_code, len(response.content)) == (206, 5)
    assert memory.peak() <= MOST
