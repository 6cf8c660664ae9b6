"""The section of a site file about alerts: who is told of what is wrong, and by which ways."""

from pydantic import Field

from cubicweb_hasite.deploy.sections import Section
from cubicweb_hasite.deploy.values import HookURL, HostPort, MailAddress, PagePath

#: port of Alertmanager; the next one is that of its peers
ALERTMANAGER_PORT = 9093


class Alerts(Section):
    """Alertmanager and the blackbox exporter on the monitoring hosts: the alerts of `[prometheus]`
    are mailed, those of a lost host as one, and the sites are visited as browsers do. Leave it out
    if nobody is to be told."""

    mail_to: list[MailAddress] = Field(min_length=1)
    """Addresses to which alerts are mailed, such as `["night@example.org"]`."""
    mail_from: MailAddress
    """Address from which they are mailed."""
    smarthost: HostPort
    """Mail server and its port, such as smtp.example.org:587. With port 465 all is in TLS."""
    starttls: bool = True
    """Whether mails go in TLS (STARTTLS): the certificate of the mail server must be valid for its
    name. Without it they go in clear."""
    smtp_user: str | None = Field(default=None, pattern=r"^[\w.@+-]+$")
    """User of the mail server, if it asks for one. The password is in a file of secrets."""
    webhook: HookURL | None = None
    """URL to which alerts are posted too, in Alertmanager's JSON."""
    dead_man: HookURL | None = None
    """URL that is posted to every minute as long as Prometheus and Alertmanager work: that of a
    service elsewhere which calls you when nothing comes (dead man's switch)."""
    outside: HostPort | None = None
    """Address and port of a blackbox exporter elsewhere, such as 203.0.113.9:9115, with the file
    `/etc/prometheus/blackbox.yml` of the monitoring host: the sites are visited from there too."""
    pages: list[PagePath] = Field(default=["/", "/login", "/data/cubicweb.css"], min_length=1)
    """Paths that each site must answer: a page, the login page, an image or a static file, best
    one of yours. They may redirect, or ask for a login."""
    runbook: HookURL | None = None
    """Where the folder of the rendered documents can be read, such as
    https://wiki.example.org/site/: mails link to its runbook.md there."""

    @property
    def encrypts(self) -> bool:
        """Whether mails, and the password, go in TLS."""
        return self.starttls or self.smarthost.endswith(":465")
