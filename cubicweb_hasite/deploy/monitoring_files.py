"""The files of the monitoring hosts: Prometheus, Alertmanager, Grafana, Nagios."""

from collections.abc import Callable, Iterator

from cubicweb_hasite.deploy import alerting, dashboards, tables
from cubicweb_hasite.deploy.output import File
from cubicweb_hasite.deploy.site import ALERTMANAGER_PORT, Host, Site

#: fills in a template, given its path and what it needs to know
Make = Callable[..., File]


def monitoring_files(
    site: Site, name: str, host: Host, make: Make, made: Callable[[str], str]
) -> Iterator[tuple[str, File]]:
    """Yield the files of a monitoring host, by their paths on it without the first `/`.

    :param made: returns the comment that says what made a file
    """
    if site.nagios:
        yield "etc/nagios4/nagios.cfg", make("nagios4/nagios.cfg", name=name, host=host)
        yield "etc/nagios4/conf.d/hasite.cfg", make("nagios4/hasite.cfg", name=name, host=host)
    if not site.prometheus:
        return
    prober = f"{tables.bracketed(host.management)}:9115"
    yield (
        "etc/prometheus/prometheus.yml",
        make(
            "prometheus/prometheus.yml",
            scrapes=alerting.scrapes(site),
            visits=alerting.visits(site, prober),
            alertmanagers=alerting.alertmanagers(site),
            relabels=list(alerting.relabels(site)),
        ),
    )
    yield "etc/default/prometheus", make("default/prometheus", host=host)
    for kind in ["dashboards", "datasources"]:
        path = f"etc/grafana/provisioning/{kind}/hasite.yml"
        yield path, make(f"grafana/{kind}.yml", host=host)
    yield from _watched(site, make, made)
    if site.alerts:
        yield from _alertmanager_files(site, name, host, make)


def _watched(site: Site, make: Make, made: Callable[[str], str]) -> Iterator[tuple[str, File]]:
    """Yield the rules and the dashboards of all that is watched."""
    metrics = dashboards.load_metrics()
    actions = alerting.actions(site) if site.alerts else {}
    for program in alerting.shown(site):
        if program == "cubicweb":
            text = dashboards.cubicweb_alerts()
            text = alerting.with_actions(text, actions) if actions else text
            rules = File(f"{made('#')}\n{text}".encode())
        else:
            said = {name: alerting.annotations(action) for name, action in actions.items()}
            alerts = alerting.needed(site, metrics[program])
            rules = make("prometheus/rules.yml", program=program, alerts=alerts, said=said)
        yield f"etc/prometheus/hasite/{program}.rules.yml", rules
        dashboard = dashboards.dashboard(program, metrics[program], made("").strip())
        yield f"var/lib/grafana/dashboards/hasite-{program}.json", File(dashboard.encode())


def _alertmanager_files(
    site: Site, name: str, host: Host, make: Make
) -> Iterator[tuple[str, File]]:
    address = tables.bracketed(host.management)
    peers = [tables.bracketed(h.management) for n, h in site.monitoring.items() if n != name]
    yield (
        "etc/default/prometheus-alertmanager",
        make(
            "default/prometheus-alertmanager",
            listen=f"{address}:{ALERTMANAGER_PORT}",
            cluster=f"{address}:{ALERTMANAGER_PORT + 1}" if peers else "",
            peers=[f"{peer}:{ALERTMANAGER_PORT + 1}" for peer in peers],
        ),
    )
    path = "etc/prometheus/alertmanager.yml"
    yield path, make("alertmanager/alertmanager.yml")
    path = "etc/prometheus/alertmanager_templates/hasite.tmpl"
    yield path, make("alertmanager/hasite.tmpl")
    yield "etc/prometheus/blackbox.yml", make("prometheus/blackbox.yml")
