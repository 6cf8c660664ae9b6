"""Render all the files of a site, write them as one, compare them with what is there.

A rendering is a mapping from the path of each file in the output folder, such as
`web1/etc/squid/squid.conf`, to its content and mode. The same site file gives the same bytes.
"""

import difflib
import hashlib
import json
import os
import posixpath
import re
import shutil
import socket
import subprocess
import tempfile
import tomllib
from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass
from ipaddress import ip_address
from pathlib import Path
from typing import Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined

from cubicweb_hasite.__pkginfo__ import version
from cubicweb_hasite.deploy.load import SiteFile
from cubicweb_hasite.deploy.site import CHECK_FALL, Host, Instance, Listener, Site, exporters

_TEMPLATES = Path(__file__).parent / "templates"
#: lists the files of an output folder, in the format of `sha256sum --check`
MANIFEST = "MANIFEST"
_DIGEST = re.compile(rb"(site file )[0-9a-f]{16}")

# URLs whose answers a shared cache may keep: those of downloads and static files
_CACHEABLE_PATH = r"^/(data|static|fckeditor)/|^/([a-z]+/)?[0-9]+(/(raw|thumb)/|/download)"
_CACHEABLE_QUERY = r"^/([a-z]+/)?[0-9]+\?vid=download$"


class RenderError(Exception):
    """Why nothing was written."""


@dataclass(frozen=True)
class File:
    """A rendered file."""

    content: bytes
    mode: int = 0o644


Rendering = dict[str, File]


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


def write(rendering: Rendering, folder: Path) -> None:
    """Make a folder hold a rendering: all of it, or nothing changes.

    Files that an earlier rendering left there are removed; others, such as `.git`, are kept.

    :raises RenderError: the folder cannot be written to, or holds something else.
    """
    try:
        old = _manifest(folder)
        if folder.is_dir() and not old and any(folder.iterdir()):
            raise RenderError(
                f"{folder} is not empty and was not made by hasite-render; give another folder"
            )
        folder.parent.mkdir(parents=True, exist_ok=True)
        # all is written beside it before anything there changes: a full disk changes nothing
        with tempfile.TemporaryDirectory(dir=folder.parent, prefix=".hasite-") as staging:
            for path, file in _with_manifest(rendering).items():
                target = Path(staging, path)
                target.parent.mkdir(parents=True, exist_ok=True)
                target.write_bytes(file.content)
                target.chmod(file.mode)
            for path in _with_manifest(rendering):
                (folder / path).parent.mkdir(parents=True, exist_ok=True)
                os.replace(Path(staging, path), folder / path)
        for path in old - rendering.keys():
            _remove(folder, path)
    except OSError as error:
        raise RenderError(f"{error.filename or folder}: {error.strerror}") from error


def _with_manifest(rendering: Rendering) -> Rendering:
    lines = (
        f"{hashlib.sha256(file.content).hexdigest()}  {path}" for path, file in rendering.items()
    )
    return rendering | {MANIFEST: File("".join(f"{line}\n" for line in lines).encode())}


def _manifest(folder: Path) -> set[str]:
    """Return the paths of the files that an earlier rendering has left in a folder."""
    try:
        lines = (folder / MANIFEST).read_text().splitlines()
    except FileNotFoundError:
        return set()
    return {line[66:] for line in lines if ".." not in line}


def _remove(folder: Path, path: str) -> None:
    file = folder / path
    file.unlink(missing_ok=True)
    for parent in file.parents:
        if parent == folder or any(parent.iterdir()):
            break
        parent.rmdir()


def diff(site_file: SiteFile, folder: Path, host: str | None = None) -> str:
    """Return how a folder differs from what would be rendered, as a unified diff.

    What differs by the digest of the site file alone is the same.

    :param folder: an output folder; or the root of a host, where only its own files are compared
    :param host: name of that host; by default, if the folder is no output folder, this machine
    :raises RenderError: no host has that name, or the folder is not there.
    """
    if not folder.is_dir():
        raise RenderError(f"{folder} is no folder")
    hosts = site_file.site.hosts
    whole = host is None and bool(_manifest(folder))
    if not whole:
        host = host or socket.gethostname().partition(".")[0]
        if host not in hosts:
            raise RenderError(
                f"{host} is not a host of {site_file.path}; give one with --host: "
                + ", ".join(hosts)
            )
    rendering = render(site_file, drawing=False)
    prefix = "" if whole else f"{host}/"
    differences = [
        _difference(folder / path.removeprefix(prefix), file)
        for path, file in rendering.items()
        if path.startswith(prefix)
    ]
    if whole:
        known = {*rendering, "architecture.svg"}
        differences += [
            f"{folder / path}: is not rendered any more\n" for path in _manifest(folder) - known
        ]
        if not (folder / "architecture.svg").exists():
            differences.append(f"{folder / 'architecture.svg'}: is missing\n")
    return "".join(differences)


