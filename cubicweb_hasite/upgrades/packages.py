"""The packages of an upgrade: collected once, then installed the same way on each machine."""

import hashlib
import re
import shlex
import shutil
import time
from collections.abc import Iterator
from pathlib import Path

from cubicweb_hasite.upgrades import UpgradeError
from cubicweb_hasite.upgrades.programs import Programs, clean_environ

#: folder of the packages, in the folder of a rehearsal
WHEELS = "wheels"
#: file with their names, versions and digests, in the folder of a rehearsal
LOCK = "requirements.txt"


def install_command(virtualenv: str, python: str, folder: str) -> str:
    """Return the shell command that installs the packages of a folder in a new environment.

    It installs exactly the files that were rehearsed, by their digests.
    """
    folder = shlex.quote(folder)
    return (
        f"{python} -m venv --clear {shlex.quote(virtualenv)} && "
        f"{shlex.quote(virtualenv)}/bin/pip install --quiet --disable-pip-version-check "
        f"--no-index --find-links {folder}/{WHEELS} --require-hashes -r {folder}/{LOCK}"
    )


def gather(programs: Programs, requirements: Path, folder: Path, python: str) -> int:
    """Build or download all packages that requirements need, into the folder of a rehearsal.

    :return: their size in bytes
    :raises UpgradeError: pip cannot.
    """
    wheels = folder / WHEELS
    shutil.rmtree(wheels, ignore_errors=True)
    builder = folder / "work" / "pip"
    environ = clean_environ()
    programs.run([python, "-m", "venv", "--clear", str(builder)], environ=environ)
    pip = [str(builder / "bin" / "pip"), "--disable-pip-version-check"]
    # `pip wheel` would download newer versions of packages that a new environment already has
    present = programs.run([*pip, "freeze", "--all"], environ=environ).splitlines()
    asked = requirements.read_text()
    constraints = folder / "work" / "constraints.txt"
    names = [line for line in present if "==" in line and line.partition("=")[0] not in asked]
    constraints.write_text("".join(f"{line}\n" for line in names))
    # a new environment has no package wheel, which pip would need to build in it
    command = [*pip, "wheel", "--use-pep517", "--wheel-dir", str(wheels)]
    command += ["--requirement", requirements.name]
    command += ["--constraint", str(constraints)]
    programs.run(command, environ=environ, folder=requirements.parent)
    (folder / LOCK).write_text("".join(sorted(_locked(wheels))))
    return sum(file.stat().st_size for file in wheels.iterdir())


def install(programs: Programs, folder: Path, virtualenv: Path, python: str) -> float:
    """Install the packages in a new virtualenv; return the duration in seconds.

    :raises UpgradeError: pip cannot, or the packages have changed.
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
    """Return the names of packages of a rehearsal that have changed since, or are missing."""
    lines = (folder / LOCK).read_text().splitlines()
    wanted = {line.rpartition("sha256:")[2]: line.partition(" ")[0] for line in lines}
    present = {_sha256(file) for file in (folder / WHEELS).glob("*.whl")}
    return [name for digest, name in wanted.items() if digest not in present]


def _sha256(file: Path) -> str:
    return hashlib.sha256(file.read_bytes()).hexdigest()


def digest(requirements: Path) -> str:
    """Return a digest of requirements and of the local files that they name.

    :raises UpgradeError: they cannot be read.
    """
    try:
        text = requirements.read_text()
    except OSError as error:
        raise UpgradeError(
            f"{requirements}: {error.strerror}; list the packages to install there, in pip's "
            "format, or give another file in upgrade.requirements"
        ) from None
    result = hashlib.sha256(text.encode())
    for word in re.split(r"[\s=]+", text):
        path = requirements.parent / word.removeprefix("file://")
        if not word or not path.exists():
            continue
        for file in sorted(path.rglob("*") if path.is_dir() else [path]):
            name = str(file.relative_to(path))
            # builds write these
            if file.is_file() and not re.search(r"build/|\.egg-info/|__pycache__/", name):
                result.update(f"{word} {name} {_sha256(file)}".encode())
    return result.hexdigest()
