"""The commands that render a site, run as a user does."""

import contextlib
import io
import re
import subprocess
import sys
from pathlib import Path

import pytest
from cubicweb.cwctl import CWCTL

from cubicweb_hasite import ccplugin  # noqa: F401  registers the commands

#: site files of many kinds
SITES = sorted((Path(__file__).parent / "sites").glob("*.toml"))
#: files that no program checks without running; pg_hba.conf has a test of its own
UNCHECKED = re.compile(r"/etc/(grafana/provisioning/.*\.yml|postgresql/\d+/main/pg_hba\.conf)$")


def hasite(command: str, *args: object, cwd: Path) -> subprocess.CompletedProcess[str]:
    """Run `cubicweb-ctl hasite-<command>`, whatever its exit status."""
    return subprocess.run(
        [Path(sys.executable).with_name("cubicweb-ctl"), f"hasite-{command}", *map(str, args)],
        cwd=cwd,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=300,
    )


def hasite_here(command: str, *args: object, cwd: Path) -> subprocess.CompletedProcess[str]:
    """Do the same in this process: a new one takes a second."""
    output, errors, status = io.StringIO(), "", 0
    with contextlib.chdir(cwd), contextlib.redirect_stdout(output):
        try:
            CWCTL.run([f"hasite-{command}", *map(str, args)])
        except SystemExit as end:  # as Python ends
            status = end.code or 0
            if isinstance(status, str):
                status, errors = 1, f"{status}\n"
    return subprocess.CompletedProcess([], status, output.getvalue(), errors)


def tree(folder: Path) -> dict[str, tuple[int, bytes]]:
    """Return the mode and the content of each file of a folder."""
    return {
        str(path.relative_to(folder)): (path.stat().st_mode & 0o777, path.read_bytes())
        for path in folder.glob("**/*")
        if path.is_file()
    }


@pytest.fixture(scope="module")
def example(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the example site file, and its files in `out`."""
    folder = tmp_path_factory.mktemp("example")
    result = hasite("init", cwd=folder)
    assert (result.returncode, result.stderr) == (0, "")
    (folder / "site.toml").write_text(result.stdout)
    result = hasite("render", "site.toml", "out", cwd=folder)
    assert (result.returncode, result.stderr) == (0, "")
    assert re.fullmatch(r"\d+ files are in out; begin with out/README\.md\n", result.stdout)
    return folder
