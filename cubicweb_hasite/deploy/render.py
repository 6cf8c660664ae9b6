"""Render all the files of a site. The same site file gives the same bytes."""

import posixpath
from collections import defaultdict
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

from cubicweb_hasite.deploy import alerting, connections, database_files, host_checks, tables
from cubicweb_hasite.deploy.drawing import draw
from cubicweb_hasite.deploy.environment import environment, made
from cubicweb_hasite.deploy.load import SiteFile
from cubicweb_hasite.deploy.monitoring_files import monitoring_files
from cubicweb_hasite.deploy.output import DRAWING, File, Rendering
from cubicweb_hasite.deploy.site import Host, Role, exporters, shows_nagios


def render(site_file: SiteFile, *, drawing: bool = True) -> Rendering:
    """Return all the files of a site.

    :param drawing: whether to draw the architecture, which takes Graphviz
    :raises RenderError: Graphviz is not installed.
    """
    renderer = _Renderer(site_file)
    files = {
        f"{name}/{path}": file
        for name, host in site_file.site.hosts.items()
        for path, file in renderer.checked_files(name, host)
    }
    return files | renderer.documents(files, drawing=drawing)


class _Renderer:
    """The files of each host, and those about all of them."""

    def __init__(self, site_file: SiteFile) -> None:
        self.site_file = site_file
        self.site = site_file.site
        self._made = partial(made, site_file)
        self.environment = environment(site_file)

    def _file(self, template: str, mode: int = 0o644, **context: Any) -> File:
        text = self.environment.get_template(template).render(**context)
        return File(text.encode(), mode)

    def checked_files(self, name: str, host: Host) -> Iterator[tuple[str, File]]:
        """Yield the files of a host, and the script that checks them there."""
        files = list(self.host_files(name, host))
        yield from files
        rendered = [(f"{file.mode:o}", f"/{path}") for path, file in files]
        context: dict[str, Any] = {
            "name": name,
            "host": host,
            "rendered": rendered,
            **host_checks.expectations(self.site, name, host),
        }
        yield (
            "usr/local/sbin/hasite-check-host",
            self._file("sbin/hasite-check-host", 0o755, **context),
        )

    def host_files(self, name: str, host: Host) -> Iterator[tuple[str, File]]:
        """Yield the files of a host, by their paths on it without the first `/`."""
        groups: dict[Role, Callable[[str, Host], Iterator[tuple[str, File]]]] = {
            "balancer": self._balancer_files,
            "web": self._web_files,
            "database": partial(database_files.node_files, self.site, self._file),
            "monitoring": self._monitoring_files,
        }
        for role in groups:
            if role in host.roles:
                yield from groups[role](name, host)
        yield from database_files.backup_files(self.site, self._file, name, host)
        if name in self.site.etcd:
            yield "etc/default/etcd", self._file("default/etcd", name=name, host=host)
        if self.site.prometheus:
            for program, port in exporters(self.site, host):
                context: dict[str, Any] = {"program": program, "port": port, "host": host}
                yield (
                    f"etc/default/{program}",
                    self._file("default/prometheus-exporter", **context),
                )
        if self.site.firewall:
            yield from self._firewall_files(name, host)
        here = self.site.instances_of(host=name)
        for unit, template in tables.drop_ins(self.site, name):
            path = f"etc/systemd/system/{unit}.service.d/hasite.conf"
            context = {"program": unit.rstrip("@"), "host": host, "here": here}
            yield path, self._file(f"systemd/{template}.conf", **context)

    def _firewall_files(self, name: str, host: Host) -> Iterator[tuple[str, File]]:
        context: dict[str, Any] = {
            "name": name,
            "rules": list(connections.rules(self.site, name)),
            "hosts": connections.hosts(self.site),
        }
        yield "etc/hasite/firewall.nft", self._file("hasite/firewall.nft", **context)
        yield (
            "usr/local/sbin/hasite-firewall",
            self._file("sbin/hasite-firewall", 0o755, name=name),
        )
        unit = "hasite-firewall.service"
        yield f"etc/systemd/system/{unit}", self._file(f"systemd/{unit}", host=host)

    def _balancer_files(self, name: str, host: Host) -> Iterator[tuple[str, File]]:
        site = self.site
        context: dict[str, Any] = {"name": name, "host": host}
        yield "etc/haproxy/haproxy.cfg", self._file("haproxy/haproxy.cfg", **context)
        yield "etc/default/haproxy", self._file("default/haproxy", **context)
        if site.keepalived:
            family = ":" in host.address
            others = [a for a in site.keepalived.addresses if (":" in a) != family]
            floating = [a.partition("/")[0] for a in site.keepalived.addresses]
            # wherever a floating address comes from, it need not be here when HAProxy starts
            public = ["[::]" if any(":" in a for a in floating) else "*"]
            yield (
                "etc/keepalived/keepalived.conf",
                self._file(
                    "keepalived/keepalived.conf", floating_of_other_family=others, **context
                ),
            )
        else:
            public = [f"[{host.address}]" if ":" in host.address else host.address]
        yield (
            "etc/haproxy/hasite.cfg",
            self._file("haproxy/hasite.cfg", public_addresses=public, **context),
        )
        for web_site in site.sites.values():
            if web_site.certificate and not web_site.certificate.startswith("/"):
                content = (self.site_file.path.parent / web_site.certificate).read_bytes()
                path = f"etc/haproxy/certs/{posixpath.basename(web_site.certificate)}"
                yield path, File(content)

    def _web_files(self, name: str, host: Host) -> Iterator[tuple[str, File]]:
        site = self.site
        here = site.instances_of(host=name)
        context: dict[str, Any] = {
            "name": name,
            "host": host,
            "here": here,
            "neighbours": {
                s: tables.neighbours(site.instances_of(site=s, host=name)) for s in site.sites
            },
        }
        if site.squid:
            yield "etc/squid/squid.conf", self._file("squid/squid.conf", **context)
            yield "etc/squid/hasite.conf", self._file("squid/hasite.conf", **context)
        else:
            yield "etc/varnish/hasite.vcl", self._file("varnish/hasite.vcl", **context)
        if site.apache:
            yield "etc/apache2/apache2.conf", self._file("apache2/apache2.conf", **context)
        for site_name, web_site in site.sites.items():
            context = {
                "host": host,
                "web_site_name": site_name,
                "web_site": web_site,
                "database": site.database_name(site_name),
                # a cache keeps one copy for all its ports
                "purge_urls": [
                    f"http://{tables.bracketed(other.address)}:{web_site.cache_port}/"
                    for other in site.web.values()
                ],
            }
            yield (
                f"etc/systemd/system/cubicweb-{site_name}@.service",
                self._file("systemd/cubicweb@.service", **context),
            )
            yield f"etc/hasite/{site_name}.env", self._file("hasite/site.env", **context)
            yield f"usr/local/sbin/{site_name}-ctl", self._file("sbin/ctl", 0o755, **context)
        for instance in here:
            yield (
                f"etc/hasite/{instance.site}-{instance.number}.env",
                self._file("hasite/instance.env", instance=instance, name=name),
            )
        yield "usr/local/share/hasite/check_storage.py", self._file("share/check_storage")

    def _monitoring_files(self, name: str, host: Host) -> Iterator[tuple[str, File]]:
        return monitoring_files(self.site, name, host, self._file, self._made)

    def documents(self, files: Rendering, *, drawing: bool) -> Rendering:
        """Return the documentation of the site."""
        site = self.site
        paths = [(*path.split("/", 1), f"{file.mode:04o}") for path, file in files.items()]
        readme = self._file(
            "document/README.md",
            files=paths,
            connections=list(connections.connections(site)),
        )
        runbook = self._file(
            "document/runbook.md",
            nagios=[host.address for host in site.hosts.values() if shows_nagios(site, host)],
            packages={name: list(tables.packages(site, name)) for name in site.hosts},
            actions=alerting.actions(site) if site.alerts else {},
            alerts=[name for names in alerting.shown(site).values() for name in names],
            alertmanagers=alerting.alertmanagers(site),
            lost_hosts=list(alerting.lost_hosts(site)),
        )
        places: dict[str, dict[str, Host]] = defaultdict(dict)
        for name, host in site.hosts.items():
            places[host.place][name] = host
        dot = self._file(
            "document/architecture.dot",
            places=places,
            ranked=len(places) == 1,
            programs={name: list(tables.programs(site, name)) for name in site.hosts},
            colours={
                "balancer": "#e3f0ff",
                "web": "#fde8d7",
                "database": "#dff2df",
                "backup": "#efe6f7",
                "monitoring": "#eeeeee",
            },
        )
        documents = {"README.md": readme, "runbook.md": runbook, "architecture.dot": dot}
        if drawing:
            documents[DRAWING] = File(draw(dot.content, self._made("").strip()))
        return documents
