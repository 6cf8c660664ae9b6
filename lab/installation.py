"""The example site on the lab's hosts, installed by its runbook."""

import re
import secrets
import shutil
import subprocess
import sys
import tomllib
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import cached_property
from pathlib import Path

import administrator
from administrator import Administrator
from hosts import CHECKOUT, Host, Lab
from servers import runbook
from servers.support import wait_until

#: address of the client host, and of the visitors that it stands for
_CLIENTS = [f"10.0.0.{number}/24" for number in range(100, 228)]
#: address of the administrator's machine, which the example lets in by SSH
_ADMIN = "10.0.0.2/24"
#: the certificate of the site with its key, as the balancers' operator has it
_CERTIFICATE_AND_KEY = "/root/certificate.pem"
_CTL = Path(sys.executable).with_name("cubicweb-ctl")
#: packages of Python that the hosts' pip finds
_WHEELS = CHECKOUT / "var" / "hosts" / "wheels"

_PICTURES = """
import io, random
from PIL import Image
from cubicweb import Binary

random.seed(1)
for number in range({pictures} + {visitors}):
    title = "picture" if number < {pictures} else "edited"
    picture = Image.effect_noise((200, 150), 60)  # 25 kB, as a photograph of a page
    stream = io.BytesIO()
    picture.save(stream, "JPEG", quality=90)
    create_entity("File", title=f"{{title}} {{number}}", data=Binary(stream.getvalue()),
                  data_name=f"picture{{number}}.jpg", data_format="image/jpeg")
for number in range({visitors}):
    create_entity("CWUser", login=f"visitor{{number}}", upassword="{password}",
                  in_group=find("CWGroup", name="managers").one())
commit()
"""


