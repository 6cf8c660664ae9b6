"""What must hold between keys of a site file that are each right by themselves."""

import re
from collections import defaultdict
from collections.abc import Iterator
from ipaddress import ip_address
from pathlib import Path

from cubicweb_hasite.deploy import backup_rules
from cubicweb_hasite.deploy.site import (
    CHECK_FALL,
    RESERVED_CONNECTIONS,
    Key,
    Listener,
    Patroni,
    Site,
)

# options of an instance that are computed here, so that all the instances agree
_OWN_OPTIONS = re.compile(
    r"^(db-.*|base-url|port|interface|pid-file|log-file|connections-pool-max-size|"
    r"connections-pooler-enabled|hasite-purge-urls|hasite-management-.*|hasite-instance-name|"
    r"hasite-standby-hosts|hasite-s3-.*)$"
)
_SECRET_OPTIONS = re.compile(r"password|secret|token|(?<!-suffix)-key$")


def problems(site: Site, folder: Path) -> Iterator[tuple[Key, str]]:
    """Yield the key and the message of each rule that is broken.

    :param folder: where the site file is
    """
    yield from _host_problems(site)
    yield from _port_problems(site)
    yield from _part_problems(site)
    yield from _web_site_problems(site, folder)
    yield from _time_problems(site)
    yield from backup_rules.problems(site)
    if not any(True for _ in _host_problems(site)):
        yield from _database_problems(site)


def _host_problems(site: Site) -> Iterator[tuple[Key, str]]:
    owners: dict[str, str] = {}
    for name, host in site.hosts.items():
        key = ("hosts", name)
        for address in {host.address, host.management}:
            other = owners.setdefault(address, name)
            if other != name:
                yield (*key, "address"), f"{address} is the address of {other}; give each its own"
        if len(site.hosts) > 1 and ip_address(host.address).is_loopback:
            yield (
                (*key, "address"),
                f"{host.address} is reached by {name} alone; give an address that the other "
                "hosts reach",
            )
        if "web" in host.roles and host.processors is None:
            yield (*key, "processors"), "it is missing; give the number of processors"
        if "web" not in host.roles and host.processors is not None:
            yield (*key, "processors"), 'it is for web servers; add "web" to roles or remove it'
        if "database" in host.roles and host.memory is None:
            yield (*key, "memory"), "it is missing; give the memory for PostgreSQL, in GB"
        if "database" not in host.roles and host.memory is not None:
            yield (
                (*key, "memory"),
                'it is for database nodes; add "database" to roles or remove it',
            )
    if not site.balancers:
        yield ("hosts",), 'no host is a balancer; add "balancer" to the roles of one'
    if not site.web:
        yield ("hosts",), 'no host is a web server; add "web" to the roles of one'


def _port_problems(site: Site) -> Iterator[tuple[Key, str]]:
    taken: dict[tuple[str, int], list[Listener]] = defaultdict(list)
    for listener in site.listeners:
        who = f"{listener.program} ({listener.purpose})"
        if listener.port > 65535:
            yield (
                ("hosts", listener.host),
                f"port {listener.port} of {who} is above 65535; give a lower first port",
            )
        for other in taken[listener.host, listener.port]:
            if "*" in (listener.address, other.address) or listener.address == other.address:
                yield (
                    ("hosts", listener.host),
                    f"port {listener.port} is taken twice, by {other.program} ({other.purpose}) "
                    f"and by {who}; give one of them another port",
                )
        taken[listener.host, listener.port].append(listener)


