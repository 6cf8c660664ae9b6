"""The steps of a rehearsal, each of which can be done again by itself."""

import hashlib
import re
import shutil
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, closing, suppress
from dataclasses import asdict
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from cubicweb_hasite.deploy.load import SiteFile
from cubicweb_hasite.deploy.site import PreProduction
from cubicweb_hasite.upgrades import RehearsalError, catalog, copies, locks, packages
from cubicweb_hasite.upgrades.console import Console, duration
from cubicweb_hasite.upgrades.console import Step as Bar
from cubicweb_hasite.upgrades.instance import Instance, Visits
from cubicweb_hasite.upgrades.programs import Programs
from cubicweb_hasite.upgrades.server import Server, production, query, target
from cubicweb_hasite.upgrades.state import State, Step

LOG = "rehearsal.log"
#: how often a step is tried whose connection to PostgreSQL is lost
_TRIES = 3
#: seconds for which PostgreSQL may be away before it is tried again
_AWAY = 60
#: free bytes below which a disk is full
_FULL = 200_000
#: the way by which cubicweb-ctl upgrades without a question; the configuration stays as it is, the
#: same on all web servers
UPGRADE = ("upgrade", "--force", "--verbosity=0", "--backup-db=n", "--no-config-update")
#: what it prints at its end
UPGRADED = "-> instance migrated."


