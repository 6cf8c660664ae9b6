"""The site file: its typed model, from which all files are rendered."""

from collections.abc import Iterator
from functools import cached_property

from pydantic import Field

from cubicweb_hasite.deploy.alert_section import ALERTMANAGER_PORT, Alerts
from cubicweb_hasite.deploy.backup import Backup
from cubicweb_hasite.deploy.firewall import Firewall
from cubicweb_hasite.deploy.processes import Instance, Listener
from cubicweb_hasite.deploy.sections import (
    Apache,
    Balancer,
    Host,
    Instances,
    Keepalived,
    Nagios,
    Patroni,
    PostgreSQL,
    Prometheus,
    Role,
    Section,
    Squid,
    Varnish,
    WebSite,
)
from cubicweb_hasite.deploy.storage import Storage
from cubicweb_hasite.deploy.upgrade_sections import Check, PreProduction, Upgrade
from cubicweb_hasite.deploy.values import HostName, Name

__all__ = [
    "ALERTMANAGER_PORT",
    "CHECK_FALL",
    "EXTRA_CONNECTIONS",
    "OWN_CONNECTIONS",
    "RESERVED_CONNECTIONS",
    "Alerts",
    "Apache",
    "Backup",
    "Balancer",
    "Check",
    "Firewall",
    "Host",
    "Instance",
    "Instances",
    "Keepalived",
    "Key",
    "Listener",
    "Nagios",
    "Patroni",
    "PostgreSQL",
    "PreProduction",
    "Prometheus",
    "Role",
    "Section",
    "Site",
    "Squid",
    "Storage",
    "Upgrade",
    "Varnish",
    "WebSite",
    "exporters",
]

Key = tuple[str | int, ...]

#: connections in the pool of an instance beyond one for each of its threads, for what runs in the
#: background
EXTRA_CONNECTIONS = 2
#: connections of an instance beside its pool: that of the probes, and that for notices
OWN_CONNECTIONS = 2
#: another one to each node where standbys are read: that of the thread that asks for positions
SAMPLER_CONNECTIONS = 1
#: connections of PostgreSQL kept for the superuser, replication, backups and monitoring
RESERVED_CONNECTIONS = 15
#: checks in a row by which a balancer takes an instance for lost
CHECK_FALL = 2


class Site(Section):
    """The site file."""

    hosts: dict[HostName, Host] = Field(min_length=1)
    sites: dict[Name, WebSite] = Field(min_length=1)
    balancer: Balancer = Balancer()
    keepalived: Keepalived | None = None
    squid: Squid | None = None
    varnish: Varnish | None = None
    apache: Apache | None = None
    instances: Instances = Instances()
    storage: Storage | None = None
    postgresql: PostgreSQL
    patroni: Patroni | None = None
    backup: Backup | None = None
    prometheus: Prometheus | None = None
    alerts: Alerts | None = None
    nagios: Nagios | None = None
    firewall: Firewall | None = None
    upgrade: Upgrade = Upgrade()
    preproduction: PreProduction | None = None

    def with_role(self, role: Role) -> dict[str, Host]:
        """Return the hosts of a role."""
        return {name: host for name, host in self.hosts.items() if role in host.roles}

    @cached_property
    def balancers(self) -> dict[str, Host]:
        """The balancers."""
        return self.with_role("balancer")

    @cached_property
    def web(self) -> dict[str, Host]:
        """The web servers."""
        return self.with_role("web")

    @cached_property
    def database(self) -> dict[str, Host]:
        """The database nodes."""
        return self.with_role("database")

    @cached_property
    def backup_hosts(self) -> dict[str, Host]:
        """The host that keeps the backups."""
        return self.with_role("backup")

    @cached_property
    def monitoring(self) -> dict[str, Host]:
        """The monitoring hosts."""
        return self.with_role("monitoring")

    @cached_property
    def etcd(self) -> dict[str, Host]:
        """The hosts that run etcd."""
        if self.patroni is None:
            return {}
        names = self.patroni.etcd or self.database
        return {name: self.hosts[name] for name in names if name in self.hosts}

    @property
    def database_addresses(self) -> list[str]:
        """Where PostgreSQL is."""
        return self.postgresql.addresses or [host.address for host in self.database.values()]

    def database_name(self, site: str) -> str:
        """Return the name of the database of a site, and of its owner."""
        return self.sites[site].database or site

    @property
    def connections(self) -> int:
        """How many connections to one node of PostgreSQL all instances may open."""
        return len(self.all_instances) * (self.pool_size + self.other_connections)

    @property
    def other_connections(self) -> int:
        """Connections to one node that an instance may open beside its pool of the primary."""
        if not self.postgresql.read_standbys:
            return OWN_CONNECTIONS
        # a standby that was promoted has those of its readers for some time
        return OWN_CONNECTIONS + SAMPLER_CONNECTIONS + self.pool_size

    @property
    def pool_size(self) -> int:
        """Connections to PostgreSQL that one instance may open."""
        return self.instances.threads + EXTRA_CONNECTIONS

    @cached_property
    def all_instances(self) -> list[Instance]:
        """The CubicWeb processes of all the sites on all the hosts."""
        return [
            Instance(
                site=site_name,
                host=name,
                number=index + 1,
                cache_port=site.cache_port + index,
                apache_port=site.apache_port + index,
                port=site.instance_port + index,
                management_port=site.management_port + index,
            )
            for site_name, site in self.sites.items()
            for name, host in self.web.items()
            for index in range(host.processors or 0)
        ]

    def instances_of(self, *, site: str | None = None, host: str | None = None) -> list[Instance]:
        """Return the CubicWeb processes of a site, or of a host, or both."""
        return [
            instance
            for instance in self.all_instances
            if site in (None, instance.site) and host in (None, instance.host)
        ]

    @cached_property
    def listeners(self) -> list[Listener]:
        """All the TCP ports that programs of the site listen on."""
        return list(_listeners(self))


