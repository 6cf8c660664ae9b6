"""`hasite-check-host` tells mistakes about the machine itself, each made here in a network and
with files of its own; to do what it says mends them."""

import os
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from deploying import SITES
from servers.support import find_program, wait_until

from cubicweb_hasite.deploy import load, output, render

pytestmark = pytest.mark.skipif(
    os.geteuid() != 0, reason="only root sees who has a port, and mounts another /etc/hosts"
)

#: the host has the address 10.0.0.21; those of the site's other hosts are here too
_START = """
mount -t tmpfs none /run
mkdir -m 770 /run/chrony
cp /etc/hosts {folder}/hosts
mount --bind {folder}/hosts /etc/hosts
ip link set lo up
for address in 10 21 22 23; do ip address add 10.0.0.$address/32 dev lo; done
echo ready
exec sleep infinity
"""
_SQUID = """
http_port 10.0.0.22:81 accel defaultsite=www.example.org
access_log none
cache_log /dev/null
pid_filename none
pinger_enable off
"""
_CHRONY = """
local stratum 8
manual
port 0
pidfile /run/chrony/chronyd.pid
"""
_HAPROXY = """
defaults
    mode http
    timeout connect 1s
    timeout client 1s
    timeout server 1s
listen visitors
    bind :80
"""
NAME = r"(^| is )www\.example\.org "
_TWO_MINUTES_FAST = {"FAKETIME": "+120s", "FAKETIME_DONT_FAKE_MONOTONIC": "1"}


class Machine:
    """A machine on which the script of a host runs.

    :param folder: a folder for its files
    :param script: the script
    """

    def __init__(self, folder: Path, script: Path) -> None:
        self.folder = folder
        self._script = script
        self._running: list[subprocess.Popen[str]] = []
        self._namespaces = ["unshare", "--net", "--mount"]

    def __enter__(self) -> "Machine":
        command = ["sh", "-euc", _START.format(folder=self.folder)]
        machine = subprocess.Popen(
            [*self._namespaces, *command], stdout=subprocess.PIPE, text=True
        )
        self._running.append(machine)
        assert machine.stdout.readline() == "ready\n"
        self._namespaces = ["nsenter", f"--target={machine.pid}", "--net", "--mount"]
        return self

    def __exit__(self, *_exception: object) -> None:
        while self._running:
            self.stop(self._running[-1])

    def start(self, *command: object) -> subprocess.Popen[str]:
        """Start a program, which stays in the foreground."""
        process = subprocess.Popen(
            [*self._namespaces, *map(str, command)],
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            text=True,
        )
        self._running.append(process)
        return process

    def stop(self, process: subprocess.Popen[str]) -> None:
        """End a program."""
        self._running.remove(process)
        process.kill()
        process.wait()

    def run(self, *command: object, **environ: str) -> str:
        """Run a command, and return what it prints, whatever its exit status."""
        return subprocess.run(
            [*self._namespaces, *map(str, command)],
            env={**os.environ, **environ},
            stdout=subprocess.PIPE,
            text=True,
        ).stdout

    def configuration(self, name: str, text: str) -> Path:
        """Write a file, and return its path."""
        path = self.folder / name
        path.write_text(text)
        return path

    def resolve(self, *lines: str) -> None:
        """Let `/etc/hosts` have lines besides that of this machine."""
        (self.folder / "hosts").write_text(
            "".join(f"{line}\n" for line in ["127.0.0.1 localhost", *lines])
        )

    def said(self, about: str, **environ: str) -> list[str]:
        """Return the lines of the script with a word; it has many about files not copied here."""
        lines = self.run("sh", self._script, **environ).splitlines()
        return [line for line in lines if re.search(about, line)]


