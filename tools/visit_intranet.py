"""Visit cubicweb-intranet without and with the cube, and compare what it answers.

Two instances are made, and the cube is added to one of them as README.md says. Both get the same
entities; then the same visitors open the same pages, send the same forms and use the API. An
answer differs if its status, its media type, where it leads or its text is another. Numbers do
not count, since the entities have other eids.

Differences are printed and make the exit status 1, but for those that are expected.
"""

import difflib
import json
import re
import shutil
import sys
from collections.abc import Callable, Iterator
from functools import partial

import lxml.html
import requests
from servers.instance import Instance
from servers.postgresql import PostgreSQL
from servers.support import make_directory
from servers.visitor import Visitor

#: what is expected to differ: the visit, as a regular expression, and the reason
EXPECTED = {
    r".* GET api/v1/(schema|siteinfo)": "they list the cube, its type and its classes",
    r".* GET (file|text) download/a": "the URL of a download may end with a file name",
    r".* GET text thumb/a.png": "a text has no thumbnail: 404, and not a page that says so",
}

_PICTURE = bytes.fromhex(
    "89504e470d0a1a0a0000000d4948445200000001000000010802000000907753de"
    "0000000c49444154789c63f8cfc0000003010100c9fe92ef0000000049454e44ae426082"
)
_POPULATE = f"""
import json
from cubicweb import Binary
create = cnx.create_entity
made = {{}}
made["folder"] = create("Folder", name="a folder").eid
made["file"] = create(
    "File", title="a picture", data=Binary(bytes.fromhex({_PICTURE.hex()!r})),
    data_name="a.png", data_format="image/png").eid
made["text"] = create(
    "File", title="a text", data=Binary(b"text"), data_name="a.txt",
    data_format="text/plain", data_encoding="utf-8").eid
made["card"] = create(
    "Card", title="a card", content=":eid:`%s:a picture`" % made["file"],
    content_format="text/rest").eid
made["blog"] = create("Blog", title="a blog").eid
made["blogentry"] = create(
    "BlogEntry", title="an entry", content="words", entry_of=made["blog"]).eid
made["link"] = create("Link", title="a link", url="http://www.example.org/").eid
made["task"] = create("Task", title="a task").eid
made["book"] = create("Book", title="a book").eid
made["tag"] = create("Tag", name="a tag", tags=made["file"]).eid
made["comment"] = create("Comment", content="a comment", comments=made["file"]).eid
made["person"] = create("Person", surname="a person").eid
create("CWUser", login="user", upassword=b"user",
       in_group=cnx.find("CWGroup", name="users").one())
cnx.commit()
print("said:", json.dumps(made))
"""
_VIEWS = ("", "?vid=edition", "?vid=list", "?vid=oneline", "?vid=text", "?vid=rdf", "?vid=copy")
_PAGES = (
    "",
    "index",
    "view?vid=manage",
    "info",
    "schema",
    "siteconfig",
    "cwuser/admin",
    "cwuser",
    "view?vid=sitemap",
    "view?rql=Any+X+WHERE+X+is+File",
    "view?rql=Any+X+WHERE+X+is+File&vid=table",
    "view?rql=Any+X,T+WHERE+X+is+File,+X+title+T&vid=csvexport",
    "view?rql=Any+X+WHERE+X+is+BlogEntry&vid=rss",
    "view?rql=Any+X+WHERE+X+title+LIKE+%22a%25%22&vid=jsonexport",
    "view?rql=Any+X+WHERE+X+nothing+1",
    "search?q=picture",
    "myprefs",
    "changelog",
    "nothing",
    "api/v1/schema",
    "api/v1/siteinfo",
    "api/v1/current-user",
)
_QUERIES = (
    "Any X, T WHERE X is File, X title T",
    "Any X WHERE X is Nothing",
    "SET X title 'by the API' WHERE X is File, X title 'a text'",
    "INSERT Tag X: X name 'by the API'",
    "DELETE Tag X WHERE X name 'by the API'",
)

Answers = dict[str, tuple[str, list[str]]]


def answers(instance: Instance) -> Answers:
    """Return what an instance answers: by visit, its status and the like, and its text."""
    made = json.loads(instance.shell(_POPULATE).split("said:")[1].splitlines()[0])
    with instance.process() as process:
        found: Answers = {}
        for who in ("anonymous", "user", "admin"):
            for what, response in _visits(partial(_new_visitor, process.url, who), made):
                found[f"{who} {what}"] = _summary(response, process.url)
        log = process.log.count("Traceback")
    print(f"{instance.cubes}: {len(found)} answers, {log} tracebacks in its log")
    return found


def _new_visitor(url: str, who: str) -> Visitor:
    visitor = Visitor(url)
    if who != "anonymous":
        visitor.login(who, who)
    return visitor


