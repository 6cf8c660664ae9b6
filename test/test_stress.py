"""Many visitors and scripts edit the same images at once, through several processes.

Afterwards nothing is lost, doubled or dangling, and nothing but documented refusals was answered.
`STRESS_SECONDS` says for how long they do it, 20 by default. Nor does a visitor who looks at an
image while it is edited see an error: `STRESS_REQUESTS` says how often, 3,000 by default.
"""

import json
import os
import random
import re
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import backend
import pytest
from image_visits import Visits
from pictures import picture
from servers.instance import Instance, Process
from servers.postgresql import Database
from servers.s3 import ObjectStore
from servers.support import wait_until
from servers.visitor import Visitor, validation

SECONDS = float(os.environ.get("STRESS_SECONDS", "20"))
REQUESTS = int(os.environ.get("STRESS_REQUESTS", "3000"))
SEED = int(os.environ.get("STRESS_SEED", "1"))
IMAGES = 10
THREADS = 4  # per process
SCRIPTS = 2
CHANGED = "has changed since you started to edit it"

_POPULATE = """
import json
from cubicweb import Binary
eids = [
    cnx.create_entity("File", title="image", data=Binary(PICTURE),
                      data_name="image%s.png" % number, data_format="image/png").eid
    for number in range(IMAGES)
]
commit()
print("said:", json.dumps(eids))
"""

# Works on the images until the deadline; says the eids that images had, and what came of it all.
_SCRIPT = """
import json
import random
import time
from collections import Counter
from cubicweb import Binary
from cubicweb.server.session import Connection
from cubicweb_hasite.images import replacement

draw = random.Random(SEED)
eids, comments, tags, outcomes = [], [], [], Counter()

def create(cnx):
    number = draw.randrange(10**9)
    image = cnx.create_entity(
        "File", title="image", data=Binary(draw.choice(PICTURES)),
        data_name="image%s.png" % number, data_format="image/png")
    return [(number, image.eid)]

def work(cnx, action, number, eid):
    unique = "%s-%s" % (SEED, draw.randrange(10**9))
    row = {"f": eid, "title": unique}
    if action == "title":
        cnx.execute("SET F title %(title)s WHERE F eid %(f)s", row)
    elif action == "comment":
        cnx.create_entity("Comment", content=unique, comments=eid)
        comments.append((number, unique))
    elif action == "tag":
        cnx.create_entity("Tag", name=unique, tags=eid)
        tags.append((number, unique))
    elif action == "replace":
        replacement.track(cnx)
        data = Binary(draw.choice(PICTURES))
        cnx.execute("SET F data %(d)s WHERE F eid %(f)s", {"f": eid, "d": data})
    elif action == "delete":
        cnx.execute("DELETE File F WHERE F eid %(f)s", row)
        return create(cnx)
    elif action == "permission":
        group = {"g": "guests"}
        cnx.execute('DELETE E read_permission G WHERE E name "File", G name %(g)s', group)
        cnx.commit()
        cnx.execute('SET E read_permission G WHERE E name "File", G name %(g)s', group)
    return []

while time.time() < DEADLINE:
    kinds = ("title", "comment", "tag", "replace", "delete", "permission")
    [action] = draw.choices(kinds, (25, 25, 20, 20, 5, 1))
    done = len(comments), len(tags)
    with Connection(cnx.repo, cnx.user) as connection:
        try:
            rows = connection.execute("Any F, N WHERE F is File, F data_name N").rows
            eid, name = draw.choice(rows)
            number = int(name[len("image"):-len(".png")])
            eids.append((number, eid))
            time.sleep(draw.random() / 50)
            created = work(connection, action, number, eid)
            connection.commit()
            eids += created
            outcomes[action + ": done"] += 1
        except Exception as error:
            del comments[done[0]:], tags[done[1]:]
            outcomes["%s: %s %.60s" % (action, type(error).__name__, error)] += 1
            connection.rollback()
print("said:", json.dumps([sorted(set(eids)), comments, tags, outcomes]))
"""


def _run_script(instance: Instance, name: str, script: str, **names: object) -> list:
    """Run a script in an instance; return what it says at its end."""
    path = instance.directory / f"{name}.py"
    lines = [f"{key} = {value!r}" for key, value in names.items()]
    path.write_text("\n".join(lines) + script)
    return json.loads(instance.ctl("shell", instance.name, str(path)).split("said:")[1])


