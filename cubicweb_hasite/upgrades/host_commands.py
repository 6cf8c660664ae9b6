"""The shell commands of an upgrade of production, on the hosts of a site."""

import re
import shlex
from collections.abc import Iterator
from dataclasses import dataclass, field

from cubicweb_hasite.deploy import tables
from cubicweb_hasite.deploy.site import Check, Instance, Site

_SOCKET = "/run/haproxy/admin.sock"
# Columns of HAProxy's statistics as `cut` counts them, from 1: HAProxy's Management Guide, section
# "CSV format", counts from 0.
_SESSIONS = 5
_STATUS = 18
#: seconds for which a command is repeated until the state that it checks is reached
_RETRY_SECONDS = 120


@dataclass(frozen=True)
class Command:
    """A shell command.

    :param prints: lines that its output must contain, empty if the output does not matter
    :param retry_seconds: for how many seconds it is repeated until it prints them
    :param took: its duration in the rehearsal in seconds, None if it was not run there
    """

    line: str
    prints: str = ""
    retry_seconds: int = 0
    took: float | None = None


@dataclass(frozen=True)
class Stage:
    """Commands that belong together.

    :param back: what to do if one fails
    :param note: what the operator has to know
    """

    title: str
    back: str
    commands: list[Command] = field(default_factory=list)
    note: str = ""


class HostCommands:
    """Makes the commands.

    :param name: name of the site in the site file
    """

    def __init__(self, site: Site, name: str) -> None:
        self.site = site
        self.name = name

    @property
    def ctl(self) -> str:
        """The command that runs cubicweb-ctl on a web server, as the site is configured there."""
        return f"{self.name}-ctl"

    def on(self, host: str, line: str) -> str:
        """Return the line that runs another one on a host."""
        address = self.site.hosts[host].address
        reach = self.site.upgrade.reach.format(host=host, address=address)
        return f"{reach} {quote(line)}"

    def systemctl(self, action: str, host: str) -> str:
        """Return the line that starts or stops all instances of a host."""
        here = self.site.instances_of(site=self.name, host=host)
        units = " ".join(f"cubicweb-{self.name}@{instance.number}" for instance in here)
        return self.on(host, f"systemctl {action} {units}")

    def switch(self, host: str, link: str, new: str) -> Command:
        """Return the command that makes a link lead to a new environment.

        Another link, `…-before`, leads to the former one, for a rollback.
        """
        line = (
            f'[ "$(readlink {link})" = {new} ] || {{ ln -sfn "$(readlink {link})" {link}-before'
            f" && ln -sfn {new} {link}-next && mv -T {link}-next {link}; }}"
        )
        return Command(self.on(host, line))

    def _management(self, instance: Instance) -> str:
        address = self.site.hosts[instance.host].management
        return f"{tables.bracketed(address)}:{instance.management_port}"

    def version(self, instance: Instance, text: str) -> Command:
        """Return the command that checks the text of monitor_version."""
        url = f"http://{self._management(instance)}/view?vid=monitor_version"
        return Command(self.on(instance.host, f"curl -s {quote(url)}"), prints=text)

    def ready(self, instance: Instance) -> Command:
        """Return the command that waits until an instance is ready."""
        line = f"curl -s http://{self._management(instance)}/readyz"
        return self._waiting(instance.host, line, "ServiceOK : ready")

    def reads_only(self, instance: Instance) -> Command:
        """Return the command that waits until an instance reads one standby alone."""
        line = f"curl -s http://{self._management(instance)}/readyz | cut -d, -f1"
        return self._waiting(instance.host, line, "ServiceOK : reads only")

    def check(self, instance: Instance, check: Check) -> Iterator[Command]:
        """Yield the commands that make a check of the site file."""
        header = quote(f"Host: {self.site.sites[self.name].host}")
        url = quote(f"http://127.0.0.1:{instance.port}{check.path}")
        status = f'curl -s -o /dev/null -w "%{{http_code}}" -H {header} {url}'
        yield Command(self.on(instance.host, status), prints=str(check.status))
        if check.text:
            text = f"curl -s -H {header} {url} | grep -F -o -e {quote(check.text)}"
            yield Command(self.on(instance.host, text), prints=check.text)

    def set_state(self, balancer: str, instance: Instance, wanted: str) -> Command:
        """Return the command that sets the state of an instance on a balancer."""
        text = f"set server {self.name}/{instance.name} state {wanted}"
        return Command(self.on(balancer, f'echo "{text}" | socat stdio {_SOCKET}'))

    def state(self, balancer: str, instance: Instance, wanted: str) -> Command:
        """Return the command that waits until an instance has a state on a balancer."""
        return self._statistic(balancer, instance, _STATUS, wanted)

    def no_sessions(self, balancer: str, instance: Instance) -> Command:
        """Return the command that waits until a balancer has no connection to an instance."""
        return self._statistic(balancer, instance, _SESSIONS, "0")

    def _statistic(self, balancer: str, instance: Instance, column: int, wanted: str) -> Command:
        server = f"{self.name},{instance.name},"
        columns = f"cut -d, -f1,2,{column}"
        line = f'echo "show stat" | socat stdio {_SOCKET} | {columns} | grep ^{server}'
        return self._waiting(balancer, line, f"{server}{wanted}")

    def _waiting(self, host: str, line: str, wanted: str) -> Command:
        return waiting(self.on(host, line), wanted)


def waiting(line: str, wanted: str) -> Command:
    """Return a command that is repeated until it prints some lines."""
    return Command(line, prints=wanted, retry_seconds=_RETRY_SECONDS)


def quote(text: str) -> str:
    """Return text as one word of the shell, in double quotes where possible, since they nest."""
    return shlex.quote(text) if re.search(r'["$`\\!]', text) else f'"{text}"'
