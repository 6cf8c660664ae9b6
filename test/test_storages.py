"""Data in the database, in files and in a bucket are equals; and what if files or the bucket fail.

One instance, of which each process keeps its data elsewhere.
"""

import os
import re
import textwrap
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple

import backend
import lxml.html
import pytest
import requests
from deploying import SITES
from documents import CHECKOUT
from pictures import picture
from servers.instance import Instance, Process
from servers.link import Link
from servers.postgresql import Database
from servers.s3 import ObjectStore
from servers.squid import ALLOW_PURGE, Squid
from servers.support import free_port, wait_until
from servers.visitor import Visitor

from cubicweb_hasite.deploy import load, render

pytestmark = pytest.mark.skipif(not backend.POSTGRES, reason="SQLite has one writer at a time")

#: of the option hasite-storage-deadline, in seconds
DEADLINE = 2.0
#: what else a request takes on a busy machine, in seconds
MARGIN = 2.0
RED, BLUE = picture("red"), picture("blue")
LARGE = os.urandom(5 * 2**20)
STORAGES = ("database", "files", "bucket")
#: what the names of objects begin with
PREFIX = "production/site/"
#: for how long a cache may give what was before an edit, in seconds
SOON = 2.0


@dataclass
class Site:
    """The processes of the instance, by where they keep the data, and what they keep it in."""

    processes: dict[str, Process]
    files: Path
    store: ObjectStore
    #: what is between the process and the store
    link: Link
    #: in front of the processes
    caches: dict[str, Squid]
    #: the instance with the options of the process that keeps data in the bucket
    shell: Instance
    #: what the store had, while it is stopped
    objects: dict[str, bytes] = field(default_factory=dict)

    def visitor(self, storage: str) -> Visitor:
        return Visitor(self.processes[storage].url)

    def editor(self, storage: str) -> Visitor:
        visitor = self.visitor(storage)
        visitor.login()
        return visitor

    def create(self, storage: str, data: bytes = RED, name: str = "a.png") -> int:
        """Create a file; return its eid."""
        visitor = self.editor(storage)
        response = visitor.create("File", {"title": "image"}, {"data": (name, data, "image/png")})
        assert response.status_code == 303, response.text
        return int(response.headers["Location"].split("?")[0].rpartition("/")[2])


@pytest.fixture(scope="module")
def site(
    server_directory: Callable[[str], Path], new_database: Callable[[], Database]
) -> Iterator[Site]:
    files = server_directory("files")
    files.mkdir()
    with ExitStack() as stack:
        store = stack.enter_context(ObjectStore(server_directory("objects")))
        link = stack.enter_context(Link(store.port))
        patch = stack.enter_context(pytest.MonkeyPatch.context())
        environ = {**store.environ, "AWS_S3_ENDPOINT_URL": f"http://127.0.0.1:{link.port}"}
        for name, value in environ.items():
            patch.setenv(name, value)
        instance = Instance(
            server_directory("instance"),
            ["hasite_testapp", "api", "s3storage"],
            new_database(),
            options={
                "hasite-storage-deadline": DEADLINE,
                "hasite-monitor-token": "token",
                "connections-pool-max-size": 4,
            },
        )
        instance.create()
        bucket = {"hasite_s3_bucket": store.bucket, "hasite_s3_prefix": PREFIX}
        options = {
            "database": {},
            "files": {"testapp_files_directory": str(files)},
            "bucket": bucket,
        }
        ports = {storage: free_port() for storage in options}
        caches = {
            storage: Squid(server_directory(f"squid-{storage}"), port, ALLOW_PURGE)
            for storage, port in ports.items()
        }
        processes = {
            storage: instance.process(
                ports[storage], hasite_purge_urls=caches[storage].url, **options[storage]
            )
            for storage in STORAGES
        }
        with ThreadPoolExecutor() as pool:
            list(pool.map(stack.enter_context, processes.values()))
            list(pool.map(stack.enter_context, caches.values()))  # of a server that answers
        own = {name.replace("_", "-"): value for name, value in bucket.items()}
        shell = Instance(
            instance.directory, instance.cubes, instance.database, options=instance.options | own
        )
        yield Site(processes, files, store, link, caches, shell)