class Images:
    """The images that visitors edit: their numbers, and the eids that they were seen with."""

    def __init__(self, eids: list[int]) -> None:
        self._lock = threading.Lock()
        self._last = dict(enumerate(eids))
        self.seen = {(number, eid) for number, eid in self._last.items()}
        self.outcomes: Counter[str] = Counter()

    def draw(self, draw: random.Random) -> tuple[int, int] | None:
        """Return the number of an image and the last eid that it was seen with."""
        with self._lock:
            return draw.choice(sorted(self._last.items())) if self._last else None

    def note(self, outcome: str) -> None:
        """Note what came of a request."""
        with self._lock:
            self.outcomes[outcome] += 1

    def saw(self, number: int, eid: int | None, outcome: str) -> None:
        """Note what came of an edit, and the eid that the image has, None if it is gone."""
        with self._lock:
            self.outcomes[outcome] += 1
            if eid is None:
                self._last.pop(number, None)
            else:
                self._last[number] = eid
                self.seen.add((number, eid))


def _edit(visitor: Visitor, draw: random.Random, images: Images) -> None:
    """Edit an image through a form, as a visitor does."""
    drawn = images.draw(draw)
    if drawn is None:
        time.sleep(0.1)
        return
    number, eid = drawn
    page = visitor.get(f"file/{eid}?vid=edition")
    if page.status_code != 200:
        current = _eid(page.headers.get("Location", ""))
        if page.status_code not in (301, 404):
            current = eid
        images.saw(number, current, f"form: {page.status_code}")
        return
    controller = draw.choice(("edit", "validateform"))
    files, changes = {}, {"title": f"by a visitor {draw.randrange(100)}"}
    action = draw.choice(("replace", "replace", "title"))
    if action == "replace":
        data = picture("blue", size=(draw.randrange(1, 50), 20))
        files["data"] = (f"image{number}.png", data, "image/png")
    try:
        response = visitor.edit(eid, "File", changes, files, controller)
    except RuntimeError as error:  # replaced since
        images.saw(number, eid, f"form: {str(error)[-3:]}")
        return
    outcome, location = str(response.status_code), response.headers.get("Location", "")
    if response.status_code == 200 and controller == "validateform":
        valid, answer, _entity = validation(response)
        outcome = "valid" if valid else "refused"
        location = answer if valid else ""
        if not valid and CHANGED not in str(answer):
            outcome = f"{answer}"
    images.saw(number, _eid(location) or eid, f"{controller} {action}: {outcome}")
    if location:  # where the visitor reads that it is done
        images.note(f"page: {visitor.get(location, allow_redirects=True).status_code}")


def _eid(location: str) -> int | None:
    match = re.search(r"/file/(\d+)", location)
    return int(match[1]) if match else None


# Edits the images until there is a file, in several ways, as fast as it can.
_EDIT = """
import json
import os
import random
from collections import Counter
from cubicweb import Binary
from cubicweb.server import hook
from cubicweb.server.session import Connection
from cubicweb_hasite import replacement

draw = random.Random(SEED)
outcomes = Counter()

class Refuse(hook.SingleLastOperation):
    def precommit_event(self):
        raise RuntimeError("rolled back")

while not os.path.exists(STOP):
    [action] = draw.choices(("replace", "replace twice", "edit", "roll back"), (6, 2, 1, 2))
    [eid] = draw.choice(cnx.execute("Any F WHERE F is File").rows)
    cnx.rollback()
    for _ in range(2 if action == "replace twice" else 1):
        with Connection(cnx.repo, cnx.user) as connection:
            replaced = {} if action == "edit" else replacement.track(connection)
            data = Binary(draw.choice(PICTURES))
            try:
                connection.execute(
                    "SET F data %(d)s WHERE F eid %(f)s", {"f": eid, "d": data})
                if action == "roll back":
                    Refuse(connection)  # once the entity is replaced
                connection.commit()
                eid = replaced.get(eid) or eid
                outcomes[action] += 1
            except Exception as error:
                connection.rollback()
                outcomes["%s: %s" % (action, type(error).__name__)] += 1
print("said:", json.dumps(outcomes))
"""


