"""The site file: its typed model, which is the one source of all that is rendered.

The descriptions here are the comments of the example that `hasite-init` prints, the reference
documentation, and a part of the error messages.
"""

import re
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from ipaddress import ip_address, ip_interface
from typing import Annotated, Literal
from urllib.parse import urlsplit

from pydantic import (
    AfterValidator,
    BaseModel,
    ConfigDict,
    Field,
    StringConstraints,
)

#: where the key of an error is, such as `("hosts", "web1", "address")`
Key = tuple[str | int, ...]
Role = Literal["balancer", "web", "database", "monitoring"]

#: connections that an instance opens beyond one for each of its threads: the probes' own one, and
#: one for what runs in the background
EXTRA_CONNECTIONS = 2
#: connections of PostgreSQL kept for the superuser, replication, backups and monitoring
RESERVED_CONNECTIONS = 15
#: checks in a row by which a balancer takes an instance for lost
CHECK_FALL = 2


def _address(value: str) -> str:
    try:
        return str(ip_address(value))
    except ValueError:
        raise ValueError(f"{value!r} is not an IP address; write one such as 10.0.0.11") from None


def _interface(value: str) -> str:
    try:
        if "/" not in value:
            raise ValueError
        return str(ip_interface(value))
    except ValueError:
        raise ValueError(
            f"{value!r} is not an address with its prefix; write one such as 192.0.2.10/24"
        ) from None


def _path(value: str) -> str:
    if not re.fullmatch(r"/[\w./-]+", value) or value.endswith("/"):
        raise ValueError(f"{value!r} is not an absolute path; write one such as /srv/folder")
    return value


def _reach(value: str) -> str:
    if re.search(r"[{}]", re.sub(r"\{(host|address)\}", "", value)) or not value.strip():
        raise ValueError(
            f"{value!r} is not how to reach a host; write a command to which another is added, "
            "such as ssh root@{address}, with {host} and {address} alone in braces"
        )
    return value


def _conninfo(value: str) -> str:
    if re.search(r"password\s*=|://[^/@]*:[^/@]*@", value.replace("passfile", "")):
        raise ValueError(
            "it holds a password, which belongs into a .pgpass file; write one such as "
            "host=/var/run/postgresql user=rehearsal"
        )
    return value


def _url(value: str) -> str:
    parts = urlsplit(value)
    try:
        right = parts.port != 0 and re.fullmatch(r"[a-z0-9.:\[\]-]+", parts.netloc)
    except ValueError:  # of the port
        right = False
    if parts.scheme not in ("http", "https") or not right or parts.path != "/" or parts.query:
        raise ValueError(
            f"{value!r} is not the address of a site; write one such as "
            "https://www.example.org/, in small letters, without user, path or query"
        )
    return value


def _host_pattern(names: list[str], port: int | None = None) -> str:
    alternatives = "|".join(re.escape(f"[{n}]" if ":" in n else n.lower()) for n in names)
    return rf"^({alternatives})\.?" + (f":{port}$" if port else "(:(80|443))?$")


Address = Annotated[str, AfterValidator(_address)]
Interface = Annotated[str, AfterValidator(_interface)]
AbsolutePath = Annotated[str, AfterValidator(_path)]
#: as in the header `Accept-Language`
Language = Annotated[str, StringConstraints(pattern=r"^[a-z]{2,3}(-[A-Za-z]{2,4})?$")]
URL = Annotated[str, AfterValidator(_url)]
HostName = Annotated[str, StringConstraints(pattern=r"^[A-Za-z0-9][A-Za-z0-9.:-]*$")]
#: it is a part of names of files, of units and of databases
Name = Annotated[str, StringConstraints(pattern=r"^[a-z][a-z0-9_]{0,30}$")]
Port = Annotated[int, Field(ge=1, le=65535)]
Positive = Annotated[int, Field(ge=1)]


class Section(BaseModel):
    """A table of the site file."""

    model_config = ConfigDict(
        extra="forbid", frozen=True, strict=True, use_attribute_docstrings=True
    )


class Host(Section):
    """A server: a machine with its address and what it does. Its name is that of the table, of
    letters, digits, hyphens and dots."""

    address: Address
    """IP address by which the other hosts reach it."""
    roles: list[Role] = Field(min_length=1)
    """What it does: "balancer", "web", "database", "monitoring", or several of them."""
    processors: Annotated[int, Field(ge=1, le=64)] | None = None
    """Number of instances of each site that it runs, which is the number of its processors.
    For web servers."""
    memory: Positive | None = None
    """Memory for PostgreSQL, in GB, by which its buffers are sized. For database nodes."""
    management_address: Address | None = None
    """IP address on which statistics and metrics are offered; by default `address`."""
    place: str = Field(default="", pattern=r"^[\w .-]*$")
    """Data centre or room; hosts of one place are drawn together. Letters, digits, spaces,
    dots and hyphens."""

    @property
    def management(self) -> str:
        """Address of statistics and metrics."""
        return self.management_address or self.address


