"""The first process of a host of the lab: it reaps the dead, and runs units in place of systemd.

    init.py <folder of the lab> <host>

`systemctl` and `journalctl` of the host, which are `lab/systemctl`, ask it through a socket.
"""

import contextlib
import fnmatch
import json
import os
import resource
import signal
import socket
import subprocess
import sys
import threading
import time
import uuid
from collections.abc import Iterator
from pathlib import Path

from units import WANTED, Unit

CONTROL = "/run/lab.socket"
JOURNAL = Path("/var/log/journal")


class Dead:
    """The statuses of processes that have ended. Nobody else may wait for them."""

    def __init__(self) -> None:
        self._statuses: dict[int, int] = {}
        self._changed = threading.Condition()

    def reap(self) -> None:
        """Reap for ever."""
        while True:
            try:
                pid, status = os.waitpid(-1, 0)
            except ChildProcessError:
                time.sleep(0.01)
                continue
            with self._changed:
                self._statuses[pid] = os.waitstatus_to_exitcode(status)
                self._changed.notify_all()

    def wait(self, pid: int, timeout: float | None = None) -> int | None:
        """Return the status of a process; None if it runs on after `timeout` seconds."""
        with self._changed:
            self._changed.wait_for(lambda: pid in self._statuses, timeout)
            return self._statuses.get(pid)


