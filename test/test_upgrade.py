"""An upgrade is rehearsed, and production upgraded by the rehearsal, while visitors come."""

import os
import shlex
import socketserver
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from backend import POSTGRES
from rehearsing import CUBE, LAYER, NEW, Production, cube_sources, wheel
from servers.load import Load
from servers.rendered import RenderedSite, free_port_pairs, site_file
from servers.support import wait_until

from cubicweb_hasite.deploy import load, output, render

pytestmark = pytest.mark.skipif(not POSTGRES, reason="SQLite has no server")

CHECKOUT = Path(__file__).parent.parent
VISITORS = 10  # a second
#: whether environments are made from nothing, with all that CubicWeb needs: it takes minutes
FRESH = bool(os.environ.get("FUZZ"))

_MORE = """
[upgrade]
checks = [{{ path = "/", text = "News" }}, {{ path = "/news", text = "News 2" }}]
reach = "{folder}/on {{host}}"
backup = "pg_dump -h 127.0.0.1 -p {port} -U site -Fc -f {folder}/backup site"
longest_wait = 10

[preproduction]
database = "host=127.0.0.1 port={other} user=preproduction"
virtualenv = "{virtualenv}"
python = "{python}"
port = {instances}
"""

_ON = """\
#!/bin/sh
# run a command on "the host" $1, whose programs and files are those of the test
command=$(printf %s "$2" | sed 's|/run/haproxy/admin.sock|{socket}|g; \
s|/usr/local/share/hasite|{root}/usr/local/share/hasite|g')
PATH={folder}/bin:$PATH exec sh -c "$command"
"""

_SYSTEMCTL = """\
#!/bin/sh
answer=$(printf '%s\\n' "$*" | socat -t 120 - UNIX-CONNECT:{folder}/init)
[ "$answer" = done ] || {{ echo "$answer"; exit 1; }}
"""


class Init(socketserver.ThreadingUnixStreamServer):
    """Does for `systemctl` what systemd does on a web server, with the rendered units."""

    def __init__(self, path: Path, site: RenderedSite) -> None:
        self.instances = list(site.instances.values())
        super().__init__(str(path), _Order)


class _Order(socketserver.StreamRequestHandler):
    def handle(self) -> None:
        action, *units = self.rfile.readline().decode().split()
        try:
            for unit in units:
                instance = self.server.instances[int(unit.rpartition("@")[2]) - 1]
                if action in ("stop", "restart"):
                    instance.stop(timeout=60)
                if action in ("start", "restart"):
                    instance.start()
            answer = "done"
        except Exception as error:
            answer = repr(error)
        self.wfile.write(answer.encode())


class Site:
    """The production of the tests, served: two instances, Squid, HAProxy; and its folder."""

    def __init__(self, production: Production, folder: Path) -> None:
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
            more=_MORE.format(
                folder=folder,
                port=production.primary.port,
                other=production.other.port,
                virtualenv=production.virtualenv,
                python="python3" if FRESH else folder / "bin" / "python3",
                instances=min(free_port_pairs(2)) + 1000,
            ),
        )
        (folder / "site.toml").write_text(text)
        output.write(render.render(load.load(folder / "site.toml")), folder / "out")
        root = folder / "out" / "all"
        self.running = RenderedSite(root, "site", ports, folder / "running")
        self.running.instances = dict(self.running.instances)
        self._programs(root, link)

    def _programs(self, root: Path, link: Path) -> None:
        """Write what a host has."""
        (self.folder / "bin").mkdir()
        first = next(iter(self.running.instances.values()))
        kept = ("PATH", "PYTHONUNBUFFERED", "CW_PORT", "CW_PID_FILE", "CW_HASITE_MANAGEMENT_PORT")
        exports = "".join(
            f"export {key}={shlex.quote(value)}\n"
            for key, value in first.env.items()
            if key not in kept
        )
        scripts = {
            "on": _ON.format(socket=self.running.haproxy.socket, root=root, folder=self.folder),
            "bin/systemctl": _SYSTEMCTL.format(folder=self.folder),
            "bin/site-ctl": f'#!/bin/sh\n{exports}exec {link}/bin/cubicweb-ctl "$@"\n',
        }
        if not FRESH:
            scripts["bin/python3"] = LAYER
        for name, text in scripts.items():
            path = self.folder / name
            path.write_text(text)
            path.chmod(0o755)

    def hasite(self, command: str, *args: str) -> subprocess.CompletedProcess[str]:
        """Run a command in the folder of the site file."""
        ctl = str(Path(sys.executable).with_name("cubicweb-ctl"))
        return subprocess.run(
            [ctl, f"hasite-{command}", *args],
            cwd=self.folder,
            env={key: value for key, value in os.environ.items() if "PYTEST" not in key},
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            timeout=600,
        )


@pytest.fixture
def site(production: Production, server_directory: Callable[[str], Path]) -> Iterator[Site]:
    """The production, served by its former version."""
    site = Site(production, server_directory("site"))
    with site.running:
        wait_until(lambda: len(site.running.in_service()) == 2, "instances", timeout=60)
        with Init(site.folder / "init", site.running) as init:
            threading.Thread(target=init.serve_forever, daemon=True).start()
            yield site
            init.shutdown()


def release(folder: Path) -> None:
    """Let the new version be what is to be installed, with all that it needs if it is not there."""
    wheel(cube_sources(folder / "news", NEW, depends=FRESH), folder / "dist")
    text = f"--find-links dist\ncubicweb-{CUBE.replace('_', '-')} == {NEW}\n"
    if FRESH:
        wheel(CHECKOUT, folder / "dist")
        text += "gunicorn\npsycopg2-binary\n"
    (folder / "requirements.txt").write_text(text)


def test_rehearse_then_upgrade(site: Site) -> None:
    release(site.folder)
    before = site.production.checksums()
    result = site.hasite("rehearse", "site.toml")
    assert result.returncode == 0, result.stdout
    assert site.production.checksums() == before
    [rehearsal] = site.folder.glob("rehearsal-*")
    report = (rehearsal / "report.md").read_text()
    assert "**The upgrade can be rolling**" in report, report
    print(report)
    with Load(site.running.url, ["", "news", "news", "data/cubicweb.css"], rate=VISITORS) as load:
        load.wait_for(2 * VISITORS)
        result = site.hasite("upgrade", "site.toml", "--runbook", rehearsal.name, "--yes")
        assert result.returncode == 0, result.stdout
        load.wait_for(2 * VISITORS)
    print(result.stdout, load.outcomes)
    assert set(load.outcomes) == {"200"}, load.outcomes
    assert load.outcomes["200"] > 10 * VISITORS
