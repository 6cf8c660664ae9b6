"""Who is told of what: alerts, their consequences and what to do; visits of the sites."""

import re
import tomllib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from cubicweb_hasite.deploy import dashboards, secret_files, tables
from cubicweb_hasite.deploy.site import ALERTMANAGER_PORT, Site

_ACTIONS = Path(__file__).parent.parent / "monitoring" / "actions.toml"
#: the file of the mail server's password, on the monitoring hosts
PASSWORD_FILE = "/etc/hasite/secrets/smtp_password"
#: the same without the end of its line, which Alertmanager 0.25 takes for a part of the password
BARE_PASSWORD_FILE = "/run/hasite-alertmanager/smtp_password"


def secrets(site: Site) -> list[dict[str, Any]]:
    """Return the files of secrets, with that of the mail server's password."""
    result = secret_files.secrets(site)
    if site.alerts and site.alerts.smtp_user:
        holds = f"the password of the user `{site.alerts.smtp_user}` of the mail server"
        result.append(
            {
                "hosts": list(site.monitoring),
                "path": PASSWORD_FILE,
                "owner": "prometheus",
                "holds": holds,
                "short": holds.replace("`", ""),
                "lines": ("PASSWORD",),
                "needed": [],
            }
        )
    return result


def scrapes(site: Site) -> dict[str, list[dict[str, Any]]]:
    """Return what Prometheus asks for metrics, by job, with itself and Alertmanager."""
    jobs = tables.scrapes(site)
    if site.alerts and site.prometheus:
        ports = {"prometheus": site.prometheus.port, "alertmanager": ALERTMANAGER_PORT}
        for job, port in ports.items():
            jobs[job] = [
                {
                    "address": f"{tables.bracketed(host.management)}:{port}",
                    "labels": {"host": name},
                }
                for name, host in site.monitoring.items()
            ]
    return jobs


def visits(site: Site, prober: str) -> list[dict[str, Any]]:
    """Return the URLs of the sites that are visited, with their labels.

    The addresses are those to which visitors come. Those of the visits from elsewhere are the
    URLs themselves. `__tmp_prober` is the blackbox exporter that is asked.

    :param prober: address and port of the one on this monitoring host
    """
    result: list[dict[str, Any]] = []
    alerts = site.alerts
    if not alerts:
        return result

    def add(url: str, module: str, prober: str, **labels: str) -> None:
        hidden = {"__param_module": module, "__tmp_prober": prober}
        result.append({"address": url, "labels": {**labels, **hidden}})

    for name, web_site in site.sites.items():
        secure = web_site.scheme == "https"
        port = site.balancer.https_port if secure else site.balancer.http_port
        places = []
        for address, host in _addresses(site):
            root = f"{web_site.scheme}://{tables.bracketed(address)}:{port}"
            labels = {"from": "here", "address": address, **({"host": host} if host else {})}
            places.append((root, prober, labels))
        if alerts.outside:
            labels = {"from": "outside", "address": web_site.host}
            places.append((web_site.root, alerts.outside, labels))
        for root, asked, labels in places:
            labels = {"site": name, **labels}
            for page in alerts.pages:
                add(f"{root}{page}", name, asked, **labels, kind="page", page=page)
            if secure:
                add(f"{root}/", f"{name}-trusted", asked, **labels, kind="certificate")
    return result


def _addresses(site: Site) -> Iterator[tuple[str, str | None]]:
    """Yield the addresses of the sites, each with the host that has it, if it does not move."""
    if site.keepalived:
        for interface in site.keepalived.addresses:
            yield interface.partition("/")[0], None
    else:
        for name, host in site.balancers.items():
            yield host.address, name


def alertmanagers(site: Site) -> list[str]:
    """Return the addresses of all Alertmanagers."""
    return [
        f"{tables.bracketed(host.management)}:{ALERTMANAGER_PORT}"
        for host in site.monitoring.values()
    ]


def relabels(site: Site) -> Iterator[dict[str, str]]:
    """Yield the hosts of alerts that another host tells of: of an instance, and of a cache."""
    for name, host in site.web.items():
        yield {"source": "server", "regex": rf"{re.escape(name)}-\d+", "host": name}
        address = re.escape(tables.bracketed(host.address))
        yield {"source": "cache", "regex": rf"http://{address}:.*", "host": name}


