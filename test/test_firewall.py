"""The firewalls of a site, loaded by nftables on hosts of a network of their own.

Each host lets in what the table of `out/README.md` names, and nothing else; nobody is locked out.
"""

import os
import re
import shutil
import signal
import subprocess
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from ipaddress import ip_address, ip_network
from pathlib import Path

import pytest
from deploying import SITES
from servers.network import Host, Network
from servers.support import wait_until

from cubicweb_hasite.deploy import document, load, output, render

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="only root makes networks")

#: ports on which programs may listen that the table does not name
OTHER_PORTS = (21, 23, 25, 111, 2222, 3306, 6379, 8000, 11211)
VISITOR, ADMINISTRATOR, READER = "visitor", "administrator", "reader"
OPEN = ("ss", "-Htn", "state", "established")
VRRP = 112


def site_text(name: str) -> str:
    """Return the text of a site file, by its name, or of the example."""
    if name == "example":
        return document.example()
    [path] = [path for path in SITES if path.stem == name]
    return path.read_text()


class Site:
    """A rendered site, and its hosts on a network, with others beside them.

    :param name: that of its site file
    """

    def __init__(self, name: str, folder: Path) -> None:
        (folder / "site.toml").write_text(site_text(name))
        site_file = load.load(folder / "site.toml")
        self.model = site_file.site
        self.folder = folder / "out"
        output.write(render.render(site_file, drawing=False), self.folder)
        self.table = list(self._read_table())
        self.ports = sorted(
            {port for *_, ports in self.table for port in ports}
            | {listener.port for listener in self.model.listeners}
            | set(OTHER_PORTS)
        )
        # each has an address of the other family too, which the table does not know
        new = ":" in next(iter(self.model.hosts.values())).address
        addresses = {name: host.address for name, host in self.model.hosts.items()}
        begin = "2001:db8::" if new else "10.0.0."
        addresses |= {
            VISITOR: f"{begin}100",
            ADMINISTRATOR: f"{begin}2",
            READER: "2001:db8:0:1::41",
        }
        if not new:
            del addresses[READER]
        others = "192.0.2.{}/24" if new else "2001:db8:9::{}/64"
        self.network = Network(
            Host(
                name,
                [f"{address}/{48 if new else 24}", others.format(number + 150)],
                self.ports if name in self.model.hosts else (),
            )
            for number, (name, address) in enumerate(addresses.items())
        )

    def _read_table(self) -> Iterator[tuple[list[str], str, set[int]]]:
        """Yield sources, target and TCP ports of the rows of the table that people read."""
        text = (self.folder / "README.md").read_text().partition("## Firewall")[2]
        for row in re.findall(r"(?m)^\| ([^|]+) \| ([^|]+) \| ([\d, -]+) \| [^|]+ \|$", text):
            ports: set[int] = set()
            for part in row[2].split(", "):
                first, _, last = part.partition("-")
                ports |= set(range(int(first), int(last or first) + 1))
            yield row[0].split(", "), row[1], ports

    def opened(self, source: str, address: str, target: str) -> set[int]:
        """Return the ports of a host that the table opens to an address of another."""

        def matches(who: str) -> bool:
            if who in self.network.hosts:
                return who == source and address == self.model.hosts[who].address
            if re.match(r"[\da-f]+[.:]", who):
                return ip_address(address) in ip_network(who)
            return who == "visitors"

        rows = (
            ports for who, host, ports in self.table if host == target and any(map(matches, who))
        )
        return set().union(*rows)

    def load_all(self) -> None:
        """Load the firewall of each host."""
        for name in self.model.hosts:
            file = self.folder / name / "etc/hasite/firewall.nft"
            self.network.hosts[name].run("nft", "-f", file)


@pytest.fixture(scope="module", params=["example", "ipv6"])
def site(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Site]:
    site = Site(request.param, tmp_path_factory.mktemp("site"))
    with site.network:
        site.load_all()
        yield site


def test_scan(site: Site) -> None:
    """From everybody to each host, at all its addresses, exactly what the table says is open."""
    hosts = site.network.hosts
    targets = {
        source: [
            (str(address.ip), port)
            for target in site.model.hosts
            if target != source
            for address in hosts[target].addresses
            for port in site.ports
        ]
        for source in hosts
    }
    found = site.network.scan(targets)
    wrong = []
    checked = 0
    for source, host in hosts.items():
        for target in site.model.hosts:
            if source == target:
                continue
            for here, there in zip(host.addresses, hosts[target].addresses, strict=True):
                opened = site.opened(source, str(here.ip), target)
                # hosts of the site are not left to wait
                known = source in site.model.hosts and here == host.addresses[0]
                for port in site.ports:
                    expected = "open" if port in opened else "refused" if known else "silent"
                    state = found[source][str(there.ip), port]
                    checked += 1
                    if state != expected:
                        wrong.append(f"{source} to {target} {there.ip} {port}: {state}")
    assert not wrong
    assert checked > 1000