@pytest.mark.parametrize("storage", STORAGES)
class TestEquals:
    def test_download(self, site: Site, storage: str) -> None:
        visitor = site.visitor(storage)
        eid = site.create(storage, LARGE)
        url = f"file/{eid}/raw/a.png"
        whole = visitor.get(url)
        assert (whole.status_code, whole.content) == (200, LARGE)
        assert whole.headers["Cache-Control"] == "public, max-age=3600"
        assert "Set-Cookie" not in whole.headers
        assert whole.headers["Content-Length"] == str(len(LARGE))
        head = visitor.head(url)
        ignored = ("Date", "Connection")
        assert {name: text for name, text in head.headers.items() if name not in ignored} == {
            name: text for name, text in whole.headers.items() if name not in ignored
        }
        unchanged = visitor.get(url, headers={"If-None-Match": whole.headers["ETag"]})
        assert (unchanged.status_code, unchanged.content) == (304, b"")
        for asked, first, last in (
            ("bytes=0-999", 0, 999),
            ("bytes=2097000-2098000", 2097000, 2098000),
            ("bytes=-7", len(LARGE) - 7, len(LARGE) - 1),
            ("bytes=1000000-", 1000000, len(LARGE) - 1),
        ):
            part = visitor.get(url, headers={"Range": asked})
            assert (part.status_code, part.content) == (206, LARGE[first : last + 1])
            assert part.headers["Content-Range"] == f"bytes {first}-{last}/{len(LARGE)}"
        beyond = visitor.get(url, headers={"Range": f"bytes={len(LARGE)}-"})
        assert beyond.status_code == 416
        assert beyond.headers["Content-Range"] == f"bytes */{len(LARGE)}"

    def test_replacement(self, site: Site, storage: str) -> None:
        visitor = site.editor(storage)
        eid = site.create(storage)
        former = f"file/{eid}/raw/a.png"
        thumbnail = visitor.get(f"file/{eid}/thumb/a.png").content
        response = visitor.edit(eid, "File", files={"data": ("a.png", BLUE, "image/png")})
        assert response.status_code == 303
        moved = visitor.get(former)
        assert moved.status_code == 301
        assert visitor.get(moved.headers["Location"]).content == BLUE
        drawn = visitor.get(f"file/{eid}/thumb/a.png", allow_redirects=True)
        assert drawn.status_code == 200
        assert drawn.content != thumbnail

    def test_purge(self, site: Site, storage: str) -> None:
        """A replacement is known to the cache, which keeps what is there then."""
        eid = site.create(storage)
        host = site.processes[storage].url.split("/")[2]

        def get(path: str) -> requests.Response:
            url = f"{site.caches[storage].url}{path}"
            return requests.get(url, headers={"Host": host}, allow_redirects=False, timeout=10)

        paths = [f"file/{eid}/raw/a.png", f"file/{eid}/thumb/a_75x75.png"]
        for path in paths:
            assert [get(path).status_code for _time in range(2)] == [200, 200]
            assert get(path).headers["X-Cache"].startswith("HIT")
        new = {"data": ("a.png", BLUE, "image/png")}
        assert site.editor(storage).edit(eid, "File", files=new).status_code == 303
        for path in paths:
            wait_until(
                lambda path=path: get(path).status_code == 301, f"purge of {path}", timeout=SOON
            )
            current = get(path).headers["Location"].split("/", 3)[3]
            assert current not in paths
            if "raw" in path:
                assert get(current).content == BLUE
            assert get(current).status_code == 200
            assert get(current).headers["X-Cache"].startswith("HIT")


def test_range_of_an_object(site: Site) -> None:
    """Of a large object a part is fetched, and nothing for its headers."""
    eid = site.create("bucket", LARGE)
    visitor = site.visitor("bucket")
    before = site.link.forwarded
    url = f"file/{eid}/raw/a.png"
    assert visitor.get(url, headers={"Range": "bytes=1000000-1000999"}).status_code == 206
    assert visitor.head(url).headers["Content-Length"] == str(len(LARGE))
    assert site.link.forwarded - before < 10_000


def unavailable(visitor: Visitor, url: str, method: str = "GET", **headers: str) -> float:
    """Check that a download is 503 within the deadline; return the time in seconds."""
    started = time.monotonic()
    response = visitor.request(method, url, headers=headers)
    took = time.monotonic() - started
    assert response.status_code == 503, (url, response.status_code, response.text)
    assert response.headers["Content-Type"].startswith("text/plain"), url
    assert response.headers["Cache-Control"] == "no-store"
    assert response.headers["Retry-After"] == "1"
    assert "Set-Cookie" not in response.headers
    assert took < DEADLINE + MARGIN
    return took


def pool(visitor: Visitor) -> str:
    return visitor.get("view?vid=monitor_pool").text


def readiness(visitor: Visitor) -> str:
    response = visitor.get("readyz")
    assert response.status_code == 200
    return response.text


