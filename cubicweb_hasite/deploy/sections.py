"""The sections of a site file.

The descriptions are the comments of the example that `hasite-init` prints, the reference of the
site file, and a part of the error messages.
"""

from typing import Annotated, Literal
from urllib.parse import urlsplit

from pydantic import BaseModel, ConfigDict, Field

from cubicweb_hasite.deploy.values import (
    URL,
    AbsolutePath,
    Address,
    HostName,
    Interface,
    Language,
    Name,
    Port,
    Positive,
    host_pattern,
)

Role = Literal["balancer", "web", "database", "backup", "monitoring"]


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
    """What it does: "balancer", "web", "database", "backup", "monitoring", or several of them."""
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
    """Other host names, such as `["example.org"]`: visitors who ask for them are redirected to
    `url`. The certificate of an `https` URL must name them too. Any other name gets 421."""
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
    """Languages of the site, such as `["en", "fr"]`; the first is used for other browsers. Only
    for the option `hasite-page-max-age`, by which caches keep the pages of anonymous visitors."""
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
        return host_pattern([self.hostname], urlsplit(f"//{self.host}").port)

    @property
    def alias_pattern(self) -> str:
        """Regular expression of the values of `Host`, in small letters, that mean an alias."""
        return host_pattern(self.aliases)

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
    """Seconds between two readiness checks of each instance. Two failures take it out of service,
    two successes bring it back."""
    answer_seconds: Positive = 30
    """How long an instance may take to answer a page. An image or a static file has 4 seconds."""


class Keepalived(Section):
    """keepalived on the balancers: addresses that pass from one to the other. Leave it out for a
    single balancer, or where somebody else manages the addresses."""

    addresses: list[Interface] = Field(min_length=1)
    """The floating addresses with their prefix, to which the site's name resolves."""
    interface: str = Field(pattern=r"^[\w.-]{1,15}$")
    """Network interface of the balancers that carries them, such as eth0."""
    router_id: Annotated[int, Field(ge=1, le=255)] = 51
    """Number that identifies these balancers on their network (VRRP)."""
    advert_ms: Annotated[int, Field(ge=100, le=10000)] = 500
    """How often the active balancer announces itself, in milliseconds. An address moves after
    about three times as long."""


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
    read_standbys: bool = False
    """Whether pages are read from the standbys: they do not fail when the primary does, and the
    readers are spread over all nodes. See "Pages from hot standbys" in the documentation. Needs
    two database nodes."""
    backup_folder: AbsolutePath = "/var/backups/postgresql"
    """Where each database node keeps its base backups, if there is no section `[backup]`."""
    backup_hour: Annotated[int, Field(ge=0, le=23)] = 2
    """Hour of the nightly base backup, in the same case."""
    backups_kept: Positive = 7
    """Number of base backups that are kept, in the same case."""


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
    """Seconds between two checks of the cluster by Patroni."""
    retry_timeout: Annotated[int, Field(ge=3)] = 4
    """Seconds for which Patroni tries again what fails, before the primary steps down.
    `loop_wait` + 2 x `retry_timeout` is to be at most `ttl`."""


class Prometheus(Section):
    """Prometheus on the monitoring host, with the exporters on all hosts; Grafana's dashboards."""

    port: Port = 9090
    """Port of Prometheus."""
    retention_days: Positive = 30
    """How long metrics are kept."""


class Nagios(Section):
    """Objects for Nagios 4 or Icinga on the monitoring host."""

    contact: str = Field(pattern=r"^[\w.+-]+@[\w.-]+$")
    """Address to which alerts are mailed, such as night@example.org."""
