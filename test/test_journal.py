"""The journal of a site: a line for each change, whoever makes others at the same time."""

import re
import subprocess
import sys
from pathlib import Path

from deploying import hasite, hasite_here

SITE = Path(__file__).parent / "sites" / "one_host.toml"
_APPEND = """
import sys
from pathlib import Path
from cubicweb_hasite.operations import journal
for number in range(50):
    journal.append(Path.cwd(), f"{sys.argv[1]} {number}", "x" * 3000)
"""


def rows(folder: Path) -> list[list[str]]:
    """Return the cells of the lines of a journal."""
    header, table = (folder / "journal.md").read_text().split("|---|---|---|---|---|\n")
    assert header.startswith("# Journal\n")
    return [re.split(r" (?<!\\)\| ", line.strip("| ")) for line in table.splitlines()]


def test_lines_are_whole(tmp_path: Path) -> None:
    writers = [
        subprocess.Popen([sys.executable, "-c", _APPEND, str(number)], cwd=tmp_path)
        for number in range(4)
    ]
    assert [writer.wait() for writer in writers] == [0] * 4
    cells = rows(tmp_path)
    assert {len(row) for row in cells} == {5}
    assert {row[3] for row in cells} == {f"{w} {n}" for w in range(4) for n in range(50)}
    assert {row[4] for row in cells} == {"x" * 3000}


def test_by_hand(tmp_path: Path) -> None:
    (tmp_path / "site.toml").write_text(SITE.read_text())
    result = hasite("journal", "site.toml", "a | b\n# c", "done", cwd=tmp_path)
    assert (result.returncode, result.stdout, result.stderr) == (0, "", "")
    [[when, who, where, what, outcome]] = rows(tmp_path)
    assert re.fullmatch(r"\d{4}-\d\d-\d\d \d\d:\d\d:\d\d [+-]\d{4}", when)
    assert who
    assert where
    assert (what, outcome) == ("a \\| b # c", "done")
    result = hasite_here("journal", "other.toml", "a", cwd=tmp_path)
    assert (result.returncode, result.stderr) == (1, "other.toml is no site file\n")


def test_rendering(tmp_path: Path) -> None:
    """It is a change if a file changes."""
    (tmp_path / "site.toml").write_text(SITE.read_text())
    for _ in range(2):
        assert hasite_here("render", "site.toml", "out", cwd=tmp_path).returncode == 0
    [first] = rows(tmp_path)
    assert first[3] == "hasite-render site.toml out"
    assert re.fullmatch(r"\d\d changes", first[4])
    (tmp_path / "site.toml").write_text(SITE.read_text().replace("[apache]", ""))
    assert hasite_here("render", "site.toml", "out", cwd=tmp_path).returncode == 0
    assert len(rows(tmp_path)) == 2


def test_journal_that_cannot_be_written(tmp_path: Path) -> None:
    """What is done is done all the same."""
    (tmp_path / "site.toml").write_text(SITE.read_text())
    (tmp_path / "journal.md").mkdir()
    result = hasite("render", "site.toml", "out", cwd=tmp_path)
    assert result.returncode == 0
    assert (tmp_path / "out" / "README.md").exists()
    assert re.fullmatch(r"not in the journal \S+: Is a directory\n", result.stderr)
