"""How many SQL statements requests for images take."""

import re
from collections.abc import Callable, Iterator

import backend
import pytest
from pictures import picture
from servers.instance import Instance, Process
from servers.visitor import Visitor

pytestmark = pytest.mark.skipif(not backend.POSTGRES, reason="SQLite logs no statements")

_STATEMENT = re.compile(r"statement: (?!BEGIN|COMMIT|ROLLBACK)([^\n]*)")
RED, BLUE = ({"data": ("a.png", picture(colour), "image/png")} for colour in ("red", "blue"))


@pytest.fixture(scope="module")
def process(instance: Instance) -> Iterator[Process]:
    database = instance.database.name
    backend.postgresql().sql(f"ALTER DATABASE {database} SET log_statement = 'all'")
    with instance.process() as process:
        yield process
    backend.postgresql().sql(f"ALTER DATABASE {database} RESET log_statement")


def statements(request: Callable[[], object]) -> list[str]:
    """Return what a request asks of the database, when it is made again.

    The least of some times: threads of the process ask something now and then.
    """
    request()
    found = []
    for _ in range(4):
        before = len(backend.postgresql().log)
        request()
        found.append(_STATEMENT.findall(backend.postgresql().log[before:]))
    return min(found, key=len)


def test_downloads(process: Process) -> None:
    manager = Visitor(process.url)
    manager.login()
    response = manager.create("File", {"title": "image"}, RED)
    eid = int(response.headers["Location"].split("?")[0].rpartition("/")[2])
    visitor = Visitor(process.url)
    url = f"file/{eid}/raw/a.png"
    validator = {"If-None-Match": visitor.get(url).headers["ETag"]}

    def answered(status: int, url: str, method: str = "GET", **headers: str) -> int:
        """Return how many statements an answer takes."""

        def ask() -> None:
            assert visitor.request(method, url, headers=headers).status_code == status

        asked = statements(ask)
        print(url, status, headers, *asked, sep="\n  ")
        return len(asked)

    assert answered(200, url) <= 2
    assert answered(304, url, **validator) <= 1
    assert answered(200, url, "HEAD") <= 2
    assert answered(206, url, Range="bytes=0-9") <= 3

    assert manager.edit(eid, "File", files=BLUE).status_code == 303
    for former in (url, f"file/{eid}/thumb/a.png", f"file/{eid}", f"{eid}"):
        assert answered(301, former) <= 4


def test_lists(instance: Instance, process: Process) -> None:
    """The length of a list makes no difference."""
    instance.shell(
        "from cubicweb import Binary\n"
        "for number in range(30):\n"
        "    title = 'listed%02d' % number\n"
        "    cnx.create_entity('File', title=title, data=Binary(title.encode()),"
        " data_name=title + '.png', data_format='image/png')\n"
        "\n"
        "cnx.commit()\n"
    )
    visitor = Visitor(process.url)

    def asked(view: str, last: int) -> int:
        files = f"X is File, X title T, X title >= 'listed00', X title <= 'listed{last:02}'"

        def ask() -> None:
            response = visitor.get(f"view?rql=Any X,T ORDERBY T WHERE {files}&vid={view}")
            assert response.status_code == 200
            assert f"listed{last:02}" in response.text

        return len(statements(ask))

    for view in ("gallery", "sameetypelist", "album", "list", "table"):
        assert asked(view, 4) == asked(view, 29), view
