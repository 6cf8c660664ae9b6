"""Hosts on a network of their own: network namespaces, joined by a bridge. For root alone."""

import json
import subprocess
import sys
from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from ipaddress import ip_interface
from pathlib import Path
from typing import Self

_SWITCH = "ip link add bridge type bridge; ip link set bridge up; echo ready; exec sleep infinity"
_PROBES = Path(__file__).with_name("probes.py")


class Host:
    """A host, on which something listens on some TCP ports, at all addresses.

    :param addresses: its addresses, with their prefixes
    """

    def __init__(self, name: str, addresses: Iterable[str], ports: Iterable[int]) -> None:
        self.name = name
        self.addresses = [ip_interface(address) for address in addresses]
        self._ports = list(ports)
        self._process: subprocess.Popen[str] | None = None

    def start(self) -> None:
        """Make its namespace, not yet joined to others."""
        self._process = _start(sys.executable, _PROBES, "listen", json.dumps(self._ports))

    def stop(self) -> None:
        """End what was started in its namespace by :meth:`start`, and so the namespace."""
        if self._process is not None:
            _end(self._process)

    @property
    def pid(self) -> int:
        """Process id of what is in its namespace."""
        return self._process.pid

    def run(
        self, *command: object, check: bool = True, stdin: str = "", **environ: str
    ) -> subprocess.CompletedProcess[str]:
        """Run a program there, which ends within a minute."""
        return subprocess.run(
            ["nsenter", f"--target={self.pid}", "--net", *map(str, command)],
            input=stdin,
            capture_output=True,
            text=True,
            check=check,
            timeout=60,
            env={"PATH": "/usr/sbin:/usr/bin:/sbin:/bin", **environ},
        )

    def probe(self, what: str, *arguments: object) -> object:
        """Return what a function of `probes.py` finds from there."""
        words = map(json.dumps, arguments)
        return json.loads(self.run(sys.executable, _PROBES, what, *words).stdout)

    def scan(self, targets: Iterable[tuple[str, int]]) -> dict[tuple[str, int], str]:
        """Return for addresses and TCP ports whether they are `open`, `refused` or `silent`."""
        return {(address, port): state for address, port, state in self.probe("scan", [*targets])}


@contextmanager
def local_addresses(*addresses: str) -> Iterator[None]:
    """Let this machine have more addresses while the block runs, which it alone reaches."""
    for address in addresses:
        _on_loopback("replace", address)
    try:
        yield
    finally:
        for address in addresses:
            _on_loopback("delete", address)


def _on_loopback(action: str, address: str) -> None:
    subprocess.run(["ip", "address", action, f"{address}/32", "dev", "lo"], check=True)


class Network:
    """The hosts, between the beginning and the end of a `with` statement."""

    def __init__(self, hosts: Iterable[Host]) -> None:
        self.hosts = {host.name: host for host in hosts}
        self._switch: subprocess.Popen[str] | None = None

    def __enter__(self) -> Self:
        try:
            self._switch = _start("sh", "-euc", _SWITCH)
            for number, host in enumerate(self.hosts.values()):
                host.start()
                self._join(host, f"host{number}")
        except BaseException:
            self.__exit__()
            raise
        return self

    def __exit__(self, *_exception: object) -> None:
        for host in self.hosts.values():
            host.stop()
        if self._switch is not None:
            _end(self._switch)

    def _join(self, host: Host, interface: str) -> None:
        _ip(
            self._switch.pid,
            f"link add {interface} type veth peer name eth0 netns {host.pid}",
            f"link set {interface} master bridge up",
        )
        addresses = [
            f"address add {address} dev eth0" + (" nodad" if address.version == 6 else "")
            for address in host.addresses
        ]
        _ip(host.pid, "link set lo up", "link set eth0 up", *addresses)

    def scan(
        self, targets: dict[str, Iterable[tuple[str, int]]]
    ) -> dict[str, dict[tuple[str, int], str]]:
        """Scan from several hosts at the same time, each its own targets."""
        with ThreadPoolExecutor(len(targets)) as executor:
            found = executor.map(lambda name: self.hosts[name].scan(targets[name]), targets)
            return dict(zip(targets, found, strict=True))


def _start(*command: object) -> subprocess.Popen[str]:
    """Start a program in a new network namespace; return when it says that it is ready."""
    process = subprocess.Popen(
        ["unshare", "--net", *map(str, command)],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    if process.stdout.readline() != "ready\n":
        _end(process)
        raise RuntimeError(f"no network namespace: {command}")
    return process


def _end(process: subprocess.Popen[str]) -> None:
    with suppress(ProcessLookupError):
        process.kill()
    process.wait()
    process.stdout.close()


def _ip(pid: int, *commands: str) -> None:
    subprocess.run(
        ["nsenter", f"--target={pid}", "--net", "ip", "-batch", "-"],
        input="".join(f"{command}\n" for command in commands),
        capture_output=True,
        text=True,
        check=True,
        timeout=60,
    )
