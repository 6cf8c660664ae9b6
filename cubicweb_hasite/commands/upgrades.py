"""Commands for upgrades: hasite-rehearse, hasite-upgrade, hasite-journal."""

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from cubicweb.toolsutils import Command

from cubicweb_hasite.commands import deploy, note, require
from cubicweb_hasite.operations import journal


def require_packages() -> None:
    require("rehearse", ["markdown_it", "psycopg2", "rich"])
    require("deploy", deploy.MODULES)


@contextmanager
def errors_reported(folder: Path, what: str) -> Iterator[None]:
    """Print an error of the block, write it to the journal, and exit with 1.

    :param folder: the folder of the journal
    :param what: the command
    """
    from cubicweb_hasite.deploy.load import SiteError
    from cubicweb_hasite.upgrades import Refused, UpgradeError

    try:
        yield
    except SiteError as error:
        sys.exit(str(error))
    except Refused as error:
        note(folder, what, f"refused: {error}")
        sys.exit(f"refused: {error}\n{error.details}".strip())
    except UpgradeError as error:
        note(folder, what, f"stopped: {error}")
        sys.exit(f"{error}\n{error.details}".strip())


class RehearseCommand(Command):
    """Rehearse an upgrade on a copy of production; production is only read.

    Run it on the pre-production server that the section [preproduction] describes. If the last
    rehearsal was not finished, it goes on. The exit status is 0 if production can be upgraded
    according to the report, rehearsal-<date>/report.html.

    <site file>
      the description of the site; see hasite-init.
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
                "help": "start with a new copy, even if another rehearsal could go on",
            },
        ),
        (
            "keep",
            {
                "action": "store_true",
                "default": False,
                "help": "keep the upgraded copy and the new environment at the end",
            },
        ),
    )

    def run(self, args: list[str]) -> None:
        """Rehearse, and print where the report is."""
        require_packages()
        from cubicweb_hasite.deploy import load
        from cubicweb_hasite.upgrades import run
        from cubicweb_hasite.upgrades.console import Console

        path = Path(args[0])
        parent = path.absolute().parent
        what = f"hasite-rehearse {path}"
        with errors_reported(parent, what):
            rehearsal = run.rehearse(
                load.load(path), Console(), fresh=self.config.fresh, keep=self.config.keep
            )
        note(parent, what, f"{rehearsal.verdict}: {rehearsal.id}/report.md")
        print(f"{rehearsal.verdict}: see {rehearsal.folder}/report.html")
        sys.exit(0 if rehearsal.passed else 1)


class UpgradeCommand(Command):
    """Upgrade production according to a rehearsal: run the commands one by one and check each.

    It stops when a check fails, with a hint for a rollback. Run again, it goes on there.

    <site file>
      the description of the site, as it was at the rehearsal.
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

    def run(self, args: list[str]) -> None:
        """Upgrade, and write each stage to the journal."""
        require_packages()
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

        with errors_reported(parent, what):
            site_file = load.load(path)
            with run.alone(parent):
                rehearsal = execute.check(site_file, Path(self.config.runbook))
                note(parent, what, "begins")
                execute.upgrade(
                    site_file,
                    rehearsal,
                    Console(),
                    confirm,
                    lambda title: note(parent, f"hasite-upgrade: {title}", "done"),
                )
        note(parent, what, "done")
        print("production is upgraded")


class JournalCommand(Command):
    """Add a line to the journal of a site: what was done by hand, and with what result.

    <site file>
      the journal, journal.md, is in its folder.

    <what>
      what was done.

    <result>
      with what result.
    """

    name = "hasite-journal"
    arguments = "<site file> <what> [<result>]"
    min_args, max_args = 2, 3

    def run(self, args: list[str]) -> None:
        """Add the line."""
        path, what, result = Path(args[0]), args[1], "".join(args[2:])
        if not path.is_file():
            sys.exit(f"{path} is no site file")
        try:
            journal.append(path.absolute().parent, what, result)
        except OSError as error:
            sys.exit(f"{error.filename}: {error.strerror}")


COMMANDS = [RehearseCommand, UpgradeCommand, JournalCommand]
