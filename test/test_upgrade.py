"""An upgrade is rehearsed, and production upgraded by the rehearsal, while visitors come."""

import os
import re
import shlex
import socketserver
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
import requests
from rehearsing import CUBE, LAYER, NEW, Production, cube, wheel, with_migration
from servers import runbook
from servers.load import Load
from servers.rendered import RenderedSite, site_file
from servers.support import consecutive_ports, wait_until
from test_documentation import command_blocks

from cubicweb_hasite.deploy import load, output, render

CHECKOUT = Path(__file__).parent.parent
VISITORS = 6  # a second
#: whether environments are made from nothing, with all that CubicWeb needs: it takes minutes
FRESH = bool(os.environ.get("FUZZ"))

_MORE = """
[upgrade]
checks = [
  {{ path = "/", text = "News" }},
  {{ path = "/view?rql=Any+X+ORDERBY+X+WHERE+X+is+News", text = "News 2" }},
]
reach = "{folder}/on {{host}}"
backup = "pg_dump -h {primary} -p {port} -U site -Fc -f {folder}/backup site"
longest_wait = 30

[preproduction]
database = "host=127.0.0.1 port={other} user=preproduction"
virtualenv = "{virtualenv}"
python = "{python}"
port = {instances}
"""

_ON = """\
#!/bin/sh
# run a command on "the host" $1, whose programs and files are those of the test
export HOST="$1" PGUSER={superuser}
[ "$1" = db2 ] && PGHOST={standby} || PGHOST={primary}
export PGHOST
command=$(printf %s "$2" | sed 's|/run/haproxy/admin.sock|{socket}|g; \
s|/usr/local/share/hasite|{root}/usr/local/share/hasite|g')
PATH={folder}/bin:$PATH exec sh -c "$command"
"""

_SYSTEMCTL = """\
#!/bin/sh
answer=$(printf '%s\\n' "$HOST $*" | socat -t 120 - UNIX-CONNECT:{folder}/init)
[ "$answer" = done ] || {{ echo "$answer"; exit 1; }}
"""

_SU = """\
#!/bin/sh
# the database server trusts everybody
exec sh -c "$3"
"""


class Init(socketserver.ThreadingUnixStreamServer):
    """Does for `systemctl` what systemd does on the hosts, with the rendered units."""

    def __init__(self, path: Path, site: "Site") -> None:
        self.instances = list(site.running.instances.values())
        production = site.production
        self.databases = {"all": production.primary, "db2": production.standby}
        super().__init__(str(path), _Order)


class _Order(socketserver.StreamRequestHandler):
    def handle(self) -> None:
        host, action, *units = self.rfile.readline().decode().split()
        try:
            for unit in units:
                if unit.startswith("postgresql@"):
                    program = self.server.databases[host]
                else:
                    program = self.server.instances[int(unit.rpartition("@")[2]) - 1]
                if action in ("stop", "restart"):
                    program.stop()
                if action in ("start", "restart"):
                    program.start()
            answer = "done"
        except Exception as error:
            answer = repr(error)
        self.wfile.write(answer.encode())


