"""The lab's hosts: network namespaces of this machine, each with a file system, processes and
users of its own, on one network.

All the processes of a lab are descendants of one, the first of a process namespace: when that is
killed, the kernel ends the others, and with them the namespaces, interfaces and mounts. What is
left is the lab's folder.
"""

import contextlib
import json
import os
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
#: which namespaces of a process a command is run in
_ALL = ("--net", "--uts", "--ipc", "--pid", "--mount")


class LabError(Exception):
    """What is wrong, in words for who runs the lab."""


class Failed(LabError):
    """A command failed on a host."""


class Host:
    """A host: a copy of this machine's file system of its own, an address, and its units.

    :param lab: where it is
    :param name: its name
    :param addresses: its addresses, with their prefix
    """

    def __init__(self, lab: "Lab", name: str, *addresses: str) -> None:
        self.lab = lab
        self.name = name
        self.addresses = addresses
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
        self._start_init()
        switch = self.lab.switch_command
        with contextlib.suppress(Failed):  # of a host that lost its power a moment ago
            switch("ip", "link", "del", self._interface)
        switch(
            *("ip", "link", "add", self._interface, "type", "veth"),
            *("peer", "name", "eth0", "netns", str(self.pid)),
        )
        switch("ip", "link", "set", self._interface, "master", "lab", "up")
        addresses = "".join(f"address add {address} dev eth0\n" for address in self.addresses)
        self.run("ip -batch -", stdin=f"link set lo up\nlink set eth0 up\n{addresses}")
        self.run("systemctl default")

    def _start_init(self) -> None:
        with (self.lab.folder / f"{self.name}.log").open("ab") as log:
            subprocess.Popen(
                [
                    *self.lab.enter(SWITCH),
                    *("unshare", *_ALL, "--fork", "--kill-child", "--"),
                    *(str(CHECKOUT / "lab" / "boot.sh"), str(self.lab.folder), self.name),
                ],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,
            )
        socket = "test -S /run/lab.socket -a -S /dev/log"
        try:
            wait_until(lambda: self.on and self.succeeds(socket), f"boot of {self.name}")
        except TimeoutError as error:
            said = (self.lab.folder / f"{self.name}.log").read_text(errors="replace")
            raise LabError(f"{error}\n{said}") from None

    def power_off(self) -> None:
        """Cut its power: connections hang instead of being reset, and its disk stays."""
        self.cut_off()
        self._kill_init()

    def _kill_init(self) -> None:
        pid = self.pid
        os.kill(pid, signal.SIGKILL)
        wait_until(lambda: not Path(f"/proc/{pid}").exists(), f"end of {self.name}")

    def cut_off(self) -> None:
        """Take it off the network: packets to and from it are lost without an error."""
        self.lab.switch_command("ip", "link", "set", self._interface, "nomaster")

    def reconnect(self) -> None:
        """End :meth:`cut_off`."""
        self.lab.switch_command("ip", "link", "set", self._interface, "master", "lab")

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
        """Start a command on the host, which goes on."""
        return subprocess.Popen(
            self.command(*words),
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

    def install(self, folder: Path) -> None:
        """Copy rendered files to their places, as `rsync -rlE <folder>/ root@<host>:/` does."""
        archive = subprocess.run(
            ["tar", "--create", "--owner=root", "--group=root", "--directory", folder, "."],
            check=True,
            capture_output=True,
        )
        subprocess.run(
            self.command("tar", "--extract", "--no-overwrite-dir", "--directory", "/"),
            input=archive.stdout,
            check=True,
            capture_output=True,
        )

    # -- units

    def crash(self, unit: str) -> None:
        """Kill -9 all the processes of a unit; it stays dead until it is started."""
        self.run(f"systemctl crash '{unit}'")

    def kill(self, unit: str) -> None:
        """Kill -9 all the processes of a unit; it is started again as its unit says."""
        self.run(f"systemctl kill '{unit}'")

    def freeze(self, unit: str) -> None:
        """Stop all the processes of a unit in their tracks."""
        self.run(f"systemctl freeze '{unit}'")

    def thaw(self, unit: str) -> None:
        """End :meth:`freeze`."""
        self.run(f"systemctl thaw '{unit}'")

    def start(self, unit: str) -> None:
        """Start a unit; return when it is ready."""
        self.run(f"systemctl start '{unit}'")


# Nothing of ours for the hosts but the languages; what starts programs there says the rest.
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

    def add(self, name: str, *addresses: str) -> Host:
        """Add a host, which is not switched on yet."""
        self.hosts[name] = Host(self, name, *addresses)
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
                    *("unshare", *_ALL, "--fork", "--kill-child", "--"),
                    *(str(CHECKOUT / "lab" / "switch.sh"), str(self.folder)),
                ],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,
            )
        try:
            wait_until(lambda: self.find(SWITCH) or popen.poll() is not None, "the network")
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
        shutil.rmtree(self.folder, ignore_errors=True)

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
        wanted = [str(CHECKOUT / "lab" / "init.py"), str(self.folder), name]
        for pid, words in _command_lines():
            if words[-3:] == wanted and words[0] == "/usr/bin/python3":
                return pid
        return None

    def _processes(self) -> Iterator[int]:
        """Yield those that make a lab: to kill them ends all the others."""
        programs = {str(CHECKOUT / "lab" / name) for name in ("init.py", "boot.sh", "switch.sh")}
        for pid, words in _command_lines():
            rendering = any(word.endswith("/cubicweb-ctl") for word in words)
            if any(word.startswith(str(self.folder)) for word in words) and (
                rendering or programs.intersection(words)
            ):
                yield pid

    def enter(self, name: str) -> list[str]:
        """Return how to run a command in the namespaces of a host."""
        return ["nsenter", f"--target={self.pid(name)}", *_ALL, "--root", "--"]

    def switch_command(self, *words: str) -> None:
        """Run a command on the network between the hosts, with this machine's processes.

        :raises Failed: it failed.
        """
        command = ["nsenter", f"--target={self.pid(SWITCH)}", "--net", "--", *words]
        result = subprocess.run(command, capture_output=True, text=True)
        if result.returncode:
            raise Failed(f"{' '.join(words)}: {result.stderr}")

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