def test_table_opens_something(site: Site) -> None:
    """The scan would not notice a table that cannot be read."""
    address = {name: str(host.addresses[0].ip) for name, host in site.network.hosts.items()}
    first, second = site.model.balancers
    assert site.opened(VISITOR, address[VISITOR], first) == {80, 443}
    assert site.opened(second, address[second], "web1") == {81, 82}
    assert site.opened(ADMINISTRATOR, address[ADMINISTRATOR], "db1") == {22}
    assert site.opened(VISITOR, address[VISITOR], "db1") == set()
    for store in site.model.backup_hosts:
        assert site.opened("db2", address["db2"], store) == {8432}
        assert 8432 in site.opened(store, address[store], "db1")
        assert 8432 not in site.opened("db2", address["db2"], "db1")


def test_ping(site: Site) -> None:
    visitor = site.network.hosts[VISITOR]
    for address in site.network.hosts["db1"].addresses:
        assert visitor.probe("echoes", str(address.ip))


def test_vrrp(site: Site) -> None:
    """It passes between the balancers alone: between two packets of one, others have sent some."""
    hosts = site.network.hosts
    first, second = (hosts[name] for name in site.model.balancers)
    address = first.addresses[0].ip
    with ThreadPoolExecutor() as executor:
        received = executor.submit(first.probe, "receives", VRRP, address.version, 2)
        while not received.done():
            for host in (hosts["web1"], hosts[VISITOR], second):
                host.probe("sends", VRRP, str(address))
    assert received.result() == [str(second.addresses[0].ip)] * 2


def test_answers_come_back(site: Site) -> None:
    """What a host sends is not filtered."""
    address = str(site.network.hosts[VISITOR].addresses[0].ip)
    assert site.network.hosts["db1"].scan([(address, 9)]) == {(address, 9): "refused"}


# --- loaded so that nobody is locked out