class Service:
    """A unit that runs or not."""

    def __init__(self, name: str, dead: Dead) -> None:
        self.name = name
        self.unit = Unit(name, socket.gethostname())
        self._dead = dead
        self._lock = threading.RLock()
        self._pid: int | None = None
        self._wanted = False
        self._popens: list[subprocess.Popen] = []  # which would else wait for their processes
        self._invocation = ""

    @property
    def state(self) -> str:
        """`active`, `activating` or `inactive`, as systemctl says."""
        if self._pid is not None and self._dead.wait(self._pid, 0) is None:
            return "active"
        return "activating" if self._wanted else "inactive"

    def start(self) -> None:
        """Start it, and return when it is ready.

        :raises RuntimeError: it ended, or was not ready in time. It is tried again later all the
            same, if its unit says so.
        """
        with self._lock:
            if self.state == "active":
                return
            self.unit = Unit(self.name, socket.gethostname())
            self._wanted = self.unit.value("Type") != "oneshot"
            try:
                self._start()
            finally:
                if self._wanted:
                    threading.Thread(target=self._watch, args=(self._pid,), daemon=True).start()

    def _start(self) -> None:
        unit, self._pid, self._invocation = self.unit, None, uuid.uuid4().hex
        environ = unit.environment() | {"INVOCATION_ID": self._invocation}
        self._make_folders()
        for line in unit.values("ExecStartPre"):
            status = self._dead.wait(self._spawn(line, environ), 60)
            if status and not line.startswith("-"):
                raise RuntimeError(f"{line} ended with {status}")
        kind = unit.value("Type", "simple")
        path = f"/run/notify-{self._invocation}"
        with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as notified:
            notified.bind(path)
            os.chmod(path, 0o777)
            if kind == "notify":
                environ["NOTIFY_SOCKET"] = path
            self._pid = pid = self._spawn(unit.values("ExecStart")[-1], environ)
            deadline = time.monotonic() + unit.seconds("TimeoutStartSec", 90)
            try:
                if kind in ("oneshot", "forking"):
                    status = self._dead.wait(pid, deadline - time.monotonic())
                    if status != 0:
                        raise RuntimeError(f"{self.name} ended with {status}")
                    self._pid = self._orphan() if kind == "forking" else None
                elif kind == "notify":
                    self._wait_until_ready(notified, pid, deadline)
            finally:
                os.unlink(path)

    def _wait_until_ready(self, notified: socket.socket, pid: int, deadline: float) -> None:
        notified.settimeout(0.2)
        while True:
            with contextlib.suppress(TimeoutError):
                if b"READY=1" in notified.recv(4096):
                    return
            if self._dead.wait(pid, 0) is not None:
                raise RuntimeError(f"{self.name} ended with {self._dead.wait(pid, 0)}")
            if time.monotonic() > deadline:
                raise RuntimeError(f"{self.name} was not ready in time")

    def _watch(self, pid: int | None) -> None:
        """Start it again when it ends, as its unit says."""
        status = 1 if pid is None else self._dead.wait(pid)
        if not self._wanted or pid != self._pid:
            return
        policy = self.unit.value("Restart", "no")
        abnormal = status < 0
        failed = status != 0 and str(status) not in self.unit.value("SuccessExitStatus").split()
        again = {"always": True, "on-failure": failed, "on-abnormal": abnormal}
        again["on-abort"] = abnormal
        log(self.name, f"ended with {status}")
        if not again.get(policy, False):
            self._wanted = False
            return
        time.sleep(self.unit.seconds("RestartSec", 0.1))
        with self._lock:
            if self._wanted and pid == self._pid:
                self._signal_all(signal.SIGKILL)  # what the dead one has left
                with contextlib.suppress(RuntimeError, OSError):
                    log(self.name, "starts again")
                    self.start()

    def stop(self) -> None:
        """Stop it, and return when it has ended."""
        with self._lock:
            self._wanted = False
            pid, mode = self._pid, self.unit.value("KillMode", "control-group")
            if pid is None or self._dead.wait(pid, 0) is not None:
                return
            for stop in self.unit.values("ExecStop"):
                self._dead.wait(self._spawn(stop, self.unit.environment()), 60)
            self.resume()
            for victim in self.processes() if mode == "control-group" else [pid]:
                _signal(victim, signal.SIGTERM)
            if self._dead.wait(pid, self.unit.seconds("TimeoutStopSec", 90)) is None:
                _signal(pid, signal.SIGKILL)
                self._dead.wait(pid)
            if mode != "process":
                self._signal_all(signal.SIGKILL)

    def reload(self) -> None:
        """Have it read its files again."""
        self.unit = Unit(self.name, socket.gethostname())
        environ = self.unit.environment() | {"MAINPID": str(self._pid)}
        for line in self.unit.values("ExecReload"):
            line = line.replace("$MAINPID", str(self._pid))
            if status := self._dead.wait(self._spawn(line, environ), 60):
                raise RuntimeError(f"{line} ended with {status}")

    def kill(self, *, stay_dead: bool) -> None:
        """Kill all its processes, as the kernel would for want of memory.

        :param stay_dead: it is not started again until it is asked for
        """
        self._wanted = self._wanted and not stay_dead
        self._signal_all(signal.SIGKILL)
        if self._pid is not None:
            self._dead.wait(self._pid, 10)

    def freeze(self) -> None:
        """Stop all its processes in their tracks."""
        self._signal_all(signal.SIGSTOP)

    def resume(self) -> None:
        """Let them go on."""
        self._signal_all(signal.SIGCONT)

    def processes(self) -> list[int]:
        """Return the process ids of all its processes: what systemd knows from its cgroup."""
        found = {self._pid} if self._pid else set()
        mark = f"INVOCATION_ID={self._invocation}".encode()
        parents = {}
        for stat in Path("/proc").glob("[0-9]*/stat"):
            with contextlib.suppress(OSError, ValueError):
                pid = int(stat.parent.name)
                parents[pid] = int(stat.read_text().rpartition(")")[2].split()[1])
                if mark in (stat.parent / "environ").read_bytes():
                    found.add(pid)
        # some write over their environment
        while grown := {pid for pid, parent in parents.items() if parent in found} - found:
            found |= grown
        return sorted(found)

    def _signal_all(self, number: int) -> None:
        seen: set[int] = set()
        while new := set(self.processes()) - seen:  # those that are started meanwhile, too
            seen |= new
            for pid in new:
                _signal(pid, number)
            if number == signal.SIGKILL:
                break

    def _orphan(self) -> int:
        """Return the process that stayed when the one that was started ended."""
        for pid in self.processes():
            with contextlib.suppress(OSError):
                stat = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
                if stat[1] == "1" and stat[0] != "Z":
                    return pid
        raise RuntimeError(f"{self.name} left no process")

    def _make_folders(self) -> None:
        user = self.unit.value("User", "root")
        group = self.unit.value("Group", user)
        for kind, parent in (("Runtime", "/run"), ("State", "/var/lib"), ("Logs", "/var/log")):
            for name in self.unit.value(f"{kind}Directory").split():
                mode = self.unit.value(f"{kind}DirectoryMode", "0755")
                command = [
                    "install",
                    "-d",
                    "-o",
                    user,
                    "-g",
                    group,
                    "-m",
                    mode,
                    f"{parent}/{name}",
                ]
                subprocess_wait(self._dead, command)
        for line in self.unit.values("BindReadOnlyPaths"):
            source, _, target = line.partition(":")
            if os.path.exists(source) and not os.path.ismount(target):
                Path(target).parent.mkdir(parents=True, exist_ok=True)
                Path(target).touch()
                subprocess_wait(self._dead, ["mount", "--bind", source, target])

    def _spawn(self, line: str, environ: dict[str, str]) -> int:
        """Start a command of the unit; return its process id."""
        unit = self.unit
        command = unit.command(line, environ)
        account: dict[str, object] = {}
        user = unit.value("User")
        if user and "+" not in line[: len(line) - len(line.lstrip("-+!:@"))]:
            fields = subprocess_output(self._dead, ["getent", "passwd", user]).split(":")
            group, home = unit.value("Group") or int(fields[3]), fields[5]
            account = {"user": user, "group": group, "extra_groups": []}
            environ = {"HOME": home, "USER": user, "LOGNAME": user, **environ}
        elif unit.value("Group"):
            account = {"group": unit.value("Group")}
        if files := int(unit.value("LimitNOFILE", "0")):
            files = min(files, resource.getrlimit(resource.RLIMIT_NOFILE)[1])
            command = ["prlimit", f"--nofile={files}:", *command]
        with journal(self.name) as output:
            popen = subprocess.Popen(
                command,
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=output,
                env=environ,
                cwd=unit.value("WorkingDirectory", "/"),
                umask=int(unit.value("UMask", "0022"), 8),
                start_new_session=True,
                **account,
            )
        self._popens.append(popen)
        popen.returncode = 0  # it is ours to reap
        return popen.pid


