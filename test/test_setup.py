"""tools/setup names the packages of all programs that the tests and hasite-check run."""

import re
import shutil
import subprocess
from pathlib import Path

import pytest

CHECKOUT = Path(__file__).resolve().parent.parent
SOURCES = [*CHECKOUT.glob("test/**/*.py"), *CHECKOUT.glob("cubicweb_hasite/deploy/**/*.py")]
TEXT = "\n".join(path.read_text() for path in SOURCES)
#: programs that are started by their names, without the name of their package; the last ones by
#: CubicWeb and by the commands of the documentation
STARTED = sorted(
    set(re.findall(r'(?:host\.run|accepts)\((?:\s*|host, )"([\w-]+)"', TEXT)) - {"sh"}
    | {"msgfmt", "curl"}
)


@pytest.fixture(scope="module")
def named() -> set[str]:
    """The packages that are installed for `make test`."""
    output = subprocess.run(
        ["tools/setup", "packages"], cwd=CHECKOUT, check=True, capture_output=True, text=True
    ).stdout
    rows = [line.split(maxsplit=2) for line in output.splitlines()]
    return {package for mode, package, _what in rows if mode in ("run", "test")}


def _package_of(program: str) -> str:
    folders = ":".join(
        ["/usr/bin", "/usr/sbin", *map(str, Path("/usr/lib").glob("postgresql/*/bin"))]
    )
    path = shutil.which(program, path=folders)
    assert path, f"{program} is not installed"
    owner = subprocess.run(
        ["dpkg-query", "--search", Path(path).resolve()],
        check=True,
        capture_output=True,
        text=True,
    ).stdout
    return re.sub(r"^postgresql-(client-)?\d+$", "postgresql", owner.partition(":")[0])


@pytest.mark.parametrize("program", STARTED)
def test_package_of_a_program(program: str, named: set[str]) -> None:
    assert _package_of(program) in named


def test_packages_of_servers(named: set[str]) -> None:
    packages = set(re.findall(r'find_program\(\s*"\w+", "([\w-]+)"', TEXT))
    assert len(packages) > 8
    assert packages <= named