class Site:
    """The production of the tests, served: two instances, Squid, HAProxy; and its folder.

    :param database: more of the section [postgresql] and other sections
    """

    def __init__(self, production: Production, folder: Path, *, database: str = "") -> None:
        self.production = production
        self.folder = folder
        folder.mkdir()
        folder.chmod(0o755)
        # as the runbook installs it: a link to an environment
        link = folder / "cubicweb"
        link.symlink_to(production.virtualenv)
        text, ports = site_file(
            "site",
            cache="squid",
            apache=False,
            configuration=production.instance.directory,
            postgresql=production.primary.port,
            virtualenv=link,
            address=production.hosts[0],
            site_keys='options = {"hasite-probe-deadline" = 20}',
            more=database
            + _MORE.format(
                folder=folder,
                primary=production.hosts[0],
                port=production.primary.port,
                other=production.other.port,
                virtualenv=production.virtualenv,
                python="python3" if FRESH else folder / "bin" / "python3",
                instances=consecutive_ports(4),
            ),
        )
        (folder / "site.toml").write_text(text)
        output.write(render.render(load.load(folder / "site.toml")), folder / "out")
        root = folder / "out" / "all"
        # a machine that is busy with other tests is no reason to be out of service
        haproxy = root / "etc/haproxy/hasite.cfg"
        patient = re.sub("timeout check [0-9]+m?s", "timeout check 20s", haproxy.read_text())
        haproxy.write_text(re.sub(r"\bfall \d+", "fall 5", patient))
        self.running = RenderedSite(root, "site", ports, folder / "running")
        self.running.instances = dict(self.running.instances)
        self._programs(root, link)

    def _programs(self, root: Path, link: Path) -> None:
        """Write what a host has."""
        (self.folder / "bin").mkdir()
        first = next(iter(self.running.instances.values()))
        production = self.production
        kept = ("PATH", "PYTHONUNBUFFERED", "CW_PORT", "CW_PID_FILE", "CW_HASITE_MANAGEMENT_PORT")
        exports = "".join(
            f"export {key}={shlex.quote(value)}\n"
            for key, value in first.env.items()
            if key not in kept
        )
        scripts = {
            "on": _ON.format(
                socket=self.running.haproxy.socket,
                root=root,
                folder=self.folder,
                superuser=production.primary.user,
                primary=production.hosts[0],
                standby=production.hosts[1],
            ),
            "bin/su": _SU,
            "bin/systemctl": _SYSTEMCTL.format(folder=self.folder),
            "bin/site-ctl": f'#!/bin/sh\n{exports}exec {link}/bin/cubicweb-ctl "$@"\n',
        }
        if not FRESH:
            scripts["bin/python3"] = LAYER
        for name, text in scripts.items():
            path = self.folder / name
            path.write_text(text)
            path.chmod(0o755)

    def run(self, block: str) -> str:
        """Run a command block of a document in the folder of the site file."""
        path = f"{Path(sys.executable).parent}:{os.environ['PATH']}"
        result = subprocess.run(
            ["bash", "-euo", "pipefail", "-c", block],
            cwd=self.folder,
            env=self._environ | {"PATH": path},
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            timeout=600,
        )
        assert result.returncode == 0, f"{block}\n{result.stdout}"
        return result.stdout

    @property
    def _environ(self) -> dict[str, str]:
        return {key: value for key, value in os.environ.items() if "PYTEST" not in key}

    def hasite(self, command: str, *args: str) -> subprocess.CompletedProcess[str]:
        """Run a command in the folder of the site file."""
        ctl = str(Path(sys.executable).with_name("cubicweb-ctl"))
        return subprocess.run(
            [ctl, f"hasite-{command}", *args],
            cwd=self.folder,
            env=self._environ,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            timeout=600,
        )


@contextmanager
def served(site: Site) -> Iterator[Site]:
    """Serve a site by its former version."""
    with site.running:
        wait_until(lambda: len(site.running.in_service()) == 2, "instances", timeout=60)
        with Init(site.folder / "init", site) as init:
            threading.Thread(target=init.serve_forever, daemon=True).start()
            yield site
            init.shutdown()


@pytest.fixture
def site(production: Production, server_directory: Callable[[str], Path]) -> Iterator[Site]:
    """The production, served by its former version."""
    with served(Site(production, server_directory("site"))) as site:
        yield site


def release(folder: Path, migration: str = "") -> None:
    """Let the new version be what is to be installed, with all that it needs and is not there."""
    package = cube(folder / "built", NEW, depends=FRESH)
    (folder / "dist").mkdir()
    with_migration(package, migration, folder / "dist")
    text = f"--find-links dist\ncubicweb-{CUBE.replace('_', '-')} == {NEW}\n"
    if FRESH:
        wheel(CHECKOUT, folder / "dist")
        text += "gunicorn\npsycopg2-binary\n"
    (folder / "requirements.txt").write_text(text)


PAGES = ["", "news", "news", "data/cubicweb.css"]
REHEARSE, UPGRADE, JOURNAL = command_blocks("docs/upgrade.md")


def by_hand(site: Site, markdown: str) -> None:
    """Do what somebody does who has only the runbook."""
    done = runbook.commands(markdown)
    assert done
    for line, printed, repeated in done:
        wanted = printed.splitlines()

        def is_done(line: str = line, wanted: list[str] = wanted) -> bool:
            output = [text.strip() for text in site.run(line).splitlines()]
            return all(text in output for text in wanted)

        if repeated:
            wait_until(is_done, line, timeout=120, interval=0.5)
        else:
            assert is_done(), line


