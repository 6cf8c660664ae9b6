"""Run a restoration, or what is left of one that was stopped."""

import json
import subprocess
from collections.abc import Callable
from datetime import UTC, datetime

from cubicweb_hasite.deploy.load import SiteFile
from cubicweb_hasite.restorations import repository
from cubicweb_hasite.restorations.plan import Plan, Step
from cubicweb_hasite.upgrades import Refused, UpgradeError
from cubicweb_hasite.upgrades.console import Console
from cubicweb_hasite.upgrades.execute import run_stage

#: beside the site file: the output of the commands
LOG = "restoration.log"
#: beside the site file: the stages that are done of a restoration that was stopped
DONE = "restoration.json"


def plan(site_file: SiteFile, to: str) -> Plan:
    """Return the plan of a restoration to a moment that the repository has.

    :param to: the moment, as the user gives it
    :raises Refused: it is none, or is not in the repository.
    """
    site = site_file.site
    if not site.backup:
        raise Refused(
            f"{site_file.path}: there is no section [backup], so there is nothing to restore to "
            "a moment; for base backups see chapter 5 of the runbook"
        )
    result = Plan(site, repository.moment(to, datetime.now(UTC)))
    line = result.info()
    answer = subprocess.run(
        ["sh", "-c", line],
        cwd=site_file.path.absolute().parent,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        errors="replace",
    )
    # what is wrong with the repository is in the list; anything else prevents it
    if answer.returncode and not answer.stdout.startswith("["):
        raise Refused(
            f"{result.store} does not say what backups it has: the status of `{line}` is "
            f"{answer.returncode}; is the host up, and is upgrade.reach right?",
            answer.stderr.strip(),
        )
    repository.check(result.when, answer.stdout)
    return result


def carry_out(
    site_file: SiteFile,
    steps: list[Step],
    key: str,
    console: Console,
    confirm: Callable[[Step, str], bool],
    note: Callable[[str], None],
) -> None:
    """Do the steps that are not done yet.

    :param key: what is restored; of a stopped restoration of something else nothing is known
    :param confirm: is called with each step and its title, and returns whether to do it
    :param note: is called with the title of each step that is done
    :raises UpgradeError: a command failed; the details tell what to do.
    """
    folder = site_file.path.absolute().parent
    state = folder / DONE
    known = json.loads(state.read_text()) if state.exists() else {}
    done: list[str] = known.get("done", []) if known.get("key") == key else []
    for number, step in enumerate(steps, 1):
        title = f"{number}/{len(steps)} {step.title}"
        if step.title in done:
            console.say(f"{title}: was done")
            continue
        if not confirm(step, title):
            raise UpgradeError(f"stopped before {title}; run the same command to go on")
        if step.note:
            console.say(step.note)
        run_stage(step, title, folder, folder / LOG, console)
        note(title)
        done.append(step.title)
        state.write_text(json.dumps({"key": key, "done": done}))
    state.unlink(missing_ok=True)