def _signal(pid: int, number: int) -> None:
    with contextlib.suppress(ProcessLookupError):
        os.kill(pid, number)


def journal(name: str):
    """Open what a unit writes, at its end."""
    JOURNAL.mkdir(parents=True, exist_ok=True)
    return (JOURNAL / f"{name}.log").open("ab", buffering=0)


def log(name: str, text: str) -> None:
    """Write in the journal of a unit."""
    with journal(name) as output:
        output.write(f"{time.strftime('%H:%M:%S')} lab: {text}\n".encode())


def subprocess_wait(dead: Dead, command: list[str]) -> None:
    """Run a command."""
    popen = subprocess.Popen(command, stdin=subprocess.DEVNULL)
    popen.returncode = 0
    if status := dead.wait(popen.pid):
        raise RuntimeError(f"{' '.join(command)} ended with {status}")


def subprocess_output(dead: Dead, command: list[str]) -> str:
    """Run a command and return what it writes."""
    popen = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, text=True)
    popen.returncode = 0
    with popen.stdout as output:
        text = output.read()
    if status := dead.wait(popen.pid):
        raise RuntimeError(f"{' '.join(command)} ended with {status}")
    return text


class Init:
    """Answers what `systemctl` asks."""

    def __init__(self) -> None:
        self.dead = Dead()
        self._services: dict[str, Service] = {}
        self._lock = threading.Lock()

    def run(self) -> None:
        """Reap for ever, and answer in other threads."""
        listener = socket.socket(socket.AF_UNIX)
        listener.bind(CONTROL)
        listener.listen(64)
        threading.Thread(target=self._serve, args=(listener,), daemon=True).start()
        threading.Thread(target=_collect_syslog, daemon=True).start()
        self.dead.reap()

    def _serve(self, listener: socket.socket) -> None:
        while True:
            client, _address = listener.accept()
            threading.Thread(target=self._answer, args=(client,), daemon=True).start()

    def _answer(self, client: socket.socket) -> None:
        with client, client.makefile("rw") as stream:
            verb, names = json.loads(stream.readline())
            status, lines = 0, []
            try:
                for name in self._named(verb, names):
                    text = self._do(verb, name)
                    if text:
                        lines.append(text)
                    if verb == "is-active" and text != "active":
                        status = 3
            except Exception as error:  # whatever it is, it is told to who asked
                status, lines = 1, [*lines, str(error)]
            with contextlib.suppress(OSError):
                stream.write(json.dumps([status, "\n".join(lines)]))

    def _named(self, verb: str, names: list[str]) -> Iterator[str]:
        if verb in ("default", "repair"):
            WANTED.mkdir(parents=True, exist_ok=True)
            names = sorted(path.name for path in WANTED.iterdir())
        for name in names:
            name = name.removesuffix(".service")
            if "*" in name:  # those that are loaded, as systemctl has it
                yield from [n for n in self._services if fnmatch.fnmatch(n, name)]
            elif not name.endswith((".timer", ".target")):
                yield name

    def _do(self, verb: str, name: str) -> str:
        with self._lock:
            if name not in self._services:
                self._services[name] = Service(name, self.dead)
            service = self._services[name]
        if verb in ("enable", "disable"):
            link = WANTED / f"{name}.service"
            link.unlink(missing_ok=True)
            if verb == "enable":
                link.parent.mkdir(parents=True, exist_ok=True)
                link.touch()
        elif verb in ("default", "repair"):  # at boot nobody waits for one that fails
            service.resume()
            threading.Thread(target=self._start_quietly, args=(service,), daemon=True).start()
        elif verb == "start":
            service.start()
        elif verb == "stop":
            service.stop()
        elif verb == "restart":
            service.stop()
            service.start()
        elif verb == "reload":
            service.reload()
        elif verb == "kill":
            service.kill(stay_dead=False)
        elif verb == "crash":
            service.kill(stay_dead=True)
        elif verb == "freeze":
            service.freeze()
        elif verb == "thaw":
            service.resume()
        elif verb == "is-active":
            return service.state
        elif verb == "processes":
            return " ".join(map(str, service.processes()))
        else:
            raise RuntimeError(f"Unknown command verb {verb}.")
        return ""

    @staticmethod
    def _start_quietly(service: Service) -> None:
        try:
            service.start()
        except (RuntimeError, OSError) as error:
            log(service.name, str(error))


def _collect_syslog() -> None:
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as messages, journal("syslog") as output:
        messages.bind("/dev/log")
        os.chmod("/dev/log", 0o666)
        while True:
            output.write(messages.recv(65536).rstrip(b"\n\0") + b"\n")


if __name__ == "__main__":
    for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
        signal.signal(number, signal.SIG_IGN)
    with contextlib.suppress(ValueError, OSError):  # as systemd's
        resource.setrlimit(resource.RLIMIT_NOFILE, (1024, 524288))
    Path("/proc/self/comm").write_text("systemd")  # keepalived tells nobody else that it is ready
    init = Init()
    if sys.argv[2] == "switch":  # which runs nothing
        init.dead.reap()
    init.run()
