"""Upgrade production by what was rehearsed: command by command, each checked, or not at all."""

import json
import subprocess
import time
from collections.abc import Callable
from datetime import datetime
from pathlib import Path

from cubicweb_hasite.deploy.load import SiteFile
from cubicweb_hasite.upgrades import Refused, RehearsalError, packages, state
from cubicweb_hasite.upgrades.console import Console, duration
from cubicweb_hasite.upgrades.production import Command, Plan, Stage
from cubicweb_hasite.upgrades.state import State

LOG, DONE = "upgrade.log", "upgrade.json"


def check(site_file: SiteFile, folder: Path) -> State:
    """Return a rehearsal by which production may be upgraded.

    :raises Refused: it is too old, failed, or is not of what would be installed now.
    """
    try:
        rehearsal = state.load(folder)
    except ValueError as error:
        raise Refused(str(error)) from None
    if rehearsal.verdict not in ("rolling", "stopped"):
        how = "failed" if rehearsal.verdict else "did not come to its end"
        raise Refused(f"{folder}: this rehearsal {how}; run hasite-rehearse again")
    if rehearsal.site not in site_file.site.sites:
        raise Refused(f"{folder} is of the site {rehearsal.site}, which the site file has not")
    age, limit = state.age_hours(rehearsal), site_file.site.upgrade.max_age_hours
    if age > limit:
        raise Refused(
            f"{folder} is {age:.0f} hours old, {limit} at most is right by "
            "upgrade.max_age_hours; rehearse again"
        )
    if rehearsal.fact("site_file") != site_file.digest:
        raise Refused(f"{site_file.path} has changed since {folder}; rehearse again")
    parent = site_file.path.absolute().parent
    requirements = parent / site_file.site.upgrade.requirements
    if rehearsal.fact("requirements") != packages.digest(requirements):
        raise Refused(
            f"{requirements.name} asks for other versions than those rehearsed in {folder}; "
            "rehearse again"
        )
    if altered := packages.altered(folder):
        raise Refused(f"{folder}: packages are not those rehearsed: {', '.join(altered)}")
    if folder.absolute() != parent / folder.name:
        raise Refused(f"{folder} is not beside {site_file.path}, where its commands look for it")
    return rehearsal


def upgrade(
    site_file: SiteFile,
    rehearsal: State,
    console: Console,
    confirm: Callable[[str], bool],
    note: Callable[[str], None],
) -> None:
    """Do the stages that are not done yet.

    :param confirm: whether to go on with a stage, by its title
    :param note: is told the title of each stage that is done
    :raises RehearsalError: a command failed, with the way back.
    """
    done_path = rehearsal.folder / DONE
    done: list[str] = json.loads(done_path.read_text()) if done_path.exists() else []
    stages = Plan(site_file.site, rehearsal).stages()
    for number, stage in enumerate(stages, 1):
        title = f"{number}/{len(stages)} {stage.title}"
        if stage.title in done:
            console.say(f"{title}: was done")
            continue
        if not confirm(title):
            raise RehearsalError(f"stopped before {title}; run the same command to go on")
        _run(stage, title, site_file, rehearsal, console)
        note(title)
        done.append(stage.title)
        done_path.write_text(json.dumps(done))


def _run(
    stage: Stage, title: str, site_file: SiteFile, rehearsal: State, console: Console
) -> None:
    start = time.monotonic()
    estimate = sum(command.took or 0 for command in stage.commands)
    with console.step(title, estimate) as bar:
        for command in stage.commands:
            try:
                _execute(
                    command, site_file.path.absolute().parent, rehearsal.folder / LOG, bar.tick
                )
            except RehearsalError as error:
                raise RehearsalError(
                    f"{title}: {error}", f"{error.details}\n\nThe way back: {stage.back}"
                ) from None
    console.say(f"{title}: done in {duration(time.monotonic() - start)}")


def _execute(command: Command, folder: Path, log: Path, tick: Callable[[], None]) -> None:
    """Run a command until it prints what it should.

    :raises RehearsalError: it does not.
    """
    deadline = time.monotonic() + command.patience
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
            output, _ = _communicate(process, tick)
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
    raise RehearsalError(f"{command.line}: {why}", f"It printed: {last or 'nothing'}")


def _communicate(
    process: subprocess.Popen[str], tick: Callable[[], None]
) -> tuple[str, str | None]:
    while True:
        try:
            return process.communicate(timeout=0.5)
        except subprocess.TimeoutExpired:
            tick()


def prints(output: str, wanted: str) -> bool:
    """Return whether all the lines wanted are among those printed."""
    lines = [line.strip() for line in output.splitlines()]
    return all(line.strip() in lines for line in wanted.splitlines())
