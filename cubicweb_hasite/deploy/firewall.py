"""The section of a site file about the hosts' firewalls."""

from pydantic import Field

from cubicweb_hasite.deploy.sections import Section
from cubicweb_hasite.deploy.values import Network, Port


class Firewall(Section):
    """nftables on each host: it lets in what the table of `out/README.md` names, and nothing
    else. What the hosts send is not filtered. Leave it out if you have another firewall."""

    ssh: list[Network] = Field(min_length=1)
    """Addresses and networks of administrators, such as `["192.0.2.7", "2001:db8:7::/48"]`: SSH
    is for them alone. The machine that runs `hasite-upgrade` is one of them."""
    ssh_port: Port = 22
    """Port of SSH on all hosts."""
    pages: list[Network] = []
    """Other addresses and networks that may open the pages of Prometheus, Grafana and Nagios."""
