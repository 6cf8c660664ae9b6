"""Random edits of random content: but for eids, they do what they do in stock CubicWeb.

The same edits are done twice on the same content, once so that images are replaced and once so
that they are not, and both databases are compared. The environment variable `EXAMPLES` says how
many there are, 500 by default, always the same. `make fuzz` draws others, again and again until
the end of `FUZZ_SECONDS`.
"""

import os
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

import backend
from cubicweb import Binary, UnknownEid, ValidationError
from cubicweb.hooks.metadata import SyncOwnersOp
from editing import EditingTC
from graph import Row, graph
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from pictures import picture

from cubicweb_hasite.images import replacement

EXAMPLES = int(os.environ.get("EXAMPLES", "500"))
FUZZ_SECONDS = float(os.environ.get("FUZZ_SECONDS", "0"))
#: whether the examples are always the same
FIXED = not FUZZ_SECONDS

PICTURES = [picture(colour) for colour in ("red", "green", "blue")]

Graph = dict[str, list[Row]]
#: what is done, and numbers that say with what
Action = tuple[str, int, int]

#: how it ends, and what is done
Transaction = tuple[str, list[Action]]

_LINKS = (
    "see also",
    "self link",
    "cover",
    "main article",
    "illustrates",
    "caption",
    "album",
    "tag",
    "comment",
    "answer",
    "folder",
    "owner",
    "transition",
    "transition",
    "uri",
)
_EDITS = (
    "data",
    "data",
    "data",
    "data and title",
    "title",
    "name",
    "unlink",
    "delete",
    "delete image",
    "create and edit",
    "error",
)
_numbers = st.integers(0, 5)
_link = st.tuples(st.sampled_from(_LINKS), _numbers, _numbers)
_edit = st.tuples(st.sampled_from(_EDITS + _LINKS), _numbers, _numbers)
_end = st.sampled_from(["commit", "commit", "commit", "rollback"])
_transaction = st.tuples(_end, st.lists(_edit, min_size=1, max_size=4))


@dataclass
class Outcome:
    """What came of a transaction."""

    error: str | None = None
    #: the eids of the images that were replaced, with their new ones
    replaced: dict[int, int] = field(default_factory=dict)