class WebSite(Section):
    """A CubicWeb instance that visitors reach at a URL. Its name is that of the table, of
    small letters, digits and underscores: it names the instance, files and systemd units."""

    url: URL
    """Where visitors reach it."""
    aliases: list[HostName] = []
    """Other host names, such as `["example.org"]`: visitors who ask for them are led to `url`. The
    certificate of an `https` URL is to name them too. A name that is neither is answered 421."""
    certificate: str | None = Field(default=None, pattern=r"^[\w./-]+$")
    """Certificate of an `https` URL, with its chain, in PEM. An absolute path is one on the
    balancers, with the key in it or beside it in `<path>.key`. A relative path is one beside the
    site file: it is copied to the balancers as `/etc/haproxy/certs/<name>`, where the key is to
    be put beside it, in `<name>.key`."""
    database: Name | None = None
    """Name of its database, and of the user who owns it; by default the name of the site."""
    cache_port: Port = 81
    """First port of the cache on each web server: one for each instance follow each other."""
    apache_port: Port = 8181
    """First port of Apache on each web server, in the same way, if there is Apache."""
    instance_port: Port = 8081
    """First port of the instances on each web server, in the same way."""
    management_port: Port = 9081
    """First management port of the instances (`/readyz`, `/metrics`), in the same way."""
    languages: list[Language] = []
    """Languages of its pages, of which browsers ask for one, such as `["en", "fr"]`; the first for
    those that ask for another. Only for the option `hasite-page-max-age`, by which caches keep
    the pages of anonymous visitors."""
    options: dict[str, str | int | float | bool] = {}
    """Options of the CubicWeb instance, by their names, such as `"hasite-image-max-age" = 3600`.
    Those that hold a secret belong in its secrets file on the web servers."""

    @property
    def shares_pages(self) -> bool:
        """Whether caches keep the pages of anonymous visitors."""
        return bool(self.options.get("hasite-page-max-age"))

    @property
    def scheme(self) -> str:
        """`http` or `https`."""
        return urlsplit(self.url).scheme

    @property
    def host(self) -> str:
        """What browsers send in the header `Host`: without the default port."""
        default_port = ":443" if self.scheme == "https" else ":80"
        return urlsplit(self.url).netloc.removesuffix(default_port)

    @property
    def root(self) -> str:
        """What precedes a path in its URLs."""
        return f"{self.scheme}://{self.host}"

    @property
    def host_pattern(self) -> str:
        """Regular expression of the values of `Host`, in small letters, that mean it.

        RFC 9110, section 4.2.3: the default port, of either scheme, is the same as none.
        """
        return _host_pattern([self.hostname], urlsplit(f"//{self.host}").port)

    @property
    def alias_pattern(self) -> str:
        """Regular expression of the values of `Host`, in small letters, that mean an alias."""
        return _host_pattern(self.aliases)

    @property
    def hostname(self) -> str:
        """Host name, without a port."""
        return urlsplit(self.url).hostname or ""


class Balancer(Section):
    """HAProxy on the balancers."""

    http_port: Port = 80
    """Port for `http`; it leads to `https` where a site has a certificate."""
    https_port: Port = 443
    """Port for `https`."""
    management_port: Port = 8404
    """Port of statistics and metrics, on the management address."""
    max_connections: Positive = 4000
    """Connections of visitors that one balancer serves at a time; further ones wait."""
    instance_connections: Positive = 64
    """Requests that are sent to one cache port at a time; further ones wait in the queue."""
    max_queue: Positive = 1000
    """Requests in the queue of a site beyond which visitors are told that the site is busy."""
    queue_seconds: Positive = 10
    """How long a request waits in the queue at most."""
    check_seconds: Positive = 1
    """How often each instance is asked whether it is ready. Two failures take it out of service,
    two successes bring it back."""
    answer_seconds: Positive = 30
    """How long an instance may take to answer a page. An image or a static file has 4 seconds."""


