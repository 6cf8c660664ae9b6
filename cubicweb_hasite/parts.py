"""Which optional parts of CubicWeb an instance has: everything that depends on them asks here.

An instance without cubicweb-web has a front end of its own, in JavaScript over cubicweb-api. Its
registry has no views. The modules in `views`, and those whose names end with `_web` or `_file`,
import an optional package; they are imported only where an instance has it.
"""

from collections.abc import Iterable
from typing import Any

from cubicweb.cwconfig import CubicWebConfiguration
from cubicweb.cwvreg import CWRegistryStore


def has_web(config: CubicWebConfiguration) -> bool:
    """Return whether an instance has the pages of cubicweb-web."""
    # CubicWeb's own test cases of the repository have the cube, but load no views
    return "web" in config.cubes() and "views" in config.cube_appobject_path


def has_file(config: CubicWebConfiguration) -> bool:
    """Return whether an instance has the type `File` of cubicweb-file."""
    return "file" in config.cubes()


def views(vreg: CWRegistryStore) -> dict[str, Iterable[Any]]:
    """Return the views of an instance by their identifiers; none without cubicweb-web."""
    return vreg.get("views", {})