class World:
    """Some images and what is linked to them, created and edited by actions.

    :param replaces: whether images are replaced when their data is edited
    """

    def __init__(self, access: Any, *, replaces: bool) -> None:
        self._access = access
        self._replaces = replaces
        #: eids of the images, in the order of their creation
        self.images: list[int] = []
        #: eids of all else that was created by an action
        self.others: list[int] = []
        #: former eids, and the place of their image in `images`
        self.former: dict[int, int] = {}

    def current(self, former: int) -> int:
        """Return the eid that an image has now, or had when it was deleted."""
        return self.images[self.former[former]]

    def run(self, end: str, actions: list[Action]) -> Outcome:
        """Run actions in a transaction, which is committed or not."""
        kept = (list(self.images), list(self.others))
        outcome = Outcome()
        with self._access.cnx() as cnx:
            replaced = replacement.track(cnx) if self._replaces else {}
            try:
                for action in actions:
                    self._act(cnx, *action)
                if end == "commit":
                    cnx.commit()
                else:
                    raise RuntimeError(end)
            except (ValidationError, UnknownEid, RuntimeError) as error:
                cnx.rollback()
                outcome.error = type(error).__name__
                self.images, self.others = kept
        if outcome.error is None:
            # what was deleted in the same transaction has no new eid
            outcome.replaced = {old: new for old, new in replaced.items() if new is not None}
        for former, current in outcome.replaced.items():
            place = self.images.index(former)
            self.images[place] = current
            self.former[former] = place
        return outcome

    def _act(self, cnx, name: str, first: int, second: int) -> None:
        """Do one thing; nothing if there is not what it takes."""
        if name == "image":
            self._new_image(cnx, first)
            return
        images = [eid for eid in self.images if self._exists(cnx, eid)]
        others = [eid for eid in self.others if self._exists(cnx, eid)]
        if not images:
            return
        image = cnx.entity_from_eid(images[first % len(images)])
        another = images[second % len(images)]
        other = cnx.entity_from_eid(others[second % len(others)]) if others else None
        title = f"title {second}"
        data = PICTURES[second % len(PICTURES)]
        match name:
            case "see also" if another not in {image.eid, *(i.eid for i in image.see_also_image)}:
                image.cw_set(see_also_image=another)
            case "self link":  # CubicWeb cannot do it
                row = {"eid": image.eid}
                table = "see_also_image_relation"
                sql = f"SELECT * FROM {table} WHERE eid_from=%(eid)s AND eid_to=%(eid)s"
                if cnx.system_sql(sql, row).fetchone() is None:
                    cnx.system_sql(f"INSERT INTO {table} VALUES (%(eid)s, %(eid)s)", row)
            case "cover":
                self._create(cnx, "Article", title=title, cover=image)
            case "main article":
                image.cw_set(main_article=self._create(cnx, "Article", title=title, cover=another))
            case "illustrates":
                article = self._create(cnx, "Article", title=title, cover=another)
                image.cw_set(illustrates=article)
            case "caption":
                self._create(cnx, "Caption", text=title, caption_of=image)
            case "album" if not image.reverse_album_image:
                self._create(cnx, "Album", name=title, album_image=image)
            case "tag":
                name = f"tag {len(self.others)}"
                self._create(cnx, "Tag", name=name, tags=list({image.eid, another}))
            case "comment":
                self._create(cnx, "Comment", content=title, comments=image)
            case "answer" if other is not None and other.cw_etype == "Comment":
                self._create(cnx, "Comment", content=title, comments=other)
            case "folder":
                image.cw_set(filed_under=self._create(cnx, "Folder", name=title))
            case "owner":
                alice = cnx.find("CWUser", login="alice").one()
                if alice not in image.owned_by:
                    image.cw_set(owned_by=alice)
            case "transition":
                workflow = image.cw_adapt_to("IWorkflowable")
                for transition in workflow.possible_transitions():
                    workflow.fire_transition(transition, comment=title)
                    break
            case "uri":
                row = {"eid": image.eid, "uri": f"http://elsewhere.example/{second}"}
                cnx.system_sql("UPDATE cw_File SET cw_cwuri=%(uri)s WHERE cw_eid=%(eid)s", row)
            case "data":
                image.cw_set(data=Binary(data))
            case "data and title":
                image.cw_set(title=title, data=Binary(data))
            case "title":
                image.cw_set(title=title, description=f"words {first}")
            case "name":
                image.cw_set(data_name=f"{second}.png")
            case "unlink":
                relations = ("see_also_image", "main_article", "illustrates", "filed_under")
                relation = relations[second % len(relations)]
                cnx.execute(f"DELETE X {relation} Y WHERE X eid %(x)s", {"x": image.eid})
            case "delete" if other is not None:
                other.cw_delete()
            case "delete image":
                image.cw_delete()
            case "create and edit":
                self._new_image(cnx, first).cw_set(data=Binary(data))
            case "error":
                cnx.create_entity("Article", title="without a cover")

    def _new_image(self, cnx, number: int):
        image = cnx.create_entity(
            "File",
            title=f"image {number}",
            data=Binary(PICTURES[number % len(PICTURES)]),
            data_name="picture.png",
            data_format="image/png",
        )
        self.images.append(image.eid)
        return image

    def _create(self, cnx, etype: str, **attributes: Any):
        entity = cnx.create_entity(etype, **attributes)
        self.others.append(entity.eid)
        return entity

    def _exists(self, cnx, eid: int) -> bool:
        return replacement.entity_type(cnx, eid) is not None


class Recent:
    """What :func:`graph` asks of a connection, for the rows of recent entities alone.

    :param columns: columns that hold eids, by table
    :param since: the last eid of those that are not recent
    """

    def __init__(self, cnx: Any, columns: dict[str, list[str]], since: int) -> None:
        self.repo = cnx.repo
        self._cnx = cnx
        self._columns = columns
        self._since = since

    def system_sql(self, sql: str) -> Any:
        start, _from, table = sql.rpartition(" FROM ")
        if start == "SELECT *" and table in self._columns:
            sql += f" WHERE {self.condition(table)}"
        return self._cnx.system_sql(sql)

    def clear(self) -> None:
        """Delete the rows."""
        # foreign keys are not checked, or not yet
        if backend.POSTGRES:
            self._cnx.system_sql("SET session_replication_role = replica")
        else:
            self._cnx.system_sql("PRAGMA defer_foreign_keys = ON")
        for table in self._columns:
            self._cnx.system_sql(f"DELETE FROM {table} WHERE {self.condition(table)}")
        if backend.POSTGRES:
            self._cnx.system_sql("SET session_replication_role = DEFAULT")
        self._cnx.commit()
        self.repo.clear_caches()

    def condition(self, table: str) -> str:
        return " OR ".join(f"{column} > {self._since}" for column in self._columns[table])