def test_stopped_by_hand(site: Site) -> None:
    """An upgrade that cannot be rolling, by the commands of the report as they are written, and
    a rollback, by those at its end: the next test finds the former version again."""
    release(
        site.folder,
        'add_attribute("News", "summary")\nadd_cube("tag")\n'
        "sql(\"ALTER TABLE cw_news ADD CHECK (cw_title <> '')\")\ncommit()\n",
    )
    site.run(REHEARSE)
    [rehearsal] = site.folder.glob("rehearsal-*")
    report = (rehearsal / "report.md").read_text()
    assert "**The site must be stopped for about" in report
    forward, back = report.partition("## Runbook")[2].split("### Rollback")
    by_hand(site, forward.partition("### 1.")[2])
    versions = requests.get(f"{site.running.url}view?vid=monitor_version").text
    assert "hasite_news: 0.2.0" in versions
    by_hand(site, back)
    server = site.production.primary
    server.sql("DROP DATABASE site WITH (FORCE)", timeout=60)
    server.sql("CREATE DATABASE site OWNER site TEMPLATE template0", timeout=60)
    port = str(server.port)
    subprocess.run(
        [
            "pg_restore",
            "-h",
            site.production.hosts[0],
            "-p",
            port,
            "-U",
            server.user,
            "-d",
            "site",
            site.folder / "backup",
        ],
        check=True,
    )
    [start] = re.findall(r"start the instances: `(.*?)`", back)
    site.run(start)
    wait_until(lambda: len(site.running.in_service()) == 2, "instances", timeout=60)
    versions = requests.get(f"{site.running.url}view?vid=monitor_version").text
    assert "hasite_news: 0.1.0" in versions


def test_rehearse_then_upgrade(site: Site) -> None:
    """By the commands of the documentation, while visitors come."""
    release(site.folder)
    before = site.production.checksums()
    output = site.run(REHEARSE)
    assert site.production.checksums() == before
    [rehearsal] = site.folder.glob("rehearsal-*")
    report = (rehearsal / "report.md").read_text()
    assert output.endswith(f"rolling: see {rehearsal}/report.html\n"), report
    assert "**The upgrade can be rolling**" in report
    assert "| hasite_news | 0.1.0 | **0.2.0** |" in report
    assert re.search(r"^\| tag \| none \| \*\*3\.", report, re.M)
    assert "| column cw\\_news.cw\\_summary added: character varying(256) |  |" in report
    _is_refused(site, rehearsal)
    upgrade = re.sub(r"rehearsal-\S+", f"{rehearsal.name} --yes", UPGRADE)
    with Load(site.running.url, PAGES, rate=VISITORS) as load:
        load.wait_for(2 * VISITORS)
        output = site.run(upgrade)
        load.wait_for(2 * VISITORS)
    assert output.endswith("production is upgraded\n")
    assert set(load.outcomes) == {"200"}, (load.outcomes, output)
    assert load.outcomes["200"] > 10 * VISITORS
    assert "hasite_news: 0.2.0" in requests.get(f"{site.running.url}view?vid=monitor_version").text
    site.run(JOURNAL)
    lines = (site.folder / "journal.md").read_text().splitlines()[6:]
    entries = [line.strip("| ").split(" | ")[3:] for line in lines]
    assert [result.split(":")[0] for _what, result in entries] == [
        "rolling",
        "refused",
        "refused",
        "refused",
        "refused",
        "begins",
        "stopped",
        "refused",
        "begins",
        *["done"] * 8,
        "done",
        "in service again",
    ]
    accepted = (site.production.instance.directory / "site" / "journal.md").read_text()
    assert "| hasite-accept site | accepts cubicweb: " in accepted


def _is_refused(site: Site, rehearsal: Path) -> None:
    """Production is not upgraded by what was not rehearsed."""

    def refusal() -> str:
        result = site.hasite("upgrade", "site.toml", "--runbook", rehearsal.name, "--yes")
        assert result.returncode == 1
        return result.stdout

    def changed(path: Path, old: str, new: str) -> str:
        content = path.read_text()
        assert old in content
        path.write_text(content.replace(old, new))
        try:
            return refusal()
        finally:
            path.write_text(content)

    state, wheels = rehearsal / "state.json", rehearsal / "wheels"
    assert "hours old; the limit is 72" in changed(state, '"created": "2', '"created": "1')
    assert "this rehearsal failed" in changed(state, '"verdict": "rolling"', '"verdict": "failed"')
    requirements = site.folder / "requirements.txt"
    assert "requirements.txt, or a file that it names, has changed since" in changed(
        requirements, "0.2.0", "0.3.0"
    )
    assert "site.toml has changed since" in changed(site.folder / "site.toml", "= 30", "= 31")
    # what production runs is not what was rehearsed from: the first look says so
    other = changed(state, "hasite_news: 0.1.0", "hasite_news: 0.0.9")
    assert "1/8 Check the current state: " in other
    assert "does not print 'ServiceOK : FS config cubicweb: " in other
    assert "Rollback: Nothing has changed." in other
    [package] = wheels.glob("cubicweb_hasite_news*")
    content = package.read_bytes()
    package.write_bytes(content + b"\n")
    changed_since = "packages have changed since the rehearsal: cubicweb_hasite_news==0.2.0"
    assert changed_since in refusal()
    package.write_bytes(content)
    assert len(site.running.in_service()) == 2
