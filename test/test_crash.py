"""A process that is killed in the middle of an edit leaves the image wholly old or wholly new."""

import subprocess
import sys
import threading
import time
from pathlib import Path

import backend
import pytest
import requests
from pictures import picture
from servers.instance import Instance
from servers.visitor import Visitor

SCRIPT = Path(__file__).with_name("kill_edits.py")
_CREATE = """
from cubicweb import Binary
image = cnx.create_entity("File", data=Binary(PICTURE), data_name="a.png", data_format="image/png")
cnx.create_entity("Comment", content="hello", comments=image)
commit()
print("said:", image.eid)
"""


def test_at_every_step(instance: Instance) -> None:
    result = subprocess.run(
        [sys.executable, SCRIPT],
        env=instance.environ({"connections-pooler-enabled": "n"}),
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert result.returncode == 0, result.stdout + result.stderr
    old, new = map(int, result.stdout.split("said: ")[1].split())
    assert old > 20  # as many statements at least
    assert new > 1  # after the commit, and at the end


@pytest.mark.skipif(not backend.POSTGRES, reason="SQLite: the process would hold its lock")
def test_of_a_server(instance: Instance) -> None:
    """At any time while visitors edit an image, and it is visited."""
    before = picture("blue")
    said = instance.shell(_CREATE.replace("PICTURE", repr(before))).split("said: ")[1]
    eid = int(said.split()[0])
    for number in range(8):
        data = picture("green", size=(number + 1, 9))
        with instance.process() as process:
            visitor = Visitor(process.url)
            visitor.login()
            form = visitor.form(f"file/{eid}?vid=edition")
            answers = []

            def edit(visitor=visitor, form=form, eid=eid, data=data, answers=answers) -> None:
                try:
                    files = {"data": ("a.png", data, "image/png")}
                    answers.append(visitor.submit(form, eid, files=files))
                except requests.ConnectionError:
                    pass

            thread = threading.Thread(target=edit, daemon=True)
            thread.start()
            time.sleep(number * 0.015)
            process.kill()
            thread.join(30)
            assert not thread.is_alive()
        with instance.process() as process:
            visitor = Visitor(process.url)
            response = visitor.get(f"file/{eid}/raw/a.png", allow_redirects=True)
            replaced = bool(response.history)
            assert response.content == (data if replaced else before)
            assert replaced or not answers  # what was answered is kept
            page = visitor.get(f"file/{eid}", allow_redirects=True)
            assert "hello" in page.text
            eid = int(response.url.split("/")[4]) if replaced else eid
            before = response.content