def _part_problems(site: Site) -> Iterator[tuple[Key, str]]:
    if (site.squid is None) == (site.varnish is None):
        found = (
            "[squid] and [varnish] are both" if site.squid else "neither [squid] nor [varnish] is"
        )
        yield ("squid",), f"{found} there; give one of them"
    if site.keepalived:
        if len(site.balancers) < 2:
            yield ("keepalived",), "it needs two balancers; add one, or leave [keepalived] out"
        owned = {host.address: name for name, host in site.hosts.items()}
        for index, interface in enumerate(site.keepalived.addresses):
            address = interface.partition("/")[0]
            if address in owned:
                yield (
                    ("keepalived", "addresses", index),
                    f"{address} is the address of {owned[address]}; give one that no host has",
                )
    if site.storage and site.storage.host.startswith(f"{site.storage.bucket}."):
        yield (
            ("storage", "endpoint"),
            f"it names the bucket {site.storage.bucket} too; give the address of the object store "
            "alone",
        )
    for part in ("prometheus", "nagios"):
        if getattr(site, part) and not site.monitoring:
            yield (part,), 'no host has the role "monitoring"; add it to one, or leave this out'
    if site.alerts and not site.prometheus:
        yield (
            ("alerts",),
            "the alerts are those of Prometheus; add [prometheus], or leave this out",
        )
    if site.alerts and site.alerts.smtp_user and not site.alerts.encrypts:
        yield (
            ("alerts", "smtp_user"),
            "the password would go in clear; remove starttls = false, or this user",
        )
    if site.monitoring and not (site.prometheus or site.nagios):
        name = next(iter(site.monitoring))
        yield (
            ("hosts", name, "roles"),
            'the role "monitoring" needs [prometheus] or [nagios]; add one, or remove the role',
        )


def _web_site_problems(site: Site, folder: Path) -> Iterator[tuple[Key, str]]:
    seen: dict[str, dict[str, str]] = {"url": {}, "database": {}}
    aliases: dict[str, tuple[str, int]] = {}
    for name, web_site in site.sites.items():
        key = ("sites", name)
        for field, own in (("url", web_site.host), ("database", site.database_name(name))):
            other = seen[field].setdefault(own, name)
            if other != name:
                yield (*key, field), f"{own} is that of the site {other}; give each its own"
        for index, alias in enumerate(web_site.aliases):
            for other, known in site.sites.items():
                if re.match(known.host_pattern, alias, re.IGNORECASE):
                    message = f"{alias} is the host name of the site {other}; remove it"
                    yield (*key, "aliases", index), message
            first = aliases.setdefault(alias.lower(), (name, index))
            if first != (name, index):
                message = f"{alias} is an alias of the site {first[0]}; name it once"
                yield (*key, "aliases", index), message
        if web_site.scheme == "https" and not web_site.certificate:
            yield (*key, "certificate"), "it is missing, and the URL is https; give one, or http"
        if web_site.scheme == "http" and web_site.certificate:
            yield (*key, "certificate"), "the URL is http; write https there, or remove this"
        if web_site.certificate and not web_site.certificate.startswith("/"):
            problem = _certificate_problem(folder / web_site.certificate)
            if problem:
                yield (*key, "certificate"), problem
        if web_site.shares_pages and not web_site.languages:
            yield (
                (*key, "languages"),
                "it is missing, and pages are kept for anonymous visitors "
                '(hasite-page-max-age); give the languages of the pages, such as ["en"]',
            )
        if web_site.options.get("hasite-monitor-access", "open") != "open":
            yield (
                (*key, "options", "hasite-monitor-access"),
                "the balancers ask for the monitors on the port of visitors, from whom they keep "
                "/readyz and /metrics; remove it",
            )
        for option, value in web_site.options.items():
            if re.search(r"['\x00-\x1f]", str(value)):
                yield (
                    (*key, "options", option),
                    "a value cannot hold an apostrophe or a line break here; set this option in "
                    "the instance's all-in-one.conf",
                )
            if _OWN_OPTIONS.match(option):
                yield (*key, "options", option), "it is computed from this file; remove it"
            elif _SECRET_OPTIONS.search(option):
                variable = "CW_" + option.replace("-", "_").upper()
                yield (
                    (*key, "options", option),
                    "a secret is not to be in this file; remove it, and write "
                    f"{variable}=… in /etc/hasite/secrets/{name}.env of the web servers",
                )
            elif not re.fullmatch(r"[a-z][a-z0-9-]*", option):
                yield (
                    (*key, "options", option),
                    "it is no name of an option; write it like db-host",
                )