@pytest.mark.skipif(not backend.POSTGRES, reason="SQLite has one writer at a time")
@pytest.mark.parametrize("storage", ["database", "files", "objects"])
def test_visits_during_edits(
    storage: str,
    server_directory: Callable[[str], Path],
    new_database: Callable[[], Database],
    request: pytest.FixtureRequest,
) -> None:
    """Whoever looks at an image, by whatever URL, sees it, or is led to it."""
    options: dict[str, object] = {}
    cubes = ["hasite_testapp", "api"]
    if storage == "files":
        files = server_directory("files")
        files.mkdir()
        options["testapp-files-directory"] = str(files)
    elif storage == "objects":
        cubes.append("s3storage")
        options["testapp-bucket"] = request.getfixturevalue("object_store").bucket
    directory = server_directory("instance")
    instance = Instance(directory, cubes, new_database(), options=options)
    instance.create()
    pictures = [picture(colour) for colour in ("red", "green", "blue", "black")]
    eids = _run_script(instance, "populate", _POPULATE, PICTURE=pictures[0], IMAGES=5)
    stop = directory / "stop"
    with (
        instance.process() as first,
        instance.process(base_url=first.url) as second,
        ThreadPoolExecutor() as pool,
    ):
        edits = pool.submit(
            _run_script, instance, "edit", _EDIT, SEED=SEED, STOP=str(stop), PICTURES=pictures
        )
        visits = Visits([first.url, second.url], eids, pictures)
        try:
            visits.make(REQUESTS, threads=THREADS, seed=SEED)
        finally:
            stop.touch()
        print(f"{storage}: {visits.summary()}; edits: {edits.result()}")
        assert not visits.wrong, visits.summary()


@pytest.fixture
def object_store(
    server_directory: Callable[[str], Path], monkeypatch: pytest.MonkeyPatch
) -> Iterator[ObjectStore]:
    with ObjectStore(server_directory("objects")) as store:
        for name, value in store.environ.items():
            monkeypatch.setenv(name, value)
        yield store


@pytest.fixture
def instance(
    server_directory: Callable[[str], Path], new_database: Callable[[], Database]
) -> Instance:
    instance = Instance(server_directory("instance"), ["hasite_testapp"], new_database())
    instance.create()
    return instance


@pytest.fixture
def processes(instance: Instance) -> Iterator[list[Process]]:
    with instance.process() as first, instance.process(base_url=first.url) as second:
        yield [first, second]


@pytest.mark.skipif(not backend.POSTGRES, reason="SQLite has one writer at a time")
def test_stress(instance: Instance, processes: list[Process]) -> None:
    pictures = [picture(colour) for colour in ("red", "green", "blue", "black")]
    eids = _run_script(instance, "populate", _POPULATE, PICTURE=pictures[0], IMAGES=IMAGES)
    clean = instance.ctl("db-check", instance.name)
    images = Images(eids)
    deadline = time.time() + SECONDS

    def visit(process: Process, seed: int) -> None:
        draw = random.Random(seed)
        visitor = Visitor(process.url)
        visitor.login()
        while time.time() < deadline:
            _edit(visitor, draw, images)

    def script(seed: int) -> list:
        names = {"SEED": seed, "DEADLINE": deadline, "PICTURES": pictures}
        return _run_script(instance, f"script{seed}", _SCRIPT, **names)

    with ThreadPoolExecutor() as pool:
        scripts = [pool.submit(script, SEED + number) for number in range(SCRIPTS)]
        visits = [
            pool.submit(visit, process, SEED * 100 + number)
            for number, process in enumerate(processes * THREADS)
        ]
        for running in visits:
            running.result()
        said = [running.result() for running in scripts]

    outcomes = images.outcomes + sum((Counter(each[3]) for each in said), Counter())
    print(*(f"{count:6} {outcome}" for outcome, count in sorted(outcomes.items())), sep="\n")
    for process in processes:
        print(process.log.count("Traceback"), "tracebacks in", process.log_path)
    seen = images.seen | {(number, eid) for each in said for number, eid in each[0]}
    database = instance.database.name
    live = _live_images(database)
    for relation, column, said_of in (
        ("comments", "cw_content", [each[1] for each in said]),
        ("tags", "cw_name", [each[2] for each in said]),
    ):
        done = {tuple(pair) for pairs in said_of for pair in pairs if pair[0] in live}
        assert done == _attached(database, relation, column), relation
    _check_eids(database, processes, seen, live)
    _check_references(database)
    assert instance.ctl("db-check", instance.name) == clean
    wait_until(lambda: not _sql(database, _BUSY), "end of transactions and locks")
    for process in processes:
        assert " 0 connections" in Visitor(process.url).get("view?vid=monitor_pool").text
    unexpected = {
        outcome: count
        for outcome, count in outcomes.items()
        if not any(re.fullmatch(expected, outcome) for expected in _EXPECTED)
    }
    assert not unexpected