class Keepalived(Section):
    """keepalived on the balancers: addresses that pass from one to the other. Leave it out for a
    single balancer, or where the addresses are somebody else's business."""

    addresses: list[Interface] = Field(min_length=1)
    """The floating addresses with their prefix, to which the site's name resolves."""
    interface: str = Field(pattern=r"^[\w.-]{1,15}$")
    """Network interface of the balancers that carries them, such as eth0."""
    router_id: Annotated[int, Field(ge=1, le=255)] = 51
    """Number that tells these balancers from others on the same network (VRRP)."""
    advert_ms: Annotated[int, Field(ge=100, le=10000)] = 500
    """How often the active balancer says so, in milliseconds. An address moves after about three
    times as long."""


class Squid(Section):
    """Squid, the cache of each web server. Give this or `[varnish]`."""

    memory: Annotated[int, Field(ge=16)] = 256
    """Memory for what is cached, in MB."""
    disk: Annotated[int, Field(ge=0)] = 0
    """Disk space for what is cached, in MB; 0: none, memory alone."""
    max_object: Positive = 8
    """Size of the largest image that is cached, in MB."""
    manager_port: Port = 3128
    """Port of its manager interface, on loopback."""


class Varnish(Section):
    """Varnish, the cache of each web server. Give this or `[squid]`."""

    memory: Annotated[int, Field(ge=16)] = 256
    """Memory for what is cached, in MB."""
    manager_port: Port = 6082
    """Port of its manager interface, on loopback."""


class Apache(Section):
    """Apache between the cache and the instances: compression, and one more access log. Leave it
    out if you need neither."""

    status_port: Port = 8180
    """Port of its server-status page, on loopback."""


class Instances(Section):
    """The CubicWeb processes: gunicorn, one process for each processor of each web server."""

    virtualenv: AbsolutePath = "/opt/cubicweb"
    """The Python environment in which CubicWeb, the cubes and gunicorn are installed."""
    configuration: AbsolutePath = "/etc/cubicweb.d"
    """Folder of the instances' configuration, the same on all web servers."""
    user: Name = "cubicweb"
    """System user as whom they run."""
    threads: Positive = 4
    """Requests that an instance treats at a time."""
    graceful_seconds: Positive = 30
    """How long an instance that is stopped may take to end the requests that it has begun."""


class PostgreSQL(Section):
    """The database."""

    addresses: list[HostName] = []
    """Only for a database that somebody else runs: where it is. Without it, the hosts with the
    role "database" are rendered."""
    version: Annotated[int, Field(ge=13, le=18)] = 15
    """Major version."""
    port: Port = 5432
    """Port, the same on all the nodes."""
    max_connections: Positive = 200
    """Connections that it takes at most, from all instances together and for its own needs."""
    synchronous: bool = False
    """Whether a commit waits for a standby too: nothing that was acknowledged is lost with the
    primary, but in the seconds after a failover, until Patroni has chosen a standby again. Needs
    two database nodes; three, to write while one is down."""
    backup_folder: AbsolutePath = "/var/backups/postgresql"
    """Where each database node keeps its base backups."""
    backup_hour: Annotated[int, Field(ge=0, le=23)] = 2
    """Hour of the nightly base backup."""
    backups_kept: Positive = 7
    """Number of base backups that are kept."""


class Patroni(Section):
    """Patroni and etcd on the database nodes: the standby takes over by itself. Without this
    section the first database node is the primary, the others are standbys, and the promotion of
    one is a command of the runbook."""

    etcd: list[str] = []
    """Names of the hosts that run etcd, an odd number of them; by default the database nodes."""
    port: Port = 8008
    """Port of Patroni's REST interface."""
    ttl: Annotated[int, Field(ge=20)] = 20
    """Seconds without a sign of the primary after which a standby takes over."""
    loop_wait: Positive = 2
    """Seconds between two looks of Patroni at the state of things."""
    retry_timeout: Annotated[int, Field(ge=3)] = 4
    """Seconds for which Patroni tries again what fails, before the primary steps down.
    `loop_wait` + 2 x `retry_timeout` is to be at most `ttl`."""


class Check(Section):
    """A page that must be right after an upgrade."""

    path: str = Field(pattern=r"^/[^\s'\"]*$")
    """Path of the page, and its query, such as /view?vid=index."""
    status: Annotated[int, Field(ge=100, le=599)] = 200
    """Status of its answer."""
    text: str = Field(default="", pattern=r"^[^'\n]*$")
    """What must be in it."""


