"""The text of versions is written as it is read, and compared as CubicWeb compares versions."""

import pytest

from cubicweb_hasite import versions

TEXT = "cubicweb: 5.0.1 | file: 4.2.0 | tag: 3.10.0"
PARSED = {"cubicweb": "5.0.1", "file": "4.2.0", "tag": "3.10.0"}


def test_text() -> None:
    assert versions.parse(TEXT) == PARSED
    assert versions.write(dict(reversed(PARSED.items()))) == TEXT
    assert versions.write({"tag": "3.1.0"}, ["file", "cubicweb"]) == (
        "cubicweb: ? | file: ? | tag: 3.1.0"
    )


@pytest.mark.parametrize(
    "text", ["", "5.0.1", "cubicweb 5.0.1", "cubicweb: 5.0.1 file: 4.2.0", "file: ?", f"{TEXT}\n"]
)
def test_wrong_text(text: str) -> None:
    with pytest.raises(ValueError, match="is not a list of versions"):
        versions.parse(text)


def test_monitor_text() -> None:
    text = versions.monitor_text(PARSED, PARSED)
    assert text == f"ServiceOK : FS config {TEXT} == DB config {TEXT}"
    assert versions.from_monitor_text(text) == TEXT
    other = versions.monitor_text({"cubicweb": "5.0.1"}, {"cubicweb": "5.0.1", "tag": "3.1.0"})
    assert other == (
        "ServiceKO : FS config cubicweb: 5.0.1 | tag: ? != DB config cubicweb: 5.0.1 | tag: 3.1.0"
    )
    with pytest.raises(ValueError, match="ServiceKO"):
        versions.from_monitor_text(other)


@pytest.mark.parametrize(
    ("database", "expected"),
    [
        ({"cubicweb": "5.0.1", "file": "4.2.0"}, True),
        ({"cubicweb": "5.0.1", "file": "4.9.0"}, True),
        ({"cubicweb": "5.0.1", "file": "4.10.0"}, True),
        ({"cubicweb": "5.0.1", "file": "4.10.1"}, False),
        ({"cubicweb": "5.0.1", "file": "4.1.0"}, False),
        ({"cubicweb": "5.0.2", "file": "4.2.0"}, False),
        ({"cubicweb": "5.0.1", "file": "4.2.0", "tag": "3.1.0"}, True),
        ({"cubicweb": "5.0.1", "file": "4.2.0", "other": "1.0.0"}, False),
    ],
)
def test_on_the_way(database: dict[str, str], expected: bool) -> None:
    installed = {"cubicweb": "5.0.1", "file": "4.2.0"}
    target = {"file": "4.10.0", "tag": "3.1.0"}
    assert versions.is_on_the_way(database, installed, target) is expected


def test_version_that_is_not_made_of_numbers() -> None:
    with pytest.raises(ValueError, match="dev"):
        versions.is_on_the_way({"file": "4.2.dev0"}, {"file": "4.2.0"}, {"file": "4.3.0"})
