"""The commands of a restoration: those of chapter 5 of the runbook, stage by stage."""

from collections.abc import Iterator
from dataclasses import dataclass
from datetime import datetime

from cubicweb_hasite import names
from cubicweb_hasite.deploy.site import Site
from cubicweb_hasite.restorations import repository
from cubicweb_hasite.upgrades.host_commands import Command, HostCommands, Stage, quote

#: seconds for which is waited until standbys follow the restored primary
_STANDBYS = 3600


@dataclass(frozen=True)
class Step(Stage):
    """A stage of a restoration.

    :param final: whether it cannot be undone
    """

    final: bool = False


class Plan:
    """The stages of a restoration.

    :param when: the moment, None for all that is in the archive
    """

    def __init__(self, site: Site, when: datetime | None) -> None:
        self.site = site
        self.when = when
        self.store = next(iter(site.backup_hosts))
        self.nodes = list(site.database)
        self.first = self.nodes[0]
        self.hosts = {name: HostCommands(site, name) for name in site.sites}
        self._any = next(iter(self.hosts.values()))
        version = site.postgresql.version
        self.cluster = f"postgresql@{version}-main"
        self.folder = f"/var/lib/postgresql/{version}/{'hasite' if site.patroni else 'main'}"
        log = "/var/lib/postgresql/restoration.log"
        self._log = log if site.patroni else f"/var/log/postgresql/postgresql-{version}-main.log"
        self.pg_ctl = (
            f"/usr/lib/postgresql/{version}/bin/pg_ctl --wait --timeout 86400 --silent "
            f"--log {log} --pgdata {self.folder}"
        )

    def info(self) -> str:
        """Return the line that prints what the repository holds, in JSON."""
        return self._postgres(self.store, f"pgbackrest --stanza={names.STANZA} --output=json info")

    def beside(self, folder: str) -> list[Step]:
        """Return the stages of a restoration beside production, on the backup host."""
        moment = f" {quote(repository.target(self.when))}" if self.when else ""
        line = f"hasite-restore-beside {quote(folder)}{moment}"
        remove = self._on(self.store, f"hasite-restore-beside --remove {quote(folder)}")
        return [
            Step(
                f"Restore in {folder} of {self.store}",
                f"Production was not touched. Remove what is there: `{remove}`.",
                [Command(self._on(self.store, line))],
            )
        ]

    def test(self) -> list[Step]:
        """Return the stage that tests a restoration."""
        line = self._on(self.store, "systemctl start hasite-test-restoration")
        log = self._on(self.store, "journalctl -u hasite-test-restoration -n 50")
        return [Step(f"Test a restoration on {self.store}", f"See `{log}`.", [Command(line)])]

    def production(self, *, lost: bool) -> list[Step]:
        """Return the stages of a restoration of production.

        :param lost: whether the database is lost, and cannot be asked for its last changes
        """
        return list(self._production(lost=lost))

    def _production(self, *, lost: bool) -> Iterator[Step]:
        start = "; ".join(f"`{line}`" for line in self._instances("start"))
        yield Step(
            "Stop the instances: the interruption begins",
            f"Nothing is lost. Start them again: {start}.",
            [Command(line) for line in self._instances("stop")],
            "The caches go on to serve images.",
        )
        if not lost:
            yield Step(
                "Send the last changes to the archive",
                f"Nothing is lost. Start the instances again: {start}. If the database is lost, "
                "give --lost: what has not reached the archive is lost too.",
                [Command(self._postgres(self.store, f"pgbackrest --stanza={names.STANZA} check"))],
            )
        unit = "patroni" if self.site.patroni else self.cluster
        nodes = ", ".join(self.nodes)
        yield Step(
            f"Stop the database on {nodes}",
            f"Nothing is lost. Start it again: `systemctl start {unit}` on {nodes}; then the "
            f"instances: {start}.",
            [Command(self._on(node, f"systemctl stop {unit}")) for node in self.nodes],
        )
        until = repository.show(self.when) if self.when else "the last change in the archive"
        yield Step(
            f"Restore the database on {self.first} to {until}",
            f"The former database is beside {self.folder} of {self.first}, with the date in its "
            f"name: move it back, or run the same command again. {self._log} of {self.first} says "
            "why PostgreSQL has stopped, if it has.",
            list(self._restore()),
            final=True,
        )
        yield Step(
            "Leave out eids, empty the caches",
            "Run the same command again.",
            [*self._eids(), *self._caches()],
        )
        yield Step(
            "Start the instances",
            "Run the same command again.",
            [
                *(Command(line) for line in self._instances("start")),
                *(self.hosts[each.site].ready(each) for each in self.site.all_instances),
            ],
        )
        line = f"pgbackrest --stanza={names.STANZA} --type=full backup"
        yield Step(
            "Make a full backup of the restored database",
            "The site serves. Run the same command again.",
            [Command(self._postgres(self.store, line))],
        )
        if len(self.nodes) > 1:
            yield self._standbys()

    def _restore(self) -> Iterator[Command]:
        folder = self.folder
        yield Command(self._on(self.first, self._away))
        line = f"install -d -o postgres -g postgres -m 700 {folder}"
        yield Command(self._on(self.first, line))
        kind = "--type=default"
        if self.when:
            target = repository.target(self.when)
            kind = f"--type=time --target='{target}' --target-action=promote"
        line = f"pgbackrest --stanza={names.STANZA} {kind} restore"
        yield Command(self._postgres(self.first, line))
        if self.site.patroni:
            # Patroni has given it the port on its command line; without hot_standby it needs no
            # limits as large as those that Patroni has given it
            port = self.site.postgresql.port
            options = f"-c listen_addresses= -c port={port} -c hot_standby=off"
            yield Command(self._postgres(self.first, f"{self.pg_ctl} --options '{options}' start"))
        else:
            yield Command(self._on(self.first, f"systemctl start {self.cluster}"))
        line = "psql -Atc 'SELECT pg_is_in_recovery()'"
        ended = f"su postgres -c {quote(line)} 2>&1 | grep -q '^f'"
        stopped = f"[ ! -e {self.folder}/postmaster.pid ]"
        wait = f"until {ended} || {stopped}; do sleep 1; done"
        yield Command(self._on(self.first, f"cd /; {wait}"))
        yield Command(self._postgres(self.first, line), prints="f")
        settings = ("recovery_target_time", "recovery_target_action", "restore_command")
        resets = " ".join(f"-c 'ALTER SYSTEM RESET {name}'" for name in settings)
        yield Command(self._postgres(self.first, f"psql {resets}"))
        if self.site.patroni:
            yield Command(self._postgres(self.first, f"{self.pg_ctl} --mode fast stop"))
            patronictl = "patronictl -c /etc/patroni/config.yml"
            line = f"printf 'hasite\\nYes I am aware\\n' | {patronictl} remove hasite"
            yield Command(self._on(self.first, line))
            yield Command(self._on(self.first, "systemctl start patroni"))
            line = "psql -Atc 'SELECT pg_is_in_recovery()'"
            yield Command(self._postgres(self.first, line), prints="f", retry_seconds=120)

    @property
    def _away(self) -> str:
        """The line that moves the data of a database node away, and removes nothing."""
        return f"[ ! -e {self.folder} ] || mv {self.folder} {self.folder}.$(date +%Y-%m-%dT%H%M%S)"

    def _standbys(self) -> Step:
        others = self.nodes[1:]
        title = f"Make the standbys {', '.join(others)} again"
        if not self.site.patroni:
            note = "By hand: chapter 1, step 4 of the runbook."
            return Step(title, "The site serves.", note=note)
        commands = []
        for node in others:
            commands.append(Command(self._on(node, self._away)))
            commands.append(Command(self._on(node, "systemctl start patroni")))
        line = "psql -Atc 'SELECT count(*) FROM pg_stat_replication'"
        following = self._postgres(self.first, line)
        commands.append(Command(following, prints=str(len(others)), retry_seconds=_STANDBYS))
        return Step(title, "The site serves. Run the same command again.", commands)

    def _eids(self) -> Iterator[Command]:
        web = next(iter(self.site.web))
        for name, hosts in self.hosts.items():
            yield Command(self._on(web, f"{hosts.ctl} hasite-advance-eids {name}"))

    def _caches(self) -> Iterator[Command]:
        squid = self.site.squid
        line = f"systemctl restart {'squid' if squid else 'varnish'}"
        if squid and squid.disk:
            line = (
                "systemctl stop squid; rm -rf /var/spool/squid/*; squid -z --foreground; "
                "systemctl start squid"
            )
        for web in self.site.web:
            yield Command(self._on(web, line))

    def _instances(self, action: str) -> list[str]:
        return [
            hosts.systemctl(action, web) for hosts in self.hosts.values() for web in self.site.web
        ]

    def _on(self, host: str, line: str) -> str:
        return self._any.on(host, line)

    def _postgres(self, host: str, line: str) -> str:
        """Return the line that runs another one on a host as user postgres."""
        return self._on(host, f"cd /; su postgres -c {quote(line)}")