class Upgrade(Section):
    """How production is upgraded, and so what is rehearsed."""

    requirements: str = Field(default="requirements.txt", pattern=r"^[\w./-]+$")
    """File beside the site file that lists what is installed, in pip's format: the cubes with
    their new versions, gunicorn, psycopg2-binary."""
    checks: list[Check] = []
    """Pages that must be right: each a `path`, and `status` (200) and `text` if wanted."""
    reach: Annotated[str, AfterValidator(_reach)] = "ssh -o BatchMode=yes root@{address}"
    """How a shell command is run on a host as root: a command to which it is added as one more
    argument. `{host}` stands for the host's name, `{address}` for its address."""
    backup: str = "systemctl start hasite-backup"
    """Command that makes a backup, on the first database node; without nodes, on the machine
    from which production is upgraded. Empty: you make it yourself."""
    max_age_hours: Positive = 72
    """Age of a rehearsal beyond which production is not upgraded by it."""
    longest_wait: Positive = 3
    """Seconds that a page may take during a migration for the upgrade to be called rolling."""


class PreProduction(Section):
    """The server on which upgrades are rehearsed. hasite-rehearse runs there, as a user who may
    make databases on a PostgreSQL server that has nothing to do with production's."""

    address: Address | None = None
    """IP address from which it reads production's database: its nodes let it in."""
    database: Annotated[str, AfterValidator(_conninfo)] = "host=/var/run/postgresql"
    """How to reach the PostgreSQL server on which copies are made, in libpq's format. Neither
    production, nor any other server of the same cluster."""
    reader: Name = "rehearsal"
    """User of PostgreSQL by whom production is read: a member of pg_read_all_data."""
    anonymise: str | None = Field(default=None, pattern=r"^[\w./-]+$")
    """File of SQL beside the site file which makes the copy anonymous. It may not change the
    login of the administrator by whom migrations are run."""
    configuration: AbsolutePath | None = None
    """Folder with a copy of the instances' configuration of production; by default where it is
    on the web servers."""
    virtualenv: AbsolutePath | None = None
    """The Python environment that production runs now, on this server; by default where it is on
    the web servers. The running version is tried on the upgraded copy."""
    python: str = Field(default="python3", pattern=r"^[\w./-]+$")
    """Python with which the new environment is made."""
    port: Annotated[int, Field(ge=1024, le=65532)] = 8990
    """First of four ports of 127.0.0.1 for the instances that are tried."""
    jobs: Annotated[int, Field(ge=1, le=64)] = 2
    """Tables that are copied at a time."""


class Prometheus(Section):
    """Prometheus on the monitoring host, with the exporters on all hosts; Grafana's dashboards."""

    port: Port = 9090
    """Port of Prometheus."""
    retention_days: Positive = 30
    """How long figures are kept."""


class Nagios(Section):
    """Objects for Nagios 4 or Icinga on the monitoring host."""

    contact: str = Field(pattern=r"^[\w.+-]+@[\w.-]+$")
    """Address to which alerts are mailed, such as night@example.org."""


@dataclass(frozen=True)
class Instance:
    """A CubicWeb process of a site: the one on the processor `number`, from 1, of a host."""

    site: str
    host: str
    number: int
    cache_port: int
    apache_port: int
    port: int
    management_port: int

    @property
    def name(self) -> str:
        """Its name in HAProxy and in the monitoring."""
        return f"{self.host}-{self.number}"


@dataclass(frozen=True)
class Listener:
    """A TCP port that a program of a host listens on.

    :param clients: roles or names of who connects; none if they are programs of the host alone
    """

    host: str
    address: str
    port: int
    program: str
    purpose: str
    clients: tuple[str, ...] = ()


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
    postgresql: PostgreSQL
    patroni: Patroni | None = None
    prometheus: Prometheus | None = None
    nagios: Nagios | None = None
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
        clients = ("balancer", "web")  # web servers purge
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
        port, clients = site.postgresql.port, ("web", "database")
        if site.preproduction and site.preproduction.address:
            clients = (*clients, "pre-production")
        yield Listener(name, host.address, port, "PostgreSQL", "SQL, replication", clients)
        if site.patroni:
            clients = ("database", *monitoring)
            yield Listener(name, host.address, site.patroni.port, "Patroni", "REST", clients)
    for name, host in site.etcd.items():
        yield Listener(name, host.address, 2379, "etcd", "clients", ("database",))
        yield Listener(name, host.address, 2380, "etcd", "its peers", ("etcd",))
    if site.prometheus:
        for name, host in site.monitoring.items():
            port, who = site.prometheus.port, ("administrators",)
            yield Listener(name, host.management, port, "Prometheus", "web interface", who)
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
