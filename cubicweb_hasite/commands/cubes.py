"""Commands about the cubes that are installed: hasite-cubes."""

import sys

from cubicweb import ExecutionError
from cubicweb.cwconfig import CubicWebConfiguration
from cubicweb.toolsutils import Command

from cubicweb_hasite import versions
from cubicweb_hasite.commands import instance_config


class CubesCommand(Command):
    """Say whether cubes are installed, before an instance is made of them.

    <cubes>
      names of cubes, separated by commas, as for `cubicweb-ctl create`. With --versions: the
      identifier of an instance.
    """

    name = "hasite-cubes"
    arguments = "<cubes>"
    min_args = max_args = 1
    options = (
        (
            "versions",
            {
                "action": "store_true",
                "default": False,
                "help": "print the installed versions of an instance's cubes, as "
                "hasite-accept takes them",
            },
        ),
    )

    def run(self, args: list[str]) -> None:
        """Print the line; exit with 1 if a cube is not installed."""
        [argument] = args
        if self["versions"]:
            print(installed(instance_config(argument)))
            return
        available = sorted(_name(cube) for cube in CubicWebConfiguration.available_cubes())
        problems = [_problem(cube, available) for cube in argument.split(",")]
        if any(problems):
            sys.exit("\n".join(filter(None, problems)))
        print(f"installed: {argument}")


def bootstrap(config: CubicWebConfiguration) -> None:
    """Load the cubes of an instance, whose options are known then.

    :raises ExecutionError: one of them is not installed.
    """
    try:
        config.bootstrap_cubes()
    except Exception as error:  # of the import of the cube
        raise _unusable(config, error) from error


def installed(config: CubicWebConfiguration) -> str:
    """Return the installed versions of CubicWeb and of the cubes of an instance.

    :raises ExecutionError: one of the cubes is not installed.
    """
    bootstrap(config)
    found = {"cubicweb": str(config.cubicweb_version())}
    try:
        found |= {cube: str(config.cube_version(cube)) for cube in config.cubes()}
    except Exception as error:
        raise _unusable(config, error) from error
    return versions.write(found)


def _unusable(config: CubicWebConfiguration, error: Exception) -> ExecutionError:
    return ExecutionError(f"a cube of {config.appid} cannot be used here: {error}")


def _name(cube: str) -> str:
    return cube.removeprefix("cubicweb_")


def _problem(cube: str, available: list[str]) -> str | None:
    """Return what is wrong with the name of a cube, None if it is installed."""
    if cube in available:
        return None
    if not cube or cube != cube.strip():
        return "write the names of cubes without spaces, such as hasite,news"
    if cube.isupper():
        return f"{cube} stands for the names of your cubes; installed are: {', '.join(available)}"
    own = cube.lower().replace("-", "_").removeprefix("cubicweb_")
    if own in available:
        return f"{cube} is a package; write the name of its cube: {own}"
    return (
        f"no cube {cube} is installed; install its package by the pip of this environment, "
        f"{sys.prefix}/bin/pip, or write one of: {', '.join(available)}"
    )


COMMANDS = [CubesCommand]
