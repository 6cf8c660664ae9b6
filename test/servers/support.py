"""What all the servers need: free ports, deadlines, processes."""

import contextlib
import os
import pwd
import shutil
import signal
import socket
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator
from functools import cache
from itertools import cycle, islice
from pathlib import Path
from typing import Self

#: how many ports a process has to itself
_PORTS = 200


@cache
def _own_ports() -> tuple[socket.socket, Iterator[int]]:
    """Return ports that other processes which run tests are not given, and what reserves them.

    They are below those that Linux gives to clients (ip_local_port_range).
    """
    for first in range(20_000, 32_000, _PORTS):
        reservation = socket.socket(socket.AF_UNIX)
        try:
            # an abstract name: it is known to all users of the network, and ends with the process
            reservation.bind(f"\0hasite-ports-{first}")
        except OSError:
            reservation.close()
        else:
            return reservation, cycle(range(first, first + _PORTS))
    raise RuntimeError("too many tests run on this machine")


def free_port() -> int:
    """Return a TCP port of 127.0.0.1 on which nothing listens, and which nobody else is given."""
    for port in islice(_own_ports()[1], _PORTS):
        with socket.socket() as sock, contextlib.suppress(OSError):
            sock.bind(("127.0.0.1", port))
            return port
    raise RuntimeError("this process uses all its ports")


def consecutive_ports(count: int) -> int:
    """Return the first of some ports that follow each other, each as :func:`free_port` does."""
    for _ in range(_PORTS):
        ports = [free_port() for _ in range(count)]
        if ports[-1] == ports[0] + count - 1:
            return ports[0]
    raise RuntimeError(f"no {count} ports that follow each other")


def listens(port: int, host: str = "127.0.0.1") -> bool:
    """Return whether something accepts connections on a TCP port of this machine."""
    with socket.socket() as sock:
        sock.settimeout(1)
        return sock.connect_ex((host, port)) == 0


def wait_until(
    condition: Callable[[], object], what: str, *, timeout: float = 60, interval: float = 0.05
) -> float:
    """Wait until a condition holds; return for how long, in seconds.

    :param what: what is waited for, in the words of the error
    :raises TimeoutError: it did not hold in time.
    """
    started = time.monotonic()
    while not condition():
        if time.monotonic() > started + timeout:
            raise TimeoutError(f"not after {timeout:g} s: {what}")
        time.sleep(interval)
    return time.monotonic() - started


def system_user(name: str) -> str | None:
    """Return the user that a server which refuses root is to run as; None: run it as ourselves."""
    return name if os.geteuid() == 0 else None


def make_directory() -> Path:
    """Return a new temporary directory which the users that we run servers as may reach."""
    directory = Path(tempfile.mkdtemp(prefix="hasite-"))
    directory.chmod(0o755)
    return directory


def give(directory: Path, user: str | None) -> None:
    """Make a directory, and let a user that we run servers as work in it."""
    directory.mkdir(parents=True, exist_ok=True)
    if user is not None:
        account = pwd.getpwnam(user)
        os.chown(directory, account.pw_uid, account.pw_gid)


def find_program(name: str, package: str, *directories: str | Path) -> str:
    """Return the path of a program.

    :param package: Debian package that installs it
    :param directories: where to look, before `PATH`
    :raises RuntimeError: the program is not there.
    """
    path = os.pathsep.join([*map(str, directories), os.environ.get("PATH", ""), "/usr/sbin"])
    program = shutil.which(name, path=path)
    if program is None:
        raise RuntimeError(f"{name} is missing: apt-get install {package}")
    return program


class Server:
    """A server that a `with` statement starts, and stops at its end."""

    def start(self) -> None:
        """Start the server and wait until it answers."""
        raise NotImplementedError

    def stop(self) -> None:
        """Stop the server; nothing happens if it does not run."""
        raise NotImplementedError

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(self, *exc_info: object) -> None:
        self.stop()


class ServerProcess:
    """A program that runs until it is told to stop, with its output in a file.

    :param command: the program and its arguments; it must stay in the foreground
    :param log_path: the file to which its output is appended
    :param env: its environment, ours if None
    :param user: the user to run it as, ourselves if None
    :param stop_signal: what it takes for a demand to stop
    """

    def __init__(
        self,
        command: list[str],
        log_path: Path,
        *,
        env: dict[str, str] | None = None,
        user: str | None = None,
        stop_signal: signal.Signals = signal.SIGTERM,
    ) -> None:
        self.command = command
        self.log_path = log_path
        self.env = env
        self.user = user
        self.stop_signal = stop_signal
        self._popen: subprocess.Popen[bytes] | None = None

    @property
    def log(self) -> str:
        """What the program has written since it was first started."""
        return self.log_path.read_text(errors="replace") if self.log_path.exists() else ""

    @property
    def running(self) -> bool:
        """Whether the program runs."""
        return self._popen is not None and self._popen.poll() is None

    @property
    def pid(self) -> int:
        """Process id of the program.

        :raises RuntimeError: it does not run.
        """
        if self._popen is None or self._popen.poll() is not None:
            raise RuntimeError(f"{self.command[0]} is not running; it wrote:\n{self.log}")
        return self._popen.pid

    def spawn(self, answers: Callable[[], object], *, timeout: float = 30) -> None:
        """Start the program and wait until it answers.

        :raises RuntimeError: it ended.
        :raises TimeoutError: it does not answer in time.
        """
        user = {} if self.user is None else {"user": self.user, "group": self.user}
        with self.log_path.open("ab") as log:
            self._popen = subprocess.Popen(
                self.command,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                env=self.env,
                cwd=self.log_path.parent,
                extra_groups=[] if user else None,
                start_new_session=True,  # Ctrl-C is for the tests alone
                **user,
            )
        try:
            wait_until(
                lambda: self.pid and answers(), f"answer of {self.command[0]}", timeout=timeout
            )
        except BaseException:
            self.kill()
            raise

    def stop(self, *, timeout: float = 30) -> None:
        """Ask the program to stop, and wait until it has.

        :raises subprocess.TimeoutExpired: it did not stop in time; it is killed.
        """
        if not self.running:
            return
        self.resume()
        os.kill(self.pid, self.stop_signal)
        try:
            self._popen.wait(timeout)
        except subprocess.TimeoutExpired:
            self.kill()
            raise

    def kill(self) -> None:
        """Kill the program and its children, as the loss of its host would."""
        if not self.running:
            return
        self.pause()  # or it would start other children meanwhile
        for pid in [self.pid, *_children(self.pid)]:
            _signal(pid, signal.SIGKILL)
        self._popen.wait()

    def pause(self) -> None:
        """Stop the program and its children in their tracks: connections stay open, unanswered."""
        os.kill(self.pid, signal.SIGSTOP)
        for pid in _children(self.pid):
            _signal(pid, signal.SIGSTOP)

    def resume(self) -> None:
        """Let the program and its children go on."""
        for pid in [*_children(self.pid), self.pid]:
            _signal(pid, signal.SIGCONT)


def _signal(pid: int, number: signal.Signals) -> None:
    with contextlib.suppress(ProcessLookupError):  # it may end meanwhile
        os.kill(pid, number)


def _children(parent: int) -> Iterator[int]:
    for stat in Path("/proc").glob("[0-9]*/stat"):
        try:
            # pid (name, which may hold anything) state parent…
            fields = stat.read_text().rpartition(")")[2].split()
        except OSError:
            continue  # ended meanwhile
        if int(fields[1]) == parent:
            yield int(stat.parent.name)
