"""Commands for a site file: hasite-init, hasite-render, hasite-check."""

import sys
from pathlib import Path

from cubicweb.toolsutils import Command

from cubicweb_hasite.commands import note, require

#: modules of the packages of the extra `deploy`
MODULES = ["jinja2", "pydantic"]


class InitCommand(Command):
    """Print a commented example of a site file; it is valid."""

    name = "hasite-init"
    arguments = ""
    max_args = 0

    def run(self, args: list[str]) -> None:
        """Print the example."""
        require("deploy", MODULES)
        from cubicweb_hasite.deploy import document

        print(document.example(), end="")


class RenderCommand(Command):
    """Write the configuration of all the hosts of a site, and its documentation.

    <site file>
      the description of the site; see hasite-init.

    <folder>
      where to write, with a folder for each host. With --diff: what to compare with what would be
      written, either such a folder or the root of this host, such as /. The exit status is then 1
      if they differ.
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

    def run(self, args: list[str]) -> None:
        """Render, or compare."""
        require("deploy", MODULES)
        from cubicweb_hasite.deploy import load, output, render

        path, folder = map(Path, args)
        try:
            site_file = load.load(path)
            rendering = render.render(site_file, drawing=not self.config.diff)
            if self.config.diff:
                differences = output.diff(rendering, folder, self.config.host)
                print(differences, end="")
                sys.exit(1 if differences else 0)
            changed = output.write(rendering, folder)
        except (load.SiteError, output.RenderError) as error:
            sys.exit(str(error))
        if changed:
            note(path.absolute().parent, f"hasite-render {path} {folder}", f"{changed} changes")
        print(f"{len(rendering)} files are in {folder}; begin with {folder / 'README.md'}")


class CheckCommand(Command):
    """Let the programs check the files that hasite-render wrote for them.

    The exit status is 1 if a file is wrong. A file whose program is not installed here is reported
    as not checked.

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

    def run(self, args: list[str]) -> None:
        """Check, and print the table."""
        require("deploy", MODULES)
        from cubicweb_hasite.deploy import check

        try:
            results = check.check(Path(args[0]))
        except check.CheckError as error:
            sys.exit(str(error))
        for line in check.table(results):
            print(line)
        sys.exit(1 if check.failed(results, strict=self.config.strict) else 0)


COMMANDS = [InitCommand, RenderCommand, CheckCommand]
