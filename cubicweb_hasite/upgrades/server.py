"""PostgreSQL servers: production, which is only read, and the server of the copies.

An address does not identify a server: names, sockets, proxies and poolers lead to one server in
many ways. So each server is asked for the system identifier of its cluster. `initdb` makes it, and
physical standbys and copies keep it, promoted or not (PostgreSQL, `pg_control_system`).
"""

import ipaddress
import socket
from collections.abc import Mapping
from contextlib import closing
from dataclasses import dataclass
from typing import Any

import psycopg2
from psycopg2 import sql
from psycopg2.extensions import connection as Connection
from psycopg2.extensions import make_dsn, parse_dsn

from cubicweb_hasite.deploy.site import Site
from cubicweb_hasite.upgrades import Refused, UpgradeError

#: a standby that is further behind, in bytes of WAL, is not copied
_FURTHEST_BEHIND = 16 * 1024**2


@dataclass(frozen=True)
class Server:
    """A PostgreSQL server that has been identified.

    :param parameters: libpq's parameters, which lead to this server only
    :param system: system identifier of its cluster
    :param behind: bytes of WAL that it has still to replay, None if that is not known
    """

    name: str
    parameters: Mapping[str, str]
    system: str
    standby: bool
    version: int
    behind: int | None = None

    def connect(self, database: str | None = None) -> Connection:
        """Return a connection on which each statement is a transaction.

        :param database: name of the database, by default that of the parameters
        :raises UpgradeError: the server refuses the connection.
        """
        changed = {"dbname": database} if database else {}
        return _connect({**self.parameters, **changed})

    def environ(self, database: str) -> dict[str, str]:
        """Return the environment that leads PostgreSQL's programs to one of its databases."""
        names = {
            "host": "PGHOST",
            "hostaddr": "PGHOSTADDR",
            "port": "PGPORT",
            "user": "PGUSER",
            "sslmode": "PGSSLMODE",
            "options": "PGOPTIONS",
            "passfile": "PGPASSFILE",
        }
        given = {names[key]: value for key, value in self.parameters.items() if key in names}
        return given | {"PGDATABASE": database, "PGCONNECT_TIMEOUT": "10"}


def _connect(parameters: Mapping[str, str]) -> Connection:
    try:
        connection = psycopg2.connect(make_dsn(**parameters))
    except psycopg2.Error as error:
        raise UpgradeError(_one_line(error)) from None
    connection.autocommit = True
    return connection


def query(
    connection: Connection, text: str | sql.Composable, *values: object
) -> list[tuple[Any, ...]]:
    """Return the rows of a query, no rows for a command.

    :raises UpgradeError: the server refuses it, or is lost.
    """
    try:
        with connection.cursor() as cursor:
            cursor.execute(text, values or None)
            return cursor.fetchall() if cursor.description else []
    except psycopg2.Error as error:
        raise UpgradeError(_one_line(error)) from None


def _one_line(error: Exception) -> str:
    return " ".join(str(error).split())


def production(site: Site, name: str) -> list[Server]:
    """Return the nodes of a site's database that answer; the first is the best to copy.

    :param name: name of the site
    :raises Refused: they are not of one cluster, or cannot be identified.
    :raises UpgradeError: none answers.
    """
    nodes: list[tuple[Server, Connection]] = []
    failures = []
    for address in site.database_addresses:
        parameters = {
            "host": address,
            "port": str(site.postgresql.port),
            "user": site.preproduction.reader if site.preproduction else "rehearsal",
            "dbname": site.database_name(name),
            "connect_timeout": "5",
            "application_name": "hasite-rehearse",
            # read-only even if this role may write
            "options": "-c default_transaction_read_only=on",
        }
        try:
            connection = _connect(parameters)
        except UpgradeError as error:
            failures.append(str(error))
            continue
        try:
            described = _describe(connection)
        except UpgradeError as error:
            raise Refused(f"production's node {address} cannot be identified: {error}") from None
        nodes.append((Server(address, parameters, *described), connection))
    if not nodes:
        raise UpgradeError(f"no node of production answers: {'; '.join(failures)}")
    if len({server.system for server, _ in nodes}) > 1:
        raise Refused(
            "production's nodes are of several clusters, by their system identifiers: "
            + ", ".join(f"{server.name}: {server.system}" for server, _ in nodes)
        )
    result = _with_positions(nodes)
    for _, connection in nodes:
        connection.close()
    # a standby that is up to date, else the primary, else a standby that is far behind
    return sorted(
        result,
        key=lambda server: (
            not server.standby or (server.behind or 0) > _FURTHEST_BEHIND,
            server.standby,
        ),
    )


