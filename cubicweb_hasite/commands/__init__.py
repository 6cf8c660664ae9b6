"""The commands of `cubicweb-ctl`: a module for each family. `ccplugin.py` registers them."""

import sys
from collections.abc import Iterable
from importlib import import_module
from pathlib import Path

from cubicweb.cwconfig import CubicWebConfiguration

from cubicweb_hasite.operations import journal


def note(folder: Path, what: str, result: str) -> None:
    """Add a line to a journal; a journal that cannot be written does not stop the command.

    :param folder: the folder of the journal
    """
    try:
        journal.append(folder, what, result)
    except OSError as error:
        print(f"not in the journal {folder / journal.NAME}: {error.strerror}", file=sys.stderr)


def require(extra: str, modules: Iterable[str]) -> None:
    """Exit with one line if a package of an extra is missing.

    :param modules: one module of each package
    """
    try:
        for module in modules:
            import_module(module)
    except ImportError as error:
        sys.exit(f"{error.name} is missing: pip install 'cubicweb-hasite[{extra}]'")


def instance_config(name: str) -> CubicWebConfiguration:
    """Return the configuration of an instance.

    :raises ExecutionError: there is no such instance.
    """
    CubicWebConfiguration.instance_home(name)  # raises it
    return CubicWebConfiguration.config_for(name)
