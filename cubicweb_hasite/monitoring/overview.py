"""The state of the whole site, as one of its instances sees it: for the page for operators.

One query tells of the database, its replicas, and the instances that are connected to it (see
:mod:`.presence`). It is asked on the connection of the probes, with their deadline, and only
reads, so that it works on a standby too.
"""

from collections.abc import Iterable
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from cubicweb.server.repository import Repository

from cubicweb_hasite.caches import purge
from cubicweb_hasite.monitoring import polls, presence
from cubicweb_hasite.monitoring.connection import APPLICATION_NAME
from cubicweb_hasite.monitoring.presence import Told
from cubicweb_hasite.operations.journal import Entry, latest

#: what is looked for in the journal in the folder of the instance
JOURNAL = {"backup": "backup", "rehearsal": "hasite-rehearse", "upgrade": "hasite-upgrade"}

# All of it may be read by an ordinary role. What PostgreSQL shows only to `pg_read_all_stats`
# (address, state and position of a replica) is null else; then the slot gives the position.
_SQL = f"""
SELECT
    pg_is_in_recovery(),
    current_setting('transaction_read_only') = 'on',
    EXISTS (SELECT FROM pg_stat_wal_receiver),
    COALESCE(host(inet_server_addr()) || ':' || inet_server_port(), 'local'),
    split_part(current_setting('server_version'), ' ', 1),
    (SELECT SUM(numbackends)::int FROM pg_stat_database),
    current_setting('max_connections')::int,
    EXTRACT(epoch FROM clock_timestamp() - pg_last_xact_replay_timestamp())::int,
    (
        SELECT json_agg(json_build_object(
            'query', query,
            'address', host(client_addr),
            'silent', EXTRACT(epoch FROM clock_timestamp() - query_start)::int,
            'here', pid = pg_backend_pid()
        ))
        FROM pg_stat_activity
        WHERE datname = current_database() AND (
            application_name = '{APPLICATION_NAME}' OR starts_with(query, '{presence.MARK}')
        )
    ),
    (
        SELECT json_agg(json_build_object(
            'name', COALESCE(slot_name, application_name),
            'address', host(client_addr),
            'connected', replica.pid IS NOT NULL,
            'state', COALESCE(state, ''),
            'behind', CASE WHEN NOT pg_is_in_recovery() THEN GREATEST(
                pg_wal_lsn_diff(pg_current_wal_lsn(), COALESCE(replay_lsn, restart_lsn)), 0
            )::bigint END
        ) ORDER BY COALESCE(slot_name, application_name))
        FROM (
            SELECT slot_name, active_pid, restart_lsn FROM pg_replication_slots
            WHERE slot_type = 'physical' AND NOT temporary AND NOT pg_is_in_recovery()
        ) AS slot
        FULL JOIN pg_stat_replication AS replica ON pid = active_pid
        WHERE application_name IS DISTINCT FROM 'pg_basebackup'
    )
"""


@dataclass(frozen=True)
class Instance:
    """An instance that is connected to the database."""

    told: Told
    #: where it connects from
    address: str
    #: how long ago it told of itself, in seconds; None if that may not be seen
    silent: int | None
    #: whether it is the one that answers
    here: bool = False

    @property
    def name(self) -> str:
        """Its name with its port, or where it connects from if it tells nothing."""
        told = self.told
        if not told.name:
            return f"? ({self.address})"
        # hasite-instance-name has one where a host has several instances
        return f"{told.name}:{told.port}" if told.port and ":" not in told.name else told.name


@dataclass(frozen=True)
class Replica:
    """A standby that the database node knows."""

    name: str
    address: str | None
    connected: bool
    #: as PostgreSQL calls it, such as `streaming`; empty if it may not be seen
    state: str
    #: how much it has still to replay, in bytes; None if it may not be seen
    behind: int | None


@dataclass(frozen=True)
class Database:
    """The database node to which this instance is connected."""

    node: str
    #: version of PostgreSQL
    version: str
    standby: bool
    read_only: bool
    #: whether it is a standby that receives changes from a primary
    receives: bool
    connections: int
    max_connections: int
    #: how long ago the last change was made that a standby has replayed, in seconds
    replayed: int | None
    replicas: list[Replica]


@dataclass(frozen=True)
class Cache:
    """A cache that this instance purges, and what became of the purges of this process."""

    url: str
    down: bool
    refuses: bool
    queued: int
    sent: int
    failed: int
    dropped: int


@dataclass(frozen=True)
class Overview:
    """The state of the site."""

    #: the one that answers first
    instances: list[Instance]
    caches: list[Cache]
    #: None if it is SQLite, or cannot be asked
    database: Database | None = None
    #: why the database cannot be asked
    unavailable: str = ""
    #: the latest of each kind in :data:`JOURNAL`
    journal: dict[str, Entry] = field(default_factory=dict)

    @property
    def others_seen(self) -> bool:
        """Whether all instances of the site are among the instances."""
        return self.database is not None

    def facts(self) -> dict[str, Any]:
        """Return all of it in types that JSON has."""
        return {
            "others_seen": self.others_seen,
            "instances": [
                {**asdict(each.told), "name": each.name, "address": each.address}
                | {"silent": each.silent, "here": each.here}
                for each in self.instances
            ],
            "database": asdict(self.database) if self.database else None,
            "caches": [asdict(cache) for cache in self.caches],
            "journal": {kind: entry._asdict() for kind, entry in self.journal.items()},
        }


def look(repo: Repository) -> Overview:
    """Return the state of the site now, by one query to PostgreSQL. Never raises."""
    if repo.system_source.dbdriver != "postgres":
        presence.look(repo)  # nobody else does
    instances = [Instance(presence.tell(repo), "", 0, here=True)]
    database, unavailable = None, ""
    if repo.system_source.dbdriver == "postgres":
        try:
            [[*values, rows, replicas]] = polls.query(repo, _SQL)
        except polls.DatabaseUnavailable as error:
            unavailable = str(error)
        else:
            standby, read_only, receives, node, version, connections, maximum, replayed = values
            database = Database(
                node=node,
                version=version,
                standby=standby,
                read_only=read_only,
                receives=receives,
                connections=connections,
                max_connections=maximum,
                replayed=replayed if standby else None,
                replicas=[Replica(**row) for row in replicas or ()],
            )
            instances = _instances(instances[0].told, rows or ())
    return Overview(
        instances,
        [_cache(purger) for purger in purge.purgers(repo.config)],
        database,
        unavailable,
        latest(Path(repo.config.apphome), JOURNAL),
    )


def _instances(own: Told, rows: Iterable[dict[str, Any]]) -> list[Instance]:
    """Return the instances, each once: a host that was cut off may leave connections behind.

    :param own: what the one tells that answers
    """
    found: dict[tuple[str, int], Instance] = {}
    for row in rows:
        told = own if row["here"] else presence.read(row["query"] or "") or Told()
        address = row["address"] or "local"
        instance = Instance(told, address, row["silent"], row["here"])
        key = (instance.name, told.pid)
        other = found.get(key)
        if other is None or (instance.silent or 0) < (other.silent or 0):
            found[key] = instance
    return sorted(found.values(), key=lambda each: (not each.here, each.name, each.told.pid))


def _cache(purger: purge.Purger) -> Cache:
    return Cache(
        purger.url,
        purger.down,
        purger.refuses,
        purger.queued,
        purger.sent,
        purger.failed,
        purger.dropped,
    )
