"""The lab itself leaves nothing behind, whatever happens to it. Another one may run beside it."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from hosts import CHECKOUT, SWITCH, Lab, LabError
from servers.support import wait_until

UP = "import lab, pathlib; lab.FOLDER = pathlib.Path({!r}); lab.up()"


@pytest.fixture
def lab(tmp_path: Path) -> Iterator[Lab]:
    lab = Lab(tmp_path / "lab")
    yield lab
    lab.down()


def state() -> tuple[str, ...]:
    """Return what a lab could leave: network namespaces, interfaces, control groups, mounts."""
    commands = ("ip netns", "ip -brief link", "lsns --noheadings --output=NS,TYPE --type=net")
    links = [subprocess.run(c.split(), capture_output=True, text=True).stdout for c in commands]
    # another lab of this machine has network namespaces too
    links[-1] = str(len(links[-1].split()))
    groups = sorted(map(str, Path("/sys/fs/cgroup").glob("**/*-lab")))
    return (*links, *groups, Path("/proc/mounts").read_text())


def mentions(folder: Path) -> list[str]:
    """Return the command lines of processes that name a folder, but this one's children."""
    found = []
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            line = path.read_text(errors="replace").replace("\0", " ")
        except OSError:
            continue
        if str(folder) in line:
            found.append(line)
    return found


@pytest.mark.parametrize("after", [0.0, 1.0, 3.0, 6.0])
def test_nothing_is_left_of_a_lab_killed_half_way(lab: Lab, after: float) -> None:
    before = state()
    process = subprocess.Popen(
        [sys.executable, "-c", UP.format(str(lab.folder))],
        cwd=CHECKOUT / "lab",
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
    )
    wait_until(lambda: lab.find(SWITCH), "the lab")
    time.sleep(after)
    os.killpg(process.pid, signal.SIGKILL)
    process.wait()
    assert lab.find(SWITCH)
    with pytest.raises(LabError, match="make lab-down"):
        lab.start()
    lab.down()
    assert not lab.folder.exists()
    assert mentions(lab.folder) == []
    wait_until(lambda: state() == before, "the machine as before")
    lab.down()  # once more, there being none


def test_hosts(lab: Lab) -> None:
    """Hosts reach each other, but for one that is cut off; a power cut spares the disk."""
    before = state()
    lab.start()
    curl = "apt-get install --no-install-recommends curl"
    one = lab.add("one", "10.0.0.1/24", packages=curl)
    two = lab.add("two", "10.0.0.2/24", "10.0.0.3/24")
    one.boot()
    two.boot()

    def reached(address: str) -> bool:
        # nobody listens: a refusal says that the host is there
        script = f"curl -s --connect-timeout 2 http://{address}:9/ || [ $? = 7 ]"
        started = time.monotonic()
        return one.succeeds(script) and time.monotonic() < started + 1.5

    assert reached("10.0.0.2")
    assert reached("10.0.0.3")
    two.cut_off()
    assert not reached("10.0.0.2")
    two.reconnect()
    wait_until(lambda: reached("10.0.0.2"), "reconnection", timeout=20)

    two.write("/srv/file", "kept\n")
    two.write("/run/file", "lost\n")
    two.power_off()
    assert not two.on
    assert not reached("10.0.0.2")
    two.boot()
    assert two.run("cat /srv/file") == "kept\n"
    assert not two.succeeds("test -e /run/file")
    assert not one.succeeds("test -e /srv/file")
    assert not Path("/srv/file").exists()
    lab.down()
    wait_until(lambda: state() == before, "the machine as before")


def test_units(lab: Lab) -> None:
    """Units that are killed, frozen and started again, and what starts at boot."""
    lab.start()
    host = lab.add("one", "10.0.0.1/24")
    host.boot()
    host.write(
        "/etc/systemd/system/sleeper@.service",
        "[Service]\nUser=nobody\nExecStart=/bin/sleep %i\nRestart=always\nRestartSec=1\n"
        "[Install]\nWantedBy=multi-user.target\n",
    )

    def process() -> str:
        pid = host.run("systemctl show --property=MainPID --value sleeper@1000").strip()
        return "" if pid == "0" else pid

    host.run("systemctl enable --now sleeper@1000")
    first = process()
    host.kill("sleeper@1000")
    wait_until(lambda: process() not in ("", first), "another process")
    host.crash("sleeper@1000")
    wait_until(lambda: not host.succeeds("systemctl is-active sleeper@1000"), "crash")
    time.sleep(2)
    assert process() == ""
    host.start("sleeper@1000")
    host.freeze("sleeper@1000")
    assert host.run(f"ps -o state= -p {process()}").strip() == "T"
    host.thaw("sleeper@1000")
    assert host.run(f"ps -o state= -p {process()}").strip() == "S"
    host.freeze("sleeper@1000")
    host.repair()
    assert host.run(f"ps -o state= -p {process()}").strip() == "S"
    host.crash("sleeper@1000")
    host.repair()
    wait_until(process, "process after repair")
    host.power_off()
    host.boot()
    wait_until(process, "process after boot")
    assert host.run("systemctl is-system-running --wait").strip() == "running"


def test_another_user_is_told_what_it_needs() -> None:
    for target in ("lab", "lab-down", "lab-test"):
        result = subprocess.run(
            [
                *("setpriv", "--reuid=65534", "--regid=65534", "--clear-groups"),
                *("make", "--silent", "--file", "-", target),
            ],
            input=(CHECKOUT / "Makefile").read_text(),
            cwd="/tmp",
            capture_output=True,
            text=True,
        )
        assert result.returncode != 0
        assert result.stdout == ""
        first, *_makes_own = result.stderr.splitlines()
        assert first.startswith(f"make {target} needs root")
