"""Each key of the site file is set in a test, and has an effect."""

import copy
import re
import tomllib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from deploying import SITES

from cubicweb_hasite.deploy import load, render
from cubicweb_hasite.deploy.site import Section, Site

#: the site file that sets a key, the file where it has an effect, and a text of that file which is
#: not there without the key
EFFECTS = {
    "hosts.address": ("every_key", "lb1/etc/haproxy/hasite.cfg", " 10.0.0.21:91\n"),
    "hosts.roles": ("every_key", "lb1/etc/haproxy/hasite.cfg", "server web1-1 "),
    "hosts.processors": ("every_key", "lb1/etc/haproxy/hasite.cfg", "server web1-3 "),
    "hosts.memory": ("every_key", "db1/etc/patroni/config.yml", "shared_buffers: 3072MB"),
    "hosts.management_address": ("every_key", "lb1/etc/haproxy/hasite.cfg", "bind 10.1.0.11:"),
    "hosts.place": ("every_key", "architecture.dot", 'label="Paris 1"'),
    "sites.url": ("every_key", "web1/etc/hasite/museum.env", '="https://museum.example.org/"'),
    "sites.aliases": (
        "two_sites",
        "lb1/etc/haproxy/hasite.cfg",
        "redirect prefix https://www.museum.example code 301",
    ),
    "sites.certificate": (
        "every_key",
        "lb1/etc/haproxy/hasite.cfg",
        "/srv/certificates/museum.pem",
    ),
    "sites.database": ("every_key", "web1/etc/hasite/museum.env", 'CW_DB_NAME="collections"'),
    "sites.cache_port": ("every_key", "web1/etc/squid/hasite.conf", "http_port 10.0.0.21:91 "),
    "sites.apache_port": ("every_key", "web1/etc/apache2/apache2.conf", "Listen 127.0.0.1:8191"),
    "sites.instance_port": ("every_key", "web1/etc/hasite/museum-1.env", 'CW_PORT="8091"'),
    "sites.management_port": ("every_key", "web1/etc/hasite/museum-2.env", '_PORT="9092"'),
    "sites.languages": ("every_key", "lb1/etc/haproxy/hasite.cfg", "language(fr;en,fr)"),
    "sites.options": ("every_key", "web1/etc/hasite/museum.env", "CW_HASITE_IMAGE_MAX_AGE='3600'"),
    "balancer.http_port": ("every_key", "lb1/etc/haproxy/hasite.cfg", "bind *:8000\n"),
    "balancer.https_port": ("every_key", "lb1/etc/haproxy/hasite.cfg", "bind *:8443 ssl "),
    "balancer.management_port": ("every_key", "lb1/etc/haproxy/hasite.cfg", ":8405\n"),
    "balancer.max_connections": ("every_key", "lb1/etc/haproxy/hasite.cfg", " maxconn 3999\n"),
    "balancer.instance_connections": ("every_key", "lb1/etc/haproxy/hasite.cfg", " maxconn 63 "),
    "balancer.max_queue": ("every_key", "lb1/etc/haproxy/hasite.cfg", "queue(museum) gt 999 "),
    "balancer.queue_seconds": ("every_key", "lb1/etc/haproxy/hasite.cfg", "timeout queue 11s"),
    "balancer.check_seconds": ("every_key", "lb1/etc/haproxy/hasite.cfg", "check inter 2s "),
    "balancer.answer_seconds": ("every_key", "lb1/etc/haproxy/hasite.cfg", "timeout server 29s"),
    "keepalived.addresses": ("every_key", "lb1/etc/keepalived/keepalived.conf", " 10.0.0.10/24\n"),
    "keepalived.interface": ("every_key", "lb1/etc/keepalived/keepalived.conf", "interface ens3"),
    "keepalived.router_id": ("every_key", "lb2/etc/keepalived/keepalived.conf", "router_id 52"),
    "keepalived.advert_ms": ("every_key", "lb1/etc/keepalived/keepalived.conf", "advert_int 0.4"),
    "squid.memory": ("every_key", "web1/etc/squid/hasite.conf", "cache_mem 255 MB"),
    "squid.disk": (
        "every_key",
        "web1/etc/squid/squid.conf",
        "cache_dir rock /var/spool/squid 1000 ",
    ),
    "squid.max_object": ("every_key", "web1/etc/squid/hasite.conf", "object_size 9 MB"),
    "squid.manager_port": ("every_key", "web1/etc/squid/hasite.conf", "http_port 127.0.0.1:3129 "),
    "varnish.memory": (
        "varnish",
        "web1/etc/systemd/system/varnish.service.d/hasite.conf",
        "-s malloc,1024m",
    ),
    "varnish.manager_port": (
        "varnish",
        "web1/etc/systemd/system/varnish.service.d/hasite.conf",
        "-T 127.0.0.1:6083",
    ),
    "apache.status_port": ("every_key", "web1/etc/apache2/apache2.conf", "Listen 127.0.0.1:8179"),
    "instances.virtualenv": ("every_key", "web1/usr/local/sbin/museum-ctl", "/opt/museum}/bin/"),
    "instances.configuration": (
        "every_key",
        "web1/etc/hasite/museum.env",
        'CW_INSTANCES_DIR="/srv/cubicweb.d"',
    ),
    "instances.user": (
        "every_key",
        "web1/etc/systemd/system/cubicweb-museum@.service",
        "User=museum_user\n",
    ),
    "instances.threads": (
        "every_key",
        "web1/etc/systemd/system/cubicweb-museum@.service",
        "--threads 3 ",
    ),
    "instances.graceful_seconds": (
        "every_key",
        "web1/etc/systemd/system/cubicweb-museum@.service",
        "--graceful-timeout 31 ",
    ),
    "storage.bucket": ("every_key", "web1/etc/hasite/museum.env", '_S3_BUCKET="media"\n'),
    "storage.endpoint": ("every_key", "web1/etc/hasite/museum.env", '//s3.example.net:9000"\n'),
    "storage.region": ("every_key", "web1/etc/hasite/museum.env", '_REGION="eu-west-3"\n'),
    "storage.prefix": ("every_key", "web1/etc/hasite/museum.env", '="production/museum/"\n'),
    "storage.attributes": ("every_key", "web1/etc/hasite/museum.env", '"File.data,Plan.scan"'),
    "storage.authority": (
        "every_key",
        "web1/etc/hasite/museum.env",
        'AWS_CA_BUNDLE="/etc/ssl/certs/example.pem"',
    ),
    "postgresql.addresses": (
        "external_database",
        "web1/etc/hasite/mysite.env",
        'CW_DB_HOST="db.example.net,db-standby.example.net"',
    ),
    "postgresql.version": ("newer_postgresql", "db1/etc/patroni/config.yml", "postgresql/17/bin"),
    "postgresql.port": ("every_key", "web1/etc/hasite/museum.env", 'CW_DB_PORT="5433"'),
    "postgresql.max_connections": (
        "every_key",
        "db1/etc/patroni/config.yml",
        "max_connections: 201\n",
    ),
    "postgresql.synchronous": (
        "every_key",
        "db1/etc/patroni/config.yml",
        "synchronous_mode: true",
    ),
    "postgresql.read_standbys": (
        "every_key",
        "web1/etc/hasite/museum.env",
        "CW_HASITE_STANDBY_HOSTS=",
    ),
    "postgresql.backup_folder": (
        "every_key",
        "db1/usr/local/sbin/hasite-backup",
        "folder=/srv/backups\n",
    ),
    "postgresql.backup_hour": (
        "every_key",
        "db1/etc/systemd/system/hasite-backup.timer",
        "OnCalendar=*-*-* 03:00:00",
    ),
    "postgresql.backups_kept": ("every_key", "db1/usr/local/sbin/hasite-backup", "--lines=-8 "),
    "patroni.etcd": ("every_key", "watch/etc/default/etcd", 'ETCD_NAME="watch"'),
    "patroni.port": ("every_key", "db1/etc/patroni/config.yml", ":8009"),
    "patroni.ttl": ("every_key", "db1/etc/patroni/config.yml", "ttl: 30\n"),
    "patroni.loop_wait": ("every_key", "db1/etc/patroni/config.yml", "loop_wait: 3\n"),
    "patroni.retry_timeout": ("every_key", "db1/etc/patroni/config.yml", "retry_timeout: 5\n"),
    "backup.folder": ("backup", "store/etc/pgbackrest/pgbackrest.conf", "=/srv/backups\n"),
    "backup.encryption": (
        "backup_alone",
        "store/etc/pgbackrest/pgbackrest.conf",
        "cipher-type=none\n",
    ),
    "backup.test_folder": (
        "backup",
        "store/etc/systemd/system/hasite-test-restoration.service",
        "--test /srv/restoration\n",
    ),
    "backup.hour": ("backup", "store/etc/systemd/system/hasite-backup.timer", " 03:00:00"),
    "backup.keep_full": ("backup", "store/etc/pgbackrest/pgbackrest.conf", "full=5\n"),
    "backup.archive_timeout": ("backup", "db1/etc/patroni/config.yml", "archive_timeout: 30s\n"),
    "backup.compress": ("backup", "db1/etc/pgbackrest/pgbackrest.conf", "compress-type=lz4\n"),
    "backup.processes": ("backup", "db1/etc/pgbackrest/pgbackrest.conf", "process-max=3\n"),
    "backup.port": ("backup", "db1/etc/pgbackrest/pgbackrest.conf", "server-port=8433\n"),
    "prometheus.port": ("every_key", "watch/etc/default/prometheus", ":9092 "),
    "prometheus.retention_days": ("every_key", "watch/etc/default/prometheus", "time=31d"),
    "alerts.mail_to": ("every_key", "watch/etc/prometheus/alertmanager.yml", "night@example.org"),
    "alerts.mail_from": (
        "every_key",
        "watch/etc/prometheus/alertmanager.yml",
        'smtp_from: "alerts@example.org"',
    ),
    "alerts.smarthost": (
        "every_key",
        "watch/etc/prometheus/alertmanager.yml",
        'smtp_smarthost: "smtp.example.org:465"',
    ),
    "alerts.starttls": (
        "every_key",
        "watch/etc/prometheus/alertmanager.yml",
        "smtp_require_tls: false",
    ),
    "alerts.smtp_user": (
        "every_key",
        "watch/etc/prometheus/alertmanager.yml",
        'smtp_auth_username: "museum"',
    ),
    "alerts.webhook": (
        "every_key",
        "watch/etc/prometheus/alertmanager.yml",
        '- url: "https://hooks.example.org/museum"',
    ),
    "alerts.dead_man": (
        "every_key",
        "watch/etc/prometheus/alertmanager.yml",
        '- url: "https://watch.example.net/ping/museum"',
    ),
    "alerts.outside": (
        "every_key",
        "watch/etc/prometheus/prometheus.yml",
        '"__tmp_prober": "203.0.113.9:9115"',
    ),
    "alerts.pages": (
        "every_key",
        "watch/etc/prometheus/prometheus.yml",
        '"https://10.0.0.10:8443/static/plan.jpg"',
    ),
    "alerts.runbook": (
        "every_key",
        "watch/etc/prometheus/hasite/host.rules.yml",
        'runbook: "https://wiki.example.org/museum/runbook.md#hostdown"',
    ),
    "nagios.contact": ("every_key", "watch/etc/nagios4/conf.d/hasite.cfg", " guard@example.org\n"),
    "firewall.ssh": ("every_key", "web1/etc/hasite/firewall.nft", "saddr { 2001:db8:7::/48 } tcp"),
    "firewall.ssh_port": ("every_key", "web1/etc/hasite/firewall.nft", "dport { 2222 }"),
    "firewall.pages": ("every_key", "watch/etc/hasite/firewall.nft", "{ 192.0.2.0/28 } tcp"),
    "preproduction.address": ("every_key", "db1/etc/patroni/config.yml", " 10.0.0.51/32 "),
    "preproduction.reader": ("every_key", "db1/etc/patroni/config.yml", "collections copier "),
}
#: other values of keys that cannot be left out
OTHER = {"hosts.processors": 1, "sites.languages": ["de"]}
#: sections whose keys have their effects in the tests of rehearsals and upgrades
REHEARSED = ["upgrade", "preproduction"]


