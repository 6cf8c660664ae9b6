"""Let an instance write nothing, and read all pages from one standby, until that is undone.

An upgrade that cannot be rolling changes the primary meanwhile: visitors read what the standby
held before. The order is a file in the directory where CubicWeb keeps its pid files, on each host.
It names the packages of CubicWeb for which it is: a process that runs other versions, such as the
upgraded ones, ignores it.
"""

import re
from importlib.metadata import distributions
from pathlib import Path

from cubicweb.cwconfig import CubicWebConfiguration

# CubicWeb and its cubes, those too that are installed and not part of the instance
_OURS = re.compile("cubicweb([-_]|$)", re.IGNORECASE)


def order_path(config: CubicWebConfiguration) -> Path:
    """Return the path of the file that holds the order."""
    return Path(config.default_pid_file()).with_name(f"{config.appid}.read-only")


def running() -> str:
    """Return the packages of CubicWeb that this process runs, if it has just started."""
    found = {
        f"{each.name} {each.version}" for each in distributions() if _OURS.match(each.name or "")
    }
    return ", ".join(sorted(found))


def order(config: CubicWebConfiguration, standby: str | None) -> None:
    """Let the processes of these packages on this host read one standby alone.

    :param standby: an entry of the option `hasite-standby-hosts`; None: they read and write again
    :raises ValueError: it is no such entry.
    :raises OSError: the directory cannot be written to.
    """
    path = order_path(config)
    if standby is None:
        path.unlink(missing_ok=True)
        return
    known = [host.strip() for host in config["hasite-standby-hosts"] or ()]
    if not known:
        raise ValueError(
            "this instance reads no standbys: name them in option hasite-standby-hosts"
        )
    if standby not in known:
        raise ValueError(f"no standby {standby!r}; give one of: {', '.join(known)}")
    path.parent.mkdir(parents=True, exist_ok=True)
    new = path.with_name(f"{path.name}-new")
    new.write_text(f"{standby}\n{running()}\n")
    new.replace(path)


def ordered(path: Path, packages: str) -> str:
    """Return the standby that is to be read alone, empty if nothing is ordered. Never raises.

    :param path: that of :func:`order_path`
    :param packages: what :func:`running` has returned when this process started
    """
    try:
        standby, meant = path.read_text().splitlines()
    except (OSError, ValueError):
        return ""
    return standby if meant == packages else ""
