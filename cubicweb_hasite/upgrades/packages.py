"""The software of an upgrade: gathered once, and installed the same wherever it is."""

import hashlib
import re
import shlex
import shutil
import time
from collections.abc import Iterator
from pathlib import Path

from cubicweb_hasite.upgrades import RehearsalError
from cubicweb_hasite.upgrades.programs import Programs, clean_environ

#: in the folder of a rehearsal: the packages, and their names, versions and digests
WHEELS, LOCK = "wheels", "requirements.txt"


def install_command(virtualenv: str, python: str, folder: str) -> str:
    """Return the shell command that makes an environment from a folder with the packages.

    Nothing else is installed than what was rehearsed, to the byte.
    """
    folder = shlex.quote(folder)
    return (
        f"{python} -m venv --clear {shlex.quote(virtualenv)} && "
        f"{shlex.quote(virtualenv)}/bin/pip install --quiet --disable-pip-version-check "
        f"--no-index --find-links {folder}/{WHEELS} --require-hashes -r {folder}/{LOCK}"
    )


def gather(programs: Programs, requirements: Path, folder: Path, python: str) -> int:
    """Build or download all that requirements need, into the folder of a rehearsal.

    :return: how many bytes they take
    :raises RehearsalError: pip cannot.
    """
    wheels = folder / WHEELS
    shutil.rmtree(wheels, ignore_errors=True)
    builder = folder / "work" / "pip"
    environ = clean_environ()
    programs.run([python, "-m", "venv", "--clear", str(builder)], environ=environ)
    pip = [str(builder / "bin" / "pip"), "--disable-pip-version-check"]
    # like `pip install`, `pip wheel` is to be content with what an environment comes with
    present = programs.run([*pip, "freeze", "--all"], environ=environ).splitlines()
    asked = requirements.read_text()
    constraints = folder / "work" / "constraints.txt"
    names = [line for line in present if "==" in line and line.partition("=")[0] not in asked]
    constraints.write_text("".join(f"{line}\n" for line in names))
    command = [*pip, "wheel", "--wheel-dir", str(wheels), "--requirement", requirements.name]
    command += ["--constraint", str(constraints)]
    programs.run(command, environ=environ, folder=requirements.parent)
    (folder / LOCK).write_text("".join(sorted(_locked(wheels))))
    return sum(file.stat().st_size for file in wheels.iterdir())


def install(programs: Programs, folder: Path, virtualenv: Path, python: str) -> float:
    """Install what was gathered in a fresh virtualenv; return how many seconds it took.

    :raises RehearsalError: pip cannot, or the packages are not those that were gathered.
    """
    start = time.monotonic()
    command = install_command(str(virtualenv), shlex.quote(python), str(folder))
    programs.run(["sh", "-c", command], environ=clean_environ())
    return time.monotonic() - start


def _locked(wheels: Path) -> Iterator[str]:
    for file in wheels.glob("*.whl"):
        name, version = file.name.split("-")[:2]
        yield f"{name}=={version} --hash=sha256:{_sha256(file)}\n"


def altered(folder: Path) -> list[str]:
    """Return the names of packages of a rehearsal that are not as they were any more."""
    lines = (folder / LOCK).read_text().splitlines()
    wanted = {line.rpartition("sha256:")[2]: line.partition(" ")[0] for line in lines}
    present = {_sha256(file) for file in (folder / WHEELS).glob("*.whl")}
    return [name for digest, name in wanted.items() if digest not in present]


def _sha256(file: Path) -> str:
    return hashlib.sha256(file.read_bytes()).hexdigest()


def digest(requirements: Path) -> str:
    """Return what changes when requirements do, or the files beside them that they name.

    :raises RehearsalError: they cannot be read.
    """
    try:
        text = requirements.read_text()
    except OSError as error:
        raise RehearsalError(
            f"{requirements}: {error.strerror}; list there what is to be installed, in pip's "
            "format, or name another file in upgrade.requirements"
        ) from None
    result = hashlib.sha256(text.encode())
    for word in re.split(r"[\s=]+", text):
        path = requirements.parent / word.removeprefix("file://")
        if not word or not path.exists():
            continue
        for file in sorted(path.rglob("*") if path.is_dir() else [path]):
            name = str(file.relative_to(path))
            # a build leaves its own traces
            if file.is_file() and not re.search(r"build/|\.egg-info/|__pycache__/", name):
                result.update(f"{word} {name} {_sha256(file)}".encode())
    return result.hexdigest()