# What may come of an edit, and what an edit that came too late is told.
_EXPECTED = (
    r"\w+: done",
    rf"\w+: ValidationError .*{CHANGED[:20]}.*",
    r"permission: UniqueViolation .*",  # both scripts at once
    r"\w+: (UnknownEid|ForeignKeyViolation) .*",
    r"(form|page): (200|301|404)",
    r"edit \w+: 303",
    r"validateform \w+: (valid|refused)",
)
_NUMBER = "substring(cw_data_name from 'image([0-9]+)')::int"
_BUSY = """
    SELECT pid, state, query FROM pg_stat_activity
    WHERE datname = current_database() AND state LIKE 'idle in%'
    UNION ALL SELECT pid, mode, locktype FROM pg_locks WHERE NOT granted
"""
# columns that hold eids, by their names; those of inlined relations begin with `cw_`
_REFERENCES = """
    SELECT table_name, column_name FROM information_schema.columns
    WHERE table_schema = 'public' AND data_type IN ('integer', 'bigint') AND (
        column_name IN ('eid', 'eid_from', 'eid_to', 'uid', 'cw_eid')
        OR (table_name, column_name) = ('cw_formereid', 'cw_current')
        OR column_name IN (SELECT 'cw_' || lower(cw_name) FROM cw_CWRType WHERE cw_inlined)
    )
"""


def _sql(database: str, query: str) -> list[list[str]]:
    answer = backend.postgresql().sql(" ".join(query.split()), database, timeout=30)
    return [line.split("|") for line in answer.splitlines()]


def _live_images(database: str) -> dict[int, int]:
    """Return the eids of the images by their numbers; each image must be there once."""
    rows = [
        (int(number), int(eid))
        for number, eid in _sql(database, f"SELECT {_NUMBER}, cw_eid FROM cw_File")
    ]
    assert len(dict(rows)) == len(rows)
    return dict(rows)


def _attached(database: str, relation: str, column: str) -> set[tuple[int, str]]:
    """Return the comments or the tags of images: the number of the image, and the text."""
    if relation == "comments":
        link = "cw_Comment JOIN cw_File F ON cw_comments = F.cw_eid"
    else:
        link = "cw_Tag T JOIN tags_relation ON T.cw_eid = eid_from"
        link += " JOIN cw_File F ON eid_to = F.cw_eid"
    rows = _sql(database, f"SELECT {_NUMBER}, {column} FROM {link}")
    return {(int(number), text) for number, text in rows}


def _check_eids(
    database: str, processes: list[Process], seen: set[tuple[int, int]], live: dict[int, int]
) -> None:
    """Each eid that an image ever had leads to the one that it has now in one step, or to 404."""
    former = {
        int(former): int(current)
        for former, current in _sql(database, "SELECT cw_former, cw_current FROM cw_FormerEid")
    }
    assert set(former.values()) <= set(live.values())
    assert not set(former) & set(live.values())
    for number, eid in seen:
        current = live.get(number)
        assert eid == current or former.get(eid) == current
        for process in processes:
            response = Visitor(process.url).get(f"file/{eid}/raw/a.png")
            if current is None:
                assert response.status_code == 404
            elif eid == current:
                assert response.status_code == 200
            else:
                assert response.status_code == 301
                assert response.headers["Location"].endswith(f"/file/{current}/raw/a.png")


def _check_references(database: str) -> None:
    """No row of any table names an eid that is not there."""
    references = _sql(database, _REFERENCES)
    assert ["appears", "uid"] in references
    for table, column in references:
        dangling = f"SELECT {column} FROM {table} WHERE {column} NOT IN (SELECT eid FROM entities)"
        assert not _sql(database, dangling), f"{table}.{column}"
