"""Who connects to whom: one table, from which the documentation and the firewalls are made."""

import re
from collections import defaultdict
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from ipaddress import IPv4Network, IPv6Network, ip_address, ip_network

from cubicweb_hasite.deploy.site import ALERTMANAGER_PORT, Listener, Site

_PORTS = {"http": 80, "https": 443}
_Network = IPv4Network | IPv6Network


@dataclass(frozen=True)
class Connection:
    """What some may send to a host: a row of the table.

    :param sources: names of hosts, addresses, networks, or others, such as `visitors`
    :param target: name of a host, or a server that is none of the site's
    :param ports: ports; none if it is VRRP
    :param udp: whether they are ports of UDP, not of TCP
    """

    sources: tuple[str, ...]
    target: str
    ports: tuple[int, ...]
    purpose: str
    udp: bool = False

    @property
    def what(self) -> str:
        """TCP ports, or another protocol and its ports, for people."""
        ports = port_ranges(self.ports) if self.ports else "IP protocol 112"
        return f"UDP {ports}" if self.udp else ports


@dataclass(frozen=True)
class Rule:
    """What the firewall of a host lets in.

    :param networks: from where, in the format of nftables, by its names of the families
    :param match: protocol and ports, in the format of nftables
    """

    connection: Connection
    networks: dict[str, str]
    match: str


def connections(site: Site) -> Iterator[Connection]:
    """Yield all that hosts of a site are sent, or send to servers of others for the site."""
    yield from _to_programs(site)
    if site.firewall:
        for name in site.hosts:
            yield Connection(tuple(site.firewall.ssh), name, (site.firewall.ssh_port,), "SSH")
    if site.keepalived:
        purpose = "VRRP: which balancer has the floating address"
        for name in site.balancers:
            others = tuple(other for other in site.balancers if other != name)
            yield Connection(others, name, (), purpose)
    if site.prometheus:
        for name in site.monitoring:
            sources = tuple(_names(site, "administrators"))
            yield Connection(sources, name, (3000,), "Grafana, if it is there")
    yield from _of_alerts(site)
    for address in site.postgresql.addresses:
        yield Connection(tuple(site.web), address, (site.postgresql.port,), "PostgreSQL: SQL")
    if site.storage:
        purpose = f"S3: the bucket {site.storage.bucket}"
        yield Connection(tuple(site.web), site.storage.host, (site.storage.port,), purpose)


def _of_alerts(site: Site) -> Iterator[Connection]:
    """Yield what monitoring hosts send when something is wrong, beside TCP to each other."""
    alerts = site.alerts
    if not alerts:
        return
    here = tuple(site.monitoring)
    for name in here:
        if others := tuple(other for other in here if other != name):
            port = ALERTMANAGER_PORT + 1
            yield Connection(others, name, (port,), "Alertmanager: its peers", udp=True)
    places = {"mails of alerts": alerts.smarthost}
    for purpose, url in (("alerts", alerts.webhook), ("dead man's switch", alerts.dead_man)):
        if url:
            scheme, _, place = url.partition("://")
            place = place.partition("/")[0]
            with_port = re.search(r":\d+$", place)
            places[purpose] = place if with_port else f"{place}:{_PORTS[scheme]}"
    if alerts.outside:
        places["visits of the sites from there"] = alerts.outside
    for purpose, place in places.items():
        target, _, text = place.rpartition(":")
        yield Connection(here, target.strip("[]"), (int(text),), purpose)


def rules(site: Site, name: str) -> Iterator[Rule]:
    """Yield what the firewall of a host lets in: the rows of the table that lead to it."""
    for connection in connections(site):
        if connection.target in (name, site.hosts[name].address):
            found = [each for source in connection.sources for each in _networks(site, source)]
            ports = port_ranges(connection.ports)
            # by its number: a minimal Debian lacks /etc/protocols
            protocol = "udp" if connection.udp else "tcp"
            match = f"{protocol} dport {{ {ports} }}" if ports else "meta l4proto 112"
            yield Rule(connection, _by_family(found), match)


def hosts(site: Site) -> dict[str, str]:
    """Return where hosts of a site send from, in the format of nftables, by its families."""
    return _by_family(each for name in site.hosts for each in _networks(site, name))


def _by_family(networks: Iterable[_Network]) -> dict[str, str]:
    distinct = list(dict.fromkeys(networks))
    texts = {}
    for family, version in (("ip", 4), ("ip6", 6)):
        # nftables refuses networks that overlap
        found = [
            network
            for network in distinct
            if network.version == version
            and not any(_is_inside(network, other) for other in distinct if other != network)
        ]
        if found:
            texts[family] = ", ".join(map(_text, found))
    return texts


def _is_inside(network: _Network, other: _Network) -> bool:
    if isinstance(network, IPv4Network) and isinstance(other, IPv4Network):
        return network.subnet_of(other)
    if isinstance(network, IPv6Network) and isinstance(other, IPv6Network):
        return network.subnet_of(other)
    return False


def _text(network: _Network) -> str:
    return str(network.network_address if network.num_addresses == 1 else network)


def _networks(site: Site, source: str) -> Iterator[_Network]:
    """Yield where a source of a connection sends from."""
    if source == "visitors":
        yield from (ip_network("0.0.0.0/0"), ip_network("::/0"))
    elif source == "pre-production":
        if site.preproduction and site.preproduction.address:
            yield ip_network(site.preproduction.address)
    elif source in site.hosts:
        host = site.hosts[source]
        yield from (ip_network(host.address), ip_network(host.management))
        if site.keepalived and source in site.balancers:
            # Linux may send from the floating address of IPv6, which was added last
            for address in site.keepalived.addresses:
                yield ip_network(address.partition("/")[0])
    else:
        yield ip_network(source)


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
    groups |= {"backup": site.backup_hosts}
    if site.firewall and client == "administrators":
        return list(dict.fromkeys([*site.firewall.ssh, *site.firewall.pages]))
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
