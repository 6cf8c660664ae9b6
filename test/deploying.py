"""The commands that render a site, run as a user does."""

import subprocess
import sys
from pathlib import Path

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


def tree(folder: Path) -> dict[str, tuple[int, bytes]]:
    """Return the mode and the content of each file of a folder."""
    return {
        str(path.relative_to(folder)): (path.stat().st_mode & 0o777, path.read_bytes())
        for path in folder.glob("**/*")
        if path.is_file()
    }
