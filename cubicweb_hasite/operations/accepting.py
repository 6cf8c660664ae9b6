"""Let instances of the former version keep serving while their database is upgraded.

`/readyz` answers 503 if the versions of the database are not the installed ones, because the
instance may not know the schema. If a rehearsal has shown that it works, the versions of the
upgraded database are accepted, on each host, by a file in the directory where CubicWeb keeps its
pid files. The file names exact versions, so a forgotten file has no effect.
"""

import re
from collections.abc import Mapping
from pathlib import Path

from cubicweb.cwconfig import CubicWebConfiguration
from logilab.common.changelog import Version

_VERSIONS = re.compile(r"\w+: [\w.]+( \| \w+: [\w.]+)*")


def accepted_path(config: CubicWebConfiguration) -> Path:
    """Return the path of the file that holds the versions accepted."""
    return Path(config.default_pid_file()).with_name(f"{config.appid}.accepted")


def accept(config: CubicWebConfiguration, versions: str | None) -> None:
    """Let the processes on this host serve with these versions in the database too.

    :param versions: as monitor_version writes them, `cubicweb: 5.0.1 | file: 4.2.0`; None: those
        installed alone
    :raises ValueError: they are written in another way.
    :raises OSError: the directory cannot be written to.
    """
    path = accepted_path(config)
    if versions is None:
        path.unlink(missing_ok=True)
        return
    if not _VERSIONS.fullmatch(versions):
        raise ValueError(f"{versions!r} is not as monitor_version writes versions")
    path.parent.mkdir(parents=True, exist_ok=True)
    new = path.with_suffix(".accepted-new")
    new.write_text(versions)
    new.replace(path)


def is_accepted(
    config: CubicWebConfiguration, installed: Mapping[str, str], database: Mapping[str, str]
) -> bool:
    """Return whether the versions of the database are accepted, or on their way there.

    Cube by cube and script by script, a migration passes from those installed to those accepted.
    Never raises.
    """
    try:
        text = accepted_path(config).read_text()
        accepted = dict(part.split(": ") for part in text.split(" | "))
        return all(
            version == installed.get(cube)
            or (
                cube in accepted
                and Version(installed.get(cube, "0")) < Version(version) <= Version(accepted[cube])
            )
            for cube, version in database.items()
        )
    except (OSError, ValueError):
        return False
