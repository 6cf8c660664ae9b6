"""Alerts on their way: from Prometheus through Alertmanager to a mail server and a webhook."""

import json
import re
import shlex
import subprocess
import time
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

import pytest
from servers.alerting import (
    MailServer,
    Places,
    Receiver,
    RenderedProgram,
    SecureSite,
    write_here,
)
from servers.support import find_program, free_port, make_directory, wait_until

from cubicweb_hasite.deploy import alerting, document, load, render

PASSWORD = "b2f60a"
#: what the example has not
MORE = """\
smtp_user = "alerts"
webhook = "http://10.0.0.99:8080/hook"
dead_man = "http://10.0.0.99:8080/alive"
"""


@dataclass(frozen=True)
class Monitoring:
    """The programs of the monitoring host of the example, and those whom they tell.

    :param web1: a program that stands for all that answers on web1
    """

    prometheus: RenderedProgram
    alertmanager: RenderedProgram
    web1: RenderedProgram
    mail: MailServer
    receiver: Receiver

    def states(self, **labels: str) -> set[str]:
        """Return the states of the alerts that have these labels, at Alertmanager."""
        return {
            alert["status"]["state"]
            for alert in self.alertmanager.get("/api/v2/alerts")
            if labels.items() <= alert["labels"].items()
        }

    def mails(self, word: str) -> list[str]:
        """Return the mails that tell of something that is not over, and have a word."""
        texts = [
            f"{mail['Subject']}\n{mail.get_body(('plain',)).get_content()}".replace("\r\n", "\n")
            for mail in list(self.mail.mails)
        ]
        return [text for text in texts if word in text and "] over:" not in text]


@pytest.fixture(scope="module")
def monitoring() -> Iterator[Monitoring]:
    directory = make_directory()
    site = document.example().replace("starttls = false\n", MORE)
    (directory / "site.toml").write_text(site)
    rendering = render.render(load.load(directory / "site.toml"), drawing=False)
    mail, receiver, secure = MailServer("alerts", PASSWORD), Receiver(), site_of(directory)
    names = ("prometheus", "alertmanager", "blackbox", "web1")
    ports = {name: free_port() for name in names}
    places = Places(
        {
            "10.0.0.10:443": secure.port,
            "10.0.0.99:25": mail.port,
            "10.0.0.99:8080": receiver.port,
            "10.0.0.41:9090": ports["prometheus"],
            "10.0.0.41:9093": ports["alertmanager"],
            "10.0.0.21": ports["web1"],
            "others": ports["blackbox"],
        }
    )
    root = directory / "monitor"
    write_here(rendering, "monitor", root, places.here)
    path = root / "etc/prometheus/alertmanager.yml"
    text = path.read_text().replace(alerting.BARE_PASSWORD_FILE, str(directory / "bare"))
    # on loopback it goes in clear
    path.write_text(text.replace("smtp_require_tls: true", "smtp_require_tls: false"))
    (directory / "password").write_text(f"{PASSWORD}\n")
    write_bare_password(root, directory)

    def program(name: str, of: str, *more: str) -> RenderedProgram:
        return RenderedProgram(name, root, ports[of], directory, *more)

    blackbox = "prometheus-blackbox-exporter"
    storage = [f"--storage.tsdb.path={directory}/metrics"]
    storage += [f"--config.file={root}/etc/prometheus/prometheus.yml"]
    kept = [f"--storage.path={directory}/silences"]
    kept += [f"--config.file={root}/etc/prometheus/alertmanager.yml"]
    with ExitStack() as stack:
        for server in (mail, receiver, secure):
            stack.enter_context(server)
        others = program(blackbox, "blackbox")
        web1 = program(blackbox, "web1")
        alertmanager = program("prometheus-alertmanager", "alertmanager", *kept)
        prometheus = program("prometheus", "prometheus", *storage)
        for each in (others, web1, alertmanager, prometheus):
            stack.enter_context(each)
        yield Monitoring(prometheus, alertmanager, web1, mail, receiver)


def write_bare_password(root: Path, directory: Path) -> None:
    """Run what Alertmanager's unit runs before it."""
    unit = "etc/systemd/system/prometheus-alertmanager.service.d/hasite.conf"
    [command] = re.findall("(?m)^ExecStartPre=(.*)$", (root / unit).read_text())
    command = command.replace(alerting.PASSWORD_FILE, str(directory / "password"))
    command = command.replace(alerting.BARE_PASSWORD_FILE, str(directory / "bare"))
    subprocess.run(shlex.split(command), check=True)


def site_of(directory: Path) -> SecureSite:
    """Return a site whose certificate ends in two days."""
    key, certificate, both = (directory / name for name in ("key", "certificate", "both.pem"))
    subprocess.run(
        [
            *(find_program("openssl", "openssl"), "req", "-x509", "-nodes", "-days", "2"),
            *("-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256"),
            *("-subj", "/CN=www.example.org", "-keyout", key, "-out", certificate),
        ],
        check=True,
        capture_output=True,
    )
    both.write_text(certificate.read_text() + key.read_text())
    return SecureSite(both, directory)


def test_certificate_and_dead_man(monitoring: Monitoring) -> None:
    """A certificate that expires is told; the switch is told that all works, again and again."""
    wait_until(lambda: monitoring.mails("certificate"), "mail of the certificate", timeout=90)
    [mail] = monitoring.mails("certificate")
    assert "[www.example.org] the certificate of mysite expires in 1d" in mail
    assert "Site:        mysite\n" in mail
    assert "What to do:  Put a new one on each balancer" in mail

    def alive() -> int:
        return sum(path == "/alive" for path, _body in monitoring.receiver.posts)

    wait_until(lambda: alive() >= 2, "two messages to the dead man's switch", timeout=180)
    # nothing else is told: the pages answer
    assert monitoring.states(alertname="SiteUnreachable") == set()


def test_lost_host(monitoring: Monitoring) -> None:
    """It is told within a minute, in one mail; what it ran is not told."""
    # each has answered once
    query = '/api/v1/query?query=count(up{host="web1"}==1)'
    wait_until(lambda: monitoring.prometheus.get(query)["data"]["result"], "web1 to be watched")
    monitoring.web1.kill()
    killed = time.monotonic()
    wait_until(lambda: monitoring.mails("web1"), "mail of the lost host", timeout=120)
    assert time.monotonic() - killed < 60
    suppressed = {"suppressed"}
    for name in ("SquidDown", "ApacheDown"):
        wait_until(
            lambda n=name: monitoring.states(alertname=n, host="web1") == suppressed,
            f"{name}, which is not told",
            timeout=120,
        )
    time.sleep(30)  # in which a mail of them would come
    [mail] = monitoring.mails("web1")
    subject, text = mail.split("\n", 1)
    assert re.fullmatch(r"\[www\.example\.org\] web1: \S+ does not answer", subject)
    assert "Host:        web1\n" in text
    assert "Consequence: Its visitors are on the other hosts.\n" in text
    assert "What to do:  Boot or repair the host: chapter 4.\n" in text
    assert "Runbook:     runbook.md#hostdown\n" in text
    hooks = [json.loads(body) for path, body in monitoring.receiver.posts if path == "/hook"]
    assert [hook["commonLabels"]["host"] for hook in hooks if "host" in hook["commonLabels"]] == [
        "web1"
    ]
