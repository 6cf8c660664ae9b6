"""The commands that leave one standby as it is during an upgrade, for visitors to read from it.

Its replay is paused: it receives what the primary writes, and does not apply it. If the upgrade is
given up, it replays nothing more and becomes the primary, as the site was before.
"""

from collections.abc import Iterator

from cubicweb_hasite.deploy.site import Site
from cubicweb_hasite.upgrades.host_commands import Command, HostCommands, quote, waiting

_PATRONICTL = "patronictl -c /etc/patroni/config.yml"
_IN_MAINTENANCE = f'{_PATRONICTL} list | grep -q "Maintenance mode"'
#: seconds for which is waited until nodes follow the new primary
_FOLLOW_SECONDS = 3600
#: what lets PostgreSQL stop its recovery where it is, and become a primary; `psql` runs the lines
#: that the first query returns
_STOP_HERE = (
    "SELECT format('ALTER SYSTEM SET %s = %L', name, value) FROM (VALUES "
    "('recovery_target_lsn', pg_last_wal_replay_lsn()::text), "
    "('recovery_target_inclusive', 'off'), ('recovery_target_action', 'promote'), "
    "('primary_conninfo', ''), ('restore_command', '')) AS settings (name, value) \\gexec"
)
_SETTINGS = (
    "recovery_target_lsn",
    "recovery_target_inclusive",
    "recovery_target_action",
    "primary_conninfo",
    "restore_command",
)


class LeftStandby:
    """The standby that is left as it is: the last database node of the site file.

    :param hosts: makes the commands on hosts
    """

    def __init__(self, site: Site, hosts: HostCommands) -> None:
        self._site = site
        self._hosts = hosts
        self._nodes = list(site.database)
        self.name = self._nodes[-1]
        #: the entry of option `hasite-standby-hosts`
        self.address = site.hosts[self.name].address
        version = site.postgresql.version
        self._unit = f"postgresql@{version}-main"
        self._folder = f"/var/lib/postgresql/{version}/hasite"
        self._pg_ctl = f"/usr/lib/postgresql/{version}/bin/pg_ctl --pgdata {self._folder}"

    def check(self) -> Command:
        """Return the command that checks that it is a standby which receives what is written."""
        return self._sql("SELECT status FROM pg_stat_wal_receiver", "streaming")

    def pause(self) -> Iterator[Command]:
        """Yield the commands that let it replay nothing more."""
        if self._site.patroni:  # which ends any other pause of the replay
            yield Command(self._on(f"{_IN_MAINTENANCE} || {_PATRONICTL} pause --wait"))
        yield self._sql("SELECT pg_wal_replay_pause()")
        yield self._sql("SELECT pg_get_wal_replay_pause_state()", "paused")

    def go_on(self) -> Iterator[Command]:
        """Yield the commands that let it follow the primary again."""
        yield self._sql("SELECT pg_wal_replay_resume()")
        yield self._sql("SELECT pg_get_wal_replay_pause_state()", "not paused")
        yield from self._end_maintenance()

    def become_primary(self) -> Iterator[Command]:
        """Yield the commands that make it the primary, as it is; the other nodes are stopped."""
        yield self._sql("SELECT pg_get_wal_replay_pause_state()", "paused")
        patroni = self._site.patroni
        for node in self._nodes[:-1]:
            if patroni:  # in maintenance it lets PostgreSQL run
                stop = f"su postgres -c {quote(f'{self._pg_ctl} --mode fast stop')}"
                running = f"[ ! -e {self._folder}/postmaster.pid ]"
                line = f"systemctl stop patroni; {running} || {stop}"
            else:
                line = f"systemctl stop {self._unit}"
            yield Command(self._on(f"cd /; {line}", node))
        if patroni:
            yield Command(self._on("systemctl stop patroni"))
        psql = f"psql --port {self._site.postgresql.port} --quiet"
        settings = f"printf '%s\\n' {quote(_STOP_HERE)}"
        yield Command(self._on(f"cd /; {settings} | su postgres -c {quote(psql)}"))
        if patroni:
            log = "/var/lib/postgresql/restoration.log"
            line = f"{self._pg_ctl} --mode fast --wait --silent --log {log} restart"
            yield Command(self._on(f"cd /; su postgres -c {quote(line)}"))
        else:
            yield Command(self._on(f"systemctl restart {self._unit}"))
        yield self._sql("SELECT pg_is_in_recovery()", "f")
        resets = " ".join(f"-c {quote(f'ALTER SYSTEM RESET {name}')}" for name in _SETTINGS)
        yield self._psql(resets)
        yield self._sql("SELECT pg_reload_conf()", "t")

    def be_led(self) -> Iterator[Command]:
        """Yield the commands that let Patroni take over, after `become_primary`."""
        if self._site.patroni:
            yield Command(self._on("systemctl start patroni"))
            leader = f"grep -o {quote(f'{self.name} .* Leader')} | cut -d' ' -f1"
            yield waiting(self._on(f"{_PATRONICTL} list | {leader}"), self.name)
            yield from self._end_maintenance()

    def be_followed(self) -> Iterator[Command]:
        """Yield the commands that make the other nodes its standbys, after `be_led`."""
        for node in self._nodes[:-1]:
            yield Command(self._on("systemctl start patroni", node))
        count = str(len(self._nodes) - 1)
        following = self._sql("SELECT count(*) FROM pg_stat_replication", count)
        yield Command(following.line, prints=count, retry_seconds=_FOLLOW_SECONDS)

    def _end_maintenance(self) -> Iterator[Command]:
        if self._site.patroni:
            yield Command(self._on(f"! {_IN_MAINTENANCE} || {_PATRONICTL} resume --wait"))

    def _on(self, line: str, node: str = "") -> str:
        return self._hosts.on(node or self.name, line)

    def _sql(self, query: str, prints: str = "") -> Command:
        """Return the command that makes a query until it prints a line."""
        command = self._psql(f"-c {quote(query)}")
        return waiting(command.line, prints) if prints else command

    def _psql(self, arguments: str) -> Command:
        line = f"psql --port {self._site.postgresql.port} -At {arguments}"
        return Command(self._on(f"cd /; su postgres -c {quote(line)}"))
