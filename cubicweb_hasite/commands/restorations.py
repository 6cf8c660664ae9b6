"""Command for restorations: hasite-restore."""

import sys
from pathlib import Path
from typing import TYPE_CHECKING

from cubicweb.toolsutils import Command

from cubicweb_hasite.commands import note
from cubicweb_hasite.commands.upgrades import errors_reported, require_packages

if TYPE_CHECKING:
    from cubicweb_hasite.restorations.plan import Step


class RestoreCommand(Command):
    """Restore the database to a moment: run the commands of the runbook and check each.

    Without --beside it is production that is restored, and what was written after the moment is
    lost. It stops when a command fails, with a hint what to do. Run again, it goes on there.

    <site file>
      the description of the site, with a section [backup].
    """

    name = "hasite-restore"
    arguments = "<site file>"
    min_args = max_args = 1
    options = (
        (
            "to",
            {
                "type": "string",
                "metavar": "<moment>",
                "default": None,
                "help": 'such as "2026-11-25 14:03:00", in the time zone of this machine, or '
                "latest: the last change that the archive has",
            },
        ),
        (
            "beside",
            {
                "type": "string",
                "metavar": "<folder>",
                "default": None,
                "help": "restore in this folder of the backup host, and leave production alone",
            },
        ),
        (
            "test",
            {
                "action": "store_true",
                "default": False,
                "help": "restore the last backup on the backup host, check it, remove it",
            },
        ),
        (
            "lost",
            {
                "action": "store_true",
                "default": False,
                "help": "the database is lost: do not ask it for its last changes",
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
        """Restore, and write each stage to the journal."""
        require_packages()
        from cubicweb_hasite.deploy import load
        from cubicweb_hasite.restorations import repository, run
        from cubicweb_hasite.upgrades.console import Console
        from cubicweb_hasite.upgrades.run import alone

        to, beside = self.config.to, self.config.beside
        if self.config.test:
            to, beside = to or repository.LATEST, None
        if not to:
            sys.exit('give the moment: --to "2026-11-25 14:03:00", or --to latest')
        path = Path(args[0])
        parent = path.absolute().parent
        kind = f" --beside {beside}" if beside else " --test" if self.config.test else ""
        what = f"hasite-restore {path} --to {to!r}{kind}"
        with errors_reported(parent, what):
            site_file = load.load(path)
            plan = run.plan(site_file, to)
            if self.config.test:
                steps = plan.test()
            elif beside:
                steps = plan.beside(beside)
            else:
                steps = plan.production(lost=self.config.lost)
            with alone(parent):
                note(parent, what, "begins")
                run.carry_out(
                    site_file,
                    steps,
                    what,
                    Console(),
                    self._confirm,
                    lambda title: note(parent, f"hasite-restore: {title}", "done"),
                )
        note(parent, what, "done")
        print("the database is restored")

    def _confirm(self, step: "Step", title: str) -> bool:
        if self.config.yes:
            return True
        try:
            if step.final:
                question = f"{title}? What was written after it is lost for visitors. Type yes: "
                return input(question).strip().lower() == "yes"
            return input(f"{title}? [Y/n] ").strip().lower() in ("", "y", "yes")
        except EOFError:  # nobody is there to answer
            print()
            return False


COMMANDS = [RestoreCommand]
