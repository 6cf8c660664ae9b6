"""Check of what systemd reads."""

import re
import shutil
from pathlib import Path

from cubicweb_hasite.deploy.programs import Answer, Host, examine, write

_FOLDERS = [Path("/lib/systemd/system"), Path("/usr/lib/systemd/system")]
_RIGHT_UNITS = {
    ".service": "[Service]\nExecStart=/bin/true\n",
    ".timer": "[Timer]\nUnit=basic.target\nOnCalendar=daily\n",
}


def unit(host: Host, path: Path) -> str:
    """Check a unit, or a drop-in of a unit of Debian's package."""
    host.find("systemd-analyze")
    added = path.suffix == ".conf"
    name = path.parent.name.removesuffix(".d") if added else path.name
    right = host.scratch / "right-units"
    instead = ""
    if added:
        for root in (host.root, right):
            if not _copy_unit(name, root):
                instead = "; Debian's unit: another one"
                write(root / "usr/lib/systemd/system" / name, _RIGHT_UNITS[".service"])
    else:
        write(right / "etc/systemd/system" / name, _RIGHT_UNITS.get(path.suffix, ""))
    for root in (host.root, right):
        for target in _here("*.target"):
            _copy_unit(target.name, root)
        for folder in ("etc", "usr/lib"):
            for file in [path, *root.glob(f"{folder}/systemd/system/{name}")]:
                _add_programs(file, root)
    ours = (f"/{path.relative_to(host.root)}", name)

    def ask(root: Path) -> Answer:
        arguments = ["--man=no", f"--root={root}", name.replace("@.", "@1.")]
        answer = host.run("systemd-analyze", "verify", *arguments)
        about = [line for line in answer.lines if line.startswith(ours)]
        return Answer(answer.refused, about or (answer.lines if answer.refused else []))

    examine(ask, host.root, lambda: right)
    return f"systemd-analyze verify; the programs that it starts: not checked{instead}"


def _add_programs(unit_file: Path, root: Path) -> None:
    """Make empty files for the programs that a unit starts, which need not be here."""
    for program in re.findall(r"(?m)^Exec\w+=[-@:+!]*([^\s-]\S*)", unit_file.read_text()):
        file = root / "usr/bin" / program if "/" not in program else root / program.lstrip("/")
        file.parent.mkdir(parents=True, exist_ok=True)
        if not file.exists():
            file.touch(mode=0o755)


def _here(pattern: str) -> list[Path]:
    """Return the units of this machine whose name matches a pattern."""
    return [path for folder in _FOLDERS for path in folder.glob(pattern) if path.is_file()]


def _copy_unit(name: str, root: Path) -> bool:
    """Copy a unit of this machine to its path under another root, unless it is there.

    :return: whether this machine has it.
    """
    found = _here(name)
    if not found:
        return False
    copy = root / "usr/lib/systemd/system" / name
    copy.parent.mkdir(parents=True, exist_ok=True)
    if not copy.exists():
        shutil.copy(found[0], copy)
    return True
