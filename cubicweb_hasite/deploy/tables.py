"""What templates list, computed from a site: who scrapes what, packages, sizes."""

import posixpath
from collections import defaultdict
from collections.abc import Iterator
from ipaddress import ip_address
from typing import Any

from cubicweb_hasite.deploy.connections import port_ranges
from cubicweb_hasite.deploy.site import Host, Instance, Listener, Site, exporters, shows_nagios


def bracketed(address: str) -> str:
    """Return an address as URLs have it, in brackets if it is of IPv6."""
    return f"[{address}]" if ":" in address else address


def neighbours(instances: list[Instance]) -> dict[int, Instance]:
    """Return the next instance after each, of one site on one host, where there are several."""
    following = instances[1:] + instances[:1]
    return {i.number: n for i, n in zip(instances, following, strict=True) if i is not n}


def sizes(memory: int, max_connections: int) -> dict[str, str]:
    """Return PostgreSQL's parameters of memory, from the memory in GB that it may use."""
    # a quarter for sorts, if every connection did one
    work = max(4, memory * 1024 // 4 // max_connections)
    return {
        "shared_buffers": f"{memory * 256}MB",
        "effective_cache_size": f"{memory * 768}MB",
        "maintenance_work_mem": f"{min(2048, memory * 64)}MB",
        "work_mem": f"{work}MB",
    }


def hba(site: Site) -> Iterator[str]:
    """Yield the lines of pg_hba.conf: who may connect to PostgreSQL."""
    yield "local all postgres peer"
    yield "local replication postgres peer"
    if site.prometheus:
        yield "local postgres prometheus peer"
    for host in site.database.values():
        yield f"host replication replicator {_network(host)} scram-sha-256"
        if site.patroni:
            yield f"host postgres postgres,rewind {_network(host)} scram-sha-256"
    for host in site.web.values():
        for name in site.sites:
            database = site.database_name(name)
            yield f"host {database} {database} {_network(host)} scram-sha-256"
    if site.preproduction and site.preproduction.address:
        databases = ",".join(map(site.database_name, site.sites))
        reader, address = site.preproduction.reader, site.preproduction.address
        network = f"{address}/{ip_address(address).max_prefixlen}"
        yield f"host {databases} {reader} {network} scram-sha-256"


def _network(host: Host) -> str:
    return f"{host.address}/{ip_address(host.address).max_prefixlen}"


def scrapes(site: Site) -> dict[str, list[dict[str, Any]]]:
    """Return what Prometheus asks for metrics, by job: addresses with their labels."""
    jobs: dict[str, list[dict[str, Any]]] = defaultdict(list)

    def add(job: str, address: str, port: int, **labels: str) -> None:
        jobs[job].append({"address": f"{bracketed(address)}:{port}", "labels": labels})

    for name, host in site.balancers.items():
        add("haproxy", host.management, site.balancer.management_port, host=name)
    for instance in site.all_instances:
        labels = {"host": instance.host, "site": instance.site, "number": str(instance.number)}
        address = site.hosts[instance.host].management
        add("cubicweb", address, instance.management_port, **labels)
    for name, host in site.hosts.items():
        for program, port in exporters(site, host):
            job = program.removeprefix("prometheus-").removesuffix("-exporter")
            job = {"node": "host", "postgres": "postgresql"}.get(job, job)
            add(job, host.management, port, host=name)
    if site.patroni:
        for name, host in site.database.items():
            add("patroni", host.address, site.patroni.port, host=name)
        for name, host in site.etcd.items():
            add("etcd", host.address, 2379, host=name)
    return dict(jobs)


def programs(site: Site, name: str) -> Iterator[str]:
    """Yield the lines of a host in the drawing."""
    seen: dict[str, list[Listener]] = defaultdict(list)
    for listener in site.listeners:
        if listener.host == name and listener.purpose not in ("metrics", "manager"):
            seen[listener.program].append(listener)
    for program, listeners in seen.items():
        if program == "CubicWeb":
            for site_name in site.sites:
                count = len(site.instances_of(site=site_name, host=name))
                yield f"CubicWeb {site_name} x {count}"
        else:
            ports = [listener.port for listener in listeners if listener.clients]
            yield f"{program} {port_ranges(ports)}".strip() if ports else program
    if site.keepalived and name in site.balancers:
        yield "keepalived"
    if site.nagios and name in site.monitoring:
        yield "Nagios"


def certificates(site: Site) -> Iterator[tuple[str, str]]:
    """Yield where each certificate is on the balancers, and the host name that it is for."""
    for web_site in site.sites.values():
        if path := web_site.certificate:
            own = (
                path if path.startswith("/") else f"/etc/haproxy/certs/{posixpath.basename(path)}"
            )
            yield own, web_site.hostname


def certified(site: Site) -> dict[str, Host]:
    """Return the hosts between which backups are made, each of which has a certificate."""
    return {**site.database, **site.backup_hosts} if site.backup else {}


def packages(site: Site, name: str) -> Iterator[str]:
    """Yield the Debian packages of a host."""
    host = site.hosts[name]
    yield from ("chrony", "curl")
    if site.firewall:
        yield "nftables"
    if "balancer" in host.roles:
        yield from ("haproxy", "socat")
        if site.keepalived:
            yield "keepalived"
    if "web" in host.roles:
        yield "squid" if site.squid else "varnish"
        if site.apache:
            yield "apache2"
        yield from ("python3-venv", "gettext")
    if "database" in host.roles or name in certified(site):  # there it is restored
        yield f"postgresql-{site.postgresql.version}"
    if "database" in host.roles and site.patroni:
        yield "patroni"
    if name in certified(site):
        yield from ("pgbackrest", "openssl")
    if name in site.etcd:
        yield from ("etcd-server", "etcd-client")
    if "monitoring" in host.roles:
        if site.prometheus:
            yield "prometheus"
        if site.alerts:
            yield "prometheus-alertmanager"
        if site.nagios:
            yield from ("nagios4", "monitoring-plugins-basic", "mailutils")
            if shows_nagios(site, host):
                yield "apache2"
    if site.prometheus:
        for program, _port in exporters(site, host):
            yield program


def drop_ins(site: Site, name: str) -> Iterator[tuple[str, str]]:
    """Yield the units of Debian's packages of a host to which something is added.

    :return: the name of the unit, without `.service`, and that of the template in `systemd/`
    """
    host = site.hosts[name]
    units = {
        "haproxy": "balancer" in host.roles,
        "keepalived": "balancer" in host.roles and site.keepalived,
        "squid": "web" in host.roles and site.squid,
        "varnish": "web" in host.roles and site.varnish,
        "apache2": ("web" in host.roles and site.apache) or shows_nagios(site, host),
        "patroni": "database" in host.roles and site.patroni,
        "etcd": name in site.etcd,
        "pgbackrest": name in certified(site),
        "prometheus": "monitoring" in host.roles and site.prometheus,
        "prometheus-alertmanager": "monitoring" in host.roles and site.alerts,
        "nagios4": "monitoring" in host.roles and site.nagios,
    }
    yield from ((unit, unit) for unit, here in units.items() if here)
    if "database" in host.roles and not site.patroni:
        yield "postgresql@", "postgresql"
    if site.prometheus:
        for program, _port in exporters(site, host):
            yield program, "exporter"
