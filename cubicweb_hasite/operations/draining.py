"""Take an instance out of service: `/readyz` fails, and balancers stop sending visitors.

All processes of an instance on a host are drained together, with two files in the directory where
CubicWeb keeps its pid files. One is a flag: it exists while they are drained. On the other the
processes hold a shared lock while requests are in flight, so that a command can wait for the end
of the last request. The kernel releases the lock of a process that dies.

A flag is for the processes that run when it is set, not for those that start later. So a forgotten
flag does not keep an instance out of service after a restart.
"""

import fcntl
import logging
import os
import threading
import time
from pathlib import Path

from cubicweb.cwconfig import CubicWebConfiguration

log = logging.getLogger(__name__)

# the flag that existed when this process started, to recognize a flag that was set since
_at_start: dict[Path, tuple[int, int]] = {}


def flag_path(config: CubicWebConfiguration) -> Path:
    """Return the path of the flag: a file that exists while the instance is drained."""
    # in the default directory, because the option may differ between processes
    return Path(config.default_pid_file()).with_name(f"{config.appid}.draining")


def requests_path(config: CubicWebConfiguration) -> Path:
    """Return the path of the file that processes lock while they serve requests."""
    return flag_path(config).with_suffix(".requests")


def is_draining(config: CubicWebConfiguration) -> bool:
    """Return whether this process of the instance is being drained. Never raises."""
    path = flag_path(config)
    return _identity(path) not in (None, _at_start.get(path))


def set_draining(config: CubicWebConfiguration, draining: bool) -> None:
    """Start or stop draining the processes of the instance on this host.

    :raises OSError: the directory cannot be written to.
    """
    path = flag_path(config)
    if draining:
        path.parent.mkdir(parents=True, exist_ok=True)
        # always a new file, for processes that have started since an earlier flag
        new = path.with_suffix(".draining-new")
        new.touch()
        new.replace(path)
    else:
        path.unlink(missing_ok=True)


def start(config: CubicWebConfiguration) -> None:
    """Prepare this process: it is in service now, and will lock the file while it serves."""
    path = flag_path(config)
    if (identity := _identity(path)) is not None:
        _at_start[path] = identity
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        requests_path(config).touch()
    except OSError as error:
        log.warning("hasite-drain --wait cannot wait for this process: %s", error)


class InFlight:
    """A context manager for a request that is served, so that :func:`wait` waits for its end."""

    def __init__(self, config: CubicWebConfiguration):
        self._path = requests_path(config)
        self._lock = threading.Lock()
        self._count = 0
        self._fd: int | None = None

    def __enter__(self) -> None:
        with self._lock:
            self._count += 1
            if self._fd is None:
                self._fd = self._open()

    def __exit__(self, *exc_info: object) -> None:
        with self._lock:
            self._count -= 1
            if self._fd is not None:
                os.utime(self._fd)  # the time at which the last request ended
                if not self._count:
                    os.close(self._fd)
                    self._fd = None

    def _open(self) -> int | None:
        try:
            fd = os.open(self._path, os.O_RDWR)
        except OSError:  # which `start` has logged
            return None
        for _ in range(50):
            try:
                fcntl.flock(fd, fcntl.LOCK_SH | fcntl.LOCK_NB)
                break
            except BlockingIOError:  # `wait` has the lock for a moment
                time.sleep(0.001)
        return fd


def wait(config: CubicWebConfiguration, quiet: float, timeout: float) -> None:
    """Wait until no process of the instance on this host serves requests any more.

    :param quiet: how long no request must have been served since the flag was set, in seconds
    :param timeout: how long to wait, in seconds
    :raises OSError: there is no file to lock, for example because no process has run here.
    :raises TimeoutError: requests are still served.
    """
    flag = flag_path(config).stat().st_mtime
    deadline = time.monotonic() + timeout
    with requests_path(config).open() as file:
        while not _is_quiet(file.fileno(), flag, quiet):
            if time.monotonic() > deadline:
                raise TimeoutError(f"requests are still served after {timeout:g} seconds")
            time.sleep(0.1)


def _is_quiet(fd: int, flag: float, quiet: float) -> bool:
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    fcntl.flock(fd, fcntl.LOCK_UN)
    return time.time() - max(os.fstat(fd).st_mtime, flag) >= quiet


def _identity(path: Path) -> tuple[int, int] | None:
    try:
        stat = path.stat()
    except OSError:
        return None
    return stat.st_ino, stat.st_mtime_ns
