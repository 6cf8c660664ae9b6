"""Each command block of the documentation is run, as written but for the port and the paths.

`make docs` checks the links between the pages of docs/.
"""

import os
import pkgutil
import re
import shlex
import shutil
import signal
import subprocess
import sys
import tomllib
from collections.abc import Callable
from pathlib import Path

import pytest
from documents import CHECKOUT, anchors
from pictures import picture
from servers.instance import Instance, uwsgi_configuration
from servers.support import free_port, listens, wait_until
from servers.visitor import Visitor

from cubicweb_hasite.monitoring import refusals
from cubicweb_hasite.site_cubicweb import options

NOT_SOURCE = shutil.ignore_patterns(
    ".venv", ".git", "var", "build", "dist", "*.egg-info", "__pycache__", ".*_cache"
)
#: how documents name the files of the project where a relative link would lead nowhere
FORGE = re.compile(
    r"https://forge\.extranet\.logilab\.fr/cubicweb/cubes/hasite/-/(?:blob|raw)/main/"
)
DOCUMENTS = sorted(
    str(path.relative_to(CHECKOUT))
    for path in CHECKOUT.glob("**/*.md")
    if not {".venv", "var"} & set(path.relative_to(CHECKOUT).parts)
)


def command_blocks(document: str) -> list[str]:
    """Return the command blocks of a document of the checkout."""
    return re.findall(r"^```sh\n(.*?)^```$", (CHECKOUT / document).read_text(), re.M | re.S)


def continuous_integration() -> str:
    """Return the scripts of continuous integration."""
    return "".join(path.read_text() for path in sorted((CHECKOUT / ".ci").iterdir()))


RUN, TEST, ADD = command_blocks("README.md")
MONITORS, MANAGEMENT_PORT = command_blocks("docs/monitor.md")
SERVE, DRAIN, STOP, UNDO, UPGRADE = command_blocks("docs/operate.md")
UWSGI_SERVE, UWSGI_STOP = command_blocks("docs/uwsgi.md")


@pytest.fixture
def fresh_checkout(tmp_path: Path) -> Path:
    """A copy of the checkout, without what was installed or built in it."""
    return Path(shutil.copytree(CHECKOUT, tmp_path / "checkout", ignore=NOT_SOURCE))


def test_every_document_is_tested() -> None:
    with_commands = {path for path in DOCUMENTS if command_blocks(path)}
    tested = {
        *("README.md", "CONTRIBUTING.md", "bench/README.md"),
        *("docs/install.md", "docs/lab.md", "docs/monitor.md", "docs/operate.md"),
        "docs/uwsgi.md",
        "docs/containers.md",  # by container/
        "docs/database.md",  # by test_eids.py
        "docs/standbys.md",  # by test_read_only.py
        "docs/upgrade.md",  # by test_upgrade.py
    }
    assert with_commands <= tested


def test_contributing() -> None:
    """Its set-up and its commands are those of continuous integration; here each is found by what
    would run it."""
    lines = "".join(command_blocks("CONTRIBUTING.md")).splitlines()
    commands = [line.partition("#")[0].strip() for line in lines]
    for command in commands:
        program, *arguments = shlex.split(command)
        if program == "make":
            check = ["make", "-n", *arguments]
        elif program.endswith("pytest"):
            check = [sys.executable, "-m", "pytest", "--collect-only", "-q", *arguments]
        elif program in ("git", "cd"):  # what a checkout is, has been shown by being in one
            continue
        else:
            assert os.access(CHECKOUT / program, os.X_OK), command
            continue
        subprocess.run(check, cwd=CHECKOUT, check=True, stdout=subprocess.DEVNULL)


def test_readme_is_short() -> None:
    assert len((CHECKOUT / "README.md").read_text().split()) <= 500


