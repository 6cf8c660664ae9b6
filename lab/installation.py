"""Install the example site on the lab's hosts, as its runbook says, with the files that
`hasite-render` wrote.
"""

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

from hosts import CHECKOUT, Host, Lab
from servers.support import wait_until

#: address of the client host, and of the visitors that it stands for
_CLIENTS = [f"10.0.0.{number}/24" for number in range(100, 228)]
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

    def commands(self, chapter: int, host: str) -> str:
        """Return the block of commands of a chapter of the runbook that is for a host."""
        text = re.search(rf"(?ms)^## {chapter}\..*?(?=^## |\Z)", self.runbook)[0]
        block = re.search(rf"(?ms)On {host}:\n\n *```\n(.*?)^ *```$", text)[1]
        return "\n".join(line.strip() for line in block.splitlines())

    # -- the installation, by the steps of chapter 1 of the runbook

    def install(self, say: Callable[[str], None] = print) -> None:
        """Bring the site up; return when all its instances are in service.

        :param say: is told what is done
        """
        say("Python packages")
        make_wheels()
        say("hosts")
        with ThreadPoolExecutor(4) as executor:
            list(executor.map(self._install_host, self.lab.hosts.values()))
            say("database nodes, certificates, configuration of the instances")
            database = executor.submit(self._start_database)
            for host in self.with_role("balancer"):
                executor.submit(self._start_balancer, host).result()
            web = list(executor.map(self._prepare_web, self.with_role("web")))
            del web
            self._create_instance()
            database.result()
        say("the instance's database")
        self._fill_database()
        say("web servers")
        with ThreadPoolExecutor(4) as executor:
            list(executor.map(self._start_web, self.with_role("web")))
        for host in self.with_role("monitoring"):
            host.run("systemctl restart prometheus; systemctl restart nagios4")
        say("all instances in service")
        self.wait_until_well()

    def _install_host(self, host: Host) -> None:
        host.boot()
        folder = self.lab.folder / "out" / host.name
        if folder.is_dir():
            host.install(folder)
            host.run("systemctl daemon-reload; systemctl restart 'prometheus-*-exporter.service'")
        if host in self.with_role("web"):
            host.run("useradd --system --home-dir /var/lib/cubicweb cubicweb")

    def _start_database(self) -> None:
        password = self._password
        nodes = self.with_role("database")
        for host in nodes:
            words = ("SUPERUSER", "REPLICATION", "REWIND")
            text = "".join(f"PATRONI_{word}_PASSWORD={password}\n" for word in words)
            host.write("/etc/patroni_env.conf", text, mode="600")
        with ThreadPoolExecutor(4) as executor:  # each waits for the others
            list(executor.map(lambda h: h.run("systemctl restart etcd"), nodes))
        for host in nodes:
            host.run("systemctl disable postgresql; systemctl stop postgresql@15-main")
            host.run("systemctl enable --now patroni")
        wait_until(lambda: self.primary() is not None, "primary of the database", timeout=180)
        primary = self.primary()
        primary.run(
            "cd /; su postgres -c 'psql -q'\n"
            "su postgres -c 'createdb --owner mysite --encoding UTF8 --template template0 mysite'",
            stdin=f"CREATE USER mysite PASSWORD '{password}';"
            "CREATE USER prometheus; GRANT pg_monitor TO prometheus;",
        )
        for host in nodes:
            host.run("systemctl enable --now hasite-backup.timer")
        wait_until(lambda: self.standbys() == len(nodes) - 1, "standbys", timeout=180)

    def _start_balancer(self, host: Host) -> None:
        host.write("/etc/haproxy/certs/www.example.org.pem", self._certificate, mode="600")
        host.run("systemctl enable haproxy; systemctl restart haproxy")
        host.run("systemctl enable keepalived; systemctl restart keepalived")

    def _prepare_web(self, host: Host) -> None:
        host.write(
            "/etc/hasite/secrets/mysite.pgpass",
            f"*:5432:mysite:mysite:{self._password}\n",
            mode="600",
            owner="cubicweb",
        )
        # options of this site: visitors who are not logged in, and no mail
        host.write(
            "/etc/hasite/secrets/mysite.env",
            "CW_ANONYMOUS_USER=anon\nCW_ANONYMOUS_PASSWORD=anon\n"
            "CW_SMTP_HOST=127.0.0.1\nCW_SMTP_PORT=1\n",
            mode="600",
        )
        host.run(
            "install -d -o cubicweb /etc/cubicweb.d /var/lib/cubicweb /var/log/cubicweb\n"
            "ln -s /opt/cubicweb-1 /opt/cubicweb"
        )
        self.make_environment(host, 1)

    def make_environment(self, host: Host, number: int) -> None:
        """Make an environment of Python on a web server, beside the running one."""
        folder = f"/opt/cubicweb-{number}"
        host.run(
            f"python3 -m venv {folder}\n"
            f"{folder}/bin/pip install -q 'cubicweb-hasite[metrics,web]' gunicorn psycopg2-binary",
            timeout=600,
        )

    def _create_instance(self) -> None:
        first, *others = self.with_role("web")
        first.run("mysite-ctl create --automatic --no-db-create hasite,file mysite")
        # the pages are those of cubicweb-web
        first.run("sed -i '/rest_api.include_html/d' /etc/cubicweb.d/mysite/pyramid.ini")
        for host in others:
            configuration = first.command("tar", "--create", "--directory=/etc/cubicweb.d", ".")
            host.receive("/etc/cubicweb.d", configuration)

    def _fill_database(self) -> None:
        first = self.with_role("web")[0]
        first.run("mysite-ctl db-create --automatic --create-db=n mysite", timeout=300)
        said = first.run("mysite-ctl shell mysite /usr/local/share/hasite/check_storage.py")
        assert "All data is in the database." in said, said
        script = _PICTURES.format(
            pictures=self.pictures, visitors=self.visitors, password=self._password
        )
        first.write("/tmp/pictures.py", script)
        said = first.run("mysite-ctl shell mysite /tmp/pictures.py")
        assert "Traceback" not in said, said

    def _start_web(self, host: Host) -> None:
        host.run("systemctl enable apache2; systemctl restart apache2")
        host.run("systemctl enable squid; systemctl restart squid")
        host.run("systemctl enable --now cubicweb-mysite@1 cubicweb-mysite@2")

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
        """Run SQL on the primary, and return what `psql -At` prints."""
        primary = self.primary()
        assert primary is not None, "no primary"
        return primary.run(f"su postgres -c 'psql -AtX {database}'", stdin=query).strip()


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
