"""Upgrade production according to a rehearsal: run the commands one by one and check each."""

import json
import subprocess
import time
from collections.abc import Callable
from datetime import datetime
from pathlib import Path

from cubicweb_hasite.deploy.load import SiteFile
from cubicweb_hasite.upgrades import Refused, UpgradeError, packages, silences, state
from cubicweb_hasite.upgrades.console import Console, duration
from cubicweb_hasite.upgrades.host_commands import Command, Stage
from cubicweb_hasite.upgrades.production import DONE, Plan
from cubicweb_hasite.upgrades.state import State

#: in the folder of the rehearsal: the output of the commands
LOG = "upgrade.log"


def check(site_file: SiteFile, folder: Path) -> State:
    """Return the rehearsal of a folder, if production may be upgraded according to it.

    :raises Refused: it failed, is too old, or other versions would be installed now.
    """
    try:
        rehearsal = state.load(folder)
    except ValueError as error:
        raise Refused(str(error)) from None
    if not rehearsal.passed:
        how = "failed" if rehearsal.verdict else "was not finished"
        raise Refused(f"{folder}: this rehearsal {how}; run hasite-rehearse again")
    if rehearsal.site not in site_file.site.sites:
        raise Refused(
            f"{folder} is a rehearsal of the site {rehearsal.site}, which is not in "
            f"{site_file.path}; give a rehearsal of {', '.join(site_file.site.sites)}"
        )
    age, limit = rehearsal.age_hours, site_file.site.upgrade.max_age_hours
    if age > limit:
        raise Refused(
            f"{folder} is {age:.0f} hours old; the limit is {limit} (upgrade.max_age_hours): "
            "rehearse again"
        )
    if rehearsal.findings.upgrade.site_file != site_file.digest:
        raise Refused(f"{site_file.path} has changed since {folder}; rehearse again")
    parent = site_file.path.absolute().parent
    requirements = parent / site_file.site.upgrade.requirements
    if rehearsal.findings.packages.requirements != packages.digest(requirements):
        raise Refused(
            f"{requirements.name}, or a file that it names, has changed since {folder}; rehearse "
            "again"
        )
    if altered := packages.altered(folder):
        raise Refused(
            f"{folder}: these packages have changed since the rehearsal: {', '.join(altered)}; "
            "rehearse again"
        )
    if folder.absolute() != parent / folder.name:
        raise Refused(f"{folder} is not in the folder of {site_file.path}; move it there")
    return rehearsal


def upgrade(
    site_file: SiteFile,
    rehearsal: State,
    console: Console,
    confirm: Callable[[str], bool],
    note: Callable[[str], None],
) -> None:
    """Do the stages that are not done yet.

    :param confirm: is called with the title of a stage, and returns whether to do it
    :param note: is called with the title of each stage that is done
    :raises UpgradeError: a command failed; the details tell how to roll back.
    """
    done_path = rehearsal.folder / DONE
    done: list[str] = json.loads(done_path.read_text()) if done_path.exists() else []
    site, comment = site_file.site, f"upgrade of {rehearsal.site} by {rehearsal.id}"
    stages = Plan(site, rehearsal).stages()
    verdict = rehearsal.verdict
    with silences.silenced(site, rehearsal.site, comment, console.say, verdict=verdict):
        for number, stage in enumerate(stages, 1):
            title = f"{number}/{len(stages)} {stage.title}"
            if stage.title in done:
                console.say(f"{title}: was done")
                continue
            if not confirm(title):
                raise UpgradeError(f"stopped before {title}; run the same command to go on")
            folder = site_file.path.absolute().parent
            run_stage(stage, title, folder, rehearsal.folder / LOG, console)
            note(title)
            done.append(stage.title)
            done_path.write_text(json.dumps(done))


def run_stage(stage: Stage, title: str, folder: Path, log: Path, console: Console) -> None:
    """Run the commands of a stage.

    :param folder: where they run
    :param log: the file to which their output is appended
    :raises UpgradeError: one failed; the details tell how to roll back.
    """
    start = time.monotonic()
    estimate = sum(command.took or 0 for command in stage.commands)
    with console.step(title, estimate) as bar:
        for command in stage.commands:
            try:
                _execute(command, folder, log, bar.tick)
            except UpgradeError as error:
                raise UpgradeError(
                    f"{title}: {error}", f"{error.details}\n\nRollback: {stage.back}"
                ) from None
    console.say(f"{title}: done in {duration(time.monotonic() - start)}")


def _execute(command: Command, folder: Path, log: Path, tick: Callable[[], None]) -> None:
    """Run a command until it prints what it should.

    :raises UpgradeError: it fails, or does not print it in time.
    """
    deadline = time.monotonic() + command.retry_seconds
    while True:
        now = datetime.now().astimezone().strftime("%H:%M:%S")
        with subprocess.Popen(
            ["sh", "-c", command.line],
            cwd=folder,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            errors="replace",
        ) as process:
            output = _output(process, tick)
        with log.open("a") as file:
            file.write(f"{now} $ {command.line}\n{output}")
        if not process.returncode and prints(output, command.prints):
            return
        if time.monotonic() > deadline:
            break
        time.sleep(0.5)
    last = "\n".join(output.strip().splitlines()[-15:])
    if process.returncode:
        why = f"its status is {process.returncode}"
    else:
        why = f"it does not print {command.prints!r}"
    raise UpgradeError(f"{command.line}: {why}", f"Its output: {last or 'nothing'}")


def _output(process: subprocess.Popen[str], tick: Callable[[], None]) -> str:
    while True:
        try:
            return process.communicate(timeout=0.5)[0]
        except subprocess.TimeoutExpired:
            tick()


def prints(output: str, wanted: str) -> bool:
    """Return whether an output contains all the lines wanted."""
    lines = [line.strip() for line in output.splitlines()]
    return all(line.strip() in lines for line in wanted.splitlines())