def _visits(
    new_visitor: Callable[[], Visitor], made: dict[str, int]
) -> Iterator[tuple[str, requests.Response]]:
    """Yield what a visitor does, and the answer.

    The visitor logs in again and again: without the cube a session takes some twenty forms, and
    the answer to all others is 500.
    """
    etypes = {"text": "file"}
    visitor = new_visitor()
    for page in _PAGES:
        yield f"GET {page}", visitor.get(page)
    for name, eid in made.items():
        etype = etypes.get(name, name)
        visitor = new_visitor()
        yield f"GET {etype}", visitor.get(etype)
        yield f"GET add/{etype}", visitor.get(f"add/{etype}")
        for view in _VIEWS:
            yield f"GET {name}{view}", visitor.get(f"{etype}/{eid}{view}")
        yield f"GET {name} by eid", visitor.get(str(eid))
        yield f"PUT {name} by the API", visitor.request("PUT", f"{etype}/{eid}")
    for name in ("file", "text"):
        for path in ("raw/a", "thumb/a.png", "download/a"):
            yield f"GET {name} {path}", visitor.get(f"file/{made[name]}/{path}")
        binary = f"api/v1/binary?eid={made[name]}&attribute=data"
        yield f"GET {name} binary", visitor.get(binary, headers=_API)
    for query in _QUERIES:
        body = [{"query": query, "params": {}}]
        yield f"RQL {query}", visitor.request("POST", "api/v1/rql", json=body, headers=_API)
    for name in ("file", "text", "card", "blogentry", "link", "folder", "task"):
        etype, eid = etypes.get(name, name), made[name]
        visitor = new_visitor()
        for controller in ("edit", "validateform"):
            files = {"data": ("b.png", _PICTURE, "image/png")} if name == "file" else {}
            field = "name" if name == "folder" else "title"
            try:
                response = visitor.edit(
                    eid, etype, {field: f"{name} by {controller}"}, files, controller
                )
            except RuntimeError as error:
                response = requests.Response()
                response.status_code = int(str(error)[-3:])
            yield f"{controller} {name}", response
            # an image has another eid now
            moved = re.search(r"/file/(\d+)", response.headers.get("Location", "") + response.text)
            if name == "file" and moved:
                made[name] = eid = int(moved[1])
            yield f"GET {name} after {controller}", visitor.get(f"{etype}/{eid}")
    yield "GET card that names a picture", visitor.get(f"card/{made['card']}")
    yield "GET file after edits", visitor.get(f"file/{made['file']}/raw/b.png")


#: lines that are not compared: what each form says of the cubes, for reports of errors, but for
#: numbers, see _plain; and the link to the page for operators, which managers have
_NOT_COMPARED = ("N.N.N", "Cube hasite version:", "State of the site")
_API = {"X-Client-Name": "visits"}


def _summary(response: requests.Response, url: str) -> tuple[str, list[str]]:
    """Return what is compared of an answer: its status and the like, and its text."""
    kind = response.headers.get("Content-Type", "")
    leads = response.headers.get("Location", "").replace(url, "/")
    text = ""
    if response._content_consumed and "html" in kind:
        page = lxml.html.fromstring(response.content) if response.content.strip() else None
        if page is not None:
            for each in page.xpath("//script|//style"):
                each.drop_tree()
            text = "\n".join(page.itertext())
    elif response._content_consumed and ("text" in kind or "json" in kind or "xml" in kind):
        text = response.text.replace(url, "/").replace(",", "\n")
    # sorted, because CubicWeb lists some things in another order each time
    lines = sorted(filter(None, (_plain(line.strip()) for line in text.splitlines())))
    start = f"{response.status_code} {kind.replace('; ', ';')}"
    return " ".join([start, _plain(leads)]).strip(), [
        one for one in lines if one not in _NOT_COMPARED
    ]


def _plain(text: str) -> str:
    """Return a text without its numbers and tokens."""
    return re.sub(r"\d+", "N", re.sub(r"\b[0-9a-f]{32,}\b", "T", text))


def main() -> None:
    """Compare, and end with status 1 if something differs that is not expected."""
    directory = make_directory()
    try:
        with PostgreSQL(directory / "postgresql") as server:
            found = []
            for name in ("without", "with"):
                instance = Instance(directory / name, ["intranet"], server.create_database(name))
                instance.create()
                if name == "with":
                    instance.shell("add_cube('hasite')\n")
                    instance.ctl("i18ninstance", instance.name)
                found.append(answers(instance))
    finally:
        shutil.rmtree(directory)
    sys.exit(_compare(*found))


def _compare(without: Answers, with_cube: Answers) -> int:
    """Print the differences; return 1 if there is one that is not expected."""
    unexpected = 0
    for what, before in without.items():
        after = with_cube[what]
        if before == after:
            continue
        reasons = [why for visit, why in EXPECTED.items() if re.fullmatch(visit, what)]
        unexpected += not reasons
        print(f"{what}: {before[0]} | {after[0]}: {reasons[0] if reasons else 'NOT EXPECTED'}")
        for line in list(difflib.unified_diff(before[1], after[1], lineterm="", n=0))[2:12]:
            print(f"    {line}")
    same = sum(without[what] == with_cube[what] for what in without)
    print(f"{same} of {len(without)} answers are the same; {unexpected} differ unexpectedly")
    return 1 if unexpected else 0


if __name__ == "__main__":
    main()
