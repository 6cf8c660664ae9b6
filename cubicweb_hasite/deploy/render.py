"""Render all the files of a site. The same site file gives the same bytes."""

import json
import posixpath
import re
import shutil
import subprocess
import tomllib
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined

from cubicweb_hasite.__pkginfo__ import version
from cubicweb_hasite.deploy import limits, tables
from cubicweb_hasite.deploy.load import SiteFile
from cubicweb_hasite.deploy.output import DRAWING, File, RenderError, Rendering
from cubicweb_hasite.deploy.site import CHECK_FALL, Host, exporters

_TEMPLATES = Path(__file__).parent / "templates"
_FIGURES = Path(__file__).parent.parent / "monitoring"

# name of the pages of anonymous visitors in caches: that of cubicweb_hasite.caching, which needs
# CubicWeb
_ANONYMOUS = "/_anonymous/"
# URLs whose answers a shared cache may keep: those of downloads and static files
CACHEABLE_PATH = r"^/(data|static|fckeditor)/|^/([a-z]+/)?[0-9]+(/(raw|thumb)/|/download)"
_CACHEABLE_QUERY = r"^/([a-z]+/)?[0-9]+\?vid=download$"


def render(site_file: SiteFile, *, drawing: bool = True) -> Rendering:
    """Return all the files of a site.

    :param drawing: whether to draw the architecture, which takes Graphviz
    :raises RenderError: Graphviz is not installed.
    """
    renderer = _Renderer(site_file)
    files = {
        f"{name}/{path}": file
        for name, host in site_file.site.hosts.items()
        for path, file in renderer.host_files(name, host)
    }
    return files | renderer.documents(files, drawing=drawing)