@pytest.fixture(scope="module")
def script(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """That of a balancer with a web server, one of three."""
    [site_file] = [path for path in SITES if path.stem == "three_web_servers"]
    folder = tmp_path_factory.mktemp("site") / "out"
    output.write(render.render(load.load(site_file), drawing=False), folder)
    return folder / "small" / "usr" / "local" / "sbin" / "hasite-check-host"


@pytest.fixture
def machine(tmp_path: Path, script: Path) -> Iterator[Machine]:
    with Machine(tmp_path, script) as machine:
        yield machine


def test_port_that_another_program_has(machine: Machine) -> None:
    def listen(*arguments: str) -> subprocess.Popen[str]:
        program = machine.start(sys.executable, "-m", "http.server", *arguments)
        port = arguments[0]
        wait_until(lambda: machine.run("ss", "-Hltn", f"sport = :{port}"), "it listens")
        return program

    assert machine.said("^port ") == []
    program = listen("80")
    name = Path(f"/proc/{program.pid}/comm").read_text().strip()
    assert machine.said("^port ") == [
        f"port 80 of HAProxy is taken by {name}: kill {program.pid}; or give HAProxy another port "
        "in the site file"
    ]
    machine.stop(program)
    assert machine.said("^port ") == []
    # what is on another address is in nobody's way
    program = listen("8081", "--bind", "10.0.0.21")
    assert machine.said("^port ") == []
    machine.stop(program)
    listen("8081", "--bind", "127.0.0.1")
    assert len(machine.said("^port 8081 of CubicWeb ")) == 1
    # the program itself is meant to be there
    configuration = machine.configuration("haproxy.cfg", _HAPROXY)
    machine.start(find_program("haproxy", "haproxy"), "-db", "-f", configuration)
    wait_until(lambda: machine.run("ss", "-Hltn", "sport = :80"), "HAProxy listens")
    assert machine.said("^port 80 ") == []


def test_name_that_does_not_resolve(machine: Machine) -> None:
    mend = "give it the address 10.0.0.10 in DNS or in /etc/hosts"
    machine.resolve()
    assert machine.said(NAME) == [f"www.example.org does not resolve here: {mend}"]
    machine.resolve("10.0.0.22 www.example.org")
    assert machine.said(NAME) == [f"www.example.org is 10.0.0.22 here, another host: {mend}"]
    machine.resolve("203.0.113.9 www.example.org")
    assert machine.said(NAME) == [
        "not checked: whether 203.0.113.9, which is www.example.org here, leads to this site"
    ]
    machine.resolve("10.0.0.10 www.example.org")
    assert machine.said(NAME) == []


def test_clock_by_that_of_another_host(machine: Machine) -> None:
    assert machine.said("clock") == [
        "not checked: whether the clock is right: chrony does not know, and no other host answers"
    ]
    configuration = machine.configuration("squid.conf", _SQUID)
    machine.start(find_program("squid", "squid"), "-N", "-f", configuration)
    wait_until(lambda: machine.run("ss", "-Hltn", "sport = :81"), "Squid listens", timeout=30)
    assert machine.said("clock") == []
    [library] = Path("/usr/lib").glob("*/faketime/libfaketime.so.1")
    [line] = machine.said("clock", LD_PRELOAD=str(library), **_TWO_MINUTES_FAST)
    assert re.fullmatch(
        r"the clock is 1(19|20|21) s fast, by that of middle: see chronyc tracking on both; "
        "chronyc makestep on the one that is wrong",
        line,
    )


def test_clock_by_what_chrony_knows(machine: Machine) -> None:
    configuration = machine.configuration("chrony.conf", _CHRONY)
    # it only counts how far the clock of this machine would be off
    machine.start(find_program("chronyd", "chrony"), "-d", "-x", "-u", "root", "-f", configuration)
    wait_until(lambda: "Normal" in machine.run("chronyc", "tracking"), "chrony")
    assert machine.said("clock") == []
    later = subprocess.run(
        ["date", "-d", "+120 seconds", "+%b %d, %Y %H:%M:%S"],
        env={**os.environ, "LC_ALL": "C"},
        capture_output=True,
        text=True,
    ).stdout.strip()
    machine.run("chronyc", "settime", later)
    [line] = machine.said("clock")
    assert re.fullmatch(
        r"the clock is 1(19|20) s slow, by what chrony knows: chronyc makestep", line
    )
    machine.run("chronyc", "makestep")
    assert machine.said("clock") == []
