"""The commands that the cube adds to `cubicweb-ctl`."""

import sys
from pathlib import Path

from cubicweb.cwctl import CWCTL
from cubicweb.toolsutils import Command


def _require_deploy() -> None:
    """Exit with one line if the packages of the extra `deploy` are missing."""
    try:
        import jinja2  # noqa: F401
        import pydantic  # noqa: F401
    except ImportError as error:
        sys.exit(f"{error.name} is missing: pip install 'cubicweb-hasite[deploy]'")


class InitCommand(Command):
    """Print a commented example of a site file, valid as it is."""

    name = "hasite-init"
    arguments = ""
    max_args = 0

    def run(self, args):
        """Print the example."""
        _require_deploy()
        from cubicweb_hasite.deploy import document

        print(document.example(), end="")


class RenderCommand(Command):
    """Write the configuration of all the hosts of a site, and its documentation.

    <site file>
      what describes the site; see hasite-init.

    <folder>
      where to write, each host in a folder of its own. With --diff, what is compared with what
      would be written: such a folder, or the root of this host, such as /. The exit status is
      then 1 if they differ.
    """

    name = "hasite-render"
    arguments = "<site file> <folder>"
    min_args = max_args = 2
    options = (
        (
            "diff",
            {
                "action": "store_true",
                "default": False,
                "help": "write nothing; print how the folder differs from what would be written",
            },
        ),
        (
            "host",
            {
                "type": "string",
                "metavar": "<name>",
                "default": None,
                "help": "with --diff: the host of the site file whose root the folder is; "
                "by default this machine",
            },
        ),
    )

    def run(self, args):
        """Render, or compare."""
        _require_deploy()
        from cubicweb_hasite.deploy import load, output, render

        path, folder = map(Path, args)
        try:
            site_file = load.load(path)
            rendering = render.render(site_file, drawing=not self.config.diff)
            if self.config.diff:
                differences = output.diff(rendering, folder, self.config.host)
                print(differences, end="")
                sys.exit(1 if differences else 0)
            output.write(rendering, folder)
        except (load.SiteError, output.RenderError) as error:
            sys.exit(str(error))
        print(f"{len(rendering)} files are in {folder}; begin with {folder / 'README.md'}")


class CheckCommand(Command):
    """Have the programs themselves check what hasite-render wrote.

    The exit status is 1 if a file is wrong. A file whose program is not installed here is said to
    be not checked.

    <folder>
      the folder that hasite-render wrote.
    """

    name = "hasite-check"
    arguments = "<folder>"
    min_args = max_args = 1
    options = (
        (
            "strict",
            {
                "action": "store_true",
                "default": False,
                "help": "exit with 1 too if a program that would check a file is not installed",
            },
        ),
    )

    def run(self, args):
        """Check, and print the table."""
        _require_deploy()
        from cubicweb_hasite.deploy import check

        try:
            results = check.check(Path(args[0]))
        except check.CheckError as error:
            sys.exit(str(error))
        for line in check.table(results):
            print(line)
        sys.exit(1 if check.failed(results, strict=self.config.strict) else 0)


for command in (InitCommand, RenderCommand, CheckCommand):
    CWCTL.register(command)
