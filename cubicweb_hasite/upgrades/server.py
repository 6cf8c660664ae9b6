"""Which PostgreSQL server is which: what is production is only read, whatever its address.

Addresses prove nothing: names, sockets, proxies and poolers lead to one server in many ways. The
server itself is asked. A cluster has an identifier from its birth, which physical standbys and
copies share, promoted or not (PostgreSQL, `pg_control_system`).
"""

import ipaddress
import socket
from collections.abc import Mapping
from dataclasses import dataclass

import psycopg2
from psycopg2 import sql
from psycopg2.extensions import connection as Connection
from psycopg2.extensions import make_dsn, parse_dsn

from cubicweb_hasite.deploy.site import Site
from cubicweb_hasite.upgrades import Refused, RehearsalError

#: a standby that is further behind, in bytes of WAL, is not copied
_FURTHEST_BEHIND = 16 * 1024**2


@dataclass(frozen=True)
class Server:
    """A PostgreSQL server that has told who it is.

    :param parameters: of libpq, which lead to it and to no other
    :param system: identifier of its cluster
    :param behind: how many bytes of WAL it has still to replay, None if that is not known
    """

    name: str
    parameters: Mapping[str, str]
    system: str
    standby: bool
    version: int
    behind: int | None = None

    def connect(self, database: str | None = None) -> Connection:
        """Return a connection, on which each statement is a transaction.

        :raises RehearsalError: the server does not take it.
        """
        changed = {"dbname": database} if database else {}
        return _connect({**self.parameters, **changed})

    def environ(self, database: str) -> dict[str, str]:
        """Return the environment that leads PostgreSQL's programs to one of its databases."""
        names = {"host": "PGHOST", "hostaddr": "PGHOSTADDR", "port": "PGPORT", "user": "PGUSER"}
        names |= {"sslmode": "PGSSLMODE", "options": "PGOPTIONS", "passfile": "PGPASSFILE"}
        given = {names[key]: value for key, value in self.parameters.items() if key in names}
        return given | {"PGDATABASE": database, "PGCONNECT_TIMEOUT": "10"}


def _connect(parameters: Mapping[str, str]) -> Connection:
    try:
        connection = psycopg2.connect(make_dsn(**parameters))
    except psycopg2.Error as error:
        raise RehearsalError(" ".join(str(error).split())) from None
    connection.autocommit = True
    return connection


def query(connection: Connection, text: str | sql.Composable, *values: object) -> list[tuple]:
    """Return the rows of a query, none of a command.

    :raises RehearsalError: the server refuses it, or is lost.
    """
    try:
        with connection.cursor() as cursor:
            cursor.execute(text, values or None)
            return cursor.fetchall() if cursor.description else []
    except psycopg2.Error as error:
        raise RehearsalError(" ".join(str(error).split())) from None


def production(site: Site, name: str) -> list[Server]:
    """Return the nodes of a site's database that answer, those to be copied first first.

    :param name: name of the site
    :raises Refused: they are not one cluster, or do not say which.
    :raises RehearsalError: none answers.
    """
    servers, failures = [], []
    for address in site.database_addresses:
        parameters = {
            "host": address,
            "port": str(site.postgresql.port),
            "user": site.preproduction.reader if site.preproduction else "rehearsal",
            "dbname": site.database_name(name),
            "connect_timeout": "5",
            "application_name": "hasite-rehearse",
            # whoever has the right to write
            "options": "-c default_transaction_read_only=on",
        }
        try:
            connection = _connect(parameters)
        except RehearsalError as error:
            failures.append(str(error))
            continue
        try:
            servers.append((address, parameters, connection, *_describe(connection)))
        except RehearsalError as error:
            raise Refused(f"production's node {address} does not say who it is: {error}") from None
    if not servers:
        raise RehearsalError(f"no node of production answers: {'; '.join(failures)}")
    if len({system for *_, system, _standby, _version in servers}) > 1:
        raise Refused(
            "production's nodes are not of one cluster, by their system identifiers: "
            + ", ".join(f"{address}: {system}" for address, _, _, system, *_ in servers)
        )
    written = max(
        (
            _position(connection, "pg_current_wal_lsn()")
            for *_, connection, _system, standby, _version in servers
            if not standby
        ),
        default=None,
    )
    result = []
    for address, parameters, connection, system, standby, version in servers:
        behind = None
        if standby and written is not None:
            behind = max(0, written - _position(connection, "pg_last_wal_replay_lsn()"))
        connection.close()
        result.append(Server(address, parameters, system, standby, version, behind))
    return sorted(
        result,
        key=lambda server: (
            not server.standby or (server.behind or 0) > _FURTHEST_BEHIND,
            server.standby,
        ),
    )


def _position(connection: Connection, function: str) -> int:
    [[position]] = query(connection, f"SELECT coalesce({function}, '0/0') - '0/0'::pg_lsn")
    return int(position)


def _describe(connection: Connection) -> tuple[str, bool, int]:
    [[system, standby]] = query(
        connection, "SELECT system_identifier, pg_is_in_recovery() FROM pg_control_system()"
    )
    return str(system), standby, connection.server_version


def target(conninfo: str, nodes: list[Server]) -> Server:
    """Return the server on which copies are made, once it is sure that it is not production.

    What is returned leads to the very server that was asked: a name is resolved once.

    :param conninfo: how to reach it, in libpq's format
    :param nodes: those of production
    :raises Refused: it is production in whatever way, or there is a doubt.
    :raises RehearsalError: it does not answer.
    """
    try:
        given = parse_dsn(conninfo)
    except psycopg2.Error as error:
        raise RehearsalError(f"preproduction.database: {' '.join(str(error).split())}") from None
    given.setdefault("dbname", "postgres")
    given["application_name"] = "hasite-rehearse"
    given.setdefault("connect_timeout", "5")
    connection = _connect(given)
    parameters = {**given, **connection.info.dsn_parameters}
    parameters.pop("service", None)
    for key in ("host", "hostaddr", "port"):
        if "," in parameters.get(key, ""):
            raise Refused(
                f"preproduction.database leads to several servers, {parameters[key]}: give one"
            )
    pinned = _pin(parameters, connection)
    connection = _connect(pinned)  # by which it is asked, and reached from now on
    try:
        server = _recognize(connection, pinned, nodes)
    finally:
        connection.close()
    return server


def _pin(parameters: dict[str, str], connection: Connection) -> dict[str, str]:
    """Return parameters that lead to one address, whatever a name resolves to later."""
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
    failure = None
    for *_, address in socket.getaddrinfo(host, connection.info.port, type=socket.SOCK_STREAM):
        candidate = {**pinned, "hostaddr": str(address[0])}
        try:
            _connect(candidate).close()
        except RehearsalError as error:
            failure = error
        else:
            return candidate
    raise failure or RehearsalError(f"{host} has no address")


def _recognize(connection: Connection, parameters: dict[str, str], nodes: list[Server]) -> Server:
    where = _where(parameters)
    try:
        system, standby, version = _describe(connection)
    except RehearsalError as error:
        raise Refused(f"{where} does not say which cluster it is: {error}") from None
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
            f"there is a pooler at {where}, behind which may be any server; give the address of "
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
        raise RehearsalError(f"{user} may not make databases at {where}: ALTER USER … CREATEDB")
    return Server(where, parameters, system, standby, version)


def _where(parameters: Mapping[str, str]) -> str:
    host = parameters.get("hostaddr") or parameters.get("host") or "the local socket"
    name = parameters.get("host", host)
    named = f"{name} ({host})" if name != host else host
    return f"{named}, port {parameters.get('port', '5432')}"