@pytest.mark.parametrize("document", [path for path in DOCUMENTS if "/templates/" not in path])
def test_links_to_files(document: str) -> None:
    """They lead to files of the project, and to headings."""
    links = re.findall(r"\]\(([^)\s]+)\)", (CHECKOUT / document).read_text())
    for link in links:
        path, _hash, anchor = FORGE.sub("", link).partition("#")
        if "://" in path:
            continue
        folder = CHECKOUT if FORGE.match(link) else (CHECKOUT / document).parent
        target = folder / path if path else CHECKOUT / document
        assert target.is_file(), link
        assert not anchor or anchor in anchors(target), link


def test_every_page_is_in_the_menu() -> None:
    """The pages of docs/ are in the index, once for readers and once for the menu."""
    text = (CHECKOUT / "docs" / "index.md").read_text()
    menu = "\n".join(re.findall(r"^```{toctree}\n(.*?)^```$", text, re.M | re.S))
    pages = {path.stem for path in (CHECKOUT / "docs").glob("*.md")} - {"index"}
    assert set(re.findall(r"^\w+$", menu, re.M)) == pages
    assert set(re.findall(r"\]\((\w+)\.md\)", text)) == pages


def test_options() -> None:
    page = CHECKOUT / "docs" / "options.md"
    if os.environ.get("UPDATE_SNAPSHOTS"):
        page.write_text(options_page())
    assert page.read_text() == options_page(), "run: make snapshots"


def options_page() -> str:
    """Return docs/options.md, made from the options of the cube."""
    types = {
        "csv": "list",
        "float": "number",
        "int": "number",
        "string": "text",
        "yn": "yes or no",
    }
    rows = []
    for name, option in options:
        default = option["default"]
        if isinstance(default, bool):
            default = "yes" if default else "no"
        elif isinstance(default, tuple):
            default = ",".join(default)
        default = "none" if default in (None, "") else f"`{default}`"
        text = option["help"][0].upper() + option["help"][1:]
        rows.append(f"| `{name}` | {types[option['type']]} | {default} | {text} |\n")
    return f"""\
# Options

Made from `cubicweb_hasite/site_cubicweb.py`.

Set an option in `all-in-one.conf` of the instance, or by an environment variable, such as
`CW_HASITE_IMAGE_MAX_AGE` for `hasite-image-max-age`. In a [site file](reference.md), set it in
`options` of the site. Then restart the instance. If a value is not valid, the instance does not
start, and the error names the option.

| option | value | default | |
|---|---|---|---|
{"".join(rows)}"""


def test_dependencies_have_reasons() -> None:
    project = tomllib.loads((CHECKOUT / "pyproject.toml").read_text())["project"]
    extras = project["optional-dependencies"]
    required = {extra: set(map(_name, extras[extra])) - {"cubicweb-hasite"} for extra in extras}
    text = (CHECKOUT / "docs" / "dependencies.md").read_text()
    explained: dict[str, set[str]] = {extra: set() for extra in extras}
    for extra, names in re.findall(r"^\| `(\w+)` \| ([\w, -]+) \| \S.* \|$", text, re.M):
        explained[extra] |= set(names.split(", "))
    assert explained == required
    [always] = re.findall(r"\A(.*?)^With an extra", text, re.M | re.S)
    assert all(
        re.search(rf"^\|.*\b{_name(each)}\b", always, re.M) for each in project["dependencies"]
    )


def _name(requirement: str) -> str:
    return re.split(r"[ \[<>=]", requirement, maxsplit=1)[0]


def test_public_names() -> None:
    """What applications may import can be imported."""
    text = (CHECKOUT / "docs" / "applications.md").read_text()
    names = re.findall(r"^## `(cubicweb_hasite[\w.]+)`$", text, re.M)
    assert len(names) >= 3
    for name in names:
        module, _dot, attribute = name.rpartition(".")
        assert callable(pkgutil.resolve_name(f"{module}:{attribute}")), name