def needed(site: Site, metrics: dict[str, Any]) -> list[dict[str, Any]]:
    """Return the alerts of a program that a site needs, by the sections that it has.

    :param metrics: the table of the program in metrics.toml, where `with` and `without` name a
        section of the site file
    """
    sections = [name for name in type(site).model_fields if getattr(site, name)]
    return [
        alert
        for alert in metrics["alerts"]
        if alert.get("with") in (None, *sections) and alert.get("without") not in sections
    ]


def shown(site: Site) -> dict[str, list[str]]:
    """Return the names of the alerts that are rendered, by the programs that they watch."""
    names = {}
    for program, metrics in dashboards.load_metrics().items():
        if program == "cubicweb":
            names[program] = re.findall(r"(?m)- alert: (\w+)$", dashboards.cubicweb_alerts())
        elif program in {*scrapes(site), *(["visits"] if site.alerts else [])}:
            names[program] = [alert["name"] for alert in needed(site, metrics)]
    return names


def actions(site: Site) -> dict[str, dict[str, str]]:
    """Return what each alert means (`effect`), what to do (`todo`), and where that is written."""
    assert site.alerts
    result: dict[str, dict[str, str]] = tomllib.loads(_ACTIONS.read_text())
    folder = site.alerts.runbook or ""
    for name, action in result.items():
        action["runbook"] = f"{folder.rstrip('/')}{'/' if folder else ''}runbook.md#{name.lower()}"
    effects = []
    for names, effect in lost_hosts(site):
        quoted = " ".join(f'"{name}"' for name in names)
        effects.append(f"{{{{ if eq $labels.host {quoted} }}}}{effect}{{{{ end }}}}")
    result["HostDown"]["effect"] = "".join(effects)
    return result


def lost_hosts(site: Site) -> Iterator[tuple[list[str], str]]:
    """Yield what visitors notice of the loss of a host, by the hosts of the same roles."""
    groups: dict[str, list[str]] = {}
    for name in site.hosts:
        groups.setdefault(_consequence(site, name), []).append(name)
    for effect, names in groups.items():
        yield names, effect


def _consequence(site: Site, name: str) -> str:
    roles = site.hosts[name].roles
    parts = []
    if "balancer" in roles:
        moves = "The other balancer has the address: a pause of some seconds, once."
        others = "The sites are down at this address."
        parts.append(moves if site.keepalived else others)
    if "web" in roles:
        alone = len(site.web) == 1
        parts.append("The sites are down." if alone else "Its visitors are on the other hosts.")
    if "database" in roles or name in site.etcd:
        if site.patroni:
            parts.append(
                "If it had the primary, a standby takes over within "
                f"{site.patroni.ttl} s; one more loss is an outage."
            )
        elif name == next(iter(site.database), None):
            parts.append("Pages fail until the primary is back; images are served.")
        else:
            parts.append("A standby less: no visitor notices it.")
    if "monitoring" in roles:
        parts.append("Nothing is watched from here.")
    return " ".join(parts)


def with_actions(rules: str, found: dict[str, dict[str, str]]) -> str:
    """Return a file of rules in which each alert says what it means, and what to do.

    :param rules: as in `monitoring/alerts.yml`: the summary is the last line of an alert
    """
    lines = []
    name = ""
    for line in rules.splitlines(keepends=True):
        lines.append(line)
        if match := re.match(r" *- alert: (\w+)", line):
            name = match[1]
        elif match := re.match(r"( *)summary: ", line):
            lines += [f"{match[1]}{text}\n" for text in annotations(found[name])]
    return "".join(lines)


def annotations(action: dict[str, str]) -> list[str]:
    """Return the annotations of an alert that say what it means, and what to do, in YAML."""
    quoted = {
        key: value.replace("\\", "\\\\").replace('"', '\\"') for key, value in action.items()
    }
    return [f'{key}: "{quoted[key]}"' for key in ("effect", "todo", "runbook")]