def _certificate_problem(path: Path) -> str | None:
    try:
        content = path.read_text()
    except (OSError, UnicodeDecodeError) as error:
        reason = getattr(error, "strerror", None) or "it is not PEM"
        return f"{path}: {reason}; give a file beside the site file, or a path on the balancers"
    if "-----BEGIN CERTIFICATE-----" not in content:
        return f"{path} holds no certificate; give one in PEM"
    if "PRIVATE KEY-----" in content:
        return f"{path} holds a private key, which would be copied; give the certificate alone"
    return None


def _time_problems(site: Site) -> Iterator[tuple[Key, str]]:
    noticed = site.balancer.check_seconds * CHECK_FALL
    graceful, answer = site.instances.graceful_seconds, site.balancer.answer_seconds
    if graceful < answer:
        yield (
            ("instances", "graceful_seconds"),
            f"{graceful} is less than balancer.answer_seconds, {answer}: a stopped instance would "
            f"cut off requests; give {answer} or more",
        )
    if graceful <= noticed:
        yield (
            ("instances", "graceful_seconds"),
            f"{graceful} is not more than the {noticed} seconds after which a balancer notices "
            f"({CHECK_FALL} x balancer.check_seconds); give {noticed + 1} or more",
        )
    if answer < noticed:
        yield (
            ("balancer", "answer_seconds"),
            f"{answer} is less than the {noticed} seconds after which a balancer notices a lost "
            f"instance; give {noticed} or more",
        )
    patroni = site.patroni
    if patroni and (least := patroni.loop_wait + 2 * patroni.retry_timeout) > patroni.ttl:
        yield (
            ("patroni", "ttl"),
            f"{patroni.ttl} is less than loop_wait + 2 x retry_timeout = {least}: the primary "
            f"would step down too late; give {least} or more",
        )


def _database_problems(site: Site) -> Iterator[tuple[Key, str]]:
    postgresql, count = site.postgresql, len(site.database)
    if bool(postgresql.addresses) == bool(count):
        found = "there are also" if count else "it is missing, and there are no"
        yield (
            ("postgresql", "addresses"),
            f'{found} hosts with the role "database"; give one of the two',
        )
    if postgresql.synchronous and count < 2:
        yield ("postgresql", "synchronous"), "it needs two database nodes; add one, or remove it"
    if postgresql.read_standbys and len(site.database_addresses) < 2:
        yield ("postgresql", "read_standbys"), "it needs two database nodes; add one, or remove it"
    needed = site.connections
    if needed + RESERVED_CONNECTIONS > postgresql.max_connections:
        yield (
            ("postgresql", "max_connections"),
            f"{postgresql.max_connections} is too few: {len(site.all_instances)} instances need "
            f"{needed}, {site.pool_size} for the pool and {site.other_connections} others each, "
            f"and {RESERVED_CONNECTIONS} are kept for other uses; "
            f"give {needed + RESERVED_CONNECTIONS} or more",
        )
    if site.patroni:
        yield from _patroni_problems(site, site.patroni)


def _patroni_problems(site: Site, patroni: Patroni) -> Iterator[tuple[Key, str]]:
    if len(site.database) < 2:
        yield ("patroni",), "it needs two database nodes; add one, or leave [patroni] out"
        return
    members = patroni.etcd or list(site.database)
    for index, name in enumerate(members):
        if name not in site.hosts:
            known = ", ".join(site.hosts)
            yield ("patroni", "etcd", index), f"{name} is not a host; give one of {known}"
        elif name in members[:index]:
            yield ("patroni", "etcd", index), f"{name} is there twice; name each host once"
    if len(members) < 3 or len(members) % 2 == 0:
        yield (
            ("patroni", "etcd"),
            f"{len(members)} members ({', '.join(members)}) have no use for a majority: give an "
            "odd number of hosts, 3 or more",
        )
