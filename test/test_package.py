"""What a package index and CubicWeb are told of the package. Its contents: see tools/package."""

import re
from pathlib import Path

from cubicweb.cwconfig import CubicWebConfiguration
from cubicweb.migration import ConfigurationProblem
from documents import CHECKOUT, anchors

import cubicweb_hasite
from cubicweb_hasite.__pkginfo__ import documentation, web

PACKAGE = Path(cubicweb_hasite.__file__).parent
#: files of the package, with what is compiled left out
INSTALLED = [
    path for path in PACKAGE.rglob("*") if path.is_file() and path.suffix not in (".pyc", ".mo")
]


def check(url: str) -> None:
    """Assert that a URL of a document leads to a file of the project, and to a heading of it."""
    path, _, anchor = url.partition("#")
    kind, _, path = path.removeprefix(f"{web}/-/").partition("/main/")
    assert kind in ("blob", "raw"), url
    assert (CHECKOUT / path).is_file(), url
    assert not anchor or anchor in anchors(CHECKOUT / path), url


def test_dependencies_that_cubicweb_reads() -> None:
    """They are those that pip installs, in a form that CubicWeb understands."""
    assert CubicWebConfiguration.cube_dependencies("hasite") == {}
    assert set(CubicWebConfiguration.cube_recommends("hasite")) == {"web", "file"}
    # where an instance has them, ours extends them
    assert CubicWebConfiguration.reorder_cubes(["web", "hasite", "file"])[0] == "hasite"
    assert CubicWebConfiguration.expand_cubes(["hasite"]) == ["hasite"]
    problem = ConfigurationProblem(CubicWebConfiguration)
    for cube in ("hasite", "web", "file"):
        problem.add_cube(cube, CubicWebConfiguration.cube_version(cube))
    problem.solve()
    assert problem.errors == []
    assert not [warning for warning in problem.warnings if "hasite" in warning]


def test_links_of_the_readme() -> None:
    """A package index shows it too, where a relative link leads nowhere."""
    text = (CHECKOUT / "README.md").read_text()
    links = re.findall(r"\]\(([^)\s]+)|^\[[^]]+\]: *(\S+)|\b(?:src|href)=\"([^\"]+)\"", text, re.M)
    links = ["".join(groups) for groups in links]
    assert len(links) > 5
    for link in links:
        assert link.startswith("https://"), link
        if link.startswith(web):
            check(link)


def test_documents_that_are_named() -> None:
    """Where the package names a document of docs/, which is not installed, it gives its URL."""
    names = "|".join(path.stem for path in (CHECKOUT / "docs").glob("*.md"))
    found = []
    for file in INSTALLED:
        text = re.sub("{documentation}|{{ documentation }}", documentation, file.read_text())
        for mention in re.findall(rf"\S*\b(?:docs/|(?:{names})\.md)\S*", text):
            [url] = re.findall(r"https://[\w./-]+\.md(?:#[\w-]+)?", mention) or [mention]
            assert url.startswith(f"{documentation}/"), f"{file}: {mention}"
            check(url)
            found.append(url)
    assert len(found) > 2


def test_commands_for_contributors() -> None:
    """CONTRIBUTING.md names targets of the Makefile, files and links that exist."""
    text = (CHECKOUT / "CONTRIBUTING.md").read_text()
    targets = re.findall(r"^([\w-]+):", (CHECKOUT / "Makefile").read_text(), re.M)
    named = re.findall(r"\bmake ([a-z][\w-]*)", text)
    assert len(named) > 8
    assert set(named) <= set(targets)
    paths = re.findall(r"\b(?:test|tools|docs)/[\w/.]*\w|\.ci/run|\b[A-Z]+\.md", text)
    assert len(paths) > 4
    for path in paths:
        assert (CHECKOUT / path).exists(), path
