"""The steps of a rehearsal, each of which can be done again without the others."""

import hashlib
import shutil
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

from cubicweb_hasite.deploy.load import SiteFile
from cubicweb_hasite.deploy.site import PreProduction
from cubicweb_hasite.upgrades import UpgradeError, copies, packages, trial
from cubicweb_hasite.upgrades.console import Bar, Console
from cubicweb_hasite.upgrades.findings import Copied, Identified, Packaged, Restored
from cubicweb_hasite.upgrades.programs import Programs
from cubicweb_hasite.upgrades.server import Server, production, query, target
from cubicweb_hasite.upgrades.state import State
from cubicweb_hasite.upgrades.steps import Action, Runner, now

LOG = "rehearsal.log"


class Rehearsal:
    """An upgrade of a site, tried on a copy.

    :param settings: the section [preproduction] of the site file
    :param state: what is done already
    :param nodes: the nodes of production; the first is copied
    :param server: the server of the copies, which is not production
    """

    def __init__(
        self,
        site_file: SiteFile,
        settings: PreProduction,
        state: State,
        nodes: list[Server],
        server: Server,
        console: Console,
    ) -> None:
        self.site_file = site_file
        self.site = site_file.site
        self.settings = settings
        self.state = state
        self.console = console
        self.programs = Programs(state.folder / LOG)
        self.work = state.folder / "work"
        self.base = f"{state.site}_rehearsal_{state.token}"
        # holds personal data, which the SQL of preproduction.anonymise removes
        self.personal = f"{self.base}_personal"
        self.upgraded = f"{self.base}_upgraded"
        # in the comment of each database: which rehearsal it belongs to
        self.mark = f"{state.folder.absolute()} ({state.token})"
        self.nodes = nodes
        self.server = server
        self._runner = Runner(state, self.programs, console, self._reconnect, self._clean_up)

    def run(self, estimates: dict[str, float]) -> None:
        """Do all the steps that are not done yet, and give the verdict.

        :param estimates: expected duration of each step in seconds
        :raises UpgradeError: a step failed; the state tells which.
        """
        self.work.mkdir(mode=0o700, exist_ok=True)
        (self.state.folder / ".gitignore").write_text("/work/\n/wheels/\n")
        self.state.verdict = ""
        self._runner.run(self._actions(), estimates)
        found = self.state.findings
        if not found.upgrade.against_rolling:
            self.state.verdict = "rolling"
        elif self._standby_may_be_left and not found.read_only.against:
            self.state.verdict = "read-only"
        else:
            self.state.verdict = "stopped"
        self.state.finished = now()
        self.state.save()

    def _actions(self) -> Iterator[Action]:
        yield Action("identify", self.identify, is_valid=lambda: False)
        yield Action(
            "copy",
            self.copy,
            # the dump is deleted once it is restored: other SQL needs another copy
            inputs=lambda: f"{self.nodes[0].system} {self._anonymise_digest()}",
            is_valid=lambda: self._dump.exists() or self.state.is_done("restore"),
        )
        yield Action("restore", self.restore)
        yield Action("packages", self.packages, inputs=self._requirements_digest)
        yield Action("upgrade", self.upgrade, inputs=lambda: self.site_file.digest)
        if self.state.findings.upgrade.against_rolling and self._standby_may_be_left:
            yield Action("read only", self.read_only)

    def _reconnect(self) -> None:
        """Make sure that production and the server of the copies answer, and are the same.

        :raises UpgradeError: they do not, or are not.
        """
        self.identify()

    def _clean_up(self, name: str) -> str:
        """Delete what a step that failed must not leave; return what is said about it."""
        if name in ("copy", "restore") and self._is_personal:
            return self._delete_personal_data()
        return ""

    def _delete_personal_data(self) -> str:
        left = []
        for name in self.databases:
            try:
                copies.drop(self.server, name, self.mark)
            except UpgradeError as error:
                left.append(f"the database {name} at {self.server.name} ({error})")
        for folder in [self._dump, self._anonymous_dump]:
            shutil.rmtree(folder, ignore_errors=True)
            if folder.exists():
                left.append(str(folder))
        if left:
            return f"; delete this yourself, it may hold personal data: {', '.join(left)}"
        return "; the copy was deleted, since it may hold personal data"

    # the steps

    def identify(self, _bar: Bar | None = None) -> None:
        """Make sure again that the server of the copies is not production."""
        self.nodes = production(self.site, self.state.site)
        self.server = target(self.settings.database, self.nodes)
        source = self.nodes[0]
        with closing(source.connect()) as connection:
            names = "SELECT datname FROM pg_database WHERE datname = ANY(%s)"
            for (name,) in query(connection, names, self.databases):
                raise UpgradeError(f"production has a database called {name}; use --fresh")
        self.state.findings.identify = Identified(
            source=f"{source.name}, {'a standby' if source.standby else 'the primary'}",
            behind=source.behind,
            target=self.server.name,
        )

    def copy(self, bar: Bar) -> None:
        """Dump production's database."""
        shutil.rmtree(self._dump, ignore_errors=True)
        source = self.nodes[0]
        size = copies.database_size(source)
        free = shutil.disk_usage(self.work).free
        self.programs.note(f"{size} bytes in the database, {free} free in {self.work}")
        found = self.state.findings.copy = Copied(tables=copies.table_sizes(source))
        found.dump = self._copier(bar).dump(source, self._dump, personal=self._is_personal)

    def restore(self, bar: Bar) -> None:
        """Restore the dump, and make it anonymous.

        The database that held personal data is dumped again and dropped: the one that is rehearsed
        on has never held any, not even in deleted rows or in statistics.
        """
        found = self.state.findings.restore = Restored()
        for name in self.databases:  # of a former copy
            copies.drop(self.server, name, self.mark)
        copier = self._copier(bar)
        dump = self._dump
        if self._is_personal:
            self._create(self.personal)
            copier.restore(self.server, self.personal, dump, personal=True)
            copies.assert_ours(self.server, self.personal, self.mark)
            copies.anonymise(self.programs, self.server, self.personal, self._anonymise)
            dump = self._anonymous_dump
            shutil.rmtree(dump, ignore_errors=True)
            copier.dump(self.server, dump, self.personal)
            copies.drop(self.server, self.personal, self.mark)
        self._create(self.base)
        copier.restore(self.server, self.base, dump)
        copies.refuse_foreign_servers(self.server, self.base)
        found.size = copies.database_size(self.server, self.base)
        for folder in [self._dump, self._anonymous_dump]:
            if folder.exists():
                shutil.rmtree(folder)

    def packages(self, bar: Bar) -> None:
        """Collect the packages of the new versions, and install them in a new environment."""
        python = shutil.which(self.settings.python)
        if python is None:
            raise UpgradeError(
                f"preproduction.python: {self.settings.python} is not on this machine"
            )
        folder = self.state.folder.absolute()
        found = self.state.findings.packages = Packaged(requirements=self._requirements_digest())
        found.size = packages.gather(self.programs, self._requirements, folder, python)
        bar.tick()
        found.install_seconds = packages.install(
            self.programs, folder, self.work.absolute() / "venv", python
        )

    def upgrade(self, bar: Bar) -> None:
        """Upgrade a copy of the copy, and try both versions on it."""
        self._create(self.upgraded, template=self.base)
        self._trial(self.upgraded).run(bar, after_deadlock=self._runner.deadlock)

    def read_only(self, _bar: Bar) -> None:
        """Try the running version on the copy as it was, which it may only read."""
        copies.assert_ours(self.server, self.base, self.mark)
        with copies.written_to_by_nobody(self.server, self.base):
            self._trial(self.base).try_read_only()

    # what they need

    def _trial(self, database: str) -> trial.Trial:
        return trial.Trial(
            self.site_file,
            self.settings,
            self.state,
            self.programs,
            self.server,
            database,
            self.work.absolute(),
        )

    @property
    def _standby_may_be_left(self) -> bool:
        """Whether visitors can read from a standby while the primary is upgraded."""
        return self.site.postgresql.read_standbys and len(self.site.database) > 1

    def _copier(self, bar: Bar) -> copies.Copier:
        tables = self.state.findings.copy.tables
        return copies.Copier(self.programs, self.settings.jobs, tables, bar.progress)

    def _create(self, name: str, *, template: str = "template0") -> None:
        copies.create(self.server, name, self.mark, template=template)
        copies.assert_ours(self.server, name, self.mark)

    @property
    def databases(self) -> list[str]:
        """Names of the databases that the rehearsal makes."""
        return [self.personal, self.base, self.upgraded]

    @property
    def _is_personal(self) -> bool:
        """Whether production's data is personal: nobody may see it until the SQL has run."""
        return self.settings.anonymise is not None

    @property
    def _dump(self) -> Path:
        return self.work / "dump"

    @property
    def _anonymous_dump(self) -> Path:
        return self.work / "anonymous"

    def check_files(self) -> None:
        """Make sure that the files that the site file names exist.

        :raises UpgradeError: one is missing.
        """
        self._requirements_digest()
        self._anonymise_digest()
        folder = trial.configuration(self.site, self.settings) / self.state.site
        if not folder.is_dir():
            raise UpgradeError(
                f"preproduction.configuration: there is no folder {folder} on this machine"
            )

    @property
    def _anonymise(self) -> Path:
        return self.site_file.path.absolute().parent / (self.settings.anonymise or "")

    @property
    def _requirements(self) -> Path:
        return self.site_file.path.absolute().parent / self.site.upgrade.requirements

    def _requirements_digest(self) -> str:
        return packages.digest(self._requirements)

    def _anonymise_digest(self) -> str:
        if not self._is_personal:
            return ""
        try:
            return hashlib.sha256(self._anonymise.read_bytes()).hexdigest()
        except OSError as error:
            raise UpgradeError(
                f"preproduction.anonymise: {self._anonymise}: {error.strerror}"
            ) from None

    def clean(self) -> None:
        """Delete the databases of the rehearsal, and its working folder.

        :raises UpgradeError: a database cannot be dropped.
        """
        for name in self.databases:
            copies.drop(self.server, name, self.mark)
        shutil.rmtree(self.work, ignore_errors=True)