def check_operators_are_told(manager: Visitor, reason: str) -> None:
    """The monitor of the data and the page for operators say that the instance is degraded."""
    response = manager.get("view?vid=monitor_db")
    assert response.status_code == 200
    degraded = rf"degraded : the [^;]*{re.escape(reason)}[^;]*"
    assert re.fullmatch(rf"ServiceOK : \d+ users in DB, but {degraded}", response.text)
    health = manager.get("view?vid=monitor_db&format=json&token=token").json()
    assert health["status"] == "warn"
    assert re.fullmatch(degraded, health["output"])
    assert health["checks"]["database:writable"][0]["status"] == "pass"
    assert health["checks"]["storage:reachable"][0]["status"] == "warn"
    state = manager.get("hasite.json").json()
    own, *others = state["instances"]
    assert (own["here"], own["reasons"]) == (True, "")
    assert reason in own["degraded"]
    assert {each["degraded"] for each in others} == {""}  # which have another storage
    [problem] = state["problems"]
    assert re.fullmatch(rf"{own['name']}: degraded: the .*{re.escape(reason)}.*", problem["text"])
    assert problem["urgent"]
    assert problem["url"].endswith("docs/monitor.md#a-storage-of-files-fails")
    page = lxml.html.fromstring(manager.get("view?vid=hasite").content)
    [item] = page.xpath("//ul[@class='problems']/li")
    assert reason in item.text
    states = [cell.text_content() for cell in page.xpath("//td[@data-column='State']")]
    assert states[: len(others) + 1] == ["degraded", *["in service"] * len(others)]


NO_ANSWER = "does not answer"


class Fault(NamedTuple):
    """What happens to a storage, how it ends, and what operators are told meanwhile."""

    storage: str
    begin: Callable[[Site], object]
    end: Callable[[Site], object]
    reason: str


def make_bucket(site: Site) -> None:
    requests.put(f"{site.store.url}/{site.store.bucket}", timeout=5).raise_for_status()


def elsewhere(site: Site) -> Path:
    return site.files.with_suffix(".elsewhere")


def stop_store(site: Site) -> None:
    """Stop the server, whose objects are in its memory."""
    keys = site.store.keys()
    site.objects = {key: site.store.read(key) for key in keys}
    site.link.stop()
    site.store.stop()


def start_store(site: Site) -> None:
    site.store.start()
    for key, data in site.objects.items():
        site.store.write(key, data)
    site.link.start()


FAULTS = {
    "stopped": Fault("bucket", stop_store, start_store, NO_ANSWER),
    "hung": Fault("bucket", lambda s: s.link.pause(), lambda s: s.link.resume(), NO_ANSWER),
    "slow": Fault(
        "bucket",
        lambda s: setattr(s.link, "pace", 1.5),
        lambda s: setattr(s.link, "pace", 0.0),
        NO_ANSWER,
    ),
    "refusing": Fault(
        "bucket",
        lambda s: s.store.refuse(refuses=True),
        lambda s: s.store.refuse(refuses=False),
        "refuses (InvalidAccessKeyId)",
    ),
    "no bucket": Fault("bucket", lambda s: s.store.reset(), make_bucket, "refuses (NoSuchBucket)"),
    "no disk": Fault(
        "files",
        lambda s: s.files.rename(elsewhere(s)),
        lambda s: elsewhere(s).rename(s.files),
        "is not there",
    ),
}


@pytest.mark.parametrize("fault", FAULTS)
def test_storage_fails(site: Site, fault: str) -> None:
    storage, begin, end, reason = FAULTS[fault]
    editor, visitor = site.editor(storage), site.visitor(storage)
    wait_until(lambda: readiness(visitor) == "ServiceOK : ready", "ready")
    eid = site.create(storage)
    form = editor.form(f"file/{eid}?vid=edition")
    url = f"file/{eid}/raw/a.png"
    with ExitStack() as broken:
        broken.callback(end, site)
        begin(site)
        times = {
            "download": unavailable(visitor, url),
            "HEAD": unavailable(visitor, url, "HEAD"),
            "range": unavailable(visitor, url, Range="bytes=0-9"),
            "thumbnail": unavailable(visitor, f"file/{eid}/thumb/a.png"),
            "by RQL": unavailable(visitor, f"view?rql=Any X WHERE X eid {eid}&vid=download"),
            "logged in": unavailable(editor, url),
        }
        time.sleep(1.1)  # until it is asked again
        started = time.monotonic()
        new = {"data": ("a.png", BLUE, "image/png")}
        response = editor.submit(form, eid, {"title": "new"}, new, "validateform")
        times["edit"] = time.monotonic() - started
        assert times["edit"] < DEADLINE + MARGIN
        assert "The storage of files cannot answer at the moment" in response.text
        assert "0.0%" in pool(visitor)
        # the lock is released, and pages are served
        assert visitor.get(f"file/{eid}?vid=edition").status_code < 500
        response = editor.edit(eid, "File", {"title": "another"})
        assert response.status_code == 303
        wait_until(lambda: reason in readiness(visitor), reason, timeout=20)
        told = visitor.get("readyz?format=json&token=token").json()
        assert told["status"] == "warn"
        assert told["checks"]["storage:reachable"][0]["status"] == "warn"
        assert reason in told["output"]
        metrics = visitor.get("metrics?token=token").text
        assert 'hasite_probe_success{probe="storage"} 0.0' in metrics
        check_operators_are_told(editor, reason)
    print(fault, {name: f"{seconds:.2f} s" for name, seconds in times.items()})
    wait_until(lambda: readiness(visitor) == "ServiceOK : ready", "ready")
    if fault != "no bucket":  # in which the object was
        assert visitor.get(url).content == RED
    response = editor.submit(editor.form(f"file/{eid}?vid=edition"), eid, {}, new)
    assert response.status_code == 303
    assert visitor.get(url, allow_redirects=True).content == BLUE


