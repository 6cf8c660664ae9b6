"""GET edits nothing, since CubicWeb checks no token of it."""

import json
import re
from collections.abc import Iterator

import pytest
from servers.instance import Instance, Process
from servers.visitor import Visitor


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


def name_of(editor: Visitor, eid: int) -> str:
    """Return the name of an album."""
    [[name]] = editor.get(
        "view", params={"vid": "jsonexport", "rql": f"Any N WHERE X eid {eid}, X name N"}
    ).json()
    return name


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
    query = {"vid": "jsonexport", "rql": "Any X WHERE X login 'admin'"}
    [[admin]] = editor.get("view", params=query).json()
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