def test_example_of_an_edit(instance: Instance) -> None:
    """The first example of docs/applications.md, for an image of the instance."""
    text = (CHECKOUT / "docs" / "applications.md").read_text()
    example, *_others = re.findall(r"^```python\n(.*?)^```$", text, re.M | re.S)
    before, after = picture("red"), picture("blue")
    output = instance.shell(
        "from cubicweb import Binary\n"
        f"former = cnx.create_entity('File', data=Binary({before!r}), data_name='a.png',"
        " data_format='image/png').eid\n"
        f"cnx.commit()\nnew_bytes = {after!r}\n"
        + example.replace("812", "former")
        + "print('moved', image.eid == replaced[former] != former)\n"
        "print('edited', image.data.getvalue() == new_bytes)\n"
    )
    assert "moved True" in output
    assert "edited True" in output


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
    assert re.search(r"^([A-Z_]+=\w+ )*make test$", continuous_integration(), re.M)


def test_lab() -> None:
    """Continuous integration runs it; the lab's own tests bring it up and down."""
    assert command_blocks("docs/lab.md") == ["make lab\nmake lab-down\n"]
    assert re.search(r"^make lab-test ", continuous_integration(), re.M)


def test_container() -> None:
    """Continuous integration runs its tests, which run the commands of docs/containers.md."""
    assert re.search(r"^tools/container --if-possible ", continuous_integration(), re.M)


def test_site_of_the_documentation() -> None:
    """Continuous integration builds it; a warning is an error."""
    assert re.search(r"^make docs$", continuous_integration(), re.M)
    makefile = (CHECKOUT / "Makefile").read_text()
    assert re.search(r"^docs:\n.*\n\t\.venv/bin/python -m sphinx -W ", makefile, re.M)


def test_comparisons() -> None:
    """Continuous integration makes some of them, shortened."""
    [block] = command_blocks("bench/README.md")
    assert block.startswith("make bench ")
    makefile = (CHECKOUT / "Makefile").read_text()
    assert re.search(r"^bench:\n.*\n\t\.venv/bin/python bench/run \$\(ARGS\)$", makefile, re.M)
    script = continuous_integration()
    [line] = re.findall(r"^bench/run (.*)$", script, re.M)
    assert set(line.split()) >= {"pages", "downloads", "monitors", "edits"}
    # all those that are named there exist
    commands = re.findall(r"^bench/run (\w+)", block, re.M)
    assert commands
    for name in commands:
        assert (CHECKOUT / "bench" / f"{name}.py").exists(), name


def test_monitor(instance: Instance) -> None:
    port = free_port()
    with instance.process(hasite_management_port=port):
        result = subprocess.run(
            [
                "bash",
                "-euo",
                "pipefail",
                "-c",
                MANAGEMENT_PORT.replace("localhost:9081", f"127.0.0.1:{port}"),
            ],
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
    assert result.returncode == 0, result.stdout
    assert result.stdout.startswith("ServiceOK : aliveServiceOK : ready{")
    assert '"status": "pass"' in result.stdout
    assert 'hasite_probe_success{probe="db"} 1.0' in result.stdout
    # all that is explained exists, and the other way round
    text = (CHECKOUT / "docs" / "monitor.md").read_text()
    # those of backups come from the database nodes
    explained = {
        name.removesuffix("_total")
        for name in re.findall(r"`(hasite_(?!backup_|restoration_)\w+)", text)
    }
    metrics = set(re.findall(r"^# TYPE (hasite_\w+)", result.stdout, re.M))
    # those of standbys are there where standbys are read: see test_standbys.py
    of_standbys = {"hasite_standby_readable", "hasite_standby_lag_seconds", "hasite_primary_up"}
    assert explained - of_standbys == {
        name.removesuffix("_total") for name in metrics if not name.endswith("_created")
    }


def test_refusals_of_the_database() -> None:
    """Each has its line in docs/monitor.md."""
    text = (CHECKOUT / "docs" / "monitor.md").read_text()
    for _pattern, meaning in refusals._REFUSALS:
        assert f"`{meaning}`" in text, meaning


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
    pool, database, versions, _host = run(MONITORS).splitlines()
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
    instance = Instance(server_directory("instance"), ["hasite", "file"], new_database())
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
