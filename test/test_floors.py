"""The rooms of the package stand on floors: each imports only what is below it.

A room is a folder or a module directly in `cubicweb_hasite`.
"""

import ast
import re
from graphlib import TopologicalSorter
from pathlib import Path

import pytest

import cubicweb_hasite

PACKAGE = Path(cubicweb_hasite.__file__).parent
NAME = PACKAGE.name

#: The side of the running instance, from the top. Rooms of one floor do not import each other,
#: except on the lowest floor.
FLOORS = (
    {"__init__"},
    {"ccplugin"},
    {"views", "pyramid", "commands", "entities", "replacement"},
    {"hooks", "rest_roles_web", "upstream", "upstream_lists", "upstream_web"},
    {"images", "database", "coherence"},
    {"monitoring"},
    {"responses"},
    {"caches", "sessions", "storages"},
    {"standbys"},
    {"operations"},
    {
        "names",
        "parts",
        "paths",
        "versions",
        "options",
        "__pkginfo__",
        "schema",
        "site_cubicweb",
        "wsgi",
    },
)
#: The rooms that work without an instance, and all that they may import.
APART = {
    "deploy": {"operations", "names", "versions", "__pkginfo__"},
    "upgrades": {"deploy", "operations", "names", "versions", "__pkginfo__"},
    "restorations": {"upgrades", "deploy", "names"},
}
#: The rooms that may import those.
COMMANDS = {"commands", "ccplugin"}

_DOTTED = re.compile(rf"{NAME}(\.\w+)+")


def module_name(path: Path) -> str:
    """Return the dotted name of a module below the package; that of a folder is its own."""
    parts = path.relative_to(PACKAGE).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" and len(parts) > 1 else parts)


MODULES = {
    module_name(path): path
    for path in PACKAGE.rglob("*.py")
    if not {"migration", "templates"} & set(path.relative_to(PACKAGE).parts)
}


def imported(module: str) -> set[str]:
    """Return the modules of the package that a module imports, or names in a string.

    Pyramid is given tweens by their dotted names.
    """
    found = set()
    for node in ast.walk(ast.parse(MODULES[module].read_text())):
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            assert not node.level, f"{module}: relative import in line {node.lineno}"
            names = [f"{node.module}.{alias.name}" for alias in node.names]
        elif isinstance(node, ast.Constant) and isinstance(node.value, str):
            names = [node.value] if _DOTTED.fullmatch(node.value) else []
        else:
            continue
        found |= {target(name) for name in names if name.startswith(f"{NAME}.")}
    return found - {module}


def target(name: str) -> str:
    """Return the module that a dotted name leads to, which may end in names inside of it."""
    parts = name.split(".")[1:]
    while parts and ".".join(parts) not in MODULES:
        parts.pop()
    assert parts, f"nothing in {NAME} is called {name}"
    return ".".join(parts)


def room(module: str) -> str:
    return module.split(".")[0]


def problem(room: str, other: str) -> str | None:
    """Return why a room may not import another one, None if it may."""
    if other in APART:
        apart = room in COMMANDS or other == room or other in APART.get(room, ())
        return None if apart else "only commands and rooms apart may"
    if room in APART:
        return None if other in APART[room] else "it needs a running instance"
    [floor], [below] = (
        [number for number, rooms in enumerate(FLOORS) if each in rooms] for each in (room, other)
    )
    if floor > below:
        return "it is above"
    return "it is on the same floor" if floor == below != len(FLOORS) - 1 else None


def test_each_room_has_its_floor() -> None:
    """A new room is to be put on a floor here."""
    rooms = {room(module) for module in MODULES}
    assert rooms <= set(APART).union(*FLOORS)


@pytest.mark.parametrize("module", MODULES)
def test_imports_lead_down(module: str) -> None:
    wrong = {
        other: why
        for other in imported(module)
        if room(other) != room(module) and (why := problem(room(module), room(other)))
    }
    assert not wrong


def test_no_circle() -> None:
    TopologicalSorter({module: imported(module) for module in MODULES}).prepare()


@pytest.mark.parametrize(
    ("below", "above"),
    [
        ("caches", "responses"),
        ("responses", "monitoring"),
        ("monitoring", "images"),
        ("monitoring", "database"),
        ("images", "hooks"),
        ("images", "database"),
        ("hooks", "views"),
        ("names", "caches"),
        ("standbys", "sessions"),
        ("deploy", "caches"),
        ("upgrades", "monitoring"),
        ("monitoring", "deploy"),
        ("deploy", "upgrades"),
        ("upgrades", "restorations"),
    ],
)
def test_upward_import_is_found(below: str, above: str) -> None:
    assert problem(below, above)


def test_names_imports_nothing() -> None:
    assert not [
        node
        for node in ast.walk(ast.parse(MODULES["names"].read_text()))
        if isinstance(node, ast.Import | ast.ImportFrom)
    ]


def test_public_name() -> None:
    """Applications import it from here."""
    from cubicweb_hasite.images import replacement
    from cubicweb_hasite.replacement import track

    assert track is replacement.track