def _listeners(site: Site) -> Iterator[Listener]:
    loopback = "127.0.0.1"
    monitoring = ("monitoring",) if site.prometheus or site.nagios else ()
    for name, host in site.balancers.items():
        here, management = (name, "*" if site.keepalived else host.address), host.management
        yield Listener(*here, site.balancer.http_port, "HAProxy", "http", ("visitors",))
        if any(web_site.certificate for web_site in site.sites.values()):
            yield Listener(*here, site.balancer.https_port, "HAProxy", "https", ("visitors",))
        port = site.balancer.management_port
        yield Listener(name, management, port, "HAProxy", "statistics, metrics", monitoring)
    for instance in site.all_instances:
        host = site.hosts[instance.host]
        who = f"{instance.site}, instance {instance.number}"
        cache = "Squid" if site.squid else "Varnish"
        clients: tuple[str, ...] = ("balancer", "web")  # web servers purge
        yield Listener(instance.host, host.address, instance.cache_port, cache, who, clients)
        if site.apache:
            yield Listener(instance.host, loopback, instance.apache_port, "Apache", who)
        yield Listener(instance.host, loopback, instance.port, "CubicWeb", who)
        port, purpose = instance.management_port, f"monitors, metrics of {who}"
        yield Listener(instance.host, host.management, port, "CubicWeb", purpose, monitoring)
    for name in site.web:
        if site.squid:
            yield Listener(name, loopback, site.squid.manager_port, "Squid", "manager")
        if site.varnish:
            yield Listener(name, loopback, site.varnish.manager_port, "Varnish", "manager")
        if site.apache:
            yield Listener(name, loopback, site.apache.status_port, "Apache", "server-status")
    for name, host in site.database.items():
        port = site.postgresql.port
        clients = ("web", "database")
        if site.preproduction and site.preproduction.address:
            clients = (*clients, "pre-production")
        yield Listener(name, host.address, port, "PostgreSQL", "SQL, replication", clients)
        if site.patroni:
            clients = ("database", *monitoring)
            yield Listener(name, host.address, site.patroni.port, "Patroni", "REST", clients)
    if site.backup:
        port = site.backup.port
        for name, host in {**site.database, **site.backup_hosts}.items():
            other = "database" if name in site.backup_hosts else "backup"
            yield Listener(name, host.address, port, "pgBackRest", "backups", (other,))
    for name, host in site.etcd.items():
        clients = ("database", "etcd", *monitoring)
        yield Listener(name, host.address, 2379, "etcd", "clients", clients)
        yield Listener(name, host.address, 2380, "etcd", "its peers", ("etcd",))
    for name, host in site.monitoring.items():
        if shows_nagios(site, host):
            yield Listener(name, "*", 80, "Apache", "pages of Nagios", ("administrators",))
    if site.prometheus:
        for name, host in site.monitoring.items():
            here, readers = (name, host.management), ("administrators",)
            port, purpose = site.prometheus.port, "web interface"
            # each Prometheus sends its alerts to each Alertmanager, and is asked how it is
            others = ("monitoring", *readers) if site.alerts else readers
            yield Listener(*here, port, "Prometheus", purpose, others)
            if site.alerts:
                yield Listener(*here, ALERTMANAGER_PORT, "Alertmanager", purpose, others)
            if site.alerts and len(site.monitoring) > 1:
                peers = ("monitoring",)
                yield Listener(*here, ALERTMANAGER_PORT + 1, "Alertmanager", "its peers", peers)
        for name, host in site.hosts.items():
            for program, port in exporters(site, host):
                yield Listener(name, host.management, port, program, "metrics", monitoring)


def exporters(site: Site, host: Host) -> Iterator[tuple[str, int]]:
    """Yield the exporters of metrics of a host: Debian's package and its port."""
    yield "prometheus-node-exporter", 9100
    if "web" in host.roles:
        if site.squid:
            yield "prometheus-squid-exporter", 9301
        if site.varnish:
            yield "prometheus-varnish-exporter", 9131
        if site.apache:
            yield "prometheus-apache-exporter", 9117
    if "database" in host.roles:
        yield "prometheus-postgres-exporter", 9187
    if "monitoring" in host.roles and site.alerts:
        yield "prometheus-blackbox-exporter", 9115


def shows_nagios(site: Site, host: Host) -> bool:
    """Return whether the pages of Nagios are served on a host, by Apache as Debian sets it up.

    It takes port 80, which is HAProxy's on a balancer; on a web server Apache has other settings.
    """
    if "monitoring" not in host.roles or not site.nagios:
        return False
    return {"balancer", "web"}.isdisjoint(host.roles)