class Machine:
    """A database node of the example with its files, as `hasite-firewall` finds them.

    :param root: a copy of its files
    """

    def __init__(self, network: Network, root: Path) -> None:
        self._network = network
        self.host = network.hosts["db1"]
        self.administrator = network.hosts[ADMINISTRATOR]
        self.root = root
        self.rules = root / "etc/hasite/firewall.nft"
        self.kept = root / "etc/hasite/firewall.kept.nft"
        (root / "run").mkdir()

    def firewall(self, *words: object, **environ: str) -> subprocess.CompletedProcess[str]:
        """Run `hasite-firewall`, whatever its exit status."""
        script = self.root / "usr/local/sbin/hasite-firewall"
        environ |= {"HASITE_ROOT": str(self.root)}
        return self.host.run(script, *words, check=False, **environ)

    def does(self, *words: object, **environ: str) -> None:
        """Run it with success."""
        result = self.firewall(*words, **environ)
        assert (result.returncode, result.stderr) == (0, ""), result

    def refuses(self, message: str, *words: object, **environ: str) -> None:
        """Run it; it says this and changes nothing."""
        before = self.state()
        result = self.firewall(*words, **environ)
        assert result.returncode == 1
        assert message in result.stderr
        assert self.state() == before

    def state(self) -> tuple[str, str, bool]:
        """Return what is loaded, and what is at boots."""
        kept = self.kept.read_text() if self.kept.exists() else ""
        wants = self.root / "etc/systemd/system/sysinit.target.wants/hasite-firewall.service"
        return self.host.run("nft", "list", "ruleset").stdout, kept, wants.is_symlink()

    def change_rules(self) -> None:
        """Copy other rules there, with another port of SSH."""
        text = self.rules.read_text()
        assert "dport { 22 }" in text
        self.rules.write_text(text.replace("dport { 22 }", "dport { 2222 }"))

    def ports(self) -> tuple[set[int], set[int]]:
        """Return the ports that are open to an administrator, and to a visitor."""
        address = str(self.host.addresses[0].ip)
        targets = [(address, port) for port in (22, 2222, 5432)]
        found = self._network.scan(dict.fromkeys((ADMINISTRATOR, VISITOR), targets))
        administrator, visitor = (
            {port for (_address, port), state in states.items() if state == "open"}
            for states in found.values()
        )
        return administrator, visitor

    @contextmanager
    def logged_in(self) -> Iterator[str]:
        """Open a connection to the port of SSH; what its shell would have in SSH_CONNECTION."""
        here, there = (str(h.addresses[0].ip) for h in (self.administrator, self.host))
        command = ["nsenter", f"--target={self.administrator.pid}", "--net"]
        before = set(self._client_ports())
        socat = subprocess.Popen(
            [*command, "socat", f"TCP:{there}:22", "EXEC:sleep 60"], start_new_session=True
        )
        try:
            wait_until(lambda: set(self._client_ports()) - before, "connection")
            [port] = set(self._client_ports()) - before
            yield f"{here} {port} {there} 22"
        finally:
            os.killpg(socat.pid, signal.SIGKILL)
            socat.wait()

    def _client_ports(self) -> list[str]:
        return re.findall(r":(\d+) +\S+:22\b", self.administrator.run(*OPEN).stdout)


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The files of a database node of the example."""
    folder = tmp_path_factory.mktemp("files")
    (folder / "site.toml").write_text(site_text("example"))
    output.write(render.render(load.load(folder / "site.toml"), drawing=False), folder / "out")
    return folder / "out" / "db1"


@pytest.fixture
def machine(files: Path, tmp_path: Path) -> Iterator[Machine]:
    shutil.copytree(files, tmp_path / "db1")
    addresses = {"db1": "10.0.0.31", ADMINISTRATOR: "10.0.0.2", VISITOR: "10.0.0.100"}
    hosts = [Host(name, [f"{ip}/24"], [22, 2222, 5432]) for name, ip in addresses.items()]
    with Network(hosts) as network:
        yield Machine(network, tmp_path / "db1")


def test_trial_that_nobody_confirms(machine: Machine) -> None:
    """It ends by itself, and all is as before."""
    before = machine.state()
    machine.does("try", 15)
    assert machine.ports() == ({22}, set())
    wait_until(lambda: machine.state() == before, "end of the trial")
    assert machine.ports() == ({22, 2222, 5432}, {22, 2222, 5432})
    machine.refuses("nothing is tried now", "keep")


def test_kept_on_a_new_connection(machine: Machine) -> None:
    """One that was open before proves nothing, whoever hides which one it is."""
    with machine.logged_in() as former:
        machine.does("try", 15)
        old = "this SSH connection was open before"
        machine.refuses(old, "keep", SSH_CONNECTION=former)
        script = machine.root / "usr/local/sbin/hasite-firewall"
        hidden = f"env -u SSH_CONNECTION {script} keep; exit $?"
        environ = {"SSH_CONNECTION": former, "HASITE_ROOT": str(machine.root)}
        result = machine.host.run("sh", "-c", hidden, check=False, **environ)
        assert (result.returncode, old in result.stderr) == (1, True)
        with machine.logged_in() as new:
            machine.does("keep", SSH_CONNECTION=new)
    loaded, kept, at_boots = machine.state()
    assert (kept, at_boots) == (machine.rules.read_text(), True)
    time.sleep(16)
    assert machine.state() == (loaded, kept, at_boots)
    assert machine.ports() == ({22}, set())
    machine.does("undo")
    assert machine.state() == ("", "", False)
    machine.does("undo")


def test_other_rules(machine: Machine) -> None:
    """Those that were kept are back after a trial of others; those of other tables stay."""
    machine.host.run("nft", "add table inet others")
    machine.does("try")
    machine.does("keep")
    before = machine.state()
    machine.change_rules()
    machine.does("try", 15)
    assert machine.state()[1:] == before[1:]
    assert machine.ports() == ({2222}, set())
    wait_until(lambda: machine.state() == before, "end of the trial")
    machine.does("undo")
    assert machine.host.run("nft", "list", "tables").stdout == "table inet others\n"


def test_second_trial(machine: Machine) -> None:
    """The end of the first does not end it; what is kept is what was tried."""
    machine.does("try", 2)
    machine.does("try", 60)
    tried = machine.rules.read_text()
    machine.change_rules()
    time.sleep(4)
    assert machine.ports() == ({22}, set())
    machine.does("keep")
    assert machine.state()[1] == tried


def test_mistakes(machine: Machine) -> None:
    machine.refuses("nothing is tried now: hasite-firewall try", "keep")
    for seconds in ("0", "-1", "soon"):
        machine.refuses(f"{seconds} is no number of seconds", "try", seconds)
    machine.rules.write_text(machine.rules.read_text().replace("tcp dport", "tcp port"))
    machine.refuses("firewall.nft is not accepted: nothing has changed", "try")
    for words in ([], ["start"]):
        result = machine.firewall(*words)
        assert (result.returncode, result.stdout) == (2, "")
        assert "hasite-firewall try [SECONDS]" in result.stderr
    script = machine.root / "usr/local/sbin/hasite-firewall"
    nobody = ("setpriv", "--reuid=nobody", "--clear-groups", "sh")
    text = script.read_text()
    result = machine.host.run(*nobody, "-c", text, "sh", "try", check=False)
    assert (result.returncode, result.stderr) == (1, "hasite-firewall: run it as root\n")


def test_what_the_host_says(machine: Machine) -> None:
    """`hasite-check-host` tells a firewall that is not kept, or has other rules than its file."""

    def said() -> list[str]:
        script = machine.root / "usr/local/sbin/hasite-check-host"
        environ = {"HASITE_ROOT": str(machine.root)}
        lines = machine.host.run(script, check=False, **environ).stdout.splitlines()
        return [line for line in lines if line.startswith("the firewall ")]

    todo = "the last step of chapter 1 of the runbook"
    assert said() == [f"the firewall is not kept: {todo}"]
    machine.does("try")
    machine.does("keep")
    assert said() == []
    machine.rules.write_text(machine.rules.read_text().replace("site file ", "site file 0"))
    assert said() == []
    machine.change_rules()
    assert said() == [f"the firewall has other rules than were copied here: {todo}, for this host"]
