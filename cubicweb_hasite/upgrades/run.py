"""A rehearsal from its beginning, or from where the last one stopped, to its report."""

import fcntl
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from cubicweb_hasite.deploy.load import SiteFile
from cubicweb_hasite.upgrades import RehearsalError, copies, report, state
from cubicweb_hasite.upgrades.console import Console
from cubicweb_hasite.upgrades.rehearsal import Rehearsal
from cubicweb_hasite.upgrades.server import production, target
from cubicweb_hasite.upgrades.state import State


def rehearse(site_file: SiteFile, console: Console, *, fresh: bool, keep: bool) -> State:
    """Rehearse the upgrade that a site file describes.

    :param fresh: whether to begin again with a new copy, whatever there is
    :param keep: whether to keep the databases and the environment at the end
    :return: the rehearsal, whose verdict is `failed` if it failed; the report says why
    :raises RehearsalError: it was not begun.
    """
    site = site_file.site
    if site.preproduction is None:
        raise RehearsalError(
            f"{site_file.path}: there is no section [preproduction], which says where to rehearse"
        )
    if len(site.sites) > 1:
        raise RehearsalError(
            f"{site_file.path}: it has several sites, which share an environment; give each a "
            "site file of its own to rehearse its upgrades"
        )
    [name] = site.sites
    parent = site_file.path.absolute().parent
    with alone(parent):
        # before anything is written, were it a folder
        nodes = production(site, name)
        server = target(site.preproduction.database, nodes)
        known = state.unfinished(parent, name)
        limit = site.upgrade.max_age_hours
        resumed = next((s for s in known if not fresh and state.age_hours(s) < limit), None)
        rehearsal = resumed or state.new(parent, name)
        run = Rehearsal(site_file, rehearsal, nodes, server, console)
        run.check_files()
        rehearsal.begin()
        console.say(f"{rehearsal.id} {'goes on' if resumed else 'begins'}")
        try:
            run.run(_estimates(parent, name))
        except RehearsalError as error:
            console.say(f"{error}\n{error.details}".strip())
        else:
            if not keep:
                run.clean()
            for other in known:
                if other is not resumed:
                    _discard(run, other)
        with suppress(OSError):  # a full disk: it was said
            report.write(site_file, rehearsal)
    return rehearsal


def _discard(run: Rehearsal, other: State) -> None:
    """Remove what a rehearsal that never came to its end has left, but its logs."""
    left = Rehearsal(run.site_file, other, run.nodes, run.server, run.console)
    for name in (left.upgraded, left.base):
        copies.drop(run.server, name, left.mark)
    shutil.rmtree(left.work, ignore_errors=True)


@contextmanager
def alone(folder: Path) -> Iterator[None]:
    """Hold the lock of a site's rehearsals and upgrades.

    :raises RehearsalError: another one is at work, or the folder cannot be written to.
    """
    try:
        file = (folder / ".hasite.lock").open("w")
    except OSError as error:
        raise RehearsalError(f"{folder}: {error.strerror}") from None
    with file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise RehearsalError(
                f"another rehearsal or upgrade is at work in {folder}; wait for its end"
            ) from None
        file.write(f"{os.getpid()}\n")
        yield


def _estimates(parent: Path, site: str) -> dict[str, float]:
    """Return how many seconds the steps took in the last rehearsal of a site that went through."""
    for folder in sorted(parent.glob("rehearsal-*"), reverse=True):
        try:
            known = state.load(folder)
        except ValueError:
            continue
        if known.site == site and known.verdict in ("rolling", "stopped"):
            return {name: step.seconds for name, step in known.steps.items()}
    return {}
