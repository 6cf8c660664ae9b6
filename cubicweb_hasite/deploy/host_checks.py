"""What `hasite-check-host` compares a host with: who has its ports, other hosts' clocks, names."""

import re
from collections.abc import Iterator
from typing import Any

from cubicweb_hasite import names
from cubicweb_hasite.deploy.site import Host, Listener, Site
from cubicweb_hasite.deploy.tables import bracketed

#: the processes of a program that have another name, as a regular expression
_PROCESSES = {
    "Alertmanager": "prometheus-aler",
    "Apache": "apache2",
    "CubicWeb": "gunicorn|uwsgi",
    "PostgreSQL": "postgres",
    "Varnish": "varnishd|cache-main",
}


def expectations(site: Site, name: str, host: Host) -> dict[str, Any]:
    """Return what the template of `hasite-check-host` needs to know, by its variables."""
    return {
        "ports": list(ports(site, name)),
        "clocks": list(clocks(site, name, host)),
        "site_names": site_names(site),
        "site_addresses": site_addresses(site),
    }


def ports(site: Site, name: str) -> Iterator[dict[str, str]]:
    """Yield the TCP ports of a host: number, program, and the regular expressions of its processes
    and of the addresses at which another program would be in its way, as `ss` writes them."""
    for listener in site.listeners:
        if listener.host == name:
            process = listener.program.lower()[:15]  # Linux keeps no more of a name
            yield {
                "number": str(listener.port),
                "program": listener.program,
                "processes": _PROCESSES.get(listener.program, process),
                "addresses": _in_the_way(listener.address),
            }


def _in_the_way(address: str) -> str:
    if address == "*":
        return r"\S+"
    every = r"\[::\]" if ":" in address else r"0\.0\.0\.0"
    return rf"{re.escape(bracketed(address))}|{every}|\*"


def clocks(site: Site, name: str, host: Host) -> Iterator[tuple[str, str]]:
    """Yield other hosts, each with a URL that this host may ask, whose answer has a date."""
    me = {name, *host.roles} | ({"etcd"} if name in site.etcd else set())
    urls: dict[str, str] = {}
    for listener in site.listeners:
        if listener.host != name and me & set(listener.clients) and _speaks_http(listener):
            address = f"{bracketed(listener.address)}:{listener.port}"
            urls.setdefault(listener.host, f"http://{address}{names.READYZ}")
    yield from urls.items()


def _speaks_http(listener: Listener) -> bool:
    # answers that HAProxy makes itself have no date
    return listener.program not in ("PostgreSQL", "HAProxy") and listener.address != "*"


def site_names(site: Site) -> list[str]:
    """Return the host names by which visitors ask for the sites."""
    return [name for each in site.sites.values() for name in (each.hostname, *each.aliases)]


def site_addresses(site: Site) -> list[str]:
    """Return the addresses to which these names lead, if nothing else is in front of the site."""
    if site.keepalived:
        return [address.partition("/")[0] for address in site.keepalived.addresses]
    return [host.address for host in site.balancers.values()]
