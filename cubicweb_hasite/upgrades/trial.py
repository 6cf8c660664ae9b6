"""The upgrade of the copy: a migration under the running version, then both versions together."""

import time
from collections.abc import Iterator
from contextlib import ExitStack, closing
from pathlib import Path

from cubicweb_hasite import versions
from cubicweb_hasite.deploy.load import SiteFile
from cubicweb_hasite.deploy.site import PreProduction, Site
from cubicweb_hasite.upgrades import UpgradeError, catalog, copies, locks
from cubicweb_hasite.upgrades.console import Bar, duration
from cubicweb_hasite.upgrades.findings import Upgraded
from cubicweb_hasite.upgrades.instance import RehearsalInstance
from cubicweb_hasite.upgrades.production import UPGRADE, UPGRADED
from cubicweb_hasite.upgrades.programs import Programs
from cubicweb_hasite.upgrades.server import Server, query
from cubicweb_hasite.upgrades.state import State


def configuration(site: Site, settings: PreProduction) -> Path:
    """Return the folder of the instances' configuration on this machine."""
    return Path(settings.configuration or site.instances.configuration)


class Trial:
    """Upgrades a copy, and tries the running version and the new one on it.

    :param settings: the section [preproduction] of the site file
    :param database: name of the copy
    :param work: folder for the instances
    """

    def __init__(
        self,
        site_file: SiteFile,
        settings: PreProduction,
        state: State,
        programs: Programs,
        server: Server,
        database: str,
        work: Path,
    ) -> None:
        self.site = site_file.site
        self.name = state.site
        self.programs = programs
        self.server = server
        self.database = database
        self.state = state
        self.digest = site_file.digest
        self.configuration = configuration(self.site, settings)
        running = Path(settings.virtualenv or self.site.instances.virtualenv)

        def instance(folder: str, virtualenv: Path, port: int) -> RehearsalInstance:
            return RehearsalInstance(
                site_file, self.name, work / folder, virtualenv, server, database, port
            )

        self.old = instance("old", running, settings.port)
        self.new = instance("new", work / "venv", settings.port + 2)

    def run(self, bar: Bar, *, after_deadlock: bool) -> None:
        """Do it all; the findings tell the result.

        :param after_deadlock: whether an earlier try has ended in a deadlock between the migration
            and the running version, which is left out this time
        :raises UpgradeError: the upgrade failed, or the new version is not healthy.
        """
        self.found = self.state.findings.upgrade = Upgraded(site_file=self.digest)
        for instance in [self.old, self.new]:
            instance.prepare(self.configuration)
        self.found.versions_before = self._versions_in_database()
        before = catalog.read(self.server, self.database)
        against = self.found.against_rolling
        with ExitStack() as stack:
            if after_deadlock:
                old_runs = False
                against.append(
                    "the migration and the pages of the running version waited for each other, "
                    "and PostgreSQL ended the migration (deadlock)"
                )
            else:
                old_runs = self._start_old(stack)
            sampler = self._migrate(bar, visited=old_runs)
            self.found.changes = catalog.compare(before, catalog.read(self.server, self.database))
            self.found.size = copies.database_size(self.server, self.database)
            self._try_new(stack)
            if old_runs:
                self._try_both()
        against += self._against(sampler)

    def try_read_only(self) -> None:
        """Visit the running version, on a copy that it may only read; the findings tell how.

        :raises UpgradeError: its configuration cannot be copied.
        """
        against = self.state.findings.read_only.against = []
        self.old.prepare(self.configuration)
        if not self.site.upgrade.checks:
            against.append("no page is checked: list some in upgrade.checks")
        try:
            self.old.ctl(self.programs, "hasite-read-only", "--undo", self.name)
            with self.old.running(self.programs):
                against += self.old.page_problems()
        except (UpgradeError, OSError) as error:
            against.append(f"the running version, of {self.old.virtualenv}: {error}")

    def _start_old(self, stack: ExitStack) -> bool:
        """Start the running version; return whether it can be tried."""
        try:
            stack.enter_context(self.old.running(self.programs))
            if problems := self.old.problems():
                raise UpgradeError(f"it is not healthy before the upgrade: {'; '.join(problems)}")
        except (UpgradeError, OSError) as error:
            self.found.against_rolling.append(
                f"the running version, of {self.old.virtualenv}, was not tried: {error}"
            )
            return False
        return True

    def _migrate(self, bar: Bar, *, visited: bool) -> locks.Sampler:
        """Upgrade the copy; return the locks that were seen.

        :param visited: whether the running version is visited meanwhile
        """
        sampler = locks.Sampler(self.server, self.database)
        start = time.monotonic()
        with ExitStack() as during:
            during.enter_context(sampler)
            if visited:
                self.found.visits = during.enter_context(self.old.visited())
            output = self.new.ctl(self.programs, *UPGRADE, self.name, watch=bar.tick)
        if UPGRADED not in output.splitlines():  # after some failures, its status is 0
            raise UpgradeError("cubicweb-ctl upgrade did not finish", output[-2000:])
        self.found.upgrade_seconds = time.monotonic() - start
        self.found.locks = sampler.locks
        self.found.longest_wait = sampler.longest_wait
        bar.tick()
        return sampler

    def _try_new(self, stack: ExitStack) -> None:
        """Start the new version, and check it."""
        start = time.monotonic()
        stack.enter_context(self.new.running(self.programs))
        self.found.start_seconds = time.monotonic() - start
        start = time.monotonic()
        problems = self.new.problems()
        self.found.check_seconds = time.monotonic() - start
        self.found.monitor_after = self.new.versions()
        try:
            self.found.versions_after = versions.from_monitor_text(self.found.monitor_after)
        except ValueError:
            problems = problems or [self.found.monitor_after]
        if problems:
            raise UpgradeError(f"the upgraded instance is not healthy: {'; '.join(problems)}")

    def _try_both(self) -> None:
        """Check the running version on the upgraded copy, and the new one beside it."""
        self.old.ctl(self.programs, "hasite-accept", self.name, self.found.versions_after)
        if problems := self.old.problems(old=True):
            self.found.against_rolling.append(
                f"the running version is not healthy on the upgraded copy: {'; '.join(problems)}"
            )
        if problems := self.new.problems():
            raise UpgradeError(
                "the upgraded instance is not healthy beside the running one: "
                f"{'; '.join(problems)}"
            )

    def _against(self, sampler: locks.Sampler) -> Iterator[str]:
        """Yield why visitors would notice the upgrade if the running version served meanwhile."""
        visits, limit = self.found.visits, self.site.upgrade.longest_wait
        if not self.site.upgrade.checks:
            yield "no page is checked: list some in upgrade.checks"
        if visits.failures:
            yield (
                f"{len(visits.failures)} of {visits.count} visits failed during the migration, "
                f"such as {visits.failures[0]}"
            )
        if visits.slowest > limit:
            yield f"a page took {duration(visits.slowest)} during the migration (limit: {limit} s)"
        for lock in self.found.locks:
            if lock.longest > limit:
                yield f"{lock.table} is locked for {duration(lock.longest)}: {lock.blocks} wait"
        for change in self.found.changes:
            if change.breaks:
                yield f"{change.what}: {change.breaks}"
        if sampler.failure:
            yield f"the locks could not be read: {sampler.failure}"

    def _versions_in_database(self) -> str:
        prefix = "system.version."
        with closing(self.server.connect(self.database)) as connection:
            rows = query(
                connection,
                "SELECT replace(cw_pkey, %s, ''), cw_value FROM cw_cwproperty "
                "WHERE starts_with(cw_pkey, %s)",
                prefix,
                prefix,
            )
        return versions.write(dict(rows))
