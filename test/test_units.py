"""What the units that are rendered, and those of Debian's packages with what is added, may do."""

import re
import shutil
import subprocess
from pathlib import Path

import pytest
from deploying import SITES
from servers.support import find_program

from cubicweb_hasite.deploy import load, output, render

SYSTEMD_ANALYZE = find_program("systemd-analyze", "systemd")
_DEBIANS = Path("/lib/systemd/system")
#: runs the programs of others, such as those that send mail, which may need more than itself
_OTHERS_PROGRAMS = "nagios4.service"


@pytest.mark.parametrize("name", ["every_key", "no_apache", "varnish", "backup"])
def test_exposure(name: str, tmp_path: Path) -> None:
    """It is at most 4.0 of 10, by systemd's own measure."""
    [path] = [path for path in SITES if path.stem == name]
    output.write(render.render(load.load(path), drawing=False), tmp_path / "out")
    exposures = {}
    for host in (tmp_path / "out").iterdir():
        for file in host.glob("etc/systemd/system/**/*"):
            unit = (file.parent.name if file.suffix == ".conf" else file.name).removesuffix(".d")
            if file.is_file() and unit.endswith(".service"):
                exposures[unit] = exposure(host, unit)
    assert len(exposures) >= 6, exposures
    assert exposures.pop(_OTHERS_PROGRAMS, 0) < 7
    assert {unit: value for unit, value in exposures.items() if value > 4} == {}


def exposure(host: Path, unit: str) -> float:
    """Return the exposure of a unit of a host, from 0 to 10."""
    own, debians = host / "etc/systemd/system" / unit, host / "usr/lib/systemd/system" / unit
    if not own.exists():
        debians.parent.mkdir(parents=True, exist_ok=True)
        if (_DEBIANS / unit).exists():
            shutil.copy(_DEBIANS / unit, debians)
        else:  # of a package that is not installed here
            debians.write_text("[Service]\nExecStart=/bin/true\n")
    arguments = ["security", "--offline=yes", f"--root={host}", "--no-pager"]
    result = subprocess.run(
        [SYSTEMD_ANALYZE, *arguments, unit.replace("@.", "@1.")], capture_output=True, text=True
    )
    return float(re.search(r"Overall exposure level .*: ([0-9.]+) ", result.stdout)[1])
