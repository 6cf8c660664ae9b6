"""The upgrade of production: the very commands, which the runbook prints and hasite-upgrade runs.

Each runs in the site's folder, on the machine from which production is upgraded. It may be run
again: what is done already stays done.
"""

import re
import shlex
from collections.abc import Iterator
from dataclasses import dataclass, field

from cubicweb_hasite.deploy import tables
from cubicweb_hasite.deploy.site import Check, Instance, Site
from cubicweb_hasite.upgrades import packages
from cubicweb_hasite.upgrades.rehearsal import UPGRADE, UPGRADED
from cubicweb_hasite.upgrades.state import State

_SOCKET = "/run/haproxy/admin.sock"
#: seconds for which the state that a command asks for is waited for
_PATIENCE = 120
_BACK = "Else there is “The way back”, at the end of the runbook."


@dataclass(frozen=True)
class Command:
    """A command of the shell.

    :param line: as it is run
    :param prints: lines that must be among what it prints, if it matters
    :param patience: for how many seconds it is repeated until it prints that
    :param took: how many seconds it took in the rehearsal, None if it was not run there
    """

    line: str
    prints: str = ""
    patience: int = 0
    took: float | None = None


@dataclass(frozen=True)
class Stage:
    """Commands that belong together, and the way back where one fails."""

    title: str
    back: str
    commands: list[Command] = field(default_factory=list)
    note: str = ""


