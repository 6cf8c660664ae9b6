"""The commands that the cube adds to `cubicweb-ctl`."""

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from cubicweb import ExecutionError
from cubicweb.cwconfig import CubicWebConfiguration
from cubicweb.cwctl import CWCTL
from cubicweb.toolsutils import Command

from cubicweb_hasite.operations import accepting, draining, journal


def _note(folder: Path, what: str, result: str) -> None:
    """Add a line to a journal; that it cannot be written stops nobody at work."""
    try:
        journal.append(folder, what, result)
    except OSError as error:
        print(f"not in the journal {folder / journal.NAME}: {error.strerror}", file=sys.stderr)


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
        result = "in service again" if self["undo"] else "being drained"
        _note(Path(config.apphome), f"hasite-drain {'--undo ' * self['undo']}{name}", result)
        if not self["wait"]:
            print(f"{name} is {result}")
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


class AcceptCommand(Command):
    """Let the running processes of an instance serve with other versions in the database.

    Where a rehearsal has shown that they may, /readyz stays 200 while and after the database is
    upgraded to exactly these versions. It concerns the processes on this host.

    <instance>
      identifier of the instance.

    <versions>
      those of the upgraded database, as monitor_version writes them: "cubicweb: 5.0.1 | file: …".
    """

    name = "hasite-accept"
    arguments = "<instance> [<versions>]"
    min_args, max_args = 1, 2
    options = (
        (
            "undo",
            {"action": "store_true", "default": False, "help": "those installed alone again."},
        ),
    )

    def run(self, args: list[str]) -> None:
        """Write or remove the file."""
        name, *versions = args
        if self["undo"] == bool(versions):
            raise ExecutionError("hasite-accept: give versions, or --undo")
        CubicWebConfiguration.instance_home(name)  # which raises if there is no such instance
        config = CubicWebConfiguration.config_for(name)
        accepted = versions[0] if versions else None
        try:
            accepting.accept(config, accepted)
        except (OSError, ValueError) as error:
            raise ExecutionError(f"hasite-accept: {error}") from error
        result = f"accepts {accepted}" if accepted else "accepts the versions installed alone"
        _note(Path(config.apphome), f"hasite-accept {name}", result)
        print(f"{name} {result}")


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
            changed = output.write(rendering, folder)
        except (load.SiteError, output.RenderError) as error:
            sys.exit(str(error))
        if changed:
            _note(path.absolute().parent, f"hasite-render {path} {folder}", f"{changed} changes")
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


def _require_rehearsal() -> None:
    """Exit with one line if the packages of the extra `rehearse` are missing."""
    try:
        import markdown_it  # noqa: F401
        import psycopg2  # noqa: F401
        import rich  # noqa: F401
    except ImportError as error:
        sys.exit(f"{error.name} is missing: pip install 'cubicweb-hasite[rehearse]'")
    _require_deploy()


@contextmanager
def _told(folder: Path, what: str) -> Iterator[None]:
    """Tell who runs a command, and the journal, why it did not go on; then exit with 1."""
    from cubicweb_hasite.deploy import load
    from cubicweb_hasite.upgrades import Refused, RehearsalError

    try:
        yield
    except load.SiteError as error:
        sys.exit(str(error))
    except RehearsalError as error:
        refused = isinstance(error, Refused)
        _note(folder, what, f"{'refused' if refused else 'stopped'}: {error}")
        why = f"refused: {error}" if refused else str(error)
        sys.exit(f"{why}\n{error.details}".strip())


class RehearseCommand(Command):
    """Rehearse an upgrade on a copy of production, which is only read.

    Run it on the pre-production server, as its section [preproduction] says. What was begun and
    not ended goes on where it stopped. The exit status is 0 if production can be upgraded by the
    report, in rehearsal-<date>/report.html.

    <site file>
      what describes the site; see hasite-init.
    """

    name = "hasite-rehearse"
    arguments = "<site file>"
    min_args = max_args = 1
    options = (
        (
            "fresh",
            {
                "action": "store_true",
                "default": False,
                "help": "begin with a new copy, even if another rehearsal could go on",
            },
        ),
        (
            "keep",
            {
                "action": "store_true",
                "default": False,
                "help": "keep the upgraded copy and the new environment, to look at them",
            },
        ),
    )

    def run(self, args):
        """Rehearse, and say where the report is."""
        _require_rehearsal()
        from cubicweb_hasite.deploy import load
        from cubicweb_hasite.upgrades import run
        from cubicweb_hasite.upgrades.console import Console

        path = Path(args[0])
        parent = path.absolute().parent
        what = f"hasite-rehearse {path}"
        with _told(parent, what):
            rehearsal = run.rehearse(
                load.load(path), Console(), fresh=self.config.fresh, keep=self.config.keep
            )
        _note(parent, what, f"{rehearsal.verdict}: {rehearsal.id}/report.md")
        print(f"{rehearsal.verdict}: see {rehearsal.folder}/report.html")
        sys.exit(0 if rehearsal.verdict in ("rolling", "stopped") else 1)


class UpgradeCommand(Command):
    """Upgrade production by a rehearsal: command by command, each checked.

    It stops, with the way back, when a check fails; run again it goes on there.

    <site file>
      what describes the site, as it was rehearsed.
    """

    name = "hasite-upgrade"
    arguments = "<site file>"
    min_args = max_args = 1
    options = (
        (
            "runbook",
            {
                "type": "string",
                "metavar": "<rehearsal-…>",
                "default": None,
                "help": "folder of the rehearsal, beside the site file",
            },
        ),
        (
            "yes",
            {
                "action": "store_true",
                "default": False,
                "help": "do not ask before each stage",
            },
        ),
    )

    def run(self, args):
        """Upgrade, and tell the journal of each stage."""
        _require_rehearsal()
        from cubicweb_hasite.deploy import load
        from cubicweb_hasite.upgrades import execute, run
        from cubicweb_hasite.upgrades.console import Console

        path = Path(args[0])
        if not self.config.runbook:
            sys.exit("give the folder of the rehearsal: --runbook rehearsal-…")
        parent = path.absolute().parent
        what = f"hasite-upgrade {path} --runbook {self.config.runbook}"

        def confirm(title: str) -> bool:
            return self.config.yes or input(f"{title}? [Y/n] ").strip().lower() in ("", "y", "yes")

        with _told(parent, what):
            site_file = load.load(path)
            with run.alone(parent):
                rehearsal = execute.check(site_file, Path(self.config.runbook))
                _note(parent, what, "begins")
                execute.upgrade(
                    site_file,
                    rehearsal,
                    Console(),
                    confirm,
                    lambda title: _note(parent, f"hasite-upgrade: {title}", "done"),
                )
        _note(parent, what, "done")
        print("production is upgraded")


class JournalCommand(Command):
    """Add a line to the journal of a site: what was done by hand, and with what result.

    <site file>
      beside which the journal is, in journal.md.

    <what>
      what was done.

    <result>
      with what result.
    """

    name = "hasite-journal"
    arguments = "<site file> <what> [<result>]"
    min_args, max_args = 2, 3

    def run(self, args):
        """Add the line."""
        path, what, result = Path(args[0]), args[1], "".join(args[2:])
        if not path.is_file():
            sys.exit(f"{path} is no site file")
        try:
            journal.append(path.absolute().parent, what, result)
        except OSError as error:
            sys.exit(f"{error.filename}: {error.strerror}")


for command in (
    *(DrainCommand, AcceptCommand, InitCommand, RenderCommand, CheckCommand),
    *(RehearseCommand, UpgradeCommand, JournalCommand),
):
    CWCTL.register(command)
