"""Random edits and reads while standbys lag, stop to replay and restart: nobody can tell.

The environment variable `SEQUENCES` says how many sequences there are, 30 by default, always the
same. `make fuzz` draws others, until the end of `FUZZ_SECONDS`.
"""

import os
import re
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from pictures import picture
from servers.instance import Process
from servers.visitor import Visitor
from standby_site import Site, Template, created

SEQUENCES = int(os.environ.get("SEQUENCES", "30"))
FUZZ_SECONDS = float(os.environ.get("FUZZ_SECONDS", "0"))
#: whether the sequences are always the same
FIXED = not FUZZ_SECONDS

PICTURES = [picture(colour) for colour in ("red", "green", "blue")]
VISITORS = 3
#: what is done, by which visitor, to which entity or standby
Action = tuple[str, int, int]
_ACTIONS = (
    *("read",) * 8,
    *("edit",) * 4,
    *("replace",) * 2,
    *("look",) * 4,
    *("create", "delete"),
    *("pause", "resume", "wait") * 2,
    "restart",
)
sequences = st.lists(
    st.tuples(st.sampled_from(_ACTIONS), st.integers(0, VISITORS - 1), st.integers(0, 7)),
    min_size=3,
    max_size=10,
)


@dataclass
class Album:
    """An entity, its committed version, and what each visitor has seen of it."""

    eid: int
    version: int = 0
    gone: bool = False
    #: the least that a visitor may see from now on, by his number
    seen: dict[int, int] = field(default_factory=dict)


class Actors:
    """Visitors of one process, and what they have seen and written."""

    def __init__(self, site: Site, process: Process) -> None:
        self._site = site
        self.visitors = [Visitor(process.url) for _ in range(VISITORS)]
        for visitor in self.visitors:
            visitor.login()
        self.albums: list[Album] = []
        self._create(0, 0)
        response = self.visitors[0].create(
            "File", {"title": "t"}, {"data": ("a.png", PICTURES[0], "image/png")}
        )
        self._image = int(re.findall(r"/file/(\d+)", response.headers["Location"])[0])
        self._pictures = 0
        self._replaced: dict[int, int] = {}
        self._anonymous = Visitor(process.url)

    def do(self, action: Action) -> None:
        """Do something, and check that it was as if there was one database."""
        what, who, which = action
        getattr(self, f"_{what}")(who, which)

    def end(self) -> None:
        """Let all standbys replay again, for the next sequence."""
        self._resume(0, 0)
        self._resume(0, 1)

    def _album(self, which: int) -> Album:
        return self.albums[-1 - which % min(len(self.albums), 4)]

    def _create(self, who: int, which: int) -> None:
        eid = created(self.visitors[who], "Album", name="version 0")
        self.albums.append(Album(eid, seen={who: 0}))

    def _read(self, who: int, which: int) -> None:
        album = self._album(which)
        response = self.visitors[who].get(f"album/{album.eid}")
        if response.status_code == 404:
            assert album.gone, "404 for what exists"
            album.seen[who] = album.version + 1
            return
        assert response.status_code == 200, response.text
        version = self._version(response.text)
        assert version >= album.seen.get(who, 0), "back in time, or less than he has written"
        assert version <= album.version
        album.seen[who] = version

    def _edit(self, who: int, which: int) -> None:
        album, visitor = self._album(which), self.visitors[who]
        try:
            form = visitor.form(f"album/{album.eid}?vid=edition")
        except RuntimeError:
            assert album.gone, "no form for what exists"
            return
        version = self._version(form.fields[f"name-subject:{album.eid}"])
        assert version >= album.seen.get(who, 0)
        album.seen[who] = version
        name = f"version {album.version + 1}"
        response = visitor.submit(form, album.eid, {"name": name})
        if "vid=edition" in response.headers.get("Location", ""):
            # refused: the form is shown once more, with what was typed
            visitor.get(response.headers["Location"])
        # by another connection than that of the site
        [stored] = self._stored(album.eid)
        if stored == name:
            assert (version, album.gone) == (album.version, False), "an update is lost"
            album.version += 1
            album.seen[who] = album.version
        else:
            assert stored == ("" if album.gone else f"version {album.version}")

    def _stored(self, eid: int) -> list[str]:
        return [
            self._site.primary.sql(f"SELECT cw_name FROM cw_Album WHERE cw_eid = {eid}", "site")
        ]

    def _delete(self, who: int, which: int) -> None:
        if len(self.albums) < 2:
            return
        album = self._album(which)
        response = self.visitors[who].post(
            "edit", {"eid": str(album.eid), f"__type:{album.eid}": "Album", "__action_delete": "1"}
        )
        assert response.status_code in ((303, 403, 404, 500) if album.gone else (303,))
        if self._stored(album.eid) == [""]:
            album.gone = True
            album.seen[who] = album.version + 1

    def _replace(self, who: int, which: int) -> None:
        self._pictures += 1
        data = PICTURES[self._pictures % len(PICTURES)]
        before = self._image
        try:
            response = self.visitors[who].edit(
                before, "File", files={"data": ("a.png", data, "image/png")}
            )
        except RuntimeError as error:
            raise AssertionError("no form for what exists") from error
        found = re.findall(r"/file/(\d+)", response.headers.get("Location", ""))
        if response.status_code == 303 and found and int(found[0]) != before:
            self._replaced[before] = self._image = int(found[0])

    def _image_of(self, eid: int) -> None:
        response = self._anonymous.get(f"file/{eid}/raw/a.png")
        if eid in self._replaced:
            public = "public" in response.headers.get("Cache-Control", "")
            assert not (response.status_code == 200 and public), "older than its purge"
        else:
            assert response.status_code == 200, "404 for what exists"

    def _look(self, who: int, which: int) -> None:
        former = [*self._replaced][-3:]
        self._image_of([*former, self._image][which % (len(former) + 1)])

    def _pause(self, who: int, which: int) -> None:
        self._site.pause(which % 2)

    def _resume(self, who: int, which: int) -> None:
        self._site.standbys[which % 2].sql("SELECT pg_wal_replay_resume()")

    def _wait(self, who: int, which: int) -> None:
        time.sleep(which / 10)

    def _restart(self, who: int, which: int) -> None:
        if which < 2:  # it takes a while
            standby = self._site.standbys[which]
            standby.kill()
            standby.start()

    @staticmethod
    def _version(text: str) -> int:
        match = re.search(r"version (\d+)", text)
        assert match, text
        return int(match[1])


@pytest.fixture(scope="module")
def actors(server_directory: Callable[[str], Path]) -> Iterator[Actors]:
    template = Template(server_directory("template"))
    with Site(template, server_directory("site")) as site:
        yield Actors(site, site.process())


@settings(
    max_examples=SEQUENCES,
    deadline=None,
    derandomize=FIXED,
    database=None,
    suppress_health_check=list(HealthCheck),
)
@given(sequence=sequences)
def check(actors: Actors, sequence: list[Action]) -> None:
    try:
        for action in sequence:
            actors.do(action)
    finally:
        actors.end()


def test_sequences(actors: Actors) -> None:
    until = time.monotonic() + FUZZ_SECONDS
    check(actors)
    while time.monotonic() < until:
        check(actors)
