"""Run a rehearsal from its start, or from where the last one stopped, to its report."""

import fcntl
import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from cubicweb_hasite.deploy.load import SiteFile
from cubicweb_hasite.upgrades import UpgradeError, report, state
from cubicweb_hasite.upgrades.console import Console
from cubicweb_hasite.upgrades.rehearsal import Rehearsal
from cubicweb_hasite.upgrades.server import production, target
from cubicweb_hasite.upgrades.state import State


def rehearse(site_file: SiteFile, console: Console, *, fresh: bool, keep: bool) -> State:
    """Rehearse the upgrade that a site file describes.

    :param fresh: whether to start with a new copy, even if another rehearsal could go on
    :param keep: whether to keep the databases and the environment at the end
    :return: the rehearsal; if its verdict is `failed`, the report tells why
    :raises UpgradeError: it was not started.
    """
    site = site_file.site
    settings = site.preproduction
    if settings is None:
        raise UpgradeError(
            f"{site_file.path}: there is no section [preproduction], which says where to rehearse"
        )
    if len(site.sites) > 1:
        raise UpgradeError(
            f"{site_file.path}: it has several sites, which share an environment; give each a "
            "site file of its own to rehearse its upgrades"
        )
    [name] = site.sites
    parent = site_file.path.absolute().parent
    with alone(parent):
        # first of all, before even a folder is made
        nodes = production(site, name)
        server = target(settings.database, nodes)
        unfinished = [known for known in state.find(parent, name) if not known.passed]
        limit = site.upgrade.max_age_hours
        resumed = next((s for s in unfinished if not fresh and s.age_hours < limit), None)
        rehearsal = resumed or state.new(parent, name)
        run = Rehearsal(site_file, settings, rehearsal, nodes, server, console)
        run.check_files()
        rehearsal.begin()
        console.say(f"{rehearsal.id} {'goes on' if resumed else 'begins'}")
        try:
            run.run(_estimates(parent, name))
        except UpgradeError as error:
            console.say(f"{error}\n{error.details}".strip())
        else:
            if not keep:
                run.clean()
            for other in unfinished:
                if other is not resumed:
                    Rehearsal(site_file, settings, other, nodes, run.server, console).clean()
        with suppress(OSError):  # a full disk, which the error names
            report.write(site_file, rehearsal)
    return rehearsal


@contextmanager
def alone(folder: Path) -> Iterator[None]:
    """Hold the lock of a site's rehearsals and upgrades while the block runs.

    :raises UpgradeError: another one holds it, or the folder cannot be written to.
    """
    try:
        file = (folder / ".hasite.lock").open("w")
    except OSError as error:
        raise UpgradeError(f"{folder}: {error.strerror}") from None
    with file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise UpgradeError(
                f"another rehearsal or upgrade is running in {folder}; wait until it ends"
            ) from None
        file.write(f"{os.getpid()}\n")
        yield


def _estimates(parent: Path, site: str) -> dict[str, float]:
    """Return the duration of each step, in seconds, in the last rehearsal that passed."""
    passed = (known for known in state.find(parent, site) if known.passed)
    last = next(passed, None)
    return {name: step.seconds for name, step in last.steps.items()} if last else {}