def keys() -> Iterator[tuple[str, bool]]:
    """Yield all keys of the model, such as `hosts.address`, and whether each is required."""
    for section, field in Site.model_fields.items():
        [model] = load.sections(field.annotation)
        for name, key in _fields(model):
            yield f"{section}.{name}", key


def _fields(model: type[Section]) -> Iterator[tuple[str, bool]]:
    for name, field in model.model_fields.items():
        yield name, field.is_required()
        for inner in load.sections(field.annotation):
            yield from ((f"{name}.{key}", required) for key, required in _fields(inner))


def read(name: str) -> dict[str, Any]:
    """Return the data of a site file."""
    if name == "newer_postgresql":
        data = read("every_key")
        data["postgresql"]["version"] = 17
        return data
    [path] = [path for path in SITES if path.stem == name]
    return tomllib.loads(path.read_text())


def rendered(data: dict[str, Any], path: str) -> str:
    """Return a rendered file, or nothing if it is not rendered."""
    site_file = load.SiteFile(Path("site.toml"), Site.model_validate(data), "0" * 16)
    rendering = render.render(site_file, drawing=False)
    return rendering[path].content.decode() if path in rendering else ""


def without(data: dict[str, Any], section: str, key: str) -> dict[str, Any]:
    """Return the data of a site file without a key, or with another value."""
    data = copy.deepcopy(data)
    tables = data[section].values() if section in ("hosts", "sites") else [data[section]]
    assert any(key in table for table in tables), f"{section}.{key} is not set"
    for table in tables:
        value = table.pop(key, None)
        if value and f"{section}.{key}" in OTHER:
            table[key] = OTHER[f"{section}.{key}"]
    return data


@pytest.mark.parametrize(("key", "required"), keys())
def test_key_has_an_effect(key: str, required: bool) -> None:
    section, name = key.split(".", 1)
    if section in REHEARSED and key not in EFFECTS:
        files = [*Path(__file__).parent.glob("test_rehears*.py")]
        files += [*Path(__file__).parent.glob("test_upgrade*.py")]
        files.append(Path(__file__).with_name("rehearsing.py"))
        last = name.rpartition(".")[2]
        assert any(re.search(rf"(\b|\\n){last} = ", file.read_text()) for file in files), key
        return
    site, path, text = EFFECTS[key]
    data = read(site)
    assert text in rendered(data, path)
    if not required:
        assert text not in rendered(without(data, section, name), path)


def test_no_other_keys() -> None:
    assert EFFECTS.keys() <= {key for key, _required in keys()}
