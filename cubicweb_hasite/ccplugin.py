"""The commands that the cube adds to `cubicweb-ctl`."""

import sys
from pathlib import Path

from cubicweb import ExecutionError
from cubicweb.cwconfig import CubicWebConfiguration
from cubicweb.cwctl import CWCTL
from cubicweb.toolsutils import Command

from cubicweb_hasite import draining


class DrainCommand(Command):
    """Let the balancers send no more visitors to an instance: its /readyz says 503.

    It concerns the processes of the instance that run on this host. One that starts later is
    ready.

    <instance>
      identifier of the instance.
    """

    name = "hasite-drain"
    arguments = "<instance>"
    min_args = max_args = 1
    options = (
        (
            "undo",
            {"action": "store_true", "default": False, "help": "put it in service again."},
        ),
        (
            "wait",
            {
                "action": "store_true",
                "default": False,
                "help": "return when no request is in flight any more; fail after --timeout.",
            },
        ),
        (
            "quiet",
            {
                "type": "float",
                "default": 5.0,
                "metavar": "<seconds>",
                "help": "with --wait, for how long no request must have come (default: 5): longer "
                "than a balancer takes to notice.",
            },
        ),
        (
            "timeout",
            {
                "type": "float",
                "default": 60.0,
                "metavar": "<seconds>",
                "help": "with --wait, for how long to wait (default: 60).",
            },
        ),
    )

    def run(self, args: list[str]) -> None:
        """Set or remove the flag, and wait if asked to."""
        [name] = args
        if self["undo"] and self["wait"]:
            raise ExecutionError("hasite-drain: --wait makes no sense with --undo")
        CubicWebConfiguration.instance_home(name)  # which raises if there is no such instance
        config = CubicWebConfiguration.config_for(name)
        try:
            draining.set_draining(config, not self["undo"])
        except OSError as error:
            raise ExecutionError(
                f"hasite-drain: cannot write {error.filename}: {error.strerror}; run it as a user "
                "who may, with the CW_RUNTIME_DIR of the processes"
            ) from error
        if not self["wait"]:
            print(f"{name} is {'in service again' if self['undo'] else 'being drained'}")
            return
        try:
            draining.wait(config, self["quiet"], self["timeout"])
        except TimeoutError as error:
            raise ExecutionError(f"hasite-drain: {name} is being drained, but {error}") from error
        except OSError as error:
            raise ExecutionError(
                f"hasite-drain: cannot tell whether {name} serves requests: {error}; did it run "
                "here, with the same CW_RUNTIME_DIR?"
            ) from error
        print(f"{name} is drained")


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


for command in (DrainCommand, InitCommand, RenderCommand, CheckCommand):
    CWCTL.register(command)
