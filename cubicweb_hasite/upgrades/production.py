"""The upgrade of production: the commands that the runbook prints and hasite-upgrade runs.

Each runs in the folder of the site file, on the machine from which production is upgraded. Each
may be run again: it changes nothing that is done already.
"""

import shlex
from collections.abc import Iterator

from cubicweb_hasite import versions
from cubicweb_hasite.deploy.site import Instance, Site
from cubicweb_hasite.upgrades import packages
from cubicweb_hasite.upgrades.host_commands import Command, HostCommands, Stage, quote
from cubicweb_hasite.upgrades.standby import LeftStandby
from cubicweb_hasite.upgrades.state import State

#: arguments of cubicweb-ctl for an upgrade without questions that leaves the configuration, which
#: is the same on all web servers, as it is
UPGRADE = ["upgrade", "--force", "--verbosity=0", "--backup-db=n", "--no-config-update"]
#: in the folder of the rehearsal: the titles of the stages that are done
DONE = "upgrade.json"
#: the last line of its output
UPGRADED = "-> instance migrated."

_ROLLBACK = "If you cannot, see “Rollback” at the end of the runbook."


class Plan:
    """The stages of an upgrade of production, from the findings of a rehearsal."""

    def __init__(self, site: Site, state: State) -> None:
        self.site = site
        self.state = state
        self.found = state.findings.upgrade
        self.rolling = state.verdict == "rolling"
        self.name = state.site
        self.hosts = HostCommands(site, state.site)
        self.left = LeftStandby(site, self.hosts) if state.verdict == "read-only" else None
        #: whether instances serve during the migration, if only to read
        self.serving = self.rolling or self.left is not None
        self.instances = site.instances_of(site=state.site)
        self.first = next(iter(site.web))
        self.link = site.instances.virtualenv
        self.virtualenv = f"{self.link}-{state.id}"

    def stages(self) -> list[Stage]:
        """Return the stages in their order."""
        return list(self._stages())

    def _stages(self) -> Iterator[Stage]:
        nothing = "Nothing has changed. Find out why, and start again."
        back = nothing
        if self.left:
            back += f" {self.left.name} has to be a standby: chapter 6 of the site's runbook."
        yield Stage("Check the current state", back, list(self._check_state()))
        if self.site.upgrade.backup:
            yield Stage("Make a backup", nothing, [self._backup()])
        else:
            yield Stage("Make a backup", nothing, note="Make it yourself, now.")
        for host in self.site.web:
            yield Stage(
                f"Install the new version on {host}, beside the running one",
                "The running version has not changed. Remove what was installed: "
                f"`{self.hosts.on(host, f'rm -rf {self.virtualenv}')}`.",
                list(self._install(host)),
                "Visitors notice nothing.",
            )
        if self.left:
            yield from self._leave_standby(self.left)
        elif self.rolling:
            yield Stage(
                "Let the running instances accept the new versions in the database",
                self._unaccept_text(),
                [self._accept(host) for host in self.site.web],
            )
        else:
            yield Stage(
                "Stop the instances: the interruption begins",
                f"Start them again: {self._starts()}.",
                [Command(self.hosts.systemctl("stop", host)) for host in self.site.web],
                "The caches go on to serve images.",
            )
        yield Stage(
            "Upgrade the database",
            f"Repair what is wrong, and run this stage again. {_ROLLBACK}",
            list(self._upgrade()),
            "The instances go on to serve." if self.serving else "",
        )
        for host in self.site.web:
            yield from self._host(host)
        if self.left:
            yield Stage(
                f"Let {self.left.name} follow the primary again",
                "All instances run the new version, and forms are accepted. Run this stage again.",
                [*self._write_again(), *self.left.go_on()],
            )
        yield Stage(
            "Check the result",
            f"All instances run the new version. {_ROLLBACK}",
            list(self._result()),
        )

    # stages

    def _check_state(self) -> Iterator[Command]:
        before = versions.parse(self.found.versions_before)
        for instance in self.instances:
            yield self.hosts.version(instance, versions.monitor_text(before, before))
        for host in self.site.web:
            # a link, to an environment whose programs name it and not the link
            test = f'test -L {self.link} && grep -c "^#!$(readlink -f {self.link})/" '
            yield Command(self.hosts.on(host, f"{test}{self.link}/bin/cubicweb-ctl"), prints="1")
        yield from self._all_up()
        if self.left:
            yield self.left.check()

    def _all_up(self) -> Iterator[Command]:
        for balancer in self.site.balancers:
            for instance in self.instances:
                yield self.hosts.state(balancer, instance, "UP")

    def _backup(self) -> Command:
        nodes = list(self.site.backup_hosts or self.site.database)
        line = self.site.upgrade.backup
        return Command(self.hosts.on(nodes[0], line) if nodes else line)

    def _install(self, host: str) -> Iterator[Command]:
        folder = f"{self.virtualenv}-packages"
        unpack = f"mkdir -p {folder} && tar -C {folder} -xf -"
        yield Command(
            f"tar -C {shlex.quote(self.state.id)} -cf - {packages.WHEELS} {packages.LOCK} | "
            f"{self.hosts.on(host, unpack)}"
        )
        line = packages.install_command(self.virtualenv, "python3", folder)
        yield Command(self.hosts.on(host, line), took=self.state.findings.packages.install_seconds)
        programs = [
            f"test -x {self.virtualenv}/bin/{name}" for name in ["cubicweb-ctl", "gunicorn"]
        ]
        yield Command(self.hosts.on(host, " && ".join(programs)))

    def _leave_standby(self, left: LeftStandby) -> Iterator[Stage]:
        """Yield the stages after which the primary may be changed, and visitors read a standby."""
        lines = "; ".join(f"`{command.line}`" for command in self._write_again())
        order = f"{self.hosts.ctl} hasite-read-only {self.name} {left.address}"
        commands = [Command(self.hosts.on(host, order)) for host in self.site.web]
        commands += [self.hosts.reads_only(instance) for instance in self.instances]
        yield Stage(
            f"Let all pages be read from {left.name}: forms are refused from here on",
            f"Nothing has changed. Let the instances write again: {lines}",
            commands,
            "Let nobody else write either, such as a script of cron.",
        )
        follow = "; ".join(f"`{command.line}`" for command in left.go_on())
        yield Stage(
            f"Leave {left.name} as it is: it replays nothing more",
            f"Nothing has changed. Let it go on: {follow}. Let the instances write again: {lines}",
            list(left.pause()),
        )

    def _write_again(self) -> list[Command]:
        line = f"{self.hosts.ctl} hasite-read-only --undo {self.name}"
        return [Command(self.hosts.on(host, line)) for host in self.site.web]

    def _accept(self, host: str) -> Command:
        accepted = quote(self.found.versions_after)
        return Command(
            self.hosts.on(host, f"{self.hosts.ctl} hasite-accept {self.name} {accepted}")
        )

    def _upgrade(self) -> Iterator[Command]:
        yield self.hosts.switch(self.first, self.link, self.virtualenv)
        line = f"{self.hosts.ctl} {shlex.join(UPGRADE)} {self.name}"
        seconds = self.found.upgrade_seconds
        yield Command(self.hosts.on(self.first, line), prints=UPGRADED, took=seconds)
        script = "/usr/local/share/hasite/check_storage.py"
        yield Command(
            self.hosts.on(self.first, f"{self.hosts.ctl} shell {self.name} {script}"),
            prints="All data is in the database.",
        )
        if self.serving:
            yield from self._all_up()

    def _host(self, host: str) -> Iterator[Stage]:
        commands = []
        if host != self.first:
            commands.append(self.hosts.switch(host, self.link, self.virtualenv))
            line = f"{self.hosts.ctl} i18ninstance {self.name}"
            commands.append(Command(self.hosts.on(host, line)))
        logs = self.hosts.on(host, f"journalctl -u cubicweb-{self.name}@NUMBER -n 50")
        back = (
            f"The other instances serve, and this one stays out of service. See `{logs}`, repair "
            f"what is wrong, and run this stage again. {_ROLLBACK}"
        )
        if commands:
            yield Stage(f"Switch {host} to the new version", back, commands)
        for instance in self.site.instances_of(site=self.name, host=host):
            title = f"{'Restart' if self.serving else 'Start'} {instance.name}"
            yield Stage(title, back, list(self._restart(instance, self.found.monitor_after)))

    def _restart(self, instance: Instance, version: str) -> Iterator[Command]:
        """Yield the commands that restart an instance.

        :param version: the text of its monitor_version then
        """
        host, unit = instance.host, f"cubicweb-{self.name}@{instance.number}"
        if self.serving:
            for balancer in self.site.balancers:
                yield self.hosts.set_state(balancer, instance, "drain")
            for balancer in self.site.balancers:
                yield self.hosts.state(balancer, instance, "DRAIN")
                yield self.hosts.no_sessions(balancer, instance)
        action = "restart" if self.serving else "start"
        line = f"systemctl {action} {unit}"
        yield Command(self.hosts.on(host, line), took=self.found.start_seconds)
        yield self.hosts.ready(instance)
        yield self.hosts.version(instance, version)
        for check in self.site.upgrade.checks:
            yield from self.hosts.check(instance, check)
        for balancer in self.site.balancers:
            if self.serving:
                yield self.hosts.set_state(balancer, instance, "ready")
        for balancer in self.site.balancers:
            yield self.hosts.state(balancer, instance, "UP")

    def _result(self) -> Iterator[Command]:
        for instance in self.instances:
            yield self.hosts.version(instance, self.found.monitor_after)
        yield from self._all_up()
        for host in self.site.web:
            folder = shlex.quote(f"{self.virtualenv}-packages")
            yield Command(self.hosts.on(host, f"rm -rf {folder}"))

    def _starts(self) -> str:
        lines = [self.hosts.systemctl("start", host) for host in self.site.web]
        return "; ".join(f"`{line}`" for line in lines)

    def _unaccept_text(self) -> str:
        undo = f"{self.hosts.ctl} hasite-accept --undo {self.name}"
        lines = "; ".join(f"`{self.hosts.on(host, undo)}`" for host in self.site.web)
        return f"Nothing has changed for visitors. Undo it: {lines}"

    def rollback(self) -> Stage:
        """Return how to go back to the former version after the database was upgraded."""
        line = (
            f'[ "$(readlink {self.link})" != {self.virtualenv} ] || '
            f'ln -sfn "$(readlink {self.link}-before)" {self.link}'
        )
        links = [self.hosts.on(host, line) for host in self.site.web]
        if self.left:
            return self._give_up(self.left, links)
        commands = [self.hosts.systemctl("stop", host) for host in self.site.web] + links
        commands.append(self._forget)
        return Stage(
            "Rollback",
            "",
            [Command(command) for command in commands],
            "An instance of the former version does not start on the upgraded database, so a "
            "rollback needs the backup, and loses what was written since. In most cases it is "
            "better to repair what is wrong and to go on. These commands stop the site and choose "
            "the former version. Then restore the backup, as in the chapter “Restore a backup” of "
            f"the site's runbook, and start the instances: {self._starts()}.",
        )

    @property
    def _forget(self) -> str:
        """The line after which hasite-upgrade would begin again."""
        return f"rm -f {shlex.quote(f'{self.state.id}/{DONE}')}"

    def _give_up(self, left: LeftStandby, links: list[str]) -> Stage:
        """Return how to go back to the former version by the standby that was left as it was."""
        before = versions.parse(self.found.versions_before)
        text = versions.monitor_text(before, before)
        commands = [Command(line) for line in [*links, self._forget]]
        commands += [*left.become_primary(), *self._write_again(), *left.be_led()]
        for instance in self.instances:
            commands += self._restart(instance, text)
        following = ""
        if self.site.patroni:
            commands += left.be_followed()
        else:
            following = " Then make the other nodes its standbys, as in chapter 1 of the runbook."
        return Stage(
            "Rollback",
            "",
            commands,
            f"Nothing is lost as long as no instance was restarted: {left.name} holds all that "
            "was written before. Later, what restarted instances have written is lost by these "
            "commands: it is better to repair what is wrong, and to go on. They make "
            f"{left.name} the primary, as it is, and run the former version. Pages fail for the "
            f"seconds in which {left.name} is restarted.{following}",
        )