class Plan:
    """What is to be done in production, from what a rehearsal has shown."""

    def __init__(self, site: Site, state: State) -> None:
        self.site = site
        self.state = state
        self.rolling = state.verdict == "rolling"
        self.name = state.site
        self.instances = site.instances_of(site=state.site)
        self.first = next(iter(site.web))
        self.link = site.instances.virtualenv
        self.virtualenv = f"{self.link}-{state.id}"

    def stages(self) -> list[Stage]:
        """Return the stages in their order."""
        return list(self._stages())

    def _stages(self) -> Iterator[Stage]:
        nothing = "Nothing has changed. Find out why, and begin again."
        yield Stage("Look at what there is", nothing, list(self._look()))
        if self.site.upgrade.backup:
            yield Stage("Make a backup", nothing, [self._backup()])
        else:
            yield Stage("Make a backup", nothing, note="Make it yourself, now.")
        for host in self.site.web:
            yield Stage(
                f"Install the new version on {host}, beside the running one",
                "The running version is as it was: remove what was installed with "
                f"`{self._on(host, f'rm -rf {self.virtualenv}')}`.",
                list(self._install(host)),
                "Visitors notice nothing.",
            )
        if self.rolling:
            yield Stage(
                "Let the running instances accept the new versions in the database",
                self._unaccept_text(),
                [self._accept(host) for host in self.site.web],
            )
        else:
            yield Stage(
                "Stop the instances: the interruption begins",
                "Start them again: " + "; ".join(f"`{line}`" for line in self._starts()),
                [Command(self._on(host, self._systemctl("stop", host))) for host in self.site.web],
                "Images are served by the caches meanwhile.",
            )
        yield Stage(
            "Upgrade the database",
            f"Repair, and go on with this stage. {_BACK}",
            list(self._upgrade()),
            "The instances serve on." if self.rolling else "",
        )
        for host in self.site.web:
            yield from self._host(host)
        yield Stage(
            "Look at the result",
            f"All instances run the new version. {_BACK}",
            list(self._result()),
        )

    # stages

    def _look(self) -> Iterator[Command]:
        versions = self.state.fact("versions_before")
        before = f"ServiceOK : FS config {versions} == DB config {versions}"
        for instance in self.instances:
            yield Command(self._monitor(instance), prints=before)
        for host in self.site.web:
            # a link, to an environment whose programs name it and not the link
            test = f'test -L {self.link} && grep -c "^#!$(readlink -f {self.link})/" '
            yield Command(self._on(host, f"{test}{self.link}/bin/cubicweb-ctl"), prints="1")
        yield from self._all_up()

    def _all_up(self) -> Iterator[Command]:
        for balancer in self.site.balancers:
            for instance in self.instances:
                yield self._status(balancer, instance, "UP")

    def _backup(self) -> Command:
        nodes = list(self.site.database)
        line = self.site.upgrade.backup
        return Command(self._on(nodes[0], line) if nodes else line)

    def _install(self, host: str) -> Iterator[Command]:
        folder = f"{self.virtualenv}-packages"
        unpack = f"mkdir -p {folder} && tar -C {folder} -xf -"
        yield Command(
            f"tar -C {shlex.quote(self.state.id)} -cf - {packages.WHEELS} {packages.LOCK} | "
            f"{self._on(host, unpack)}"
        )
        line = packages.install_command(self.virtualenv, "python3", folder)
        yield Command(self._on(host, line), took=self.state.fact("install_seconds"))
        programs = (
            f"test -x {self.virtualenv}/bin/{name}" for name in ("cubicweb-ctl", "gunicorn")
        )
        yield Command(self._on(host, " && ".join(programs)))

    def _accept(self, host: str) -> Command:
        versions = _quote(self.state.fact("versions_after"))
        return Command(self._on(host, f"{self._ctl} hasite-accept {self.name} {versions}"))

    def _upgrade(self) -> Iterator[Command]:
        yield self._switch(self.first)
        line = f"{self._ctl} {shlex.join(UPGRADE)} {self.name}"
        seconds = self.state.fact("upgrade_seconds")
        yield Command(self._on(self.first, line), prints=UPGRADED, took=seconds)
        script = "/usr/local/share/hasite/check_storage.py"
        yield Command(
            self._on(self.first, f"{self._ctl} shell {self.name} {script}"),
            prints="All data is in the database.",
        )
        if self.rolling:
            yield from self._all_up()

    def _host(self, host: str) -> Iterator[Stage]:
        commands = []
        if host != self.first:
            commands.append(self._switch(host))
            line = f"{self._ctl} i18ninstance {self.name}"
            commands.append(Command(self._on(host, line)))
        back = (
            "The other instances serve. This one stays out of service: see "
            f"`{self._on(host, f'journalctl -u cubicweb-{self.name}@NUMBER -n 50')}`, repair, and "
            f"go on with this stage. {_BACK}"
        )
        if commands:
            yield Stage(f"Pass to the new version on {host}", back, commands)
        for instance in self.site.instances_of(site=self.name, host=host):
            title = f"{'Restart' if self.rolling else 'Start'} {instance.name}"
            yield Stage(title, back, list(self._restart(instance)))

    def _restart(self, instance: Instance) -> Iterator[Command]:
        host, unit = instance.host, f"cubicweb-{self.name}@{instance.number}"
        if self.rolling:
            for balancer in self.site.balancers:
                yield self._set(balancer, instance, "drain")
            for balancer in self.site.balancers:
                yield self._status(balancer, instance, "DRAIN")
                yield self._stat(balancer, instance, 5, "0")  # sessions
        action = "restart" if self.rolling else "start"
        yield Command(
            self._on(host, f"systemctl {action} {unit}"), took=self.state.fact("start_seconds")
        )
        ready = f"curl -s http://{self._management(instance)}/readyz"
        yield Command(self._on(host, ready), prints="ServiceOK : ready", patience=_PATIENCE)
        yield Command(self._monitor(instance), prints=self.state.fact("monitor_after"))
        for check in self.site.upgrade.checks:
            yield from self._check(instance, check)
        for balancer in self.site.balancers:
            if self.rolling:
                yield self._set(balancer, instance, "ready")
        for balancer in self.site.balancers:
            yield self._status(balancer, instance, "UP")

    def _result(self) -> Iterator[Command]:
        for instance in self.instances:
            yield Command(self._monitor(instance), prints=self.state.fact("monitor_after"))
        yield from self._all_up()
        for host in self.site.web:
            folder = shlex.quote(f"{self.virtualenv}-packages")
            yield Command(self._on(host, f"rm -rf {folder}"))

    # commands

    @property
    def _ctl(self) -> str:
        return f"{self.name}-ctl"

    def _on(self, host: str, line: str) -> str:
        """Return the command that runs another one on a host."""
        address = self.site.hosts[host].address
        reach = self.site.upgrade.reach.format(host=host, address=address)
        return f"{reach} {_quote(line)}"

    def _management(self, instance: Instance) -> str:
        address = self.site.hosts[instance.host].management
        return f"{tables.bracketed(address)}:{instance.management_port}"

    def _monitor(self, instance: Instance) -> str:
        url = f"http://{self._management(instance)}/view?vid=monitor_version"
        return self._on(instance.host, f"curl -s {_quote(url)}")

    def _check(self, instance: Instance, check: Check) -> Iterator[Command]:
        header = _quote(f"Host: {self.site.sites[self.name].host}")
        url = _quote(f"http://127.0.0.1:{instance.port}{check.path}")
        status = f'curl -s -o /dev/null -w "%{{http_code}}" -H {header} {url}'
        yield Command(self._on(instance.host, status), prints=str(check.status))
        if check.text:
            text = f"curl -s -H {header} {url} | grep -F -o -e {_quote(check.text)}"
            yield Command(self._on(instance.host, text), prints=check.text)

    def _set(self, balancer: str, instance: Instance, wanted: str) -> Command:
        text = f"set server {self.name}/{instance.name} state {wanted}"
        return Command(self._on(balancer, f'echo "{text}" | socat stdio {_SOCKET}'))

    def _status(self, balancer: str, instance: Instance, wanted: str) -> Command:
        return self._stat(balancer, instance, 18, wanted)

    def _stat(self, balancer: str, instance: Instance, field: int, wanted: str) -> Command:
        """Return the command that waits for a field of HAProxy's statistics of an instance."""
        server = f"{self.name},{instance.name},"
        line = f'echo "show stat" | socat stdio {_SOCKET} | cut -d, -f1,2,{field} | grep ^{server}'
        return Command(self._on(balancer, line), prints=f"{server}{wanted}", patience=_PATIENCE)

    def _switch(self, host: str) -> Command:
        """Let the link lead to the new environment, and keep where it led to."""
        link, new = self.link, self.virtualenv
        line = (
            f'[ "$(readlink {link})" = {new} ] || {{ ln -sfn "$(readlink {link})" {link}-before'
            f" && ln -sfn {new} {link}-next && mv -T {link}-next {link}; }}"
        )
        return Command(self._on(host, line))

    def _systemctl(self, action: str, host: str) -> str:
        here = self.site.instances_of(site=self.name, host=host)
        return f"systemctl {action} " + " ".join(f"cubicweb-{self.name}@{i.number}" for i in here)

    def _starts(self) -> list[str]:
        return [self._on(host, self._systemctl("start", host)) for host in self.site.web]

    def _unaccept_text(self) -> str:
        lines = (
            self._on(h, f"{self._ctl} hasite-accept --undo {self.name}") for h in self.site.web
        )
        return "Nothing has changed for visitors. Take it back: " + "; ".join(
            f"`{line}`" for line in lines
        )

    def way_back(self) -> Stage:
        """Return how the former version comes back after the database was upgraded."""
        line = f'ln -sfn "$(readlink {self.link}-before)" {self.link}'
        commands = [self._on(host, self._systemctl("stop", host)) for host in self.site.web]
        commands += [self._on(host, line) for host in self.site.web]
        starts = "; ".join(f"`{line}`" for line in self._starts())
        return Stage(
            "The way back",
            "",
            [Command(command) for command in commands],
            "An instance of the former version does not start on the upgraded database, so the "
            "way back is the backup: what was written since is lost. To repair, and to go on, is "
            "mostly better. These commands stop the site and choose the former version. Then "
            "restore the backup, as in the chapter “Restore a backup” of the site's "
            f"runbook, and start the instances: {starts}.",
        )


def _quote(text: str) -> str:
    """Return text as one word of the shell, in double quotes where they do, for they nest."""
    return shlex.quote(text) if re.search(r'["$`\\!]', text) else f'"{text}"'