def _with_positions(nodes: list[tuple[Server, Connection]]) -> list[Server]:
    """Return the nodes, with how far each standby is behind."""
    written = [
        _position(connection, "pg_current_wal_lsn()")
        for server, connection in nodes
        if not server.standby
    ]
    result = []
    for server, connection in nodes:
        behind = None
        if server.standby and written:
            behind = max(0, max(written) - _position(connection, "pg_last_wal_replay_lsn()"))
        result.append(
            Server(
                server.name,
                server.parameters,
                server.system,
                server.standby,
                server.version,
                behind,
            )
        )
    return result


def _position(connection: Connection, function: str) -> int:
    [[position]] = query(connection, f"SELECT coalesce({function}, '0/0') - '0/0'::pg_lsn")
    return int(position)


def _describe(connection: Connection) -> tuple[str, bool, int]:
    [[system, standby]] = query(
        connection, "SELECT system_identifier, pg_is_in_recovery() FROM pg_control_system()"
    )
    return str(system), standby, connection.server_version


def target(conninfo: str, nodes: list[Server]) -> Server:
    """Return the server of the copies, after making sure that it is not production.

    The result leads to the very server that was identified: a name is resolved only once.

    :param conninfo: `preproduction.database`, in libpq's format
    :param nodes: the nodes of production
    :raises Refused: it is production, or that cannot be excluded.
    :raises UpgradeError: it does not answer.
    """
    try:
        given = parse_dsn(conninfo)
    except psycopg2.Error as error:
        raise UpgradeError(f"preproduction.database: {_one_line(error)}") from None
    given.setdefault("dbname", "postgres")
    given["application_name"] = "hasite-rehearse"
    given.setdefault("connect_timeout", "5")
    with closing(_connect(given)) as connection:
        parameters = {**given, **connection.info.dsn_parameters}
        parameters.pop("service", None)
        for key in ("host", "hostaddr", "port"):
            if "," in parameters.get(key, ""):
                raise Refused(
                    f"preproduction.database leads to several servers, {parameters[key]}: give one"
                )
        pinned = _pin(parameters, connection)
    with closing(_connect(pinned)) as connection:
        return _identify(connection, pinned, nodes)


def _pin(parameters: dict[str, str], connection: Connection) -> dict[str, str]:
    """Return parameters that lead to one address, even if a name resolves to another later."""
    host = parameters.get("host") or connection.info.host or ""
    pinned = {**parameters, "port": str(connection.info.port)}
    if host.startswith(("/", "@")) or "hostaddr" in parameters or not host:
        return pinned
    try:
        ipaddress.ip_address(host)
    except ValueError:
        pass
    else:
        return {**pinned, "hostaddr": host}
    try:
        found = socket.getaddrinfo(host, connection.info.port, type=socket.SOCK_STREAM)
    except OSError as error:
        raise UpgradeError(f"preproduction.database: {host} has no address: {error}") from None
    failure = None
    for *_, address in found:
        candidate = {**pinned, "hostaddr": str(address[0])}
        try:
            _connect(candidate).close()
        except UpgradeError as error:
            failure = error
        else:
            return candidate
    raise failure or UpgradeError(f"preproduction.database: {host} has no address")


def _identify(connection: Connection, parameters: dict[str, str], nodes: list[Server]) -> Server:
    where = _where(parameters)
    try:
        system, standby, version = _describe(connection)
    except UpgradeError as error:
        raise Refused(f"{where} cannot be identified: {error}") from None
    for node in nodes:
        if system == node.system:
            raise Refused(
                f"{where} is production: its system identifier {system} is that of {node.name}. A "
                "standby, another database there and a physical copy are refused too; give a "
                "server whose cluster was made by initdb"
            )
    if standby:
        raise Refused(f"{where} is a standby; give a server of its own")
    [[process]] = query(connection, "SELECT pg_backend_pid()")
    if process != connection.info.backend_pid:
        raise Refused(
            f"there is a pooler at {where}, and any server may be behind it; give the address of "
            "PostgreSQL itself"
        )
    for (name,) in query(connection, "SELECT subname FROM pg_subscription"):
        raise Refused(f"{where} replicates from another server (subscription {name})")
    slots = "SELECT slot_name FROM pg_replication_slots WHERE slot_type = 'logical'"
    for (name,) in query(connection, slots):
        raise Refused(f"another server replicates from {where} (logical slot {name})")
    rights = "SELECT rolcreatedb OR rolsuper, rolname FROM pg_roles WHERE rolname = current_user"
    [[may_create, user]] = query(connection, rights)
    if not may_create:
        raise UpgradeError(
            f"{user} may not create databases at {where}; run there: ALTER USER {user} CREATEDB"
        )
    return Server(where, parameters, system, standby, version)


def _where(parameters: Mapping[str, str]) -> str:
    host = parameters.get("hostaddr") or parameters.get("host") or "the local socket"
    name = parameters.get("host", host)
    named = f"{name} ({host})" if name != host else host
    return f"{named}, port {parameters.get('port', '5432')}"
