"""Each command block of the documentation is run, as written but for the port and the paths."""

import os
import re
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from pictures import picture
from servers.instance import Instance, uwsgi_configuration
from servers.support import free_port, listens, wait_until
from servers.visitor import Visitor

CHECKOUT = Path(__file__).resolve().parent.parent
NOT_SOURCE = shutil.ignore_patterns(
    ".venv", ".git", "var", "build", "dist", "*.egg-info", "__pycache__", ".*_cache"
)


def command_blocks(document: str) -> list[str]:
    """Return the command blocks of a document of the checkout."""
    return re.findall(r"^```sh\n(.*?)^```$", (CHECKOUT / document).read_text(), re.M | re.S)


RUN, TEST, ADD, UPGRADE, MONITOR = command_blocks("README.md")
SERVE, DRAIN, STOP, UNDO = command_blocks("docs/operate.md")
UWSGI_SERVE, UWSGI_STOP = command_blocks("docs/uwsgi.md")


@pytest.fixture
def fresh_checkout(tmp_path: Path) -> Path:
    """A copy of the checkout, without what was installed or built in it."""
    return Path(shutil.copytree(CHECKOUT, tmp_path / "checkout", ignore=NOT_SOURCE))


def test_every_document_is_tested() -> None:
    documents = [path.relative_to(CHECKOUT) for path in CHECKOUT.glob("**/*.md")]
    documents = [str(path) for path in documents if ".venv" not in path.parts]
    with_commands = {path for path in documents if command_blocks(path)}
    tested = {
        *("README.md", "bench/README.md"),
        *("docs/install.md", "docs/lab.md", "docs/monitor.md", "docs/operate.md"),
        "docs/uwsgi.md",
        "docs/upgrade.md",  # by test_upgrade.py
    }
    assert with_commands <= tested