def test_missing_file(site: Site) -> None:
    eid = site.create("files")
    [path] = site.files.glob(f"{eid}_*")
    check_missing(site, "files", eid, path.unlink, path.name)


def test_missing_object(site: Site) -> None:
    before = set(site.store.keys())
    eid = site.create("bucket")
    [key] = set(site.store.keys()) - before
    check_missing(site, "bucket", eid, lambda: site.store.remove(key), key)


def check_missing(
    site: Site, storage: str, eid: int, remove: Callable[[], None], name: str
) -> None:
    visitor = site.visitor(storage)
    remove()
    started = time.monotonic()
    for url in (f"file/{eid}/raw/a.png", f"file/{eid}/thumb/a.png"):
        for headers in ({}, {"Range": "bytes=0-9"}):
            response = visitor.get(url, headers=headers)
            assert (response.status_code, response.headers["Cache-Control"]) == (404, "no-store")
            assert "Set-Cookie" not in response.headers
    print(f"missing, {storage}: {(time.monotonic() - started) / 4:.2f} s")
    log = site.processes[storage].log_path.read_text()
    assert log.count(name) == 1, [line for line in log.splitlines() if name in line]
    assert readiness(visitor) == "ServiceOK : ready"
    # an edit gives new data
    response = site.editor(storage).edit(eid, "File", files={"data": ("a.png", BLUE, "image/png")})
    assert response.status_code == 303
    assert visitor.get(f"file/{eid}/raw/a.png", allow_redirects=True).content == BLUE


#: Runs in a shell: what the check of a rendered site says before data is moved and after, and what
#: it says of storages that are wrong.
_MOVE = """\
from cubicweb.server.sources.storages import BytesFileSystemStorage
from cubicweb_hasite.storages import keeping

def check():
    try:
        exec({check!r})
    except SystemExit as end:
        print("status", end.code)

check()
print(list(keeping.problems(repo, "another", ["File.data"])))
storage = repo.system_source.storage("File", "data")
repo.system_source.set_storage("File", "data", BytesFileSystemStorage("/tmp"))
print(list(keeping.problems(repo, "site", ["File.data"])))
repo.system_source.set_storage("File", "data", storage)
{move}
check()
"""


def test_move_into_the_bucket(site: Site) -> None:
    """Data from before is moved, as the document says, and the check of a rendered site tells.

    It is the last test: what other storages have in the place of data is moved as if it were data.
    """
    eid = site.create("database", LARGE)
    visitor, url = site.visitor("bucket"), f"file/{eid}/raw/a.png"
    assert visitor.get(url).status_code == 404
    [site_file] = [path for path in SITES if path.stem == "one_host"]
    path = site.files.with_suffix(".toml")
    path.write_text(f'{site_file.read_text()}\n[storage]\nbucket = "site"\n')
    rendering = render.render(load.load(path), drawing=False)
    check = rendering["all/usr/local/share/hasite/check_storage.py"].content.decode()
    text = (CHECKOUT / "docs" / "storages.md").read_text()
    [move] = re.findall(r"```python\n(.*?)```", text, re.S)
    script = site.files.with_suffix(".py")
    script.write_text(_MOVE.format(check=check, move=textwrap.dedent(move)))
    said = site.shell.ctl("shell", site.shell.name, str(script))
    assert re.search(
        r"File\.data of \d+ entities is in the database, from before it was kept in the bucket: "
        r"see http\S+/storages\.md#choose-a-bucket\nstatus 1\n"
        r"\['File\.data is not kept in the bucket another'\]\n"
        r"\['File\.data is kept on the disk of this host, or elsewhere, by BytesFileSystem\w+', "
        r"'File\.data is not kept in the bucket site'\]\n",
        said,
    ), said
    assert said.endswith("All data is in the database or in the bucket site.\n"), said
    assert visitor.get(url).content == LARGE
    keys = site.store.keys()
    assert all(key.startswith(PREFIX) for key in keys)
