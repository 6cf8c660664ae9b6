"""GET edits nothing, since CubicWeb checks no token of it."""

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from servers.instance import Instance, Process
from servers.visitor import Visitor

_DOCUMENT = Path(__file__).resolve().parent.parent / "docs" / "applications.md"
_REGISTERED = """
import json
print("REGISTERED" + json.dumps([("/" if registry == "controllers" else "") + name
    for registry in ("controllers", "ajax-func")
    for name, objects in repo.vreg[registry].items()
    if any(each.__module__.startswith("cubicweb_web.") for each in objects)]))
"""


def documented() -> dict[str, str]:
    """Return what the document says about GET, by controllers and functions."""
    section = re.search(r"(?ms)^## GET edits nothing$.*?(?=^## )", _DOCUMENT.read_text())[0]
    return {
        name: row[-1].strip()
        for line in section.splitlines()
        if line.startswith("| `")
        for row in [line.strip("| ").split(" | ")]
        for name in re.findall(r"`(\S+?)`", row[0])
    }


@pytest.fixture(scope="module")
def editor(process: Process) -> Visitor:
    """An administrator, who is logged in."""
    visitor = Visitor(process.url)
    visitor.login()
    return visitor


@pytest.fixture(scope="module")
def old_editor(instance: Instance) -> Iterator[Visitor]:
    """The same, where an application needs that GET edits."""
    with instance.process(hasite_edit_by_get="yes") as process:
        visitor = Visitor(process.url)
        visitor.login()
        yield visitor


def eid_of(editor: Visitor, name: str) -> int:
    """Create an album, and return its eid."""
    location = editor.create("Album", {"name": name}).headers["Location"]
    return int(re.search(r"/album/(\d+)", location)[1])


def only(editor: Visitor, query: str) -> Any:
    """Return the only value that a query selects."""
    [[value]] = editor.get("view", params={"vid": "jsonexport", "rql": query}).json()
    return value


def name_of(editor: Visitor, eid: int) -> str:
    """Return the name of an album."""
    return str(only(editor, f"Any N WHERE X eid {eid}, X name N"))


@pytest.fixture(scope="module")
def bookmark(instance: Instance, editor: Visitor) -> int:
    """A bookmark of the administrator."""
    instance.shell(
        "cnx.create_entity('Bookmark', title='home', path='view', "
        "bookmarked_by=cnx.find('CWUser', login='admin').one())\ncommit()\n"
    )
    return int(only(editor, "Any B WHERE B is Bookmark"))


def edition(eid: int, name: str) -> dict[str, str]:
    """Return the parameters of a form that renames an album."""
    return {
        "eid": str(eid),
        "__maineid": str(eid),
        f"__type:{eid}": "Album",
        f"_cw_entity_fields:{eid}": "name-subject,__type",
        f"name-subject:{eid}": name,
    }


def call(function: str, *arguments: object) -> dict[str, object]:
    """Return the parameters by which a script calls a function of the application."""
    return {"fname": function, "arg": [json.dumps(argument) for argument in arguments]}


@pytest.mark.parametrize("method", ["GET", "HEAD"])
@pytest.mark.parametrize("controller", ["edit", "validateform"])
def test_forms(editor: Visitor, controller: str, method: str) -> None:
    eid = eid_of(editor, "before")
    response = editor.request(method, controller, params=edition(eid, "after"))
    assert response.status_code == 405
    assert response.headers["Allow"] == "POST"
    assert response.headers["Cache-Control"] == "no-store"
    assert name_of(editor, eid) == "before"
    assert editor.post(controller, edition(eid, "after")).status_code in (200, 303)
    assert name_of(editor, eid) == "after"


def test_functions_for_scripts(editor: Visitor) -> None:
    """Those that change data are refused by GET, those that read are not."""
    eid = eid_of(editor, "before")
    fields = edition(eid, "after")
    admin = only(editor, "Any X WHERE X login 'admin'")
    calls = [
        call("validate_form", "apply", [*fields], [*fields.values()]),
        call("rename_album", eid, "after"),
        call("add_relation", "owned_by", eid, admin),
        call("delete_relation", "owned_by", eid, admin),
    ]
    for parameters in calls:
        response = editor.get("ajax", params=parameters)
        assert response.status_code == 405, parameters
        assert response.headers["Allow"] == "POST"
    assert name_of(editor, eid) == "before"
    assert editor.get("ajax", params=call("i18n", ["yes"])).json() == ["yes"]
    assert editor.post("ajax", calls[0]).json()[0] is True
    assert name_of(editor, eid) == "after"