def test_site_file(tmp_path: Path) -> None:
    """The commands of docs/install.md, on the host web1."""
    render, compare = command_blocks("docs/install.md")
    path = f"{Path(sys.executable).parent}:{os.environ['PATH']}"

    def run(block: str, root: Path) -> str:
        result = subprocess.run(
            ["bash", "-euo", "pipefail", "-c", re.sub(r" /$", f" {root}", block, flags=re.M)],
            cwd=tmp_path,
            env={**os.environ, "PATH": path},
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        assert result.returncode == 0, result.stdout
        return result.stdout

    assert re.search(r"^\d+ ok, 0 wrong, \d+ not checked$", run(render, tmp_path), re.M)
    assert run(compare, tmp_path / "out" / "web1") == ""


def test_run(fresh_checkout: Path) -> None:
    """From a fresh checkout, without a virtualenv, to pictures."""
    assert RUN == "make run\n"
    output = fresh_checkout / "output"
    port = free_port()
    with output.open("wb") as stream:
        process = subprocess.Popen(
            ["bash", "-c", RUN],
            cwd=fresh_checkout,
            env={**os.environ, "PORT": str(port)},
            stdout=stream,
            stderr=subprocess.STDOUT,
            stdin=subprocess.DEVNULL,
            start_new_session=True,
        )
    try:
        wait_until(
            lambda: process.poll() is not None or "Ctrl-C stops it." in output.read_text(),
            "demonstration",
            timeout=300,
        )
        assert process.poll() is None, output.read_text()
        urls = re.findall(r"http://\S+", output.read_text())
        visitor = Visitor(f"http://localhost:{port}/")
        for url in urls:
            assert url.startswith(visitor.base_url)
            assert visitor.get(url).status_code in (200, 303), url
        gallery = next(url for url in urls if "gallery" in url)
        assert re.search(r"/file/\d+/thumb/", visitor.get(gallery).text)
    finally:
        os.killpg(process.pid, signal.SIGINT)
        process.wait(30)
    wait_until(lambda: not listens(port), "end of the demonstration")


def test_test() -> None:
    """Continuous integration runs it."""
    assert TEST == "make test\n"
    assert re.search(r"^([A-Z_]+=\w+ )*make test$", (CHECKOUT / ".ci" / "run").read_text(), re.M)


def test_lab() -> None:
    """Continuous integration runs it; the lab's own tests bring it up and down."""
    assert command_blocks("docs/lab.md") == ["make lab\nmake lab-down\n"]
    assert re.search(r"^make lab-test ", (CHECKOUT / ".ci" / "run").read_text(), re.M)


def test_comparisons() -> None:
    """Continuous integration makes some of them, shortened."""
    [block] = command_blocks("bench/README.md")
    assert block.startswith("make bench ")
    makefile = (CHECKOUT / "Makefile").read_text()
    assert re.search(r"^bench:\n.*\n\t\.venv/bin/python bench/run \$\(ARGS\)$", makefile, re.M)
    script = (CHECKOUT / ".ci" / "run").read_text()
    [line] = re.findall(r"^bench/run (.*)$", script, re.M)
    assert set(line.split()) >= {"pages", "downloads", "monitors", "edits"}
    # all those that are named there exist
    commands = re.findall(r"^bench/run (\w+)", block, re.M)
    assert commands
    for name in commands:
        assert (CHECKOUT / "bench" / f"{name}.py").exists(), name


def test_monitor(instance: Instance) -> None:
    [block] = command_blocks("docs/monitor.md")
    port = free_port()
    with instance.process(hasite_management_port=port):
        result = subprocess.run(
            [
                "bash",
                "-euo",
                "pipefail",
                "-c",
                block.replace("localhost:9081", f"127.0.0.1:{port}"),
            ],
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
    assert result.returncode == 0, result.stdout
    assert result.stdout.startswith("ServiceOK : aliveServiceOK : ready{")
    assert '"status": "pass"' in result.stdout
    assert 'hasite_probe_success{probe="db"} 1.0' in result.stdout


def test_add_upgrade_and_monitor(
    fresh_checkout: Path,
    server_directory: Callable[[str], Path],
    new_database: Callable,
) -> None:
    """On an existing instance, in a virtualenv of its own, with the package as it is built."""
    venv = fresh_checkout / "venv"
    subprocess.run([sys.executable, "-m", "venv", venv], check=True)
    pip = [venv / "bin" / "pip", "--disable-pip-version-check"]
    subprocess.run(
        [*pip, "wheel", "-q", "--no-deps", "-w", "dist", "."], cwd=fresh_checkout, check=True
    )
    subprocess.run([*pip, "install", "-q", "cubicweb-file", "psycopg2-binary"], check=True)

    instance = Instance(server_directory("instance"), ["file"], new_database())
    instance.name = "mysite"
    instance.create()
    process = instance.process()
    process.start()
    admin = Visitor(process.url)
    admin.login()
    admin.create("File", files={"data": ("a.png", picture("red"), "image/png")})
    process.stop()

    def run(block: str) -> str:
        links = f"{os.environ.get('PIP_FIND_LINKS', '')} {fresh_checkout / 'dist'}"
        result = subprocess.run(
            [
                "bash",
                "-euo",
                "pipefail",
                "-c",
                block.replace("localhost:8080", f"127.0.0.1:{process.port}"),
            ],
            cwd=instance.directory,
            env={
                **instance.environ(),
                "PATH": f"{venv / 'bin'}:{os.environ['PATH']}",
                "PIP_FIND_LINKS": links.strip(),
            },
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        assert result.returncode == 0, result.stdout
        assert "Traceback" not in result.stdout, result.stdout
        return result.stdout

    run(ADD)
    assert list(venv.glob("lib/*/site-packages/cubicweb_hasite/monitoring/alerts.yml"))
    instance.shell('rql(\'SET P value "0.0.1" WHERE P pkey "system.version.hasite"\')\ncommit()\n')
    run(UPGRADE)
    process.start()
    pool, database, versions, _host = run(MONITOR).splitlines()
    assert pool.startswith("unlimited pool : ")
    assert database == "ServiceOK : 2 users in DB"
    assert re.search(r"ServiceOK : FS config .*hasite: ", versions)
    assert Visitor(process.url).get("/file/1/raw/a.png").status_code == 404
    process.stop()


@pytest.mark.parametrize(("serve", "stop"), [(SERVE, STOP), (UWSGI_SERVE, UWSGI_STOP)])
def test_operate(
    server_directory: Callable[[str], Path], new_database: Callable, serve: str, stop: str
) -> None:
    """The commands, in the directory of the instance and with its environment."""
    instance = Instance(server_directory("instance"), ["hasite"], new_database())
    instance.name = "mysite"
    instance.create()
    port = free_port()
    visitor = Visitor(f"http://127.0.0.1:{port}/")
    environ = instance.environ({"instance": "mysite", "port": port, "base-url": visitor.base_url})
    environ["PATH"] = f"{Path(sys.executable).parent}:{os.environ['PATH']}"
    (instance.directory / "uwsgi.ini").write_text(uwsgi_configuration())

    def start(block: str) -> subprocess.Popen[bytes]:
        return subprocess.Popen(
            ["bash", "-euc", f"exec {block}".replace("8080", str(port))],
            cwd=instance.directory,
            env=environ,
        )

    def run(block: str) -> None:
        block = block.replace("8080", str(port))
        subprocess.run(["bash", "-euc", block], cwd=instance.directory, env=environ, check=True)

    server = start(serve)
    try:
        wait_until(lambda: listens(port), "server", timeout=60)
        assert visitor.get("readyz").status_code == 200
        run(DRAIN)
        assert visitor.get("readyz").status_code == 503
        run(UNDO)
        assert visitor.get("readyz").status_code == 200
        run(stop)
        assert server.wait(60) == 0
    finally:
        server.kill()
        server.wait()


@pytest.mark.parametrize(
    ("document", "serve"), [("docs/operate.md", SERVE), ("docs/uwsgi.md", UWSGI_SERVE)]
)
def test_systemd_unit(document: str, serve: str) -> None:
    """It runs what the command block runs, which is tested."""
    [unit] = re.findall(
        r"^```ini\n(\[Service\].*?)^```$", (CHECKOUT / document).read_text(), re.M | re.S
    )
    [command] = re.findall(r"ExecStart=/opt/mysite/bin/(.*?)^[A-Z]", unit, re.M | re.S)
    command = command.replace("%i", "8080").replace("/run/mysite/", "")
    assert command.split() == serve.split()