class Site:
    """The example site on the lab's hosts.

    :param lab: where it runs
    """

    pictures = 60
    visitors = 8
    name = "mysite"
    url = "https://www.example.org/"
    certificate = "/etc/ssl/certs/www.example.org.pem"
    _hosts = "127.0.0.1 localhost\n10.0.0.10 www.example.org\n"

    def __init__(self, lab: Lab) -> None:
        self.lab = lab
        text = (lab.folder / "site.toml").read_text()
        self._model = model = tomllib.loads(text)
        for name, host in model["hosts"].items():
            [packages] = re.findall(rf"(?m)^ *- {name}: `(apt-get install .*)`$", self.runbook)
            lab.add(name, f"{host['address']}/24", packages=packages)
        lab.add("admin", _ADMIN, packages="apt-get install --no-install-recommends openssh-client")
        lab.add("client", *_CLIENTS, packages="apt-get install --no-install-recommends curl")

    @classmethod
    def render(cls, lab: Lab, site_file: Path | None = None) -> "Site":
        """Render a site, by default the example that `hasite-init` prints."""
        path = lab.folder / "site.toml"
        text = site_file.read_text() if site_file else _run(_CTL, "hasite-init")
        path.write_text(text)
        _run(_CTL, "hasite-render", path, lab.folder / "out")
        return cls(lab)

    # -- the hosts

    def with_role(self, role: str) -> list[Host]:
        """Return the hosts of a role, such as `web`."""
        hosts = self._model["hosts"].items()
        return [self.lab[name] for name, host in hosts if role in host["roles"]]

    @property
    def client(self) -> Host:
        """Where visitors come from."""
        return self.lab["client"]

    @cached_property
    def runbook(self) -> str:
        """The runbook."""
        return (self.lab.folder / "out" / "runbook.md").read_text()

    @cached_property
    def administrator(self) -> Administrator:
        """Who carries out the runbook, on this site."""
        words = {
            "PASSWORD": self._password,
            "CERTIFICATE_AND_KEY": _CERTIFICATE_AND_KEY,
            "YOUR_PACKAGES": "cubicweb-file",
            "YOUR_CUBES": "file",
        }
        typed = 2 * f"{self._password}\n"
        return Administrator(self.lab.hosts, self._wait_for_primary, words, typed)

    def _wait_for_primary(self) -> Host:
        wait_until(lambda: self.primary() is not None, "primary of the database", timeout=180)
        return self.primary()

    # -- the installation

    def install(self, say: Callable[[str], None] = print) -> None:
        """Bring the site up; return when all its instances are in service.

        :param say: is told what is done
        """
        say("Python packages")
        make_wheels()
        say("hosts")
        with ThreadPoolExecutor(4) as executor:
            list(executor.map(Host.boot, self.lab.hosts.values()))
        self._prepare()
        for block in runbook.blocks(self.runbook, 1):
            say(block.before[-70:])
            self.administrator.carry_out(block)
        say("users and pictures")
        self._fill_database()
        say("all instances in service")
        self.wait_until_well()

    def _prepare(self) -> None:
        """Give the administrator what the runbook starts from: files, SSH, a certificate."""
        admin = self.lab["admin"]
        admin.run("install -d -m 700 /root/.ssh")
        admin.run("ssh-keygen -q -t ed25519 -N '' -f /root/.ssh/id_ed25519")
        admin.write("/root/.ssh/config", "StrictHostKeyChecking accept-new\n")
        self.give_files()
        for name in self._model["hosts"]:
            self.let_in(self.lab[name])
        for host in self.with_role("balancer"):
            host.write(_CERTIFICATE_AND_KEY, self._certificate, mode="600")

    def give_files(self) -> None:
        """Give the administrator the rendered files."""
        admin = self.lab["admin"]
        admin.run(f"rm -rf {administrator.FOLDER}; install -d -m 700 {administrator.FOLDER}")
        admin.receive(administrator.FOLDER, ["tar", "-C", self.lab.folder / "out", "-c", "."])

    def let_in(self, host: Host) -> None:
        """Let the administrator reach a host by SSH."""
        key = self.lab["admin"].run("cat /root/.ssh/id_ed25519.pub")
        host.write("/root/.ssh/authorized_keys", key)

    def _fill_database(self) -> None:
        script = _PICTURES.format(
            pictures=self.pictures, visitors=self.visitors, password=self._password
        )
        first = self.with_role("web")[0]
        first.write("/tmp/pictures.py", script)
        said = first.run("mysite-ctl shell mysite /tmp/pictures.py")
        assert "Traceback" not in said, said

    @cached_property
    def _password(self) -> str:
        path = self.lab.folder / "password"
        if not path.exists():
            path.touch(mode=0o600)
            path.write_text(secrets.token_hex(24))
        return path.read_text()

    @property
    def password(self) -> str:
        """The password of the users `visitor0` and so on."""
        return self._password

    @cached_property
    def _certificate(self) -> str:
        path = self.lab.folder / "certificate.pem"
        _run(
            *("openssl", "req", "-x509", "-nodes", "-days", "30", "-subj", "/CN=www.example.org"),
            *("-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256"),
            *("-addext", "subjectAltName=DNS:www.example.org"),
            *("-keyout", self.lab.folder / "key.pem", "-out", path),
        )
        client = self.client
        client.write(self.certificate, path.read_text())
        client.run("cat >> /etc/hosts", stdin=self._hosts)
        (self.lab.folder / "hosts").write_text(self._hosts)  # of the visitors' browsers
        return path.read_text() + (self.lab.folder / "key.pem").read_text()

    # -- the state of things

    def in_service(self, balancer: Host | None = None) -> set[str]:
        """Return the names of the instances that a balancer sends visitors to."""
        host = balancer or self.active_balancer() or self.with_role("balancer")[0]
        try:
            lines = host.run(
                f"curl -s --max-time 2 'http://{host.address}:8404/;csv' | cut -d, -f1,2,18"
            ).splitlines()
        except Exception:
            return set()
        rows = [line.split(",") for line in lines]
        return {row[1] for row in rows if row[0] == "mysite" and row[-1].startswith("UP")} - {
            "BACKEND"
        }

    def instances(self) -> set[str]:
        """Return the names of all the instances."""
        return {
            f"{name}-{number + 1}"
            for name, host in self._model["hosts"].items()
            if "web" in host["roles"]
            for number in range(host["processors"])
        }

    def wait_until_well(self, timeout: float = 240) -> None:
        """Wait until both balancers have all the instances in service, and all standbys follow.

        Commits wait for one of them: after a failover not until Patroni has chosen it.
        """
        for balancer in self.with_role("balancer"):
            wait_until(
                lambda b=balancer: self.in_service(b) == self.instances(),
                f"all instances in service at {balancer.name}",
                timeout=timeout,
            )
        wait_until(lambda: self.active_balancer() is not None, "floating address", timeout=timeout)
        count = len(self.with_role("database")) - 1
        wait_until(lambda: self.standbys() == count, "standbys of the database", timeout=timeout)
        synchronous = "SELECT count(*) FROM pg_stat_replication WHERE sync_state = 'sync'"
        wait_until(
            lambda: int(self.sql(synchronous, database="postgres")),
            "synchronous standby",
            timeout=60,
        )

    def repair(self) -> None:
        """Undo all failures: power, network, programs that were killed or frozen."""
        for host in self.lab.hosts.values():
            host.repair()
        for host in self.with_role("web"):
            host.run("mysite-ctl hasite-drain --undo mysite")

    def active_balancer(self) -> Host | None:
        """Return the balancer that has the floating address."""
        found = [host for host in self.with_role("balancer") if self.has_address(host)]
        return found[0] if len(found) == 1 else None

    def has_address(self, balancer: Host) -> bool:
        """Return whether a balancer has the floating address."""
        return balancer.on and "10.0.0.10/" in balancer.run("ip -brief address show eth0")

    def writable(self) -> list[Host]:
        """Return the database nodes that take writes: there is to be one at most."""
        query = "su postgres -c \"psql -Atc 'SELECT pg_is_in_recovery()'\""
        result = []
        for host in self.with_role("database"):
            try:
                if host.on and host.run(query, timeout=5).strip() == "f":
                    result.append(host)
            except Exception:
                continue
        return result

    def primary(self) -> Host | None:
        """Return the primary of the database."""
        writable = self.writable()
        return writable[0] if len(writable) == 1 else None

    def standbys(self) -> int:
        """Return how many standbys follow the primary."""
        primary = self.primary()
        if primary is None:
            return 0
        return int(
            self.sql(
                "SELECT count(*) FROM pg_stat_replication WHERE state = 'streaming'",
                database="postgres",
            )
        )

    def images(self, name: str) -> list[int]:
        """Return the eids of the pictures of which this is the first word of the title.

        Those for visitors to look at are titled `picture`, those for users to edit `edited`.
        """
        query = f"SELECT cw_eid FROM cw_file WHERE cw_title LIKE '{name} %' ORDER BY 1"
        return [int(line) for line in self.sql(query).splitlines()]

    def sql(self, query: str, *, database: str = "mysite") -> str:
        """Run SQL on the primary, and return what `psql -At` prints.

        :raises Failed: a statement failed.
        """
        primary = self.primary()
        assert primary is not None, "no primary"
        psql = "psql -AtX -v ON_ERROR_STOP=1"
        return primary.run(f"su postgres -c '{psql} {database}'", stdin=query).strip()


def make_wheels() -> None:
    """Make the Python packages that the hosts install: they reach no package index."""
    pip = (sys.executable, "-m", "pip", "wheel", "--disable-pip-version-check", "--wheel-dir")
    project = CHECKOUT / "pyproject.toml"
    made_for = _WHEELS / "pyproject.toml"
    if not made_for.exists() or made_for.read_text() != project.read_text():
        shutil.rmtree(_WHEELS, ignore_errors=True)
        # the last is what a release of test/news adds
        packages = (
            f"{CHECKOUT}[metrics,rehearse,web]",
            "gunicorn",
            "psycopg2-binary",
            "cubicweb-tag",
        )
        _run(*pip, _WHEELS, *packages)
        shutil.copy(project, made_for)
    _run(*pip, _WHEELS, "--no-deps", CHECKOUT)


def _run(*command: object) -> str:
    return subprocess.run(
        list(map(str, command)),
        check=True,
        capture_output=True,
        text=True,
    ).stdout
