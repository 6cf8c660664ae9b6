"""Who connects to whom: one table, from which the documentation and the firewalls are made."""

from collections import defaultdict
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from ipaddress import ip_address

from cubicweb_hasite.deploy.site import Listener, Site


@dataclass(frozen=True)
class Connection:
    """What some may send to a host: a row of the table.

    :param sources: names of hosts, or who is none of the site's, such as `visitors`
    :param target: name of a host, or a server that is none of the site's
    :param ports: TCP ports; none if it is VRRP
    """

    sources: tuple[str, ...]
    target: str
    ports: tuple[int, ...]
    purpose: str

    @property
    def what(self) -> str:
        """Ports or the other protocol, for people."""
        return port_ranges(self.ports) if self.ports else "IP protocol 112"


def connections(site: Site) -> Iterator[Connection]:
    """Yield all that hosts of a site are sent, or send to servers of others for the site."""
    yield from _to_programs(site)
    if site.keepalived:
        purpose = "VRRP: which balancer has the floating address"
        for name in site.balancers:
            others = tuple(other for other in site.balancers if other != name)
            yield Connection(others, name, (), purpose)
    if site.prometheus:
        for name in site.monitoring:
            yield Connection(("administrators",), name, (3000,), "Grafana, if it is there")
    for address in site.postgresql.addresses:
        yield Connection(tuple(site.web), address, (site.postgresql.port,), "PostgreSQL: SQL")
    if site.storage:
        purpose = f"S3: the bucket {site.storage.bucket}"
        yield Connection(tuple(site.web), site.storage.host, (site.storage.port,), purpose)


def _to_programs(site: Site) -> Iterator[Connection]:
    """Yield what comes to the ports of each host, those of one kind together."""
    groups: dict[tuple[str, str, tuple[str, ...]], list[Listener]] = defaultdict(list)
    for listener in site.listeners:
        if listener.clients and not _is_loopback(listener.address):
            groups[listener.host, listener.program, listener.clients].append(listener)
    for (host, program, clients), listeners in groups.items():
        purposes = dict.fromkeys(listener.purpose.partition(" of ")[0] for listener in listeners)
        if program in ("Squid", "Varnish"):
            purposes = {"visitors' requests, purges": None}
        sources = dict.fromkeys(name for client in clients for name in _names(site, client))
        sources.pop(host, None)
        if sources:
            ports = tuple(listener.port for listener in listeners)
            yield Connection(tuple(sources), host, ports, f"{program}: {', '.join(purposes)}")


def _is_loopback(address: str) -> bool:
    return address != "*" and ip_address(address).is_loopback


def _names(site: Site, client: str) -> list[str]:
    groups = {"etcd": site.etcd, "web": site.web, "balancer": site.balancers}
    groups |= {"database": site.database, "monitoring": site.monitoring}
    return list(groups[client]) if client in groups else [client]


def port_ranges(ports: Iterable[int]) -> str:
    """Return ports as people and nftables write them: 80, 443, 8081-8084."""
    runs: list[list[int]] = []
    for port in sorted(set(ports)):
        if runs and port == runs[-1][-1] + 1:
            runs[-1].append(port)
        else:
            runs.append([port])
    return ", ".join(f"{run[0]}-{run[-1]}" if len(run) > 1 else str(run[0]) for run in runs)