def _difference(path: Path, file: File) -> str:
    try:
        present = path.read_bytes()
        mode = path.stat().st_mode & 0o777
    except FileNotFoundError:
        return f"{path}: is missing\n"
    except OSError as error:
        return f"{path}: {error.strerror}\n"
    result = ""
    if mode != file.mode:
        result = f"{path}: its mode is {mode:04o}, it should be {file.mode:04o}\n"
    before, after = (_DIGEST.sub(rb"\1", content) for content in (present, file.content))
    if before != after:
        lines = (content.decode(errors="replace").splitlines(True) for content in (before, after))
        for line in difflib.unified_diff(*lines, str(path), f"{path} (rendered)"):
            result += line if line.endswith("\n") else f"{line}\n\\ No newline at end of file\n"
    return result


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
            "brackets": lambda address: f"[{address}]" if ":" in address else address,
            "bare": lambda interface: interface.partition("/")[0],
            "dirname": posixpath.dirname,
            "json": json.dumps,
            # Python's True is CubicWeb's yes
            "option": lambda value: (
                {True: "yes", False: "no"}.get(value, value)
                if isinstance(value, bool)
                else str(value).replace("\\", "\\\\").replace('"', '\\"')
            ),
            "slot": lambda name: re.sub(r"[^a-z0-9_]", "_", name.lower()),
        }
        certificates = [web.certificate for web in site.sites.values() if web.certificate]
        self.environment.globals |= {
            "site": site,
            "made": self._made,
            "check_fall": CHECK_FALL,
            "first_site": next(iter(site.sites)),
            "cacheable_path": _CACHEABLE_PATH,
            "cacheable_query": _CACHEABLE_QUERY,
            "balancer_addresses": [host.address for host in site.balancers.values()],
            "web_addresses": [host.address for host in site.web.values()],
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
                s: _neighbours(site.instances_of(site=s, host=name)) for s in site.sites
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
                    f"http://{_url_host(other.address)}:{web_site.cache_port}/"
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
            "sizes": _sizes(host.memory or 1, postgresql.max_connections),
            "hba": list(_hba(site)),
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
        scrapes = _scrapes(site)
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
        return File((json.dumps(dashboard, indent=2) + "\n").encode())

    def documents(self, files: Rendering, *, drawing: bool) -> Rendering:
        """Return the documentation of the site."""
        site = self.site
        paths = [(*path.split("/", 1), f"{file.mode:04o}") for path, file in files.items()]
        readme = self._file(
            "document/README.md",
            files=paths,
            firewall=list(_firewall(site)),
            secrets=_secrets(site),
        )
        runbook = self._file(
            "document/runbook.md",
            secrets=_secrets(site),
            packages={name: list(_packages(site, name)) for name in site.hosts},
        )
        places: dict[str, dict[str, Host]] = defaultdict(dict)
        for name, host in site.hosts.items():
            places[host.place][name] = host
        dot = self._file(
            "document/architecture.dot",
            places=places,
            ranked=len(places) == 1,
            programs={name: list(_programs(site, name)) for name in site.hosts},
            colours={
                "balancer": "#e3f0ff",
                "web": "#fde8d7",
                "database": "#dff2df",
                "monitoring": "#eeeeee",
            },
        )
        documents = {"README.md": readme, "runbook.md": runbook, "architecture.dot": dot}
        if drawing:
            documents["architecture.svg"] = File(self._draw(dot.content))
        return documents

    def _draw(self, dot: bytes) -> bytes:
        if shutil.which("dot") is None:
            raise RenderError("Graphviz is missing, which draws: apt-get install graphviz")
        svg = subprocess.run(["dot", "-Tsvg"], input=dot, check=True, capture_output=True).stdout
        # instead of Graphviz' own comment, which tells its version
        made = f"<!-- {self._made('').strip()} -->".encode()
        return re.sub(rb"<!-- Generated by graphviz.*?-->", made, svg, count=1, flags=re.S)


def _url_host(address: str) -> str:
    return f"[{address}]" if ":" in address else address


def _neighbours(instances: list[Instance]) -> dict[int, Instance]:
    """Return the next instance after each, of one site on one host, where there are several."""
    following = instances[1:] + instances[:1]
    return {i.number: n for i, n in zip(instances, following, strict=True) if i is not n}


def _sizes(memory: int, max_connections: int) -> dict[str, str]:
    """Return PostgreSQL's parameters of memory, from the memory in GB that it may use."""
    # a quarter for sorts, if every connection did one
    work = max(4, memory * 1024 // 4 // max_connections)
    return {
        "shared_buffers": f"{memory * 256}MB",
        "effective_cache_size": f"{memory * 768}MB",
        "maintenance_work_mem": f"{min(2048, memory * 64)}MB",
        "work_mem": f"{work}MB",
    }


def _hba(site: Site) -> Iterator[str]:
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


def _network(host: Host) -> str:
    return f"{host.address}/{ip_address(host.address).max_prefixlen}"


def _scrapes(site: Site) -> dict[str, list[dict[str, Any]]]:
    """Return what Prometheus asks for metrics, by job: addresses with their labels."""
    jobs: dict[str, list[dict[str, Any]]] = defaultdict(list)

    def add(job: str, address: str, port: int, **labels: str) -> None:
        jobs[job].append({"address": f"{_url_host(address)}:{port}", "labels": labels})

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


def _programs(site: Site, name: str) -> Iterator[str]:
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
            yield f"{program} {_ranges(ports)}".strip() if ports else program
    if site.keepalived and name in site.balancers:
        yield "keepalived"
    if site.nagios and name in site.monitoring:
        yield "Nagios"


def _ranges(ports: list[int]) -> str:
    """Return ports as people write them: 80, 443, 8081-8084."""
    runs: list[list[int]] = []
    for port in sorted(set(ports)):
        if runs and port == runs[-1][-1] + 1:
            runs[-1].append(port)
        else:
            runs.append([port])
    return ", ".join(f"{run[0]}-{run[-1]}" if len(run) > 1 else str(run[0]) for run in runs)


def _firewall(site: Site) -> Iterator[dict[str, str]]:
    """Yield the connections between hosts, those of one kind together."""
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
        if not sources:
            continue
        yield {
            "source": ", ".join(sources),
            "target": host,
            "port": _ranges([listener.port for listener in listeners]),
            "purpose": f"{program}: {', '.join(purposes)}",
        }


def _is_loopback(address: str) -> bool:
    return address != "*" and ip_address(address).is_loopback


def _names(site: Site, client: str) -> list[str]:
    groups = {"etcd": site.etcd, "web": site.web, "balancer": site.balancers}
    groups |= {"database": site.database, "monitoring": site.monitoring}
    return list(groups[client]) if client in groups else [client]


def _secrets(site: Site) -> list[dict[str, Any]]:
    """Return the files that hold secrets, which the runbook makes and nothing rendered holds."""
    web, nodes = list(site.web), list(site.database)
    result: list[dict[str, Any]] = []

    def add(hosts: list[str], path: str, owner: str, holds: str, *lines: str) -> None:
        result.append(
            {"hosts": hosts, "path": path, "owner": owner, "holds": holds, "lines": lines}
        )

    for name in site.sites:
        database = site.database_name(name)
        add(
            web,
            f"/etc/hasite/secrets/{name}.pgpass",
            site.instances.user,
            f"the password of the user `{database}` of PostgreSQL",
            f"*:{site.postgresql.port}:{database}:{database}:PASSWORD",
        )
    if site.patroni:
        add(
            nodes,
            "/etc/patroni_env.conf",
            "root",
            "the passwords of PostgreSQL's own users, the same on all nodes",
            "PATRONI_SUPERUSER_PASSWORD=PASSWORD",
            "PATRONI_REPLICATION_PASSWORD=PASSWORD",
            "PATRONI_REWIND_PASSWORD=PASSWORD",
        )
    elif len(nodes) > 1:
        add(
            nodes,
            "/var/lib/postgresql/.pgpass",
            "postgres",
            "the password of the user `replicator` of PostgreSQL",
            f"*:{site.postgresql.port}:*:replicator:PASSWORD",
        )
    return result


def _packages(site: Site, name: str) -> Iterator[str]:
    """Yield the Debian packages of a host."""
    host = site.hosts[name]
    yield "rsync"
    if "balancer" in host.roles:
        yield from ("haproxy", "socat", "curl")
        if site.keepalived:
            yield "keepalived"
    if "web" in host.roles:
        yield "squid" if site.squid else "varnish"
        if site.apache:
            yield "apache2"
        yield from ("python3-venv", "gettext", "curl")
    if "database" in host.roles:
        yield f"postgresql-{site.postgresql.version}"
        if site.patroni:
            yield "patroni"
    if name in site.etcd:
        yield from ("etcd-server", "etcd-client")
    if "monitoring" in host.roles:
        if site.prometheus:
            yield "prometheus"
        if site.nagios:
            yield from ("nagios4", "monitoring-plugins-basic", "mailutils")
    if site.prometheus:
        for program, _port in exporters(site, host):
            yield program