class Rehearsal:
    """An upgrade of a site, tried on a copy.

    :param state: how far it is
    :param nodes: the nodes of production, that to be copied first
    :param server: where the copies are made, which is not production
    """

    def __init__(
        self,
        site_file: SiteFile,
        state: State,
        nodes: list[Server],
        server: Server,
        console: Console,
    ) -> None:
        self.site_file = site_file
        self.site = site_file.site
        self.settings: PreProduction = site_file.site.preproduction
        self.state = state
        self.console = console
        self.programs = Programs(state.folder / LOG)
        self.work = state.folder / "work"
        self.base = f"{state.site}_rehearsal_{state.token}"
        self.upgraded = f"{self.base}_upgraded"
        # whoever asks which of several rehearsals a database is of
        self.mark = f"{state.folder.absolute()} ({state.token})"
        self.nodes = nodes
        self.server = server
        #: whether the migration and the running version have waited for each other
        self._deadlock = False

    def run(self, estimates: dict[str, float]) -> None:
        """Do all the steps that are not done yet, and give the verdict.

        :param estimates: seconds that each step is thought to last
        :raises RehearsalError: one failed; the state says which.
        """
        self.work.mkdir(mode=0o700, exist_ok=True)
        (self.state.folder / ".gitignore").write_text("/work/\n/wheels/\n")
        self.state.verdict = ""
        inputs = ""
        for name, own_inputs, action in self._steps():
            try:
                inputs = hashlib.sha256(f"{inputs} {name} {own_inputs()}".encode()).hexdigest()
            except RehearsalError as error:
                self._fail(name, error)
                raise
            known = self.state.steps.get(name)
            if name != "identify" and known and (known.status, known.inputs) == ("done", inputs):
                self.console.say(f"{name}: was done in {duration(known.seconds)}")
                continue
            self._do(name, inputs, action, estimates.get(name, 0))
        self.state.verdict = "stopped" if self.state.fact("against_rolling") else "rolling"
        self.state.finished = datetime.now(UTC).isoformat(timespec="seconds")
        self.state.save()

    def _steps(self) -> Iterator[tuple[str, Callable[[], str], Callable[[Bar, dict], None]]]:
        """Yield the name of each step, what it depends on, and what it does."""
        yield "identify", lambda: "", self.identify
        yield "copy", lambda: self.nodes[0].system, self.copy
        yield "restore", self._anonymise_digest, self.restore
        yield "packages", self._requirements_digest, self.packages
        yield "upgrade", lambda: self.site_file.digest, self.upgrade

    def _do(
        self, name: str, inputs: str, action: Callable[[Bar, dict], None], estimate: float
    ) -> None:
        now = datetime.now(UTC).isoformat(timespec="seconds")
        step = self.state.steps[name] = Step(inputs=inputs, started=now)
        start = time.monotonic()
        try:
            for tries_left in reversed(range(_TRIES)):
                self.state.save()
                self.programs.note(f"=== {name}")
                step.facts.clear()
                try:
                    with self.console.step(name, estimate) as bar:
                        action(bar, step.facts)
                    break
                except RehearsalError as error:
                    if not tries_left or not (error.deadlock or (error.lost and self._is_back())):
                        raise
                    self._note_failure(name, error)
                    self.console.say(f"{name}: {error}: trying again")
        except (RehearsalError, OSError) as error:
            step.status, step.error = "failed", _one_line(error)
            if shutil.disk_usage(self.state.folder).free < _FULL:  # logs may miss what was said
                step.error += f"; the disk that holds {self.state.folder} is full"
            step.details = getattr(error, "details", "")
            self._fail(name, RehearsalError(step.error, step.details))
            raise RehearsalError(f"{name}: {step.error}", step.details) from None
        finally:
            step.seconds = time.monotonic() - start
            with suppress(OSError):
                self.state.save()
        step.status = "done"
        self.state.save()
        self.console.say(f"{name}: done in {duration(step.seconds)}")

    def _fail(self, name: str, error: Exception) -> None:
        self._note_failure(name, error)
        self.state.verdict = "failed"
        try:
            self.state.save()
        except OSError:  # a dump has filled the disk: make room for the report
            shutil.rmtree(self.work / "dump", ignore_errors=True)
            with suppress(OSError):
                self.state.save()

    def _note_failure(self, name: str, error: Exception) -> None:
        self.state.failures.append(f"{name}: {_one_line(error)}")
        with suppress(OSError):
            self.programs.note(f"{name} failed: {error}")

    def _is_back(self) -> bool:
        """Wait for PostgreSQL; return whether it is there again, on both sides."""
        deadline = time.monotonic() + _AWAY
        while time.monotonic() < deadline:
            try:
                self.identify(None, {})
            except RehearsalError as error:
                if not error.lost:
                    return False
                time.sleep(1)
            else:
                return True
        return False

    # the steps

    def identify(self, _bar: Bar | None, facts: dict[str, Any]) -> None:
        """Make sure, again, that what is written to is not production."""
        self.nodes = production(self.site, self.state.site)
        self.server = target(self.settings.database, self.nodes)
        source = self.nodes[0]
        with closing(source.connect()) as connection:
            names = [self.base, self.upgraded]
            if query(connection, "SELECT FROM pg_database WHERE datname = ANY(%s)", names):
                raise RehearsalError(f"production has a database called {self.base}")
        facts |= {
            "source": f"{source.name}, {'a standby' if source.standby else 'the primary'}",
            "behind": source.behind,
            "target": self.server.name,
            "production": [f"{node.name}: {node.system}" for node in self.nodes],
            "system": self.server.system,
        }

    def copy(self, bar: Bar, facts: dict[str, Any]) -> None:
        """Dump production's database."""
        folder = self.work / "dump"
        shutil.rmtree(folder, ignore_errors=True)
        source = self.nodes[0]
        size = copies.database_size(source)
        free = shutil.disk_usage(self.work).free
        self.programs.note(f"{size} bytes in the database, {free} free in {self.work}")
        tables = copies.table_sizes(source)
        copied = copies.dump(
            self.programs, source, folder, self.settings.jobs, tables, bar.progress
        )
        facts |= {"size": size, "dump": copied, "tables": tables}

    def restore(self, bar: Bar, facts: dict[str, Any]) -> None:
        """Restore the dump, and make it anonymous."""
        copies.create(self.server, self.base, self.mark)
        tables = self.state.fact("tables")
        copies.assert_ours(self.server, self.base, self.mark)
        folder, jobs = self.work / "dump", self.settings.jobs
        copies.restore(self.programs, self.server, self.base, folder, jobs, tables, bar.progress)
        if self.settings.anonymise:
            copies.assert_ours(self.server, self.base, self.mark)
            copies.run_sql(self.programs, self.server, self.base, self._anonymise)
        facts["restored"] = copies.database_size(self.server, self.base)

    def packages(self, bar: Bar, facts: dict[str, Any]) -> None:
        """Gather the new versions, and install them in a fresh environment."""
        python = shutil.which(self.settings.python)
        if python is None:
            raise RehearsalError(f"preproduction.python: {self.settings.python} is not here")
        folder = self.state.folder.absolute()
        facts["requirements"] = self._requirements_digest()
        facts["wheels"] = packages.gather(self.programs, self._requirements, folder, python)
        bar.tick()
        facts["install_seconds"] = packages.install(
            self.programs, folder, self.work.absolute() / "venv", python
        )

    def upgrade(self, bar: Bar, facts: dict[str, Any]) -> None:
        """Upgrade a pristine copy under the running version, and try both versions on it."""
        copies.create(self.server, self.upgraded, self.mark, template=self.base)
        copies.assert_ours(self.server, self.upgraded, self.mark)
        running = Path(self.settings.virtualenv or self.site.instances.virtualenv)
        old = self._instance("old", running, self.settings.port)
        new = self._instance("new", self.work.absolute() / "venv", self.settings.port + 2)
        for instance in (old, new):
            instance.prepare(self._configuration)
        facts["site_file"] = self.site_file.digest
        facts["versions_before"] = self._versions_in_database()
        before = catalog.read(self.server, self.upgraded)
        against: list[str] = []
        with ExitStack() as stack:
            if self._deadlock:
                against.append(
                    "the migration and the pages of the running version waited for each other, "
                    "and PostgreSQL ended the migration (deadlock)"
                )
            old_runs = not self._deadlock and self._start_old(stack, old, facts, against)
            watch = locks.Sampler(self.server, self.upgraded)
            visits = Visits()
            start = time.monotonic()
            with ExitStack() as during:
                during.enter_context(watch)
                if old_runs:
                    visits = during.enter_context(old.visited())
                try:
                    output = new.ctl(self.programs, *UPGRADE, self.state.site, watch=bar.tick)
                except RehearsalError as error:
                    self._deadlock = error.deadlock
                    raise
            if UPGRADED not in output.splitlines():  # some failures leave the status 0
                raise RehearsalError(
                    "cubicweb-ctl upgrade did not come to its end", output[-2000:]
                )
            facts["upgrade_seconds"] = time.monotonic() - start
            bar.tick()
            changes = catalog.compare(before, catalog.read(self.server, self.upgraded))
            facts |= {
                "changes": [asdict(change) for change in changes],
                "locks": [asdict(lock) | {"blocks": lock.blocks} for lock in watch.locks],
                "longest_wait": watch.longest_wait,
                "visits": asdict(visits),
                "upgraded_size": copies.database_size(self.server, self.upgraded),
            }
            self._try_both(stack, old if old_runs else None, new, facts, against)
        against += self._against(visits, changes, watch)
        facts["against_rolling"] = against

    def _start_old(
        self, stack: ExitStack, old: Instance, facts: dict[str, Any], against: list[str]
    ) -> bool:
        """Start the running version; return whether it can be tried, else note why not."""
        try:
            stack.enter_context(old.running(self.programs))
            text = old.versions()
            if problems := old.problems():
                raise RehearsalError(f"it is not well before the upgrade: {'; '.join(problems)}")
        except (RehearsalError, OSError) as error:
            against.append(f"the running version, of {old.virtualenv}, was not tried: {error}")
            return False
        facts["monitor_before"] = text
        return True

    def _try_both(
        self,
        stack: ExitStack,
        old: Instance | None,
        new: Instance,
        facts: dict[str, Any],
        against: list[str],
    ) -> None:
        """Start the new version, check it, and the running one beside it."""
        start = time.monotonic()
        stack.enter_context(new.running(self.programs))
        facts["start_seconds"] = time.monotonic() - start
        start = time.monotonic()
        problems = new.problems()
        facts["check_seconds"] = time.monotonic() - start
        facts["monitor_after"] = new.versions()
        match = re.fullmatch(r"ServiceOK : FS config (.*) == DB .*", facts["monitor_after"])
        if problems or not match:
            text = "; ".join(problems) or facts["monitor_after"]
            raise RehearsalError(f"the upgraded instance is not well: {text}")
        facts["versions_after"] = match[1]
        if old is None:
            return
        old.ctl(self.programs, "hasite-accept", self.state.site, match[1])
        if problems := old.problems(old=True):
            against.append(
                f"the running version is not well on the upgraded copy: {'; '.join(problems)}"
            )
        if problems := new.problems():
            raise RehearsalError(
                f"the upgraded instance is not well beside the running one: {'; '.join(problems)}"
            )

    def _against(
        self, visits: Visits, changes: list[catalog.Change], watch: locks.Sampler
    ) -> Iterator[str]:
        """Yield why visitors would notice the upgrade if the running version served meanwhile."""
        if not self.site.upgrade.checks:
            yield "no page is checked: list some in upgrade.checks"
        if visits.failures:
            yield (
                f"{len(visits.failures)} of {visits.count} visits failed during the migration, "
                f"such as {visits.failures[0]}"
            )
        limit = self.site.upgrade.longest_wait
        if visits.slowest > limit:
            yield f"a page took {duration(visits.slowest)} during the migration (limit: {limit} s)"
        for lock in watch.locks:
            if lock.longest > limit:
                yield f"{lock.table} is locked for {duration(lock.longest)}: {lock.blocks} wait"
        for change in changes:
            if change.breaks:
                yield f"{change.what}: {change.breaks}"
        if watch.failure:
            yield f"locks could not be looked at: {watch.failure}"

    # what they need

    def _instance(self, name: str, virtualenv: Path, port: int) -> Instance:
        folder = self.work.absolute() / name
        return Instance(
            self.site_file, self.state.site, folder, virtualenv, self.server, self.upgraded, port
        )

    def _versions_in_database(self) -> str:
        """Return the versions in the copy as monitor_version writes them."""
        with closing(self.server.connect(self.upgraded)) as connection:
            rows = query(
                connection,
                "SELECT replace(cw_pkey, 'system.version.', ''), cw_value FROM cw_cwproperty "
                "WHERE cw_pkey LIKE 'system.version.%%' ORDER BY cw_pkey",
            )
        ordered = sorted(rows, key=lambda row: (row[0] != "cubicweb", row[0]))
        return " | ".join(f"{cube}: {version}" for cube, version in ordered)

    def check_files(self) -> None:
        """Make sure that the files that the site file names are there.

        :raises RehearsalError: one is missing.
        """
        self._requirements_digest()
        folder = self._configuration / self.state.site
        wanted = {"preproduction.configuration": folder}
        if self.settings.anonymise:
            wanted["preproduction.anonymise"] = self._anonymise
        for key, path in wanted.items():
            if not path.exists():
                raise RehearsalError(f"{key}: there is no {path} on this machine")

    @property
    def _configuration(self) -> Path:
        return Path(self.settings.configuration or self.site.instances.configuration)

    @property
    def _anonymise(self) -> Path:
        return self.site_file.path.absolute().parent / (self.settings.anonymise or "")

    @property
    def _requirements(self) -> Path:
        return self.site_file.path.absolute().parent / self.site.upgrade.requirements

    def _requirements_digest(self) -> str:
        return packages.digest(self._requirements)

    def _anonymise_digest(self) -> str:
        if not self.settings.anonymise:
            return ""
        return hashlib.sha256(self._anonymise.read_bytes()).hexdigest()

    def clean(self) -> None:
        """Remove what only the rehearsal needed: its databases, its copies."""
        for name in (self.upgraded, self.base):
            copies.drop(self.server, name, self.mark)
        shutil.rmtree(self.work, ignore_errors=True)


def _one_line(error: Exception) -> str:
    return " ".join(str(error).split())
