"""The commands that render a site, run as a user does."""

import contextlib
import io
import subprocess
import sys
from pathlib import Path

from cubicweb.cwctl import CWCTL

from cubicweb_hasite import ccplugin  # noqa: F401  registers the commands

#: site files of many kinds
SITES = sorted((Path(__file__).parent / "sites").glob("*.toml"))


def hasite(command: str, *args: object, cwd: Path) -> subprocess.CompletedProcess[str]:
    """Run `cubicweb-ctl hasite-<command>`, whatever its exit status."""
    return subprocess.run(
        [Path(sys.executable).with_name("cubicweb-ctl"), f"hasite-{command}", *map(str, args)],
        cwd=cwd,
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