class RandomGraphsTC(EditingTC):
    def setUp(self) -> None:
        super().setUp()
        # CubicWeb copies owners along a chain of composites in the order of a set, by which the
        # last link gets them or not: that depends on the eids
        self.addCleanup(setattr, SyncOwnersOp, "containercls", SyncOwnersOp.containercls)
        SyncOwnersOp.containercls = list
        with self.admin_access.cnx() as cnx:
            self.create_user(cnx, "alice", ("users",))
            cnx.commit()
            self.columns = {}
            for table in graph(cnx):
                cursor = cnx.system_sql(f"SELECT * FROM {table} LIMIT 0")
                names = {description[0].lower() for description in cursor.description}
                if eids := sorted(names & {"eid", "eid_from", "eid_to", "cw_eid", "uid"}):
                    self.columns[table] = eids
            self.columns["cw_FormerEid"] = ["cw_eid"]
            [[self.last_eid]] = cnx.system_sql("SELECT max(eid) FROM entities").fetchall()

    @contextmanager
    def recent(self) -> Iterator[Recent]:
        """A connection that shows what was created since the beginning of the test."""
        with self.admin_access.cnx() as cnx:
            yield Recent(cnx, self.columns, self.last_eid)

    def graph(self, world: World) -> Graph:
        """Return the content of a world, the same whether its images were replaced or not."""
        with self.recent() as recent:
            sql = "SELECT eid FROM entities WHERE type <> 'FormerEid' AND eid > "
            eids = {eid for (eid,) in recent.system_sql(f"{sql}{self.last_eid}").fetchall()}
            # the order of their creation is that of the first eids that they had
            first = {eid: eid for eid in eids}
            for former in sorted(world.former, reverse=True):
                if (current := world.current(former)) in eids:
                    first[current] = former
            renamed = {eid: -place for place, eid in enumerate(sorted(eids, key=first.get), 1)}
            return {
                table: sorted((_without_dates(row) for row in rows), key=repr)
                for table, rows in graph(recent, renamed).items()
            }

    def check_former(self, world: World) -> None:
        """Former eids lead to the current one in one step, and end with the image."""
        with self.admin_access.cnx() as cnx:
            kept = 0
            for former in world.former:
                assert replacement.entity_type(cnx, former) is None
                current = world.current(former)
                exists = replacement.entity_type(cnx, current) == "File"
                assert replacement.current_eid(cnx, former) == (current if exists else None)
                kept += exists
            assert len(cnx.execute("Any F WHERE F is FormerEid")) == kept

    def check_replacement(self, world: World) -> None:
        """A replacement alone changes nothing, dates included."""
        with self.recent() as recent:
            before = graph(recent)
        for number in (0, 1):  # one of them is another than it has
            outcome = world.run("commit", [("data", 0, number)])
            if outcome.replaced:
                break
        with self.recent() as recent:
            after = graph(
                recent, {current: former for former, current in outcome.replaced.items()}
            )
        assert before == after

    def test(self) -> None:
        deadline = time.monotonic() + FUZZ_SECONDS
        self.check()
        while time.monotonic() < deadline:
            self.check()

    @settings(
        max_examples=EXAMPLES,
        derandomize=FIXED,
        database=None,
        deadline=None,
        suppress_health_check=list(HealthCheck),
    )
    @given(
        images=st.integers(1, 3),
        content=st.lists(_link, max_size=10),
        transactions=st.lists(_transaction, min_size=1, max_size=4),
    )
    def check(self, images: int, content: list[Action], transactions: list[Transaction]) -> None:
        creation = [("image", number, 0) for number in range(images)]
        transactions = [("commit", creation), ("commit", content), *transactions]
        outcomes, graphs = [], []
        for replaces in (False, True):
            with self.recent() as recent:
                recent.clear()
            world = World(self.admin_access, replaces=replaces)
            outcomes.append([world.run(end, actions) for end, actions in transactions])
            graphs.append(self.graph(world))
        for not_replaced, replaced in zip(*outcomes, strict=True):
            assert not_replaced.error == replaced.error
        assert graphs[0] == graphs[1]
        self.check_former(world)
        self.check_replacement(world)
        self.check_former(world)


def _without_dates(row: Row) -> Row:
    return tuple((column, value) for column, value in row if not isinstance(value, datetime))