def test_all_are_documented(instance: Instance) -> None:
    """Another version of cubicweb-web may have one about which nobody has thought yet."""
    registered = re.search("REGISTERED(.*)", instance.shell(_REGISTERED))[1]
    assert set(json.loads(registered)) == set(documented())


@pytest.mark.parametrize(
    "name", sorted(name for name, answer in documented().items() if answer.startswith("405"))
)
def test_what_is_refused_by_get(editor: Visitor, bookmark: int, name: str) -> None:
    eid = eid_of(editor, "before")
    fields, triple = edition(eid, "after"), [eid, "owned_by", eid]
    if name.startswith("/"):
        answer = editor.get(name, params=fields)
    else:
        arguments: dict[str, list[object]] = {
            "add_relation": ["owned_by", eid, only(editor, "Any X WHERE X login 'anon'")],
            "delete_relation": ["owned_by", eid, only(editor, "Any X WHERE X login 'admin'")],
            "delete_bookmark": [bookmark],
            "validate_form": ["apply", [*fields], [*fields.values()]],
            "render": ["views", "list"],
            "add_pending_inserts": [[triple]],
            "add_pending_delete": [triple],
            "remove_pending_delete": [triple],
            "cancel_edition": ["/"],
        }
        query = f"SET X name 'after' WHERE X eid {eid}"
        answer = editor.get("ajax", params={**call(name, *arguments.get(name, [])), "rql": query})
    assert answer.status_code == 405
    assert name_of(editor, eid) == "before"


@pytest.mark.parametrize(
    "rql", ["SET X name 'after' WHERE X eid {}", "rql:SET X name 'after' WHERE X eid {}"]
)
@pytest.mark.parametrize("controller", ["view", "jsonp"])
def test_queries(editor: Visitor, controller: str, rql: str) -> None:
    """None of a page changes data, not even in the ways in which visitors may write them."""
    eid = eid_of(editor, "before")
    editor.get(controller, params={"rql": rql.format(eid)})
    assert name_of(editor, eid) == "before"


def test_relations_that_wait_for_a_form(editor: Visitor) -> None:
    """By GET none are put in the session, which another form would write to the database."""
    eid = eid_of(editor, "before")
    anon = only(editor, "Any X WHERE X login 'anon'")
    location = editor.create("File", {"title": "a"}, {"data": ("a.txt", b"a", "text/plain")})
    file = int(re.search(r"/file/(\d+)", location.headers["Location"])[1])
    staged = call("add_pending_inserts", [[eid, "owned_by", anon]])
    owners = f"Any COUNT(U) WHERE X eid {eid}, X owned_by U"
    assert editor.get("ajax", params=staged).status_code == 405
    editor.edit(file, "File", {"title": "b"})
    assert only(editor, owners) == 1
    assert editor.post("ajax", staged).status_code == 200
    editor.edit(file, "File", {"title": "c"})
    assert only(editor, owners) == 2


def test_errors_of_functions(editor: Visitor) -> None:
    """They are as without the cube."""
    response = editor.get("ajax", params=call("no_such_function"))
    assert response.status_code == 400
    response = editor.get("ajax", params=call("format_date"))
    assert response.status_code == 500


def test_application_that_edits_by_get(old_editor: Visitor) -> None:
    eid = eid_of(old_editor, "before")
    assert old_editor.get("edit", params=edition(eid, "after")).status_code == 303
    assert name_of(old_editor, eid) == "after"
    fields = edition(eid, "again")
    parameters = call("validate_form", "apply", [*fields], [*fields.values()])
    assert old_editor.get("ajax", params=parameters).json()[0] is True
    assert name_of(old_editor, eid) == "again"
