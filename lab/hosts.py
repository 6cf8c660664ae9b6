"""The lab's hosts: minimal Debian machines on one network, which systemd boots in containers of
systemd-nspawn.

All the processes of a lab are descendants of one, the first of a process namespace: when that is
killed, the kernel ends the others, and with them the namespaces, interfaces and mounts. What is
left is the lab's folder.
"""

import contextlib
import json
import os
import re
import shlex
import shutil
import signal
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import IO

from servers.support import wait_until

CHECKOUT = Path(__file__).resolve().parent.parent

#: the first process of the lab, which has the network between the hosts
SWITCH = "switch"
_NAMESPACES = ("--net", "--uts", "--ipc", "--pid", "--mount")


class LabError(Exception):
    """What is wrong, in words for who runs the lab."""


class Failed(LabError):
    """A command failed on a host."""


class Host:
    """A host: a Debian machine with a disk of its own, an address, and its units.

    :param lab: where it is
    :param name: its name
    :param packages: a command that installs them
    :param addresses: its addresses, with their prefix
    """

    def __init__(self, lab: "Lab", name: str, packages: str, *addresses: str) -> None:
        self.lab = lab
        self.name = name
        self.addresses = addresses
        self.packages = packages
        self._interface = f"to-{name}"  # at the switch

    @property
    def address(self) -> str:
        """Its first address."""
        return self.addresses[0].partition("/")[0]

    @property
    def pid(self) -> int:
        """Process id, on this machine, of its first process.

        :raises LabError: it is off.
        """
        return self.lab.pid(self.name)

    @property
    def on(self) -> bool:
        """Whether it is on."""
        return self.lab.find(self.name) is not None

    # -- power and network

    def boot(self) -> None:
        """Switch it on: its network is up, its enabled units are being started."""
        if self.on:
            raise LabError(f"{self.name} is on")
        layers = _layers(self.packages)
        log_path = self.lab.folder / f"{self.name}.log"
        with log_path.open("ab") as log:
            subprocess.Popen(
                [
                    *self.lab.enter(SWITCH),
                    *(str(CHECKOUT / "lab" / "boot.sh"), str(self.lab.folder), self.name),
                    *(layers, *self.addresses),
                ],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,
            )
        try:
            self._join_network()
        except (TimeoutError, Failed) as error:
            said = log_path.read_text(errors="replace")
            raise LabError(f"{error}\n{said}") from None

    def _join_network(self) -> None:
        booting = "systemctl is-system-running | grep -E 'starting|running|degraded'"
        wait_until(lambda: self.on and self.succeeds(booting), f"boot of {self.name}")
        self.reconnect()
        address = f"ip -brief address show eth0 | grep -F ' {self.addresses[-1]}'"
        wait_until(lambda: self.succeeds(address), f"network of {self.name}")

    def reboot(self) -> None:
        """Shut it down in good order, and boot it."""
        pid = self.pid
        self.succeeds("systemctl reboot")
        self._wait_until_off(pid)
        self.boot()

    def power_off(self) -> None:
        """Cut its power: connections hang instead of being reset, and its disk stays."""
        self.cut_off()
        pid = self.pid
        os.kill(pid, signal.SIGKILL)
        self._wait_until_off(pid)

    def remove(self) -> None:
        """Cut its power, and take it away: the next host of its name is a new machine."""
        self.power_off()
        remove = 'umount "$1/root" && rm -rf "$1"'
        disk = str(self.lab.folder / "disks" / self.name)
        subprocess.run([*self.lab.enter(SWITCH), "sh", "-c", remove, "sh", disk], check=True)
        del self.lab.hosts[self.name]

    def _wait_until_off(self, pid: int) -> None:
        interface = ("ip", "link", "show", self._interface)
        wait_until(
            lambda: not Path(f"/proc/{pid}").exists() and not self.lab.switch_succeeds(*interface),
            f"end of {self.name}",
            timeout=120,
        )

    def cut_off(self) -> None:
        """Take it off the network: packets to and from it are lost without an error."""
        self.lab.switch_command("ip", "link", "set", self._interface, "nomaster")

    def reconnect(self) -> None:
        """End :meth:`cut_off`."""
        self.lab.switch_command("ip", "link", "set", self._interface, "master", "lab", "up")

    def hear_only(self, other: "Host") -> None:
        """Lose all packets, without an error, but those to and from one other host."""
        rules = f"""table inet lab {{
            chain input {{
                type filter hook input priority -10
                iif != lo ip saddr != {other.address} drop
            }}
            chain output {{
                type filter hook output priority -10
                oif != lo ip daddr != {other.address} drop
            }}
        }}"""
        self.run("nft -f -", stdin=rules)

    def hear_all(self) -> None:
        """End :meth:`hear_only`."""
        self.run("nft delete table inet lab 2>/dev/null || true")

    # -- commands

    def command(self, *words: str) -> list[str]:
        """Return the command of this machine that runs a command on the host."""
        return [*self.lab.enter(self.name), "env", "-C", "/", *words]

    def run(self, script: str, *, stdin: str = "", timeout: float = 120) -> str:
        """Run a script of the shell as root, as an operator does; return what it wrote.

        :raises Failed: it failed, or did not end in time.
        """
        try:
            result = subprocess.run(
                self.command("sh", "-ec", script),
                input=stdin,
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                env=_ENVIRONMENT,
                text=True,
                errors="replace",
                timeout=timeout,
                start_new_session=True,  # passwords are not asked for at a terminal
            )
        except subprocess.TimeoutExpired as error:
            raise Failed(f"{self.name}: {script}: no end after {timeout:g} s") from error
        if result.returncode:
            raise Failed(f"{self.name}: {script}: status {result.returncode}\n{result.stdout}")
        return result.stdout

    def succeeds(self, script: str, *, timeout: float = 30) -> bool:
        """Return whether a script succeeds."""
        try:
            self.run(script, timeout=timeout)
        except LabError:
            return False
        return True

    def spawn(self, *words: str, output: IO[bytes]) -> subprocess.Popen[bytes]:
        """Start a program of this machine, on the network as this host; it goes on."""
        switch = f"--target={self.lab.pid(SWITCH)}"
        network = f"--net=/proc/{self.pid}/ns/net"
        return subprocess.Popen(
            ["nsenter", switch, "--mount", "--pid", network, "--", *words],
            stdin=subprocess.PIPE,
            stdout=output,
            stderr=subprocess.STDOUT,
            env=_ENVIRONMENT,
        )

    def write(self, path: str, text: str, *, mode: str = "644", owner: str = "root") -> None:
        """Write a file on the host."""
        path, owner = shlex.quote(path), shlex.quote(owner)
        self.run(
            f"mkdir -p $(dirname {path}); install -m {mode} -o {owner} /dev/null {path}; "
            f"cat > {path}",
            stdin=text,
        )

    def receive(self, folder: str, command: list[str | Path]) -> None:
        """Extract in a folder of the host the archive that a command of this machine writes."""
        archive = subprocess.run(command, check=True, capture_output=True).stdout
        keep = ("--no-overwrite-dir", "--keep-directory-symlink")
        extract = self.command("tar", "-C", folder, "-x", *keep)
        subprocess.run(extract, input=archive, check=True, capture_output=True)

    # -- units

    def crash(self, unit: str) -> None:
        """Kill -9 all the processes of a unit; it stays dead until :meth:`start`."""
        self.run(f"systemctl mask --quiet --runtime '{unit}'")
        self.kill(unit)

    def kill(self, unit: str) -> None:
        """Kill -9 all the processes of a unit; it is started again as its unit says."""
        self.run(f"systemctl kill --signal=KILL '{unit}'")

    def freeze(self, unit: str) -> None:
        """Stop all the processes of a unit in their tracks."""
        self.run(f"systemctl kill --signal=STOP '{unit}'")

    def thaw(self, unit: str) -> None:
        """End :meth:`freeze`."""
        self.run(f"systemctl kill --signal=CONT '{unit}'")

    def start(self, unit: str) -> None:
        """Start a unit, even one that :meth:`crash` has stopped; return when it is ready."""
        self.run(f"systemctl unmask --quiet --runtime '{unit}'; systemctl start '{unit}'")

    def repair(self) -> None:
        """Undo all that can be done to it here: programs, network and power."""
        if not self.on:
            self.boot()
            return
        self.reconnect()
        self.hear_all()
        self.run(
            "kill -CONT -1\n"
            "find /run/systemd/system -maxdepth 1 -lname /dev/null -delete\n"
            "systemctl daemon-reload; systemctl reset-failed; systemctl start multi-user.target"
        )


