"""`cubicweb-ctl hasite-cubes` tells a wrong name of a cube by a line, where `create` would not."""

import subprocess
import sys

import pytest
from cubicweb import __pkginfo__ as cubicweb
from servers.instance import CUBICWEB_CTL, Instance

from cubicweb_hasite.__pkginfo__ import version


def cubes(*args: str, instance: Instance | None = None) -> tuple[int, str]:
    """Run it; return its exit status, and its last line."""
    result = subprocess.run(
        [CUBICWEB_CTL, "hasite-cubes", *args],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        env=instance.environ() if instance else None,
    )
    assert "Traceback" not in result.stdout
    return result.returncode, result.stdout.splitlines()[-1]


def test_installed() -> None:
    assert cubes("hasite,file") == (0, "installed: hasite,file")


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ("hasite,YOUR_CUBES", "YOUR_CUBES stands for the names of your cubes; installed are: "),
        ("hasite,cubicweb-file", "cubicweb-file is a package; write the name of its cube: file"),
        ("cubicweb_file", "cubicweb_file is a package; write the name of its cube: file"),
        (
            "hasite,nosuch",
            f"no cube nosuch is installed; install its package by the pip of this "
            f"environment, {sys.prefix}/bin/pip, or write one of: ",
        ),
        ("hasite, file", "write the names of cubes without spaces, such as hasite,news"),
        ("hasite,", "write the names of cubes without spaces, such as hasite,news"),
    ],
)
def test_not_installed(given: str, said: str) -> None:
    status, line = cubes(given)
    assert status == 1
    assert line.startswith(said)


def test_versions(instance: Instance) -> None:
    """They are what hasite-accept takes, which tells those that are left out."""
    status, line = cubes("--versions", instance.name, instance=instance)
    assert status == 0
    assert line.startswith(f"cubicweb: {cubicweb.version} | ")
    assert f" | hasite: {version} | " in line
    assert " | web: " in line

    def accept(*args: str) -> str:
        return instance.ctl("hasite-accept", instance.name, *args)

    assert "does not name" not in accept(line)
    part = " | ".join(each for each in line.split(" | ") if not each.startswith("web:"))
    assert "the list does not name web: that is right only if the upgrade removes it" in accept(
        part
    )
    accept("--undo")
    assert cubes("--versions", "nosuch", instance=instance)[0] != 0
