"""Let instances of the former version keep serving while their database is upgraded.

`/readyz` answers 503 if the versions of the database are not the installed ones, because the
instance may not know the schema. If a rehearsal has shown that it works, the versions of the
upgraded database are accepted, on each host, by a file in the directory where CubicWeb keeps its
pid files. The file names exact versions, so a forgotten file has no effect.
"""

from collections.abc import Mapping
from pathlib import Path

from cubicweb.cwconfig import CubicWebConfiguration

from cubicweb_hasite import versions


def accepted_path(config: CubicWebConfiguration) -> Path:
    """Return the path of the file that holds the versions accepted."""
    return Path(config.default_pid_file()).with_name(f"{config.appid}.accepted")


def accept(config: CubicWebConfiguration, accepted: str | None) -> None:
    """Let the processes on this host serve with these versions in the database too.

    :param accepted: as monitor_version writes them, `cubicweb: 5.0.1 | file: 4.2.0`; None: only
        the installed ones
    :raises ValueError: they are written in another way.
    :raises OSError: the directory cannot be written to.
    """
    path = accepted_path(config)
    if accepted is None:
        path.unlink(missing_ok=True)
        return
    versions.parse(accepted)
    path.parent.mkdir(parents=True, exist_ok=True)
    new = path.with_suffix(".accepted-new")
    new.write_text(accepted)
    new.replace(path)


def is_accepted(
    config: CubicWebConfiguration, installed: Mapping[str, str], database: Mapping[str, str]
) -> bool:
    """Return whether the versions of the database are accepted, or on their way there.

    Cube by cube and script by script, a migration passes from those installed to those accepted.
    Never raises.
    """
    try:
        accepted = versions.parse(accepted_path(config).read_text().strip())
        return versions.is_on_the_way(database, installed, accepted)
    except (OSError, ValueError):
        return False