# nothing of this machine's
_ENVIRONMENT = {
    "PATH": "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin",
    "HOME": "/root",
    "LANG": "C.UTF-8",
}


class Lab:
    """The hosts on their network.

    :param folder: a folder of the lab's own, by which its processes are known
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder.absolute()
        self.hosts: dict[str, Host] = {}

    def add(self, name: str, *addresses: str, packages: str = "") -> Host:
        """Add a host, which is not switched on yet.

        :param packages: a command that installs what it needs
        """
        self.hosts[name] = Host(self, name, packages, *addresses)
        return self.hosts[name]

    def __getitem__(self, name: str) -> Host:
        return self.hosts[name]

    def start(self) -> None:
        """Make the network. The hosts are to be booted.

        :raises LabError: not root, or the machine does not allow it, or there is a lab.
        """
        if os.geteuid() != 0:
            raise LabError("the lab needs root: it makes network namespaces, mounts and users")
        if self.find(SWITCH) or self.folder.exists():
            raise LabError(f"there is a lab in {self.folder}: make lab-down")
        self.folder.mkdir(parents=True)
        log_path = self.folder / f"{SWITCH}.log"
        with log_path.open("ab") as log:
            popen = subprocess.Popen(
                [
                    *("unshare", *_NAMESPACES, "--fork", "--kill-child", "--"),
                    *(str(CHECKOUT / "lab" / "switch.sh"), str(self.folder)),
                ],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,
            )
        try:
            ready = self.folder / "ready"
            wait_until(lambda: ready.exists() or popen.poll() is not None, "the network")
        except TimeoutError as error:
            raise LabError(f"{error}\n{log_path.read_text()}") from None
        if popen.poll() is not None:
            said = log_path.read_text()
            shutil.rmtree(self.folder)
            raise LabError(f"this machine does not allow namespaces or mounts:\n{said}")

    def down(self) -> None:
        """End all that is of the lab, whatever state it is in; nothing if there is none."""
        for pid in self._processes():
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        wait_until(lambda: not list(self._processes()), "end of the lab's processes", timeout=60)
        wait_until(self._groups_removed, "end of the lab's control groups", timeout=60)
        shutil.rmtree(self.folder, ignore_errors=True)

    def _groups_removed(self) -> bool:
        groups = Path("/sys/fs/cgroup")
        for group in (groups, groups / "systemd", groups / "unified"):
            for path, *_ in os.walk(group / str(self.folder).replace("/", "-"), topdown=False):
                try:
                    os.rmdir(path)
                except OSError:  # its last processes are being ended
                    return False
        return True

    def pid(self, name: str) -> int:
        """Return the process id of the first process of a host.

        :raises LabError: it is off.
        """
        pid = self.find(name)
        if pid is None:
            raise LabError(f"{name} is off")
        return pid

    def find(self, name: str) -> int | None:
        """Return the process id of the first process of a host, None if it is off."""
        switch = [str(CHECKOUT / "lab" / "switch.sh"), str(self.folder)]
        directory = f"--directory={self.folder}/disks/{name}/root"
        for pid, words in _command_lines():
            if name == SWITCH and words[-2:] == switch and words[0] == "/bin/bash":
                return pid
            if words[0] == "systemd-nspawn" and directory in words:
                return _container(pid)
        return None

    def _processes(self) -> Iterator[int]:
        """Yield those that make a lab: to kill them ends all the others."""
        for pid, words in _command_lines():
            programs = ("/switch.sh", "/boot.sh", "/cubicweb-ctl")
            if any(word.startswith(str(self.folder)) for word in words) and any(
                word.endswith(programs) or word == "systemd-nspawn" for word in words
            ):
                yield pid

    def enter(self, name: str) -> list[str]:
        """Return how to run a command in the namespaces of a host."""
        # its control groups, too, but not those of this machine for the network
        groups = () if name == SWITCH else ("--cgroup",)
        return ["nsenter", f"--target={self.pid(name)}", *_NAMESPACES, *groups, "--root", "--"]

    def switch_command(self, *words: str) -> None:
        """Run a command on the network between the hosts, with this machine's processes.

        :raises Failed: it failed.
        """
        command = ["nsenter", f"--target={self.pid(SWITCH)}", "--net", "--", *words]
        result = subprocess.run(command, capture_output=True, text=True)
        if result.returncode:
            raise Failed(f"{' '.join(words)}: {result.stderr}")

    def switch_succeeds(self, *words: str) -> bool:
        """Return whether a :meth:`switch_command` succeeds."""
        try:
            self.switch_command(*words)
        except Failed:
            return False
        return True

    def save(self, what: dict[str, object]) -> None:
        """Keep what is to be known of the lab by who comes later."""
        (self.folder / "lab.json").write_text(json.dumps(what, indent=1) + "\n")

    def saved(self) -> dict[str, object]:
        """Return what :meth:`save` has kept.

        :raises LabError: there is no lab, or it is not complete.
        """
        try:
            return json.loads((self.folder / "lab.json").read_text())
        except FileNotFoundError:
            raise LabError("there is no lab that is ready: make lab") from None


def _command_lines() -> Iterator[tuple[int, list[str]]]:
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        with contextlib.suppress(OSError):
            words = path.read_text(errors="replace").split("\0")[:-1]
            if words:
                yield int(path.parent.name), words


def _layers(packages: str) -> str:
    """Return the layers of a root, as `lab/layers.sh` prints them, for which it may need minutes.

    :raises LabError: packages could not be installed.
    """
    # in namespaces of its own, which end with it
    command = ["unshare", "--mount", "--pid", "--fork", "--kill-child", "--"]
    command += [str(CHECKOUT / "lab" / "layers.sh"), *filter(None, [packages])]
    result = subprocess.run(command, stdout=subprocess.PIPE, text=True)
    if result.returncode:
        raise LabError("there is no root for a host")
    return result.stdout.strip()


def _container(nspawn: int) -> int | None:
    """Return the process id of the first process in a container, None if there is none yet."""
    with contextlib.suppress(OSError):
        for child in Path(f"/proc/{nspawn}/task/{nspawn}/children").read_text().split():
            status = Path(f"/proc/{child}/status").read_text()
            inside = re.search(r"(?m)^NSpid:.*\t(\d+)$", status)
            if inside[1] == "1" and "nspawn" not in Path(f"/proc/{child}/cmdline").read_text():
                return int(child)
    return None
