"""An application's own controllers and views work with the cube's, and not in place of them."""

import re
from collections.abc import Iterator

import pytest
from pictures import picture
from servers.instance import Instance, Process
from servers.visitor import Visitor, validation

RED, BLUE = picture("red"), picture("blue")


@pytest.fixture(scope="module")
def own(instance: Instance) -> Iterator[Process]:
    with instance.process(testapp_own_controllers="yes") as process:
        yield process
        assert "select ambiguity" not in process.log


@pytest.fixture(scope="module")
def editor(own: Process) -> Visitor:
    """An administrator, who is logged in."""
    visitor = Visitor(own.url)
    visitor.login()
    return visitor


@pytest.fixture
def eid(editor: Visitor) -> int:
    """An image of the application."""
    response = editor.create("File", {"title": "red"}, {"data": ("a.png", RED, "image/png")})
    assert response.headers["X-Own"] == "edit"
    return int(re.search(r"/file/(\d+)", response.headers["Location"])[1])


@pytest.mark.parametrize("controller", ["edit", "validateform"])
def test_edited_image_has_a_new_eid(editor: Visitor, eid: int, controller: str) -> None:
    response = editor.edit(
        eid, "File", files={"data": ("a.png", BLUE, "image/png")}, controller=controller
    )
    assert response.headers["X-Own"] == "edit"
    if controller == "validateform":
        assert response.headers["X-Own-Form"] == "validateform"
        valid, location, _entity = validation(response)
        assert valid
    else:
        location = response.headers["Location"]
    current = int(re.search(r"/file/(\d+)", location)[1])
    assert current != eid
    assert editor.get(f"file/{current}/raw/a.png").content == BLUE
    assert editor.get(f"file/{eid}/raw/a.png").status_code == 301


@pytest.mark.parametrize("controller", ["edit", "validateform"])
def test_get_edits_nothing(editor: Visitor, controller: str) -> None:
    response = editor.get(controller, params={"eid": "1", "__maineid": "1"})
    assert response.status_code == 405
    assert "X-Own" not in response.headers


def test_functions_for_scripts(editor: Visitor) -> None:
    """The application's own controller calls them; by GET, those that read."""
    response = editor.get("ajax", params={"fname": "i18n", "arg": '["edit"]'})
    assert response.status_code == 200, response.text
    assert response.headers["X-Own"] == "ajax"
    location = editor.create("Album", {"name": "before"}).headers["Location"]
    eid = re.search(r"/album/(\d+)", location)[1]
    call = {"fname": "rename_album", "arg": [eid, '"after"']}
    assert editor.get("ajax", params=call).status_code == 405
    assert "before" in editor.get(f"album/{eid}").text
    assert editor.post("ajax", call).headers["X-Own"] == "ajax"
    assert "after" in editor.get(f"album/{eid}").text


def test_own_download_view(editor: Visitor, eid: int) -> None:
    """It serves the URLs that name no eid."""
    query = {"rql": f"Any X WHERE X eid {eid}, X is File", "vid": "download"}
    response = editor.get("view", params=query)
    assert response.headers["X-Own"] == "download"
    assert response.content == RED
