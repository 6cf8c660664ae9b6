"""How each rendered file is checked: by which program, with what in place of what is not here.

The files name paths of their hosts, which this machine may not have. Programs with options for
that are given others; else they read a copy of the file. Each is said in the result.
"""

from collections.abc import Callable
from pathlib import Path

from cubicweb_hasite.deploy.checkers import (
    backups,
    balancers,
    database,
    firewall,
    monitoring,
    texts,
    units,
    web,
)
from cubicweb_hasite.deploy.programs import Host

Checker = Callable[[Host, Path], str]
#: how each file is checked, or why it is not; the first pattern that matches its path decides
CHECKERS: list[tuple[str, Checker | str]] = [
    ("etc/haproxy/certs/*", texts.certificate),
    ("etc/haproxy/*.cfg", balancers.haproxy),
    ("etc/keepalived/*", balancers.keepalived),
    ("etc/squid/*", web.squid),
    ("etc/varnish/*", web.varnish),
    ("etc/apache2/*", web.apache),
    ("etc/systemd/system/*", units.unit),
    ("etc/patroni/*", database.patroni),
    ("etc/pgbackrest/*", backups.pgbackrest),
    ("etc/postgresql/*/pg_hba.conf", "PostgreSQL reads it when it runs: see pg_hba_file_rules"),
    ("etc/postgresql/*", database.postgresql),
    ("etc/prometheus/prometheus.yml", monitoring.prometheus),
    ("etc/prometheus/hasite/*", monitoring.rules),
    ("etc/prometheus/alertmanager.yml", monitoring.alertmanager),
    ("etc/prometheus/alertmanager_templates/*", monitoring.mail_template),
    ("etc/prometheus/blackbox.yml", monitoring.blackbox),
    ("var/lib/grafana/*", monitoring.dashboard),
    ("etc/grafana/*", "Grafana reads it when it starts"),
    ("etc/nagios4/nagios.cfg", monitoring.nagios_process),
    ("etc/nagios4/*", monitoring.nagios),
    ("usr/local/share/hasite/*.py", texts.python),
    ("usr/local/sbin/*", texts.shell),
    ("etc/default/*", texts.shell),
    ("etc/hasite/firewall.nft", firewall.nftables),
    ("etc/hasite/*.env", texts.shell),
    ("*", "nothing is known that reads it"),
]
