"""Take an instance out of service gently: `/readyz` says so, and balancers send no more visitors.

All the processes of an instance on a host are drained together, by a file in the directory where
CubicWeb keeps its pid files, which also survives the restart of a process.
"""

import os
from pathlib import Path

from cubicweb.cwconfig import CubicWebConfiguration


def is_draining(config: CubicWebConfiguration) -> bool:
    """Return whether the instance is being drained on this host. Never raises."""
    return os.path.exists(flag_path(config))


def set_draining(config: CubicWebConfiguration, draining: bool) -> None:
    """Begin or end to drain the instance on this host.

    :raises OSError: the directory cannot be written to.
    """
    path = flag_path(config)
    if draining:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()
    else:
        path.unlink(missing_ok=True)


def flag_path(config: CubicWebConfiguration) -> Path:
    """Return the path of the file that is there while the instance is being drained."""
    # of the default: the option may differ from process to process
    return Path(config.default_pid_file()).with_name(f"{config.appid}.draining")