class _Renderer:
    """The templates, and what they need to know of a site."""

    def __init__(self, site_file: SiteFile) -> None:
        self.site_file = site_file
        self.site = site = site_file.site
        self.environment = Environment(
            loader=FileSystemLoader(_TEMPLATES),
            undefined=StrictUndefined,
            trim_blocks=True,
            lstrip_blocks=True,
            keep_trailing_newline=True,
        )
        self.environment.filters |= {
            "brackets": tables.bracketed,
            "bare": lambda interface: interface.partition("/")[0],
            "dirname": posixpath.dirname,
            "etcd_url": "http://{}:2379".format,
            "json": json.dumps,
            # Python's True is CubicWeb's yes
            "option": lambda value: (
                {True: "yes", False: "no"}[value] if isinstance(value, bool) else value
            ),
            "slot": lambda name: re.sub(r"[^a-z0-9_]", "_", name.lower()),
        }
        certificates = [web.certificate for web in site.sites.values() if web.certificate]
        self.environment.globals |= {
            "site": site,
            "made": self._made,
            "check_fall": CHECK_FALL,
            "first_site": next(iter(site.sites)),
            "limits": limits,
            "cacheable_path": CACHEABLE_PATH,
            "cacheable_query": _CACHEABLE_QUERY,
            "balancer_addresses": [host.address for host in site.balancers.values()],
            "web_addresses": [host.address for host in site.web.values()],
            "anonymous": _ANONYMOUS,
            "shares_pages": any(web.shares_pages for web in site.sites.values()),
            "tls": bool(certificates),
            "certificates": [
                path if path.startswith("/") else f"/etc/haproxy/certs/{posixpath.basename(path)}"
                for path in certificates
            ],
            "cache_unit": "squid" if site.squid else "varnish",
        }

    def _made(self, comment: str) -> str:
        digest = self.site_file.digest
        return (
            f"{comment} Made by hasite-render of cubicweb-hasite {version} from the "
            f"site file {digest}. Do not edit."
        )

    def _file(self, template: str, mode: int = 0o644, **context: Any) -> File:
        text = self.environment.get_template(template).render(**context)
        return File(text.encode(), mode)

    def host_files(self, name: str, host: Host) -> Iterator[tuple[str, File]]:
        """Yield the files of a host, by their paths on it without the first `/`."""
        groups = {
            "balancer": self._balancer_files,
            "web": self._web_files,
            "database": self._database_files,
            "monitoring": self._monitoring_files,
        }
        for role in groups:
            if role in host.roles:
                yield from groups[role](name, host)
        if name in self.site.etcd:
            yield "etc/default/etcd", self._file("database/etcd", name=name, host=host)
            yield self._restart("etcd")
        if self.site.prometheus:
            for program, port in exporters(self.site, host):
                context = {"program": program, "port": port, "host": host}
                yield f"etc/default/{program}", self._file("host/exporter", **context)

    def _restart(self, program: str) -> tuple[str, File]:
        path = f"etc/systemd/system/{program}.service.d/hasite.conf"
        return path, self._file("host/restart.conf", program=program)

    def _balancer_files(self, name: str, host: Host) -> Iterator[tuple[str, File]]:
        site = self.site
        context: dict[str, Any] = {"name": name, "host": host}
        yield "etc/haproxy/haproxy.cfg", self._file("balancer/haproxy.cfg", **context)
        yield "etc/default/haproxy", self._file("balancer/default-haproxy", **context)
        if site.keepalived:
            family = ":" in host.address
            others = [a for a in site.keepalived.addresses if (":" in a) != family]
            floating = [a.partition("/")[0] for a in site.keepalived.addresses]
            # wherever a floating address comes from, it need not be here when HAProxy starts
            public = ["[::]" if any(":" in a for a in floating) else "*"]
            yield (
                "etc/keepalived/keepalived.conf",
                self._file("balancer/keepalived.conf", floating_of_other_family=others, **context),
            )
            yield self._restart("keepalived")
        else:
            public = [f"[{host.address}]" if ":" in host.address else host.address]
        yield (
            "etc/haproxy/hasite.cfg",
            self._file("balancer/hasite.cfg", public_addresses=public, **context),
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
            yield "etc/squid/squid.conf", self._file("web/squid.conf", **context)
            yield "etc/squid/hasite.conf", self._file("web/hasite-squid.conf", **context)
            yield self._restart("squid")
        else:
            yield "etc/varnish/hasite.vcl", self._file("web/hasite.vcl", **context)
            yield (
                "etc/systemd/system/varnish.service.d/hasite.conf",
                self._file("web/varnish-service.conf", **context),
            )
        if site.apache:
            yield "etc/apache2/apache2.conf", self._file("web/apache2.conf", **context)
            yield self._restart("apache2")
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
                self._file("web/cubicweb@.service", **context),
            )
            yield f"etc/hasite/{site_name}.env", self._file("web/site.env", **context)
            yield f"usr/local/sbin/{site_name}-ctl", self._file("web/ctl", 0o755, **context)
        for instance in here:
            yield (
                f"etc/hasite/{instance.site}-{instance.number}.env",
                self._file("web/instance.env", instance=instance, name=name),
            )
        yield "usr/local/share/hasite/check_storage.py", self._file("web/check_storage")

    def _database_files(self, name: str, host: Host) -> Iterator[tuple[str, File]]:
        site, postgresql = self.site, self.site.postgresql
        context: dict[str, Any] = {
            "name": name,
            "host": host,
            "sizes": tables.sizes(host.memory or 1, postgresql.max_connections),
            "hba": list(tables.hba(site)),
            "other_nodes": [o.address for n, o in site.database.items() if n != name],
        }
        if site.patroni:
            yield "etc/patroni/config.yml", self._file("database/patroni.yml", **context)
        else:
            folder = f"etc/postgresql/{postgresql.version}/main"
            yield (
                f"{folder}/conf.d/hasite.conf",
                self._file("database/postgresql.conf", **context),
            )
            yield f"{folder}/pg_hba.conf", self._file("database/pg_hba.conf", **context)
        yield "usr/local/sbin/hasite-backup", self._file("database/hasite-backup", 0o755)
        for unit in ("hasite-backup.service", "hasite-backup.timer"):
            yield f"etc/systemd/system/{unit}", self._file(f"database/{unit}")

    def _monitoring_files(self, name: str, host: Host) -> Iterator[tuple[str, File]]:
        site, context = self.site, {"name": name, "host": host}
        if site.nagios:
            yield "etc/nagios4/conf.d/hasite.cfg", self._file("monitoring/nagios.cfg", **context)
        if not site.prometheus:
            return
        scrapes = tables.scrapes(site)
        yield (
            "etc/prometheus/prometheus.yml",
            self._file("monitoring/prometheus.yml", scrapes=scrapes, **context),
        )
        yield "etc/default/prometheus", self._file("monitoring/default-prometheus", **context)
        for kind in ("dashboards", "datasource"):
            folder = "datasources" if kind == "datasource" else kind
            yield (
                f"etc/grafana/provisioning/{folder}/hasite.yml",
                self._file(f"monitoring/grafana-{kind}.yml", **context),
            )
        # those of CubicWeb itself come with the cube
        alerts = (_FIGURES / "alerts.yml").read_text()
        yield (
            "etc/prometheus/hasite/cubicweb.rules.yml",
            File(f"{self._made('#')}\n{alerts}".encode()),
        )
        dashboard = json.loads((_FIGURES / "dashboard.json").read_text())
        dashboard = {"description": self._made("").strip()} | dashboard
        yield "var/lib/grafana/dashboards/hasite-cubicweb.json", _json(dashboard)
        figures = tomllib.loads((_TEMPLATES / "monitoring/figures.toml").read_text())
        for program, figure in figures.items():
            if program in scrapes:
                yield (
                    f"etc/prometheus/hasite/{program}.rules.yml",
                    self._file("monitoring/rules.yml", program=program, alerts=figure["alerts"]),
                )
                dashboard = self._dashboard(program, figure)
                yield f"var/lib/grafana/dashboards/hasite-{program}.json", dashboard

    def _dashboard(self, program: str, figure: dict[str, Any]) -> File:
        """Return a dashboard in Grafana's JSON, two panels a row."""
        panels = [
            {
                "id": index + 1,
                "type": "timeseries",
                "title": panel["title"],
                "description": panel["note"],
                "gridPos": {"x": index % 2 * 12, "y": index // 2 * 8, "w": 12, "h": 8},
                "datasource": {"type": "prometheus", "uid": "hasite"},
                "fieldConfig": {"defaults": {"unit": panel["unit"], "min": 0}, "overrides": []},
                "targets": [
                    {"refId": "A", "expr": panel["expr"], "legendFormat": panel["legend"]}
                ],
            }
            for index, panel in enumerate(figure["panels"])
        ]
        dashboard = {
            "description": self._made("").strip(),
            "uid": f"hasite-{program}",
            "title": figure["title"],
            "tags": ["hasite"],
            "schemaVersion": 38,
            "refresh": "30s",
            "time": {"from": "now-6h", "to": "now"},
            "panels": panels,
        }
        return _json(dashboard)

    def documents(self, files: Rendering, *, drawing: bool) -> Rendering:
        """Return the documentation of the site."""
        site = self.site
        paths = [(*path.split("/", 1), f"{file.mode:04o}") for path, file in files.items()]
        readme = self._file(
            "document/README.md",
            files=paths,
            firewall=list(tables.firewall(site)),
            secrets=tables.secrets(site),
        )
        runbook = self._file(
            "document/runbook.md",
            secrets=tables.secrets(site),
            packages={name: list(tables.packages(site, name)) for name in site.hosts},
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
                "monitoring": "#eeeeee",
            },
        )
        documents = {"README.md": readme, "runbook.md": runbook, "architecture.dot": dot}
        if drawing:
            documents[DRAWING] = File(self._draw(dot.content))
        return documents

    def _draw(self, dot: bytes) -> bytes:
        if shutil.which("dot") is None:
            raise RenderError("Graphviz is missing, which draws: apt-get install graphviz")
        svg = subprocess.run(["dot", "-Tsvg"], input=dot, check=True, capture_output=True).stdout
        # instead of Graphviz' own comment, which tells its version
        made = f"<!-- {self._made('').strip()} -->".encode()
        return re.sub(rb"<!-- Generated by graphviz.*?-->", made, svg, count=1, flags=re.S)


def _json(content: dict[str, Any]) -> File:
    return File((json.dumps(content, indent=2) + "\n").encode())
